"""What this process may use of the machine."""

import os
from pathlib import Path


def cpu_count() -> int:
    """Return how many cores this process may use, by its affinity and the CPU quota of its control group."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        cores = os.process_cpu_count()
    elif hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # macOS
        cores = os.cpu_count()
    return min([cores or 1, *cgroup_quotas(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))])


def cgroup_quotas(root: Path, membership: Path) -> list[int]:
    """Return the cores that each control group (version 2) around this process grants, rounded up; none if unlimited.

    root: where the groups are mounted, in a container the process's own. membership: the file whose line `0::/GROUP`
    names the process's. A group's file cpu.max holds `max PERIOD` or `QUOTA PERIOD`, microseconds.
    """
    lines = membership.read_text().splitlines() if membership.exists() else []
    group = root / next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    limits = [path / "cpu.max" for path in (group, *group.parents) if path.is_relative_to(root)]
    quotas = [path.read_text().split() for path in limits if path.exists()]
    return [max(1, -(-int(quota) // int(period))) for quota, period in quotas if quota != "max"]
