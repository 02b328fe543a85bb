"""Memory for decoded images: how much there is, and how the processes of one run come to share it.

Where there is less than is asked for, MemoryError says where, and how much is left.
"""

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


def on_gpu(size: int, device: torch.device) -> Tensor:
    """Take `size` bytes on a GPU, uint8."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # free, but PyTorch's already
    free = torch.cuda.mem_get_info(device)[0] + kept
    _refuse_too_much(size, free, str(device))
    try:
        return torch.empty(size, dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError:
        raise MemoryError(f"{device} has {free >> 20:,} MiB left, not in one piece") from None


def wait_for(stream: torch.cuda.Stream) -> None:
    """Wait until all that was begun on a stream is done, asleep: threads that spin take the cores from each other."""
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # stub lacks it
    event.record(stream)
    event.synchronize()


def private(size: int) -> NDArray[np.uint8]:
    """Map `size` zero bytes of this process, each taken from the machine when it is first written."""
    _refuse_too_much(size, _available(), "the host")
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)


def shared(size: int, purpose: str) -> NDArray[np.uint8]:
    """Map `size` zero bytes that the processes which torchrun started on this machine have in common (on Linux).

    Those that name the same `purpose` get the same bytes. The memory has no name in the file system, whose shared part
    is small in containers, and it is gone when its processes are, however they end.
    """
    sharers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if sharers == 1 or not hasattr(os, "memfd_create"):
        return private(size)
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
        raise MemoryError(f"the host refused it ({error})") from None
    return descriptor


def _refuse_too_much(size: int, free: int, where: str) -> None:
    if size > free:
        raise MemoryError(f"{where} has {free >> 20:,} MiB left")


def _available() -> int:
    """Return the bytes that can still be had of the host's memory, within this container's limit (cgroup v2)."""
    try:
        free = int(Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]) << 10
    except OSError:  # macOS: what is installed has to do
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit, used, stat = (Path(f"/sys/fs/cgroup/memory.{name}").read_text() for name in ("max", "current", "stat"))
    except OSError:
        return free
    files = int(stat.partition("inactive_file ")[2].split()[0])  # which give way
    return free if limit.strip() == "max" else min(free, int(limit) - int(used) + files)
