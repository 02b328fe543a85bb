"""Units of work on all cores of this machine or of a cluster, with a progress bar; none outlives its command."""

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Literal, TypeVar

from PIL import Image
from rich import progress
from rich.text import Text

from shards.build.ray import on_ray
from shards.errors import InputError
from shards.format.dataset import ShardContents
from shards.format.fields import Bounds, Checked
from shards.ingest.job import Unit
from shards.machine import cpu_count

WAITING = 4
"""Units a worker that wait for it; the others are not sent yet, so that memory does not grow with their number."""

W = TypeVar("W", bound=Unit | ShardContents)
"""What is done at once, named as its shard is; its size is the samples that it counts in the progress bar."""
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Checked):
    """What does the work, a shard at a time. The result does not depend on it."""

    workers: Annotated[int, Bounds(1, 1024)] = cpu_count()
    """processes of this machine; where a teacher predicts there is one, which uses all cores"""
    engine: Literal["processes", "ray"] = "processes"
    """processes here, or tasks on a Ray cluster, whose machines must reach all data under the same path or URL"""
    ray_address: str | None = None
    """address that `ray start` printed; else RAY_ADDRESS, this machine's cluster, or one of this machine alone"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ray_address and self.engine != "ray":
            raise InputError(f"ray-address {self.ray_address}: only --engine ray has one.")


def run_units(do: Callable[[W], R], units: Sequence[W], config: RunConfig, total: int, gpu: bool = False) -> list[R]:
    """Do every unit; return the results in the order of the units.

    The progress bar counts to `total` samples and begins at what is not in `units`. An error in one unit stops the
    others before they begin. With `gpu`, a unit gets one of the cluster's where there is one. Raises InputError if
    workers were killed.
    """
    if not units:
        return []
    results: dict[int, R] = {}
    if config.engine == "ray":
        done = on_ray(do, units, config.ray_address, gpu=gpu)
    else:
        done = _in_processes(do, units, min(config.workers, len(units)))
    columns = (progress.TextColumn("samples"), progress.BarColumn(), progress.MofNCompleteColumn(), _Rate())
    times = progress.TimeElapsedColumn(), progress.TimeRemainingColumn()
    with progress.Progress(*columns, *times) as bar, closing(done):
        task = bar.add_task("", total=total, completed=total - sum(unit.size for unit in units))
        for number, result in done:
            results[number] = result
            bar.advance(task, units[number].size)
    return [results[number] for number in range(len(units))]


class _Rate(progress.ProgressColumn):
    def render(self, task: progress.Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f} samples/s")


def _in_processes(do: Callable[[W], R], units: Sequence[W], workers: int) -> Generator[tuple[int, R]]:
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin_worker)
    waiting = enumerate(units)
    try:
        running = {pool.submit(do, unit): number for number, unit in islice(waiting, WAITING * workers)}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()
                running |= {pool.submit(do, unit): number for number, unit in islice(waiting, 1)}
    except BrokenProcessPool:
        raise InputError("a worker was killed (out of memory?). Run again to go on, with fewer --workers.") from None
    finally:
        # Waits: an executor left to close its pipes by itself races with the interpreter's end (bad descriptor).
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it: an orphan would write into the run that continues this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
