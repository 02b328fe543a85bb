"""The sections of `make gpu`: the machine, its data, the tests, and the rates of loader and training."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.gpu_scale import DRY, FULL, Scale
from bench.measure import drawn_data, loader_rate, training_rate
from model.unet import UNetConfig
from pipeline.decode import Decode
from pipeline.loader import LoaderConfig
from train import TrainConfig

__all__ = ["sections"]

Result = dict[str, Any]
ROOT = Path(__file__).parent.parent
STARTED, LIMIT, LIMIT_OF_TESTS = time.perf_counter(), 420, 240
"""seconds: what would begin later than LIMIT is recorded as a failure, so that the whole ends within 8 minutes"""


def sections(dry: bool, work: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Names and what to call, in order; `work` is an empty folder. A result with an `error` stands for a failure."""
    scale = DRY if dry else FULL
    yield "machine", partial(attempt, machine)
    yield "data", partial(attempt, partial(data, scale, work))
    for section in (tests, loader, training_step, training):
        yield section.__name__, partial(section, scale, work)


def attempt(do: Callable[[], Result]) -> Result:
    """What `do` returns, or its error: one failure must not cost what comes after."""
    try:
        if time.perf_counter() - STARTED > LIMIT:
            raise TimeoutError(f"not begun: {LIMIT} seconds had passed")
        return do()
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def machine() -> Result:
    from nvidia import dali

    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    cards = subprocess.run(query, capture_output=True, text=True).stdout.split("\n") if shutil.which(query[0]) else []
    versions = {"python": platform.python_version(), "numpy": np.__version__, "dali": dali.__version__}
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "driver": [card for card in cards if card],
        "cuda": torch.version.cuda,
        "versions": versions | {"torch": torch.__version__},
    }


def data(scale: Scale, work: Path) -> Result:
    begin = time.perf_counter()
    sizes = {"figures": scale.figures, "rooms": scale.rooms, "samples": scale.samples}
    dataset = drawn_data(work, **sizes, size=scale.stored)
    size = sum(shard.bytes for shard in dataset.manifest.shards)
    rate = scale.samples / (time.perf_counter() - begin)
    return {**sizes, "pixels": scale.stored, "bytes": size, "samples_per_second": rate}


def tests(scale: Scale, work: Path) -> list[Result]:
    """Runs tests/gpu in a process of its own: an outcome for each test, and one for the whole."""
    report = work / "report.jsonl"
    settings = {"SLUICE_DATA": str(work / "data"), "SLUICE_DEVICE": scale.device, "SLUICE_REPORT": str(report)}
    options = ["--confcutdir=tests/gpu", "-o", "filterwarnings=default", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "tests/gpu", *options]
    whole = attempt(partial(_run, command, settings))
    outcomes = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
    return [*outcomes, {"test": "all of tests/gpu", **whole}]


def _run(command: list[str], settings: dict[str, str]) -> Result:
    finished = subprocess.run(command, cwd=ROOT, env=os.environ | settings, timeout=LIMIT_OF_TESTS)
    error = {} if finished.returncode == 0 else {"error": f"pytest ended with exit code {finished.returncode}"}
    return {"outcome": "failed" if error else "passed", **error}


def loader(scale: Scale, work: Path) -> list[Result]:
    """Rates of the loader with nobody training: each decoder on all cores, and the first on few threads."""
    device, rows = torch.device(scale.device), []
    decoders: list[tuple[Decode, int]] = [(scale.decode, 0), (scale.decode, 4), ("cpu", 0), ("portable", 0)]
    for batch_size in scale.batch_sizes:
        for decode, threads in dict.fromkeys(decoders):
            config = _reading(scale, work, batch_size, decode, threads)
            rate = attempt(partial(loader_rate, config, device, scale.seconds))
            rows.append({"decode": decode, "batch": batch_size, "threads": threads or os.cpu_count(), **rate})
    return rows


def training_step(scale: Scale, work: Path) -> list[Result]:
    """Rates of training on one batch that lies on the device."""
    return [_trained(scale, work, batch_size, "portable", resident=True) for batch_size in scale.batch_sizes]


def training(scale: Scale, work: Path) -> list[Result]:
    """Rates of training through the loader, and how much of the time it waits."""
    decoders: dict[Decode, None] = dict.fromkeys((scale.decode, "cpu"))
    return [_trained(scale, work, size, decode, resident=False) for decode in decoders for size in scale.batch_sizes]


def _reading(scale: Scale, work: Path, batch_size: int, decode: Decode, threads: int) -> LoaderConfig:
    return LoaderConfig(data=work / "data", size=scale.size, batch_size=batch_size, decode=decode, threads=threads)


def _trained(scale: Scale, work: Path, batch_size: int, decode: Decode, *, resident: bool) -> Result:
    reading = _reading(scale, work, batch_size, decode, threads=1 if resident else 0)
    config = TrainConfig(loader=reading, unet=UNetConfig(width=scale.width), wandb="off")
    do = partial(training_rate, config, torch.device(scale.device), scale.seconds, resident=resident)
    return {"decode": "none" if resident else decode, "batch": batch_size, **attempt(do)}
