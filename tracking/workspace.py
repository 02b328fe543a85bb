"""A saved view of a W&B project: what runs log, as line plots in the order in which a person looks at them."""

from typing import Any, get_args

from pipeline.stats import Stage
from shards.errors import InputError
from tracking.weights_and_biases import import_wandb, reason

PLOTS = {
    "Validation": {
        "Mask IoU": ["val/mask_iou"],
        "Depth RMSE": ["val/depth_rmse"],
        "Mask Dice": ["val/mask_dice"],
        "Depth MAE": ["val/depth_mae"],
        "Depth within a factor of 1.25": ["val/depth_delta_1.25"],
        "Depth SSIM": ["val/depth_ssim"],
    },
    "Losses": {"All": ["train/loss"], "Mask": ["train/mask_loss"], "Depth": ["train/depth_loss"]},
    "Optimiser": {"Learning rate": ["train/learning_rate"], "Norm of the gradient": ["train/grad_norm"]},
    "Loader": {
        "Samples per second": ["train/samples_per_second"],
        "Share of the time that training waited": ["train/waiting_share"],
        "Share of the threads' time by stage": [f"train/{stage}_busy" for stage in get_args(Stage)],
    },
    "GPU": {"Memory at most, GiB": ["train/gpu_memory_gib"], "Utilisation": ["train/gpu_utilisation"]},
}
"""Sections, their plots, and the metrics of each."""
PICTURES = ["val/best", "val/typical", "val/worst"]


def make_workspace(entity: str, project: str) -> Any:
    """Return the view, a Workspace of wandb_workspaces that is not saved. Raises InputError without that package."""
    try:
        from wandb_workspaces import workspaces
        from wandb_workspaces.reports.v2.interface import LinePlot, MediaBrowser
    except ImportError as error:
        raise InputError(f"{error}. Install requirements.txt.") from None
    panels = dict[str, list[Any]]()
    for name, plots in PLOTS.items():
        panels[name] = [LinePlot(title=title, y=[*metrics]) for title, metrics in plots.items()]
    panels["Samples"] = [MediaBrowser(media_keys=PICTURES)]
    sections = [workspaces.Section(name=name, panels=some, is_open=True) for name, some in panels.items()]
    return workspaces.Workspace(entity=entity, project=project, name="Sluice", sections=sections)


def save_workspace(path: str) -> str:
    """Save the view in the project ENTITY/PROJECT, anew each time, and return its URL.

    Raises InputError if there is no network, no key or no right to.
    """
    entity, _, project = path.partition("/")
    if not entity or not project or "/" in project:
        raise InputError(f"{path}: ENTITY/PROJECT is needed, as in the address of the project at W&B.")
    view, wandb = make_workspace(entity, project), import_wandb()
    try:
        logged_in = wandb.login(prompt=False)
        url = str(view.save().url) if logged_in else ""
    except Exception as error:  # they have no common base
        raise InputError(f"{path}: the view could not be saved ({reason(error)})") from error
    if not logged_in:
        raise InputError("not logged in to Weights & Biases. Run `wandb login` first.")
    return url
