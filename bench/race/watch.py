"""CPU time and memory of a process and all that it started, from /proc (Linux)."""

import os
from pathlib import Path
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1024


class Memory(NamedTuple):
    """Proportional set size in MiB, summed over processes, so that what they share counts once.

    own: anonymous and shared memory. Files that are mapped are left out of it: whether a loader maps or reads them,
    they lie in the page cache, which the system takes back as it likes. all: those and program code too.
    """

    own: float
    all: float


def cpu_seconds(pid: int) -> float:
    """User and system time so far, of the ended children too that were waited for; hundredths of a second."""
    return sum(_ticks(one) for one in _tree(pid)) / TICKS


def memory(pid: int) -> Memory:
    """What is used now."""
    found = [_pss(one) for one in _tree(pid)]
    return Memory(sum(one.own for one in found), sum(one.all for one in found))


def _tree(pid: int) -> list[int]:
    """The process and its descendants, as far as they still run."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return [pid]
    return [pid, *(one for child in children for one in _tree(child))]


def _ticks(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return sum(int(field) for field in stat.rpartition(")")[2].split()[11:15])


def _pss(pid: int) -> Memory:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return Memory(0, 0)
    size = {name: int(rest.split()[0]) / MIB for name, _, rest in (line.partition(":") for line in lines)}
    return Memory(size.get("Pss_Anon", 0) + size.get("Pss_Shmem", 0), size.get("Pss", 0))
