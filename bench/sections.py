"""The sections of `make gpu`: the machine, its data, the tests, and the rates of loader and training."""

import itertools
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.measure import ROOT, count_for, drawn_data, endless, machine
from model.unet import UNetConfig
from pipeline.cache import Caching
from pipeline.decode import Decode
from pipeline.loader import Loader, LoaderConfig
from train import Ranks, TrainConfig, optimise, start

Result = dict[str, Any]
STARTED, LIMIT, LIMIT_OF_TESTS = time.perf_counter(), 420, 240
"""Seconds. A measurement that would begin later than LIMIT is a failure, so that the whole ends within 8 minutes."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The amount of work: as it stands on a GPU, or a little of everything on the CPU.

    decode: the decoder that is tested and measured first. sources: figures, and rooms. whole: samples of the data set
    that is read from end to end. stored: heights and widths of the stored images, pixels, of one data set each. size:
    height and width in batches, pixels. width: channels of the DualUNet. seconds: length of each measurement.
    """

    device: str = "cuda"
    decode: Decode = "gpu"
    sources: int = 60
    samples: int = 40_000
    whole: int = 400_000
    stored: tuple[int, ...] = (160, 64)
    size: int = 64
    caches: tuple[Caching, ...] = ("host", "device")
    width: int = 32
    batch_sizes: tuple[int, ...] = (64, 256, 1024)
    seconds: float = 2.0


FULL = Scale()
_LITTLE: dict[str, Any] = {"sources": 4, "samples": 400, "whole": 500, "stored": (64, 32), "size": 32, "width": 8}
DRY = Scale(device="cpu", decode="cpu", caches=("host",), batch_sizes=(8, 16), seconds=0.2, **_LITTLE)


