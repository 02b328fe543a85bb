"""Units of work in processes of this machine; none outlives the command that started it."""

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import TypeVar

from PIL import Image

from shards.errors import InputError

__all__ = ["in_processes"]

U = TypeVar("U")
R = TypeVar("R")

AHEAD = 4
"""units a worker that wait for it; of the others nothing is sent yet, so that memory does not grow with their number"""


def in_processes(do: Callable[[U], R], units: Sequence[U], workers: int) -> Generator[tuple[int, R]]:
    """Yields the number and the result of each unit as it is done. Raises InputError if a worker was killed."""
    workers = min(workers, len(units))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker) as pool:
        running: dict[Future[R], int] = {}
        try:
            for number, unit in enumerate(units):
                running[pool.submit(do, unit)] = number
                if len(running) >= AHEAD * workers:
                    yield from _finished(running)
            while running:
                yield from _finished(running)
        except BrokenProcessPool:
            raise InputError(
                "a worker was killed (out of memory?). Run again to go on, with fewer --workers."
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _finished(running: dict[Future[R], int]) -> Generator[tuple[int, R]]:
    """Waits for one at least, and takes what is done out of `running`."""
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        yield running.pop(future), future.result()


def _begin_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends with it: an orphan would write into the run that continues this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
