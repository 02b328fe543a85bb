"""Measure a checkpoint on splits of a data set.

    python evaluate.py runs/NAME/checkpoints/best.pt --split val,test

The run's folder gets, of each split, evaluation-SPLIT.json, the errors of all samples in evaluation-SPLIT.csv, pictures
of the first samples and of the worst ones; and report.html is written again.
"""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, NamedTuple

# As in train.py: before PyTorch loads OpenMP, whose threads else spin for long where they wait for each other.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import torch
import torch.distributed as dist
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from checkpoint import Device, load, model_of, refuse_other_data, select_device
from model.metrics import MEANING, Metrics, per_sample
from model.pictures import rows_of
from pipeline.loader import Loader, LoaderConfig
from ranks import use_cores
from shards.errors import masked, printable, report_errors, say
from shards.format.dataset import Dataset
from shards.format.fields import Checked, Count
from shards.format.storage import write_bytes
from tracking.grid import Grid


class Errors(NamedTuple):
    """The errors of N samples, the worst first; one that is no number is worse than any."""

    rows: NDArray[np.int64]
    """int64 (N,): the samples' rows in the data set"""
    values: dict[str, NDArray[np.float32]]
    """float32 (N,) each: see per_sample"""

    def of(self, row: int) -> float | None:
        """Return the error of one sample; None if it is no number, or was not measured."""
        found = self.values["error"][self.rows == row].tolist()
        return found[0] if found and isfinite(found[0]) else None

    def write(self, path: Path, dataset: Dataset) -> None:
        """Write a line a sample, with its key; what is no number is left empty."""
        columns = ([f"{one:.6g}" if isfinite(one) else "" for one in many.tolist()] for many in self.values.values())
        table = csv.writer(file := io.StringIO(), lineterminator="\n")
        table.writerow(["key", *self.values])
        table.writerows(zip(map(printable, map(dataset.key, self.rows.tolist())), *columns, strict=True))
        write_bytes(path, file.getvalue().encode())


def evaluate(model: nn.Module, loader: Loader, dtype: torch.dtype) -> tuple[dict[str, float], Errors]:
    """Return the metrics of the loader's split over all ranks and, on rank 0, the errors of all its samples.

    Measured is what the network predicts and the data set has. dtype: of autocast, float32 for none. A sample that does
    not decode is none of the split's; its substitute counts twice in the metrics.
    """
    depth = loader.dataset.manifest.depth
    metrics = Metrics(depth_min=depth.near, depth_max=depth.far).to(loader.device)
    rows, found, names = list[Tensor](), list[Tensor](), list[str]()
    with _predicting(model, loader, dtype):
        for batch in loader:
            prediction = model(batch.fg_bg, batch.bg)
            metrics.update(prediction, batch.mask, batch.depth)
            errors = per_sample(prediction, batch.mask, batch.depth)
            names = [*errors]
            found.append(torch.stack([*errors.values()]))
            rows.append(batch.index)
    measured = {name: float(value) for name, value in metrics.compute().items()}
    return measured, _gathered(names, torch.cat(rows).numpy(), torch.cat(found, 1).float().cpu().numpy())


def _gathered(names: list[str], rows: NDArray[np.int64], found: NDArray[np.float32]) -> Errors:
    """Return on rank 0 what all ranks have found, sorted; on the others what they have themselves."""
    parts = [(rows, found)]
    if dist.is_initialized():
        every: list[Any] | None = None if dist.get_rank() else [None] * dist.get_world_size()
        dist.gather_object(parts[0], every)
        parts = every or parts
    rows, first = np.unique(np.concatenate([one for one, _ in parts]), return_index=True)
    found = np.concatenate([one for _, one in parts], 1)[:, first]
    worst = np.argsort(-np.nan_to_num(found[0], nan=np.inf), kind="stable")
    return Errors(rows[worst], dict(zip(names, found[:, worst], strict=True)))


