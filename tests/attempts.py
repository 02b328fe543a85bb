"""Attempts that fail in every way, for test_faults.py: the processes that they run in import nothing else."""

import os
import signal
import time
from collections import Counter
from pathlib import Path

from bench.faults.attack import REFUSED, WELL, FailureError, doing
from shards.errors import InputError


def harmless(folder: Path) -> None:
    """Nothing to prepare."""


def unpreparable(folder: Path) -> None:
    raise RuntimeError("no data set today")


def in_every_way(folder: Path, number: int) -> Counter[str] | None:
    """Fails in every way, one after the other."""
    doing(f"way {number}")
    match number:
        case 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        case 2:
            time.sleep(60)
        case 3:
            raise KeyError("a traceback")
        case 4:
            bytearray(1 << 40)
        case 5:
            raise FailureError("wrong bytes", "others came")
        case 6:
            raise InputError("x: is damaged. Copy it again.")
        case 7:
            raise OSError("a disk, but which?")
        case 8:
            Path("/no/such/file").read_bytes()
        case 9:
            return Counter({WELL: 5, REFUSED: 7})
    return None
