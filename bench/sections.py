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
from bench.measure import drawn_data, forget, loader_rate, synchronize, training_rate
from model.unet import UNetConfig
from pipeline.cache import Caching
from pipeline.loader import Loader, LoaderConfig
from train import TrainConfig

Result = dict[str, Any]
ROOT = Path(__file__).parent.parent
STARTED, LIMIT, LIMIT_OF_TESTS = time.perf_counter(), 420, 240
"""seconds: what would begin later than LIMIT is recorded as a failure, so that the whole ends within 8 minutes"""


def sections(dry: bool, work: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Names and what to call, in order; `work` is an empty folder. A result with an `error` stands for a failure."""
    scale = DRY if dry else FULL
    yield "machine", partial(attempt, machine)
    for section in (data, tests, loader, cached, training_step, training, whole):
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


def data(scale: Scale, work: Path) -> list[Result]:
    """Draws and composes a data set for each size of stored images."""
    return [attempt(partial(_composed, scale, work, stored, scale.samples)) for stored in scale.stored]


def _composed(scale: Scale, work: Path, stored: int, samples: int) -> Result:
    begin = time.perf_counter()
    sizes = {"figures": scale.figures, "rooms": scale.rooms, "samples": samples}
    dataset = drawn_data(work / f"{samples} of {stored}", **sizes, size=stored)
    size = sum(shard.bytes for shard in dataset.manifest.shards)
    return {**sizes, "pixels": stored, "bytes": size, "samples_per_second": samples / (time.perf_counter() - begin)}


def _place(samples: int, stored: int, work: Path) -> Path:
    return work / f"{samples} of {stored}" / "data"


def tests(scale: Scale, work: Path) -> list[Result]:
    """Runs tests/gpu in a process of its own: an outcome for each test, and one for the whole."""
    report = work / "report.jsonl"
    settings = {
        "SLUICE_DATA": str(_place(scale.samples, scale.stored[0], work)),
        "SLUICE_DEVICE": scale.device,
        "SLUICE_REPORT": str(report),
    }
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
    """Rates of the loader with nobody training: each decoder, and at one batch size each way to use the GPU."""
    first, middle = scale.decode, scale.batch_sizes[len(scale.batch_sizes) // 2]
    wanted: list[dict[str, Any]] = [
        {"decode": decode, "batch_size": batch}
        for batch in scale.batch_sizes
        for decode in dict.fromkeys((first, "cpu"))
    ]
    wanted += [{"decode": first, "batch_size": middle, "hw_decoder_load": load} for load in scale.hw_decoder_loads]
    wanted += [{"decode": "portable", "batch_size": middle}, {"decode": first, "batch_size": middle, "num_threads": 4}]
    return [_rated(scale, work, stored, **options) for stored in scale.stored for options in wanted]


def cached(scale: Scale, work: Path) -> list[Result]:
    """Rates of the loader from the cache, which the first epoch has filled."""
    kept = ("host", "device") if scale.device == "cuda" else ("host",)
    options = [{"batch_size": batch, "cache": cache} for cache in kept for batch in scale.batch_sizes]
    return [_rated(scale, work, scale.stored[0], decode=scale.decode, **option) for option in options]


def _rated(scale: Scale, work: Path, stored: int, **options: Any) -> Result:
    config = _reading(scale, work, stored, **options)
    rate = attempt(partial(loader_rate, config, torch.device(scale.device), scale.seconds))
    return {"stored": stored, **options, "num_threads": config.num_threads or os.cpu_count(), **rate}


def training_step(scale: Scale, work: Path) -> list[Result]:
    """Rates of training on one batch that lies on the device."""
    return [
        _trained(scale, work, resident=True, batch_size=size, decode="portable", num_threads=1)
        for size in scale.batch_sizes
    ]


def training(scale: Scale, work: Path) -> list[Result]:
    """Rates of training through the loader, and how much of the time it waits."""
    ways: list[dict[str, Any]] = [{"decode": decode} for decode in dict.fromkeys((scale.decode, "cpu"))]
    ways.append({"decode": scale.decode, "cache": "device" if scale.device == "cuda" else "host"})
    return [_trained(scale, work, resident=False, batch_size=size, **way) for way in ways for size in scale.batch_sizes]


def _trained(scale: Scale, work: Path, *, resident: bool, **options: Any) -> Result:
    reading = _reading(scale, work, scale.stored[0], **options)
    config = TrainConfig(loader=reading, unet=UNetConfig(width=scale.width), wandb=False)
    do = partial(training_rate, config, torch.device(scale.device), scale.seconds, resident=resident)
    return {**options, "decode": "none" if resident else options["decode"], **attempt(do)}


def _reading(scale: Scale, work: Path, stored: int, **options: Any) -> LoaderConfig:
    return LoaderConfig(data=_place(scale.samples, stored, work), size=scale.size, **options)


def whole(scale: Scale, work: Path) -> list[Result]:
    """Two epochs over many samples: the first from a cold page cache, decoding; the second from the device's cache."""
    made = attempt(partial(_composed, scale, work, scale.stored[0], scale.whole))
    if "error" in made:
        return [made]
    return [made, *_listed(attempt(partial(_epochs, scale, _place(scale.whole, scale.stored[0], work))))]


def _epochs(scale: Scale, place: Path) -> Result:
    cache: Caching = "device" if scale.device == "cuda" else "host"
    config = LoaderConfig(data=place, size=scale.size, batch_size=scale.batch_sizes[-1], cache=cache)
    for tar in place.glob("*.tar"):
        forget(tar)
    said: list[Result] = []
    with Loader(config, device=scale.device) as opened:
        for name in ("decoded, cold page cache", f"from the {cache}'s cache"):
            before = opened.stats
            for _ in opened:
                pass
            synchronize(opened.device)
            stats = opened.stats.since(before)
            rate = {"samples_per_second": stats.samples_per_second, "busy": stats.busy, "said": str(stats)}
            said.append({"epoch": name, "decode": opened.decode, "seconds": stats.seconds, **rate})
    return {"epochs": said}


def _listed(result: Result) -> list[Result]:
    epochs: list[Result] = result.pop("epochs", [])
    return epochs or [result]
