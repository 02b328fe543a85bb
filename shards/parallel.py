"""Units of work on all cores, with a progress bar; a worker never outlives the command that started it."""

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Protocol, TypeVar

from PIL import Image
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from shards.errors import InputError

__all__ = ["run_parallel"]


class Sized(Protocol):
    @property
    def size(self) -> int:
        """How many samples it is about, for the progress bar."""


U = TypeVar("U", bound=Sized)
R = TypeVar("R")


def run_parallel(do: Callable[[U], R], units: Sequence[U], workers: int, total: int) -> list[R]:
    """Does every unit in one of `workers` processes; returns the results in the order of the units.

    The progress bar counts to `total` samples and begins at what is not in `units`. An error in one unit stops the
    others before they begin. Raises InputError if a worker was killed.
    """
    if not units:
        return []
    context = multiprocessing.get_context("spawn")
    with (
        _progress(total, total - sum(unit.size for unit in units)) as advance,
        ProcessPoolExecutor(min(workers, len(units)), mp_context=context, initializer=_begin_worker) as pool,
    ):
        futures = {pool.submit(do, unit): unit.size for unit in units}
        try:
            for future in as_completed(futures):
                future.result()
                advance(futures[future])
            return [future.result() for future in futures]
        except BrokenProcessPool:
            raise InputError(
                "a worker was killed (out of memory?). Run again to go on, with fewer --workers."
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends with it: an orphan would write into the run that continues this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f} samples/s")


@contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        task = progress.add_task("samples", total=total, completed=done)
        yield lambda samples: progress.advance(task, samples)