def sections(scale: Scale, work: Path) -> Iterator[tuple[str, Callable[[], list[Result]]]]:
    """Yield names and functions to call, in order; `work` is an empty folder. A result with an `error` is a failure."""

    def rates(stored: Sequence[int], rate: Callable[..., Result], ways: list[Result]) -> list[Result]:
        """Return the rates of each way to load, on the data set of each size in `stored`."""
        found = []
        for pixels, way in itertools.product(stored, ways):
            config = LoaderConfig(data=_place(work, pixels, scale.samples), size=scale.size, **way)
            found.append({"stored": pixels, **way, **_attempt(rate, config, torch.device(scale.device), scale.seconds)})
        return found

    first, sizes, decoders = scale.stored[:1], scale.batch_sizes, dict.fromkeys((scale.decode, "cpu"))
    yield "machine", lambda: [_attempt(_machine)]
    yield "data", lambda: [_attempt(_composed, scale, work, stored, scale.samples) for stored in scale.stored]
    yield "tests", partial(_tests, scale, work)
    ways: list[Result] = [{"decode": decode, "batch_size": size} for size in sizes for decode in decoders]
    special: list[Result] = [{"hw_decoder_load": load} for load in (0.0, 0.5, 0.75, 1.0)]
    special += [{"decode": "portable"}, {"num_threads": 4}]
    ways += [{"decode": scale.decode, "batch_size": sizes[len(sizes) // 2]} | one for one in special]
    yield "loader", partial(rates, scale.stored, loader_rate, ways)
    ways = [{"decode": scale.decode, "batch_size": size, "cache": cache} for cache in scale.caches for size in sizes]
    yield "cached", partial(rates, first, loader_rate, ways)
    ways = [{"decode": "portable", "num_threads": 1, "batch_size": size} for size in sizes]
    yield "training_step", partial(rates, first, partial(_training_rate, scale.width, True), ways)
    fed: list[Result] = [{"decode": decode} for decode in decoders]
    fed.append({"decode": scale.decode, "cache": scale.caches[-1]})
    ways = [one | {"batch_size": size} for one in fed for size in sizes]
    yield "training", partial(rates, first, partial(_training_rate, scale.width, False), ways)
    yield "whole", partial(_whole, scale, work)


def _attempt(do: Callable[..., Result], *arguments: Any) -> Result:
    """Return the result of `do`, or its error: one failure must not cost the measurements after it."""
    try:
        if time.perf_counter() - STARTED > LIMIT:
            raise TimeoutError(f"not begun: {LIMIT} seconds had passed")
        return do(*arguments)
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def _machine() -> Result:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True).stdout.split() if gpus else []
    about = {"machine": machine("torch", "nvidia-dali-cuda120", "numpy"), "cores": os.cpu_count()}
    return about | {"gpus": gpus, "driver": driver, "cuda": torch.version.cuda}


def _place(work: Path, stored: int, samples: int) -> Path:
    return work / f"{samples} of {stored}" / "data"


def _composed(scale: Scale, work: Path, stored: int, samples: int) -> Result:
    begin, root = time.perf_counter(), _place(work, stored, samples).parent
    dataset = drawn_data(root, figures=scale.sources, rooms=scale.sources, samples=samples, size=stored)
    size, rate = sum(shard.bytes for shard in dataset.manifest.shards), samples / (time.perf_counter() - begin)
    return {"sources": scale.sources, "samples": samples, "pixels": stored, "bytes": size, "samples_per_second": rate}


def _tests(scale: Scale, work: Path) -> list[Result]:
    """Run tests/gpu in a process of its own: an outcome for each test, and one for the whole."""
    report, place = work / "report.jsonl", _place(work, scale.stored[0], scale.samples)
    settings = {"SLUICE_DATA": str(place), "SLUICE_DEVICE": scale.device, "SLUICE_REPORT": str(report)}
    options = ["--confcutdir=tests/gpu", "-o", "filterwarnings=default", "-p", "no:cacheprovider"]

    def run() -> Result:
        command = [sys.executable, "-m", "pytest", "tests/gpu", *options]
        code = subprocess.run(command, cwd=ROOT, env=os.environ | settings, timeout=LIMIT_OF_TESTS).returncode
        return {"outcome": "failed", "error": f"pytest ended with exit code {code}"} if code else {"outcome": "passed"}

    whole = {"test": "all of tests/gpu", **_attempt(run)}
    return [*(json.loads(line) for line in (report.read_text().splitlines() if report.exists() else [])), whole]


def loader_rate(config: LoaderConfig, device: torch.device, seconds: float) -> Result:
    """Return the samples a second that the loader hands over while nobody trains, and the seconds to its first batch.

    Also the 99th percentile of the seconds between batches, because a loader that is fast on average may still stall.
    A cache is filled before.
    """
    begin = time.perf_counter()
    with Loader(config, device=device) as loader:
        lengths = (len(batch.index) for batch in endless(loader))
        next(lengths)
        first = time.perf_counter() - begin
        count_for(seconds / 3, lengths, least=len(loader) * config.batch_size if config.cache != "none" else 0)
        samples, moments = count_for(seconds, lengths)
    rate, between = samples / (moments[-1] - moments[0]), float(np.percentile(np.diff(moments), 99))
    return {"samples_per_second": rate, "p99_seconds": between, "first_batch_seconds": first}


def _training_rate(width: int, resident: bool, reading: LoaderConfig, device: torch.device, seconds: float) -> Result:
    """Return the samples a second of training, and the share of the time in which it waited for data.

    resident: train on one batch that lies on the device, again and again: the rate of training alone.
    """
    config = TrainConfig(loader=reading, unet=UNetConfig(width=width), wandb="off")
    training = start(config, Ranks(0, 1, device))
    with training.loader as loader:

        def steps() -> Iterator[int]:
            batches = endless(loader)
            for batch in itertools.repeat(next(batches)) if resident else batches:
                optimise(training, training.model, batch, config)
                yield len(batch.index)

        lengths = steps()
        for duration in (seconds / 2, seconds):  # the first is to warm up
            before = loader.stats.waited
            samples, moments = count_for(duration, lengths)
            torch.get_device_module(device).synchronize()
            spent, waited = time.perf_counter() - moments[0], loader.stats.waited - before
        return {"samples_per_second": samples / spent, "waiting_share": waited / spent}


def _whole(scale: Scale, work: Path) -> list[Result]:
    """Read many samples twice: from a cold page cache, decoding, then from the device's cache."""
    made = _attempt(_composed, scale, work, scale.stored[0], scale.whole)
    place = _place(work, scale.stored[0], scale.whole)
    for tar in place.glob("*.tar"):
        with tar.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    config = LoaderConfig(data=place, size=scale.size, batch_size=scale.batch_sizes[-1], cache=scale.caches[-1])
    rows = [made]

    def read_twice() -> Result:
        with Loader(config, device=scale.device) as loader:
            for name in ("decoded, cold page cache", f"from the {config.cache}'s cache"):
                before = loader.stats
                for _ in loader:
                    pass
                torch.get_device_module(loader.device).synchronize()
                stats = loader.stats.since(before)
                rate = {"samples_per_second": stats.samples_per_second, "busy": stats.busy, "said": str(stats)}
                rows.append({"epoch": name, "decode": loader.decode, "seconds": stats.seconds, **rate})
        return {}

    return [*rows, failed] if (failed := _attempt(read_twice)) else rows
