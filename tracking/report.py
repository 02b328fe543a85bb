"""What a run says: on the terminal, in its folder, and to Weights & Biases if wanted."""

import json
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from pipeline.batch import Batch
from pipeline.loader import Loader, Stats
from shards.errors import InputError
from shards.format.images import save_image
from shards.format.manifest import Manifest
from shards.format.storage import write_bytes
from tracking.weights_and_biases import WeightsAndBiases


class Report:
    """What a run says: a progress bar and a line an epoch on the terminal, everything else to its folder and W&B."""

    def __init__(
        self, run: Path, config: dict[str, Any], manifest: Manifest, step: int, world_size: int, wandb: bool
    ) -> None:
        """Begin, or go on, at optimiser step `step` of a run of `world_size` ranks.

        Lines logged after `step` belong to work that is done again, and are dropped.
        """
        self._metrics, self._pictures, self._world_size = run / "metrics.jsonl", run / "pictures", world_size
        self._pictures.mkdir(parents=True, exist_ok=True)
        lines = self._metrics.read_text().splitlines(keepends=True) if self._metrics.exists() else []
        write_bytes(self._metrics, "".join(line for line in lines if json.loads(line)["step"] <= step).encode())
        self._wandb = WeightsAndBiases(run, config, manifest) if wandb else None

    def progress(self, loader: Loader, done: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, of which `done` have been seen already, under a progress bar."""
        columns = TextColumn("steps"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as bar:
            task, before = bar.add_task("", total=len(loader), completed=done), loader.stats
            for batch in loader:
                yield batch
                rate = loader.stats.since(before).samples_per_second * self._world_size
                bar.update(task, advance=1, description=f"{rate:,.0f} samples/s")

    def step(self, step: int, losses: dict[str, float], learning_rate: float, stats: Stats) -> None:
        """Log the mean `losses` of mask and depth, or of one, over the last steps, and the loader's `stats` over them.

        Raises InputError if the losses are no numbers.
        """
        loss = sum(losses.values())
        if not math.isfinite(loss):
            said = f"the loss at step {step} is {loss}"
            raise InputError(f"{said}. Try a lower --learning-rate, or --precision fp32.")
        numbers = {"loss": loss, **{f"{name}_loss": one for name, one in losses.items()}}
        numbers["learning_rate"] = learning_rate
        rates = {"samples_per_second": stats.samples_per_second * self._world_size}
        busy = {f"{stage}_busy": share for stage, share in stats.busy.items()}
        self._log(step, "train", numbers | rates | {"waiting_share": stats.waiting_share} | busy | _gpu())

    def epoch(self, step: int, number: int, metrics: dict[str, float], picture: Tensor, stats: Stats) -> None:
        """Log the validation after epoch `number`, from 0; print a line with the loader's `stats` over the epoch.

        picture: uint8 (H, W, 3).
        """
        self._log(step, "val", metrics | {"epoch": number + 1})
        save_image(self._pictures / f"val-{step:07d}.png", Image.fromarray(picture.numpy()))
        if self._wandb:
            self._wandb.picture("val/samples", picture.numpy(), step)
        named = {"mask_iou": "mask IoU", "depth_rmse": "depth RMSE"}
        found = "".join(f"{words} {metrics[name]:.4f}, " for name, words in named.items() if name in metrics)
        print(f"epoch {number + 1}: {found}{stats.samples_per_second * self._world_size:,.0f} samples/s; {stats}")

    def finish(self) -> None:
        """End the run: its checkpoints are written."""
        if self._wandb:
            self._wandb.finish()

    def _log(self, step: int, kind: str, numbers: dict[str, float]) -> None:
        named = {f"{kind}/{name}": number for name, number in numbers.items()}
        with self._metrics.open("a") as file:
            file.write(json.dumps({"step": step, **named}) + "\n")
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
