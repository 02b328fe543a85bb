"""What a run says: on the terminal, in its folder, and to Weights & Biases if wanted."""

import json
import logging
import math
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.batch import Batch
from pipeline.loader import Loader, Stats
from shards.errors import InputError, say
from shards.format.fields import parsed
from shards.format.storage import naming, write_bytes
from tracking.environment import Environment
from tracking.grid import Grid
from tracking.weights_and_biases import WeightsAndBiases

log = logging.getLogger(__name__)

FEW = 4
"""samples of a kind that are drawn after each epoch"""
PAGE_EVERY = 30.0
"""seconds that pass between two pages, which are written after an epoch, or at the end"""


def logged(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl, none if there is none; without those that are torn."""
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with suppress(AttributeError, RecursionError, ValueError):
            if isinstance((one := json.loads(line)).get("step"), int):
                found.append(one)
    return found


class Report:
    """What a run says: a progress bar and a line an epoch on the terminal, everything else to its folder and W&B."""

    def __init__(
        self,
        run: Path,
        config: dict[str, Any],
        defaults: dict[str, Any],
        step: int,
        validated: int,
        loader: Loader,
        wandb: bool,
    ) -> None:
        """Begin, or go on, at optimiser step `step` of a run that `loader`, of rank 0, feeds.

        What was logged after that, or logged and drawn of a validation after `validated`, belongs to work that is done
        again: it is dropped, and so is a line that a full disk or a crash has torn. defaults: what is no choice in
        `config`.
        """
        self._run, self._dataset, self._world_size = run, loader.dataset, loader.order.world_size
        self._metrics, self._pictures = run / "metrics.jsonl", run / "pictures"
        self._pictures.mkdir(parents=True, exist_ok=True)
        done = {"train": step, "val": validated}
        lines = [
            line for line in logged(self._metrics) if line["step"] <= done["val" if "val/epoch" in line else "train"]
        ]
        write_bytes(self._metrics, "".join(json.dumps(line) + "\n" for line in lines).encode())
        for path in self._pictures.glob("val-*.png"):
            if (of := path.stem.rpartition("-")[2]).isdecimal() and int(of) > validated:
                path.unlink()
        if not any("val/epoch" in line for line in lines):
            (self._pictures / "chosen.json").unlink(missing_ok=True)
        self._environment = Environment(run, defaults, step, loader)
        self._wandb = WeightsAndBiases(run, config, loader.dataset.manifest) if wandb else None
        self._paged = -math.inf

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
        self._log(step, "train", numbers | rates | {"waiting_share": stats.waiting_share} | busy | _gpu())

    def chosen(self, rows: NDArray[np.int64]) -> dict[str, list[int]]:
        """Return rows of the samples to draw: the best, the typical and the worst of the first validation, FEW of each.

        rows: those of all samples, int64 (N,), the worst first. The choice is kept in the run's folder, by key.
        """
        path, count = self._pictures / "chosen.json", min(FEW, max(1, len(rows) // 3))
        if not path.exists():
            middle = (len(rows) - count) // 2
            best = rows[::-1][:count]
            found = {"best": best, "typical": rows[middle : middle + count], "worst": rows[:count]}
            named = {name: {self._dataset.key(row): row for row in some.tolist()} for name, some in found.items()}
            write_bytes(path, (json.dumps(named, indent=1) + "\n").encode())
        try:
            chosen = parsed(dict[str, dict[str, int]], path.read_bytes())
            if not all(np.isin([*some.values()], rows).all() for some in chosen.values()):
                raise ValueError("not all of it are rows of this data set's split")
        except ValueError as error:
            raise InputError(f"{path}: damaged ({error}). Remove it, and the pictures beside it.") from None
        return {name: list(some.values()) for name, some in chosen.items()}

    def epoch(self, step: int, number: int, metrics: dict[str, float], grids: dict[str, Grid], stats: Stats) -> None:
        """Log the validation after `number` epochs; print a line with the loader's `stats` over the epoch.

        grids: the samples that `chosen` names.
        """
        self._log(step, "val", metrics | {"epoch": number})
        for name, grid in grids.items():
            grid.save(self._pictures / f"val-{name}-{step:07d}.png")
            if self._wandb:
                self._wandb.picture(f"val/{name}", grid.pixels, step, ", ".join(grid.keys))
        named = {"mask_iou": "mask IoU", "depth_rmse": "depth RMSE"}
        found = "".join(f"{words} {metrics[name]:.4f}, " for name, words in named.items() if name in metrics)
        say(f"epoch {number}: {found}{stats.samples_per_second * self._world_size:,.0f} samples/s; {stats}")
        if time.monotonic() - self._paged > PAGE_EVERY:
            self._write_page()

    def stopped(self, step: int, steps: int, by: signal.Signals) -> None:
        """End a run that was asked to stop, and has saved, at optimiser step `step` of `steps`."""
        said = f"stopped by {by.name} at step {step} of {steps}, which is saved; to go on:"
        say(f"{said} python train.py --resume {shlex.quote(str(self._run))}", file=sys.stderr)
        self.finish()

    def finish(self) -> None:
        """End the run: its checkpoints are written."""
        self._write_page()
        if self._wandb:
            self._wandb.finish()

    def _write_page(self) -> None:
        """Write report.html. A run does not end for its sake, unless the disk is full."""
        self._environment.write()
        try:
            from tracking.page import write_report  # with Matplotlib, which takes its time

            write_report(self._run)
        except OSError:
            raise
        except Exception as error:  # of whatever kind: the next one may do, and `python -m tracking report` will tell
            log.warning("%s/report.html is not written (%s: %s)", self._run, type(error).__name__, error)
        self._paged = time.monotonic()

    def _log(self, step: int, kind: str, numbers: dict[str, float]) -> None:
        named = {f"{kind}/{name}": number for name, number in numbers.items()}
        known = {name: number if math.isfinite(number) else None for name, number in named.items()}
        with naming(self._metrics), self._metrics.open("a") as file:
            file.write(json.dumps({"step": step, **known}, allow_nan=False) + "\n")
        if self._wandb:
            self._wandb.log(named, step)


def _gpu() -> dict[str, float]:
    """Return how much memory tensors have taken at most, in GiB, and how busy the GPU is; nothing if none is in use."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # stub lacks it
        return {}
    found = {"gpu_memory_gib": torch.cuda.max_memory_allocated() / 2**30}
    with suppress(Exception):  # of NVML, which not every machine with CUDA lets one ask; none of it waits for the GPU
        found["gpu_utilisation"] = torch.cuda.utilization() / 100
    return found
