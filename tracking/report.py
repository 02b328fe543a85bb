"""What a run says: on the terminal, in its folder, and to Weights & Biases if wanted."""

import json
import math
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from pipeline.batch import Batch
from pipeline.loader import Loader, Stats
from shards.format.images import save_image
from shards.format.storage import naming, write_bytes
from tracking.weights_and_biases import WeightsAndBiases


def logged(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl, none if there is none; without those that are torn."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


class Report:
    """What a run says: a progress bar and a line an epoch on the terminal, everything else to its folder and W&B."""

    def __init__(
        self, run: Path, config: dict[str, Any], step: int, validated: int, world_size: int, wandb: bool
    ) -> None:
        """Begin, or go on, at optimiser step `step` of a run of `world_size` ranks.

        Lines logged after that, or of a validation after `validated`, belong to work that is done again: they are
        dropped, and so is one that a full disk or a crash has torn.
        """
        self._run, self._world_size = run, world_size
        self._metrics, self._pictures = run / "metrics.jsonl", run / "pictures"
        self._pictures.mkdir(parents=True, exist_ok=True)
        done = {"train": step, "val": validated}
        lines = [
            line for line in logged(self._metrics) if line["step"] <= done["val" if "val/epoch" in line else "train"]
        ]
        write_bytes(self._metrics, "".join(json.dumps(line) + "\n" for line in lines).encode())
        self._wandb = WeightsAndBiases(run, config) if wandb else None

    def progress(self, loader: Loader, done: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, of which `done` have been seen already, under a progress bar."""
        columns = TextColumn("steps"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as bar:
            task, before = bar.add_task("", total=len(loader), completed=done), loader.stats
            for batch in loader:
                yield batch
                rate = loader.stats.since(before).samples_per_second * self._world_size
                bar.update(task, advance=1, description=f"{rate:,.0f} samples/s")

    def step(self, step: int, losses: dict[str, float], norm: float, learning_rate: float, stats: Stats) -> None:
        """Log the last steps' mean `losses` of mask and depth, or of one, their mean gradient norm, and `stats`."""
        numbers = {"loss": sum(losses.values()), **{f"{name}_loss": one for name, one in losses.items()}}
        numbers |= {"grad_norm": norm, "learning_rate": learning_rate}
        rates = {"samples_per_second": stats.samples_per_second * self._world_size}
        busy = {f"{stage}_busy": share for stage, share in stats.busy.items()}
        self._log(step, "train", numbers | rates | {"waiting_share": stats.waiting_share} | busy)

    def epoch(self, step: int, number: int, metrics: dict[str, float], picture: Tensor, stats: Stats) -> None:
        """Log the validation after `number` epochs; print a line with the loader's `stats` over the epoch.

        picture: uint8 (H, W, 3).
        """
        self._log(step, "val", metrics | {"epoch": number})
        save_image(self._pictures / f"val-{step:07d}.png", Image.fromarray(picture.numpy()))
        if self._wandb:
            self._wandb.picture("val", picture, step)
        named = {"mask_iou": "mask IoU", "depth_rmse": "depth RMSE"}
        found = "".join(f"{words} {metrics[name]:.4f}, " for name, words in named.items() if name in metrics)
        print(f"epoch {number}: {found}{stats.samples_per_second * self._world_size:,.0f} samples/s; {stats}")

    def stopped(self, step: int, steps: int, by: signal.Signals) -> None:
        """End a run that was asked to stop, and has saved, at optimiser step `step` of `steps`."""
        said = f"stopped by {by.name} at step {step} of {steps}, which is saved; to go on:"
        print(f"{said} python train.py --resume {shlex.quote(str(self._run))}", file=sys.stderr)
        self.finish(self._run / "checkpoints" / "best.pt")

    def finish(self, best: Path) -> None:
        """End the run, whose best checkpoint is `best`."""
        if self._wandb:
            self._wandb.finish(best)

    def _log(self, step: int, kind: str, numbers: dict[str, float]) -> None:
        named = {f"{kind}/{name}": number for name, number in numbers.items()}
        known = {name: number if math.isfinite(number) else None for name, number in named.items()}
        with naming(self._metrics), self._metrics.open("a") as file:
            file.write(json.dumps({"step": step, **known}) + "\n")
        if self._wandb:
            self._wandb.log(named, step)
