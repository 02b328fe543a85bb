"""What the benchmarks share: drawn samples to read, and the rates of the loader and of training."""

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from pipeline.batch import Batch
from pipeline.loader import Loader, LoaderConfig
from shards.build.build import BuildConfig, build
from shards.build.plan import DivisionConfig
from shards.draw import draw_data
from shards.format.dataset import Dataset
from shards.format.storage import LocalFolder
from shards.ingest.compose import ComposeConfig, plan_composition
from train import Ranks, TrainConfig, computed_in, criterion, optimise, start


def drawn_data(root: Path, *, figures: int, rooms: int, samples: int, size: int = 160) -> Dataset:
    """Draws figures and rooms into `root` and composes a data set of them there, images of `size` x `size` pixels."""
    fg, bg, depth = (root / "drawn" / name for name in ("fg", "bg", "depth"))
    draw_data(fg, bg, depth, figures=figures, rooms=rooms, size=size)
    places = -(-samples // (figures * rooms))
    own = DivisionConfig(samples_per_shard=min(1000, samples // 4))
    config = ComposeConfig(fg=fg, bg=bg, depth=depth, places=places, samples=samples, size=size, division=own)
    build(plan_composition(config), LocalFolder(root / "data"), BuildConfig())
    return Dataset.open(root / "data")


def synchronize(device: torch.device) -> None:
    """Waits for all that was begun on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def loader_rate(config: LoaderConfig, device: torch.device, seconds: float) -> dict[str, float]:
    """Samples a second that the loader hands over while nobody trains, and the seconds until its first batch.

    Also the 99th percentile of the seconds between batches, for what is fast on average may still stall. A cache is
    filled before.
    """
    begin = time.perf_counter()
    with Loader(config, device=device) as loader:
        batches = endless(loader)
        next(batches)
        first = time.perf_counter() - begin
        if config.cache != "none":
            for _ in range(len(loader)):
                next(batches)
        _handed_over(batches, seconds / 3)
        rate, between = _handed_over(batches, seconds)
        return {"samples_per_second": rate, "p99_seconds": between, "first_batch_seconds": first}


def _handed_over(batches: Iterator[Batch], seconds: float) -> tuple[float, float]:
    """Samples a second over the next `seconds`, and the 99th percentile of the seconds between batches."""
    moments, samples = [time.perf_counter()], 0
    while moments[-1] - moments[0] < seconds:
        samples += len(next(batches).index)
        moments.append(time.perf_counter())
    return samples / (moments[-1] - moments[0]), float(np.percentile(np.diff(moments), 99))


def training_rate(
    config: TrainConfig, device: torch.device, seconds: float, *, resident: bool = False
) -> dict[str, float]:
    """Samples a second of training, and the share of the time in which it waited for data.

    resident: the same batch again and again, which lies on the device: what training alone can do.
    """
    training = start(config, Ranks(0, 1, device))
    losses_of, dtype = criterion(config), computed_in(config.precision, device)
    with training.loader as loader:
        batches = endless(loader)
        batches = itertools.repeat(next(batches)) if resident else batches

        def train_for(seconds: float) -> tuple[float, float, int]:
            begin, waited, samples = time.perf_counter(), loader.stats.waited, 0
            while time.perf_counter() - begin < seconds:
                batch = next(batches)
                optimise(training, training.model, batch, losses_of, dtype, config.clip)
                samples += len(batch.index)
            synchronize(device)
            return time.perf_counter() - begin, loader.stats.waited - waited, samples

        train_for(seconds / 2)
        spent, waited, samples = train_for(seconds)
    return {"samples_per_second": samples / spent, "waiting_share": waited / spent}


def endless(loader: Loader) -> Iterator[Batch]:
    """The batches of one epoch after the other."""
    while True:
        yield from loader


def forget(file: Path) -> None:
    """Has the system drop what it keeps of a file in memory."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
