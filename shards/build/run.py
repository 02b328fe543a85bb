"""Units of work on all cores of this machine or of a cluster, with a progress bar; none outlives its command."""

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import connection
from typing import Literal, Protocol, TypeVar

from PIL import Image
from rich import progress
from rich.text import Text

from shards.build.ray import on_ray
from shards.errors import InputError
from shards.machine import cpu_count

WAITING = 4
"""Units a worker that wait for it; the others are not sent yet, so that memory does not grow with their number."""


class Work(Protocol):
    """What is done at once: by the name of its shard, and with how many samples it counts in the progress bar."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...


W = TypeVar("W", bound=Work)
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What does the work, a shard at a time. The result does not depend on it."""

    workers: int = cpu_count()
    """processes of this machine; where a teacher predicts there is one, which uses all cores"""
    engine: Literal["processes", "ray"] = "processes"
    """processes here, or tasks on a Ray cluster, whose machines must reach all data under the same path or URL"""
    ray_address: str | None = None
    """address that `ray start` printed; else RAY_ADDRESS, this machine's cluster, or one of this machine alone"""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError("workers must be at least 1.")
        if self.ray_address and self.engine != "ray":
            raise InputError(f"ray-address {self.ray_address}: only --engine ray has one.")


def run_units(
    do: Callable[[W], R],
    units: Sequence[W],
    config: RunConfig,
    *,
    total: int,
    exclusive: bool = False,
    gpu: bool = False,
) -> list[R]:
    """Do every unit; return the results in the order of the units.

    The progress bar counts to `total` samples and begins at what is not in `units`. An error in one unit stops the
    others before they begin. A unit that is `exclusive` uses all cores of this machine, one that wants a `gpu` gets one
    of the cluster where there is one. Raises InputError if workers were killed.
    """
    if not units:
        return []
    results: dict[int, R] = {}
    if config.engine == "ray":
        done = on_ray(do, units, config.ray_address, gpu=gpu)
    else:
        done = _in_processes(do, units, 1 if exclusive else min(config.workers, len(units)))
    columns = (progress.TextColumn("samples"), progress.BarColumn(), progress.MofNCompleteColumn(), _Rate())
    with (
        progress.Progress(*columns, progress.TimeElapsedColumn(), progress.TimeRemainingColumn()) as bar,
        closing(done),
    ):
        task = bar.add_task("", total=total, completed=total - sum(unit.size for unit in units))
        for number, result in done:
            results[number] = result
            bar.advance(task, units[number].size)
    return [results[number] for number in range(len(units))]


class _Rate(progress.ProgressColumn):
    def render(self, task: progress.Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f} samples/s")


def _in_processes(do: Callable[[W], R], units: Sequence[W], workers: int) -> Generator[tuple[int, R]]:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    running: dict[Future[R], int] = {}
    try:
        for number, unit in enumerate(units):
            running[pool.submit(do, unit)] = number
            if len(running) >= WAITING * workers:
                yield from _finished(running)
        while running:
            yield from _finished(running)
    except BrokenProcessPool:
        raise InputError("a worker was killed (out of memory?). Run again to go on, with fewer --workers.") from None
    finally:
        # Waits: an executor left to close its pipes by itself races with the interpreter's end (bad descriptor).
        pool.shutdown(cancel_futures=True)


def _finished(running: dict[Future[R], int]) -> Generator[tuple[int, R]]:
    """Wait for one at least, and take what is done out of `running`."""
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        yield running.pop(future), future.result()


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it: an orphan would write into the run that continues this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
