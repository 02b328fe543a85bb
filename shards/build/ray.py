"""Units of work as tasks of a Ray cluster: a lost machine costs the units it was at, which others do again."""

import itertools
import logging
import os
import socket
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from shards.errors import InputError

U = TypeVar("U")
R = TypeVar("R")

TASKS_PER_CORE = 4
"""Tasks a core of the cluster that are known to it; memory does not grow with the number of the others."""
LIVES = 5
"""Machines or workers that may be lost at the same unit before the unit itself is blamed."""


def on_ray(do: Callable[[U], R], units: Sequence[U], address: str | None, *, gpu: bool) -> Generator[tuple[int, R]]:
    """Yield the number and the result of each unit as it is done; with `gpu` a unit gets a GPU, if there is any.

    Raises InputError if Ray is not installed or the cluster cannot be reached, and if a unit has cost LIVES workers.
    """
    with _connected(address) as ray:
        cluster = ray.cluster_resources()
        gpus = int(gpu and cluster.get("GPU", 0) > 0)
        # max_calls: a worker that has a GPU would otherwise end after each shard, and the next load the teacher anew.
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_calls=0, max_retries=LIVES - 1)(_done)
        most = max(64, TASKS_PER_CORE * int(cluster.get("CPU", 1)))
        here, waiting = Path.cwd(), enumerate(units)
        running = {task.remote(do, unit, here): number for number, unit in itertools.islice(waiting, most)}
        while running:
            [done], _ = ray.wait(list(running), num_returns=1)
            try:
                yield running.pop(done), ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                lost = f"{LIVES} workers in turn were lost at the same shard ({' '.join(str(error).split())[:300]})"
                raise InputError(f"{lost}. Run again to go on.") from None
            running |= {task.remote(do, unit, here): number for number, unit in itertools.islice(waiting, 1)}


def _done(do: Callable[[U], R], unit: U, here: Path) -> R:
    """Do a unit in the folder `here`, where there is one, so that relative paths mean what they mean to the caller."""
    with suppress(OSError):
        os.chdir(here)
    return do(unit)


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Join the cluster, and send this code to all of its machines."""
    try:
        import ray
    except ImportError:
        raise InputError("engine ray needs one more package: pip install -r requirements-ray.txt") from None
    where = address or os.environ.get("RAY_ADDRESS", "")
    host, _, port = where.rpartition("//")[2].rpartition(":")
    if host and port.isdecimal():  # else one of Ray's own words, such as auto
        try:
            socket.create_connection((host, int(port)), timeout=10).close()  # where Ray would wait ten minutes
        except OSError as error:
            raise InputError(f"{where}: no Ray cluster there ({error}). `ray start --head` begins one.") from None
    code = {"py_modules": [str(Path(__file__).parents[1])]}
    try:
        ray.init(address, runtime_env=code, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"no Ray cluster that can be joined: {error}. Do RAY_AUTH_MODE and RAY_AUTH_TOKEN say here what they say "
            "there? `ray start --head` begins a cluster."
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()
