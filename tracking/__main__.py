"""python -m tracking report | compare | workspace: pages of runs, and a view of a project at Weights & Biases."""

from pathlib import Path

import tyro
from tyro.conf import Positional

from shards.errors import InputError, report_errors, say
from shards.format.storage import refuse_url

app = tyro.extras.SubcommandApp()


@app.command
def report(runs: Positional[tuple[Path, ...]]) -> None:
    """Write the pages of runs, report.html in their folders, again.

    Args:
        runs: folders of runs
    """
    from tracking.page import write_report  # the other commands do without Matplotlib

    for run in runs:
        say(f"page: {write_report(run)}")


@app.command
def compare(runs: Positional[tuple[Path, ...]], out: Path = Path("compare.html")) -> None:
    """Write one page of several runs: curves over each other, metrics, options that differ, samples.

    Args:
        runs: folders of runs, at least two
        out: HTML to write
    """
    from tracking.page import write_comparison

    if len(runs) < 2:
        raise InputError(
            "compare needs the folders of at least two runs. The page of one is report.html in its folder."
        )
    refuse_url(out)
    write_comparison(runs, out)
    say(f"page: {out}")


@app.command
def workspace(project: Positional[str]) -> None:
    """Save a view of a project at Weights & Biases: what runs log, plotted in a sensible order.

    Args:
        project: ENTITY/PROJECT, as in the address of the project
    """
    from tracking.workspace import save_workspace  # the other commands do without W&B

    say(f"view: {save_workspace(project)}")


if __name__ == "__main__":
    conf = tyro.conf
    config = (conf.OmitArgPrefixes, conf.DisallowNone, conf.FlagCreatePairsOff, conf.PositionalMetavarFromFieldName)
    with report_errors():
        app.cli(prog="python -m tracking", config=config)