def draw(
    model: nn.Module, loader: Loader, rows: Sequence[int], errors: Errors, dtype: torch.dtype, title: str = ""
) -> Grid:
    """Return the samples in these rows, of the loader's split, with what is predicted for them and their errors.

    For one rank alone: none waits for another.
    """
    with _predicting(model, loader, dtype):
        batch = loader.samples(rows)
        drawn = rows_of(batch.fg_bg, batch.mask, batch.depth, model(batch.fg_bg, batch.bg))
    shown = batch.index.tolist()
    images = {name: row.numpy() for name, row in drawn.items()}
    return Grid([*map(loader.dataset.key, shown)], images, title, [*map(errors.of, shown)])


@contextmanager
def _predicting(model: nn.Module, loader: Loader, dtype: torch.dtype) -> Iterator[None]:
    model.eval()
    with torch.inference_mode(), torch.autocast(loader.device.type, dtype, enabled=dtype != torch.float32):
        yield


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Checked):
    """A checkpoint and the splits to measure it on."""

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """best.pt or last.pt of a run"""
    split: str = "test"
    """train, val or test, or several of them: val,test"""
    data: Annotated[
        str | None, tyro.conf.arg(metavar="FOLDER|URL", help_behavior_hint="(default: the one trained on)")
    ] = None
    """data set to measure on"""
    batch_size: Count = 128
    """samples in a batch"""
    device: Device = "auto"
    """auto is CUDA where there is a GPU, else the CPU"""


def main(config: EvaluateConfig) -> None:
    use_cores()
    device = select_device(config.device)
    state = load(config.checkpoint, device)
    model, trained, step = model_of(config.checkpoint, state, device), state["config"], state["step"]
    data = config.data or trained["loader"]["data"]
    named = ("size", "cache_dir", "cache_limit", "check")
    own = {name: value for name, value in trained["loader"].items() if name in named}
    run, splits = config.checkpoint.resolve().parent.parent, config.split.split(",")
    for split in splits:
        wanted = LoaderConfig(data=data, split=split, batch_size=config.batch_size, shuffle=False, **own)
        with Loader(wanted, device=device) as loader:
            refuse_other_data(config.checkpoint, trained, data, loader.dataset.manifest)
            for name in splits:
                loader.dataset.split(name)  # of one that does not exist it tells before any is measured
            measure(model, loader, run, f"{config.checkpoint} of step {step:,} on {masked(data)}, {split}")
    if (run / "metrics.jsonl").exists():
        from tracking.page import write_report  # with Matplotlib

        say(f"page: {write_report(run)}")


def measure(model: nn.Module, loader: Loader, run: Path, what: str) -> None:
    """Measure the loader's split, print a table and write what is to be known of it into the run's folder."""
    metrics, errors = evaluate(model, loader, torch.float32)
    title = f"{what} ({loader.order.samples:,} samples)"
    table = Table("metric", "value", "meaning", title=Text(printable(title)))
    for metric, value in metrics.items():
        table.add_row(metric, f"{value:.4f}", MEANING[metric])
    Console().print(table)
    name = f"evaluation-{loader.config.split}"
    numbers = {metric: value if isfinite(value) else None for metric, value in metrics.items()}
    write_bytes(run / f"{name}.json", (json.dumps(numbers, indent=1, allow_nan=False) + "\n").encode())
    errors.write(run / f"{name}.csv", loader.dataset)
    first, worst = (
        draw(model, loader, rows.tolist(), errors, torch.float32, title)
        for rows in (loader.dataset.split(loader.config.split)[:8], errors.rows[:20])
    )
    first.save(run / f"{name}.png")
    (run / "pictures").mkdir(exist_ok=True)
    worst.save(run / "pictures" / f"{name}-worst.png")
    worst.save_large(run / f"{name}-worst.png")
    say(f"every sample: {run / name}.csv", f"the worst: {run / name}-worst.png")


if __name__ == "__main__":
    with report_errors():
        main(tyro.cli(EvaluateConfig, description=__doc__))
