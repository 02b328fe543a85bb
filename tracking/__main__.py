"""python -m tracking workspace: what to do about runs at Weights & Biases."""

import tyro
from tyro.conf import Positional

from shards.errors import report_errors

app = tyro.extras.SubcommandApp()


@app.command
def workspace(project: Positional[str]) -> None:
    """Save a view of a project at Weights & Biases: what runs log, plotted in a sensible order.

    Args:
        project: ENTITY/PROJECT, as in the address of the project
    """
    from tracking.workspace import save_workspace  # the other commands do without W&B

    print(f"view: {save_workspace(project)}")


if __name__ == "__main__":
    conf = tyro.conf
    config = (conf.OmitArgPrefixes, conf.DisallowNone, conf.FlagCreatePairsOff, conf.PositionalMetavarFromFieldName)
    with report_errors():
        app.cli(prog="python -m tracking", config=config)
