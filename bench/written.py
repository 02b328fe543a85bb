"""What the benchmarks write down alike: the machine they ran on, and their sections of RESULTS.md."""

import os
import platform
import resource
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


def machine() -> str:
    """Processor, cores, memory, and how busy it is with other things."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, load {os.getloadavg()[0]:.1f} before"


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def children_cpu() -> float:
    """Seconds so far, user and system, of all processes that were started here and have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """The cells of a table, headings and their line first, as Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def replace_section(path: Path, begin: str, end: str, section: str) -> None:
    """Puts `section`, which lies between the marks `begin` and `end`, in the place of the earlier one or at the end."""
    before, _, rest = (path.read_text() if path.exists() else "# Results\n\n").partition(begin)
    after = rest.partition(end)[2] or "\n"
    path.write_text(f"{before.rstrip()}\n\n{section}{after}")
