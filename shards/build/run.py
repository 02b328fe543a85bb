"""Units of work on all cores of this machine or of a cluster, with a progress bar; none outlives its command."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Annotated, Any, Literal, TypeVar

from PIL import Image
from rich import progress
from rich.text import Text

from shards.build.ray import on_ray
from shards.errors import InputError
from shards.format.dataset import ShardContents
from shards.format.fields import Bounds, Checked
from shards.ingest.job import Unit
from shards.machine import cpu_count

W = TypeVar("W", bound=Unit | ShardContents)
"""What is done at once, named as its shard is; its size is the samples that it counts in the progress bar."""
R = TypeVar("R")

_SIGNAL_AT_PARENTS_DEATH = 1
"""PR_SET_PDEATHSIG of prctl"""


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
    waiting, busy = enumerate(units), dict[Any, int]()
    with _started(do, workers) as pool:
        free, answers = pool, list[tuple[int, R, Exception | None]]()
        while free or busy:
            try:
                for worker, (number, unit) in zip(free, waiting, strict=False):
                    worker.send(unit)
                    busy[worker] = number
                free = list(wait(list(busy))) if busy else []
                answers = [(busy.pop(worker), *worker.recv()) for worker in free]
            except (EOFError, OSError):
                raise InputError(
                    "a worker was killed (out of memory?). Run again to go on, with fewer --workers."
                ) from None
            for number, result, error in answers:
                if error:
                    raise error
                yield number, result


@contextmanager
def _started(do: Callable[[W], R], workers: int) -> Iterator[list[Any]]:
    """Start processes that do what is sent to them; yield the pipes to them. They end, each after what it is at.

    There is nothing but pipes: semaphores and queues, which all pools of Python's have, stay where all are killed.
    A second Ctrl-C does not wait for them.
    """
    context, processes, pipes = multiprocessing.get_context("spawn"), [], []
    resource_tracker.ensure_running()  # which would let Ctrl-C through again
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            pipes.append(ours)
            process = context.Process(target=_work, args=(theirs, do), daemon=True)
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the worker inherits it
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            processes.append(process)
            theirs.close()
        yield pipes
    finally:
        try:
            for pipe in pipes:
                pipe.close()
            for process in processes:
                process.join()
        finally:
            for process in processes:
                process.kill()


def _work(pipe: Any, do: Callable[[W], R]) -> None:
    """Do the units that come; answer each with what `do` returns, or with its error. Ends with the parent.

    An orphan would write into the run that continues this one.
    """
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    if sys.platform == "linux":  # at once, for no thread runs while a large library is loaded
        ctypes.CDLL(None).prctl(_SIGNAL_AT_PARENTS_DEATH, signal.SIGKILL)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):  # there will be no more
        while True:
            unit, answer = pipe.recv(), list[R | Exception | None]()
            try:
                answer = [do(unit), None]
            except Exception as error:
                error.add_note(traceback.format_exc())
                answer = [None, error]
            pipe.send(answer)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
