"""A thousand epochs of a small data set: memory, open files and threads do not grow."""

import os
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench.faults import data
from bench.faults.attack import Attack, FailureError, command, doing, told
from bench.faults.kills import fresh, training
from pipeline.loader import Loader, LoaderConfig

EPOCHS, TRAINED = 1000, 40
MOST = 16.0
"""MiB by which a process may have grown from the first fifth of the epochs to the last"""
VARIANTS: list[dict[str, Any]] = [
    {},
    {"decode": "portable"},
    {"cache": "host"},
    {"shuffle_window": 2, "bank_mib": 0},
    {"num_threads": 2, "prefetch": 4},
]


class Size(NamedTuple):
    """What a process has: MiB of memory, open files, threads."""

    memory: float
    files: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> "Size":
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - Path would look at each, and some are gone
        return cls(int(status["VmRSS"].split()[0]) / 1024, files, int(status["Threads"]))


def refuse_growth(sizes: list[Size]) -> None:
    """Raise FailureError if the last fifth is larger than the second one."""
    fifth = max(1, len(sizes) // 5)
    early, late = sizes[fifth : 2 * fifth], sizes[-fifth:]
    for name, most in (("memory", MOST), ("files", 0), ("threads", 0)):
        then, now = (statistics.median(getattr(one, name) for one in some) for some in (early, late))
        if now > then + most:
            raise FailureError("memory", f"{name}: {then:.0f}, then {now:.0f}")


def loaded(folder: Path, number: int) -> None:
    options = VARIANTS[number % len(VARIANTS)]
    doing(f"{EPOCHS} epochs with {options}")
    own: dict[str, Any] = {"size": 32, "batch_size": 12, "num_threads": 1, "decode": "cpu"} | options
    with Loader(LoaderConfig(data=folder / "data", **own)) as loader:
        sizes = list[Size]()
        for _ in range(EPOCHS):
            samples = sum(len(batch.index) for batch in loader)
            if samples != loader.order.samples:
                raise FailureError("wrong bytes", f"{samples} samples of {loader.order.samples}")
            sizes.append(Size.of(os.getpid()))
    refuse_growth(sizes)


def trained(epochs: int, folder: Path, number: int) -> None:
    out = fresh(folder)
    doing(f"a training of {epochs} epochs")
    process = command([*training(1)(folder, out), "--epochs", str(epochs)])
    sizes, seen = list[Size](), 0
    while process.poll() is None:
        metrics = out / "metrics.jsonl"
        if metrics.exists() and (now := metrics.read_text().count("val/epoch")) > seen:
            seen = now
            sizes.append(Size.of(process.pid))
        time.sleep(0.1)
    said, _ = process.communicate()
    told(process.returncode, said)
    refuse_growth(sizes)


ATTACKS = [
    Attack(
        name="epochs-loaded",
        what=f"{EPOCHS:,} epochs of a loader: memory, open files and threads stay",
        prepare=data.compose,
        attempt=loaded,
        attempts=len(VARIANTS),
        long=2 * len(VARIANTS),
        seconds=600,
    ),
    Attack(
        name="epochs-trained",
        what=f"{TRAINED} epochs of a training: memory, open files and threads stay",
        prepare=data.compose,
        attempt=partial(trained, TRAINED),
        attempts=1,
        long=5,
        seconds=1200,
        memory=0,
    ),
]
