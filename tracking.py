"""Where a run's numbers and pictures go: its folder always, Weights & Biases if wanted."""

import json
import math
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from pipeline.batch import Batch
from pipeline.loader import Loader, Stats
from shards.errors import InputError
from shards.format.images import save
from shards.format.storage import write_bytes


class Tracker(Protocol):
    def log(self, numbers: dict[str, float], step: int) -> None:
        """Notes `numbers` of optimiser step `step`."""

    def picture(self, name: str, image: Tensor, step: int) -> None:
        """Keeps a picture, uint8 (H, W, 3)."""

    def finish(self, best: Path) -> None:
        """Ends a run whose best checkpoint is `best`."""


class Folder:
    """metrics.jsonl and pictures/ in the run's folder."""

    def __init__(self, run: Path, step: int) -> None:
        """Goes on at `step`: what was logged after it belongs to work that is done again, and goes."""
        self._metrics, self._pictures = run / "metrics.jsonl", run / "pictures"
        self._pictures.mkdir(parents=True, exist_ok=True)
        lines = self._metrics.read_text().splitlines(keepends=True) if self._metrics.exists() else []
        write_bytes(self._metrics, "".join(line for line in lines if json.loads(line)["step"] <= step).encode())

    def log(self, numbers: dict[str, float], step: int) -> None:
        with self._metrics.open("a") as file:
            file.write(json.dumps({"step": step, **numbers}) + "\n")

    def picture(self, name: str, image: Tensor, step: int) -> None:
        save(self._pictures / f"{name}-{step:07d}.png", Image.fromarray(image.numpy()))

    def finish(self, best: Path) -> None:
        pass


class WeightsAndBiases:
    """A W&B run: online where a key is configured, else offline, to be sent later."""

    def __init__(self, run: Path, config: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise InputError("wandb is not installed. Install requirements.txt, or use --wandb off.") from None
        self._wandb = wandb
        self._run = wandb.init(
            project="sluice",
            name=run.name,
            id=_run_id(run),
            resume="allow",
            dir=run,
            config=config,
            mode=_mode(wandb),
            settings=wandb.Settings(quiet=True),
        )

    def log(self, numbers: dict[str, float], step: int) -> None:
        self._run.log(numbers, step=step)

    def picture(self, name: str, image: Tensor, step: int) -> None:
        self._run.log({name: self._wandb.Image(image.numpy())}, step=step)

    def finish(self, best: Path) -> None:
        artifact = self._wandb.Artifact(f"model-{self._run.id}", type="model")
        artifact.add_file(str(best))
        self._run.log_artifact(artifact)
        folder = Path(self._run.dir).parent
        offline = self._run.settings.mode == "offline"
        self._run.finish()
        if offline:
            print(f"W&B was offline; to send this run: wandb sync {folder}")


def _run_id(run: Path) -> str:
    """The id under which W&B knows the run: made once, so that a resumed run goes on as the same one."""
    path = run / "wandb-id"
    if not path.exists():
        write_bytes(path, secrets.token_hex(4).encode())
    return path.read_text()


def _mode(wandb: Any) -> Any:
    """online if there is a key to log in with and WANDB_MODE does not say otherwise."""
    return os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")


class Report:
    """What a run says of itself: a progress bar and a line an epoch for who watches, all else for the trackers."""

    def __init__(self, run: Path, config: dict[str, Any], step: int, world: int, *, wandb: bool) -> None:
        """Of a run of `world` ranks that begins, or goes on, at optimiser step `step`."""
        self._world = world
        self._trackers: list[Tracker] = [Folder(run, step), *([WeightsAndBiases(run, config)] if wandb else [])]

    def progress(self, loader: Loader, done: int) -> Iterator[Batch]:
        """The batches of an epoch, of which `done` have been seen already, under a progress bar."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as bar:
            task = bar.add_task("steps", total=len(loader), completed=done, rate="")
            before = loader.stats
            for batch in loader:
                yield batch
                rate = loader.stats.since(before).samples_per_second * self._world
                bar.update(task, advance=1, rate=f"{rate:,.0f} samples/s")

    def step(self, step: int, losses: Tensor, learning_rate: float, stats: Stats) -> None:
        """The mean `losses` of mask and depth (2,) of the last steps, and the loader's `stats` over them.

        Raises InputError if the losses are no numbers.
        """
        mask, depth = losses.tolist()
        if not math.isfinite(mask + depth):
            raise InputError(
                f"the loss at step {step} is {mask + depth}. Try a lower --learning-rate, or --precision fp32."
            )
        numbers = {"loss": mask + depth, "mask_loss": mask, "depth_loss": depth, "learning_rate": learning_rate}
        rates = {"samples_per_second": stats.samples_per_second * self._world, "waiting_share": stats.waiting_share}
        busy = {f"{stage}_busy": share for stage, share in stats.busy.items()}
        self._log(step, "train", numbers | rates | busy)

    def epoch(self, step: int, number: int, metrics: dict[str, float], picture: Tensor, stats: Stats) -> None:
        """The validation after an epoch, `number` from 0, and the loader's `stats` over the training before it."""
        self._log(step, "val", metrics | {"epoch": number + 1})
        for tracker in self._trackers:
            tracker.picture("val", picture, step)
        print(
            f"epoch {number + 1}: mask IoU {metrics['mask_iou']:.4f}, depth RMSE {metrics['depth_rmse']:.4f}, "
            f"{stats.samples_per_second * self._world:,.0f} samples/s; {stats}"
        )

    def finish(self, best: Path) -> None:
        """Ends the run, whose best checkpoint is `best`."""
        for tracker in self._trackers:
            tracker.finish(best)

    def _log(self, step: int, kind: str, numbers: dict[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log({f"{kind}/{name}": number for name, number in numbers.items()}, step)
