"""Memory for decoded images: how much there is, and how the processes of one run come to share it."""

import fcntl
import hashlib
import mmap
import os
import tempfile
import weakref
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_NAME = "sluice-cache"
_UNLIMITED = 1 << 62


class NoRoom(Exception):  # noqa: N818 - not a failure of the program
    """There is not as much memory as is asked for; the message says where, and how much is left."""


def on_gpu(size: int, device: torch.device) -> Tensor:
    """Take `size` bytes on a GPU, uint8. Raises NoRoom."""
    _refuse_too_much(size, torch.cuda.mem_get_info(device)[0], str(device))
    return torch.empty(size, dtype=torch.uint8, device=device)


def private(size: int) -> NDArray[np.uint8]:
    """Map `size` zero bytes of this process, each taken from the machine when it is first written. Raises NoRoom."""
    _refuse_too_much(size, _available(), "the host")
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)


def shared(size: int, purpose: str, sharers: int) -> NDArray[np.uint8]:
    """Map `size` zero bytes that the `sharers` processes which torchrun started on this machine have in common.

    Those that name the same `purpose` get the same bytes. The memory has no name in the file system, whose shared part
    is small in containers, and it is gone when its processes are, however they end. Raises NoRoom.
    """
    run = f"{os.getppid()} {os.environ.get('TORCHELASTIC_RESTART_COUNT')} {os.environ.get('MASTER_PORT')} {purpose}"
    meeting = Path(tempfile.gettempdir()) / f"{_NAME}-{hashlib.sha256(run.encode()).hexdigest()[:16]}"
    with meeting.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        place, _, came = file.read().partition(" ")
        descriptor = _joined(place)
        if descriptor is None:
            descriptor, came = _reserved(size), "0"
            place = f"/proc/{os.getpid()}/fd/{descriptor}"
        file.truncate(0)
        file.write(f"{place} {int(came) + 1}")
        if int(came) + 1 == sharers:
            meeting.unlink()
    mapping = mmap.mmap(descriptor, size)
    weakref.finalize(mapping, os.close, descriptor)
    return np.frombuffer(mapping, np.uint8)


def _joined(place: str) -> int | None:
    """Open the memory that another process has at `place`; None if there is no such process (any more)."""
    try:
        return os.open(place, os.O_RDWR) if Path(place).readlink().name.startswith(f"memfd:{_NAME}") else None
    except OSError:
        return None


def _reserved(size: int) -> int:
    """Take the memory now: to run out of it in mid-epoch would kill the process without a word."""
    _refuse_too_much(size, _available(), "the host")
    descriptor = os.memfd_create(_NAME)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        os.close(descriptor)
        raise NoRoom(f"the host refused it ({error})") from None
    return descriptor


def _refuse_too_much(size: int, free: int, where: str) -> None:
    if size > free:
        raise NoRoom(f"{where} has {free >> 20:,} MiB left")


def _available() -> int:
    """Return the bytes that can still be had of the host's memory, within this container's limit."""
    return min(_free_on_the_host(), _left_in_the_container())


def _free_on_the_host() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # macOS: what is installed has to do
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(next(line.split()[1] for line in lines if line.startswith("MemAvailable"))) << 10


def _left_in_the_container() -> int:
    """Return the bytes left by the limit of control groups, version 2; as good as no limit where there is none."""
    try:
        limit, used, stat = (Path(f"/sys/fs/cgroup/memory.{name}").read_text() for name in ("max", "current", "stat"))
    except OSError:
        return _UNLIMITED
    files = next(int(line.split()[1]) for line in stat.splitlines() if line.startswith("inactive_file "))
    return _UNLIMITED if limit.strip() == "max" else int(limit) - int(used) + files  # cached files give way
