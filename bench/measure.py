"""The common parts of the benchmarks: drawn samples, commands measured from outside (Linux), tables, RESULTS.md."""

import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import IO, Any, NamedTuple

from rich.progress import track

from shards.errors import InputError
from shards.format.dataset import Dataset

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "RESULTS.md"


class Usage(NamedTuple):
    """The cost of a command: seconds, CPU seconds of all processes, MiB at the peak; and the last line it printed."""

    seconds: float
    cpu: float
    memory: float
    printed: str


def endless(epoch: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches of one epoch after the other."""
    while True:
        yield from epoch


def count_for(seconds: float, lengths: Iterator[int], least: int = 0) -> tuple[int, list[float]]:
    """Take batches, of which `lengths` yields the samples, for so many seconds and until there were `least` samples.

    Return how many there were, and the moments at the beginning and after each batch.
    """
    samples, moments = 0, [time.perf_counter()]
    while moments[-1] - moments[0] < seconds or samples < least:
        samples += next(lengths)
        moments.append(time.perf_counter())
    return samples, moments


def shards_command(name: str, *positional: object, **options: object) -> list[str]:
    """Return `python -m shards NAME ...`; an option that is True stands alone."""
    command = [sys.executable, "-m", "shards", name, *map(str, positional)]
    for option, value in options.items():
        command += [f"--{option.replace('_', '-')}", *([] if value is True else [str(value)])]
    return command


def drawn_data(root: Path, *, figures: int, rooms: int, samples: int, size: int = 160) -> Dataset:
    """Draw figures and rooms into `root` and compose a data set of them there, images of `size` x `size` pixels."""
    from demo.draw import draw_data  # not at the top: contenders are measured with this module in their memory

    drawn = {name: root / "drawn" / name for name in ("fg", "bg", "depth")}
    draw_data(*drawn.values(), figures=figures, rooms=rooms, size=size)
    amount = {"samples": samples, "size": size, "samples_per_shard": min(1000, samples // 4)}
    command = shards_command("compose", out=root / "data", **drawn, places=-(-samples // (figures * rooms)), **amount)
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return Dataset.open(root / "data")


def run_watched(command: Sequence[str], *, limit: float, every: float = 0.05) -> Usage:
    """Run `command` in a process group of its own, looking at its memory every so many seconds.

    One thread for OpenMP: workers and threads are counted, and must not multiply.
    Raises InputError, with the last line of its standard error, if it ends badly or takes more than `limit` seconds.
    """
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as stderr, tempfile.TemporaryFile("w+") as stdout:
        begin, before, peak = time.perf_counter(), os.times(), 0.0
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=stdout, stderr=stderr, start_new_session=True)
        try:
            while process.poll() is None and time.perf_counter() - begin < limit:
                peak = max(peak, memory(process.pid))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(every)
            seconds, code = time.perf_counter() - begin, process.returncode
        finally:  # workers may outlive it: asked for 2 s, then forced, as Python's resource tracker does not listen
            with suppress(ProcessLookupError):
                for attempt in range(200):
                    process.poll()
                    os.killpg(process.pid, signal.SIGTERM if attempt < 100 else signal.SIGKILL)
                    time.sleep(0.02)
        if code is None:
            raise InputError(f"had not ended after {limit:.0f} s")
        if code:
            raise InputError(_last_line(stderr) or f"ended with exit code {code}, and said nothing")
        cpu = sum(os.times()[2:4]) - sum(before[2:4])  # user and system time of ended children, and of theirs
        return Usage(seconds, cpu, peak, _last_line(stdout))


def _last_line(file: IO[str]) -> str:
    file.seek(0)
    return file.read().rstrip().rpartition("\n")[2].strip()


def cpu_seconds() -> float:
    """Return the user and system time of this process and its descendants so far, ended children included."""
    fields = [field for stat in _read(os.getpid(), "stat") for field in stat.rpartition(")")[2].split()[11:15]]
    return sum(map(int, fields)) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Return the anonymous and shared memory (MiB) of a process and its descendants now; shared pages count once (PSS).

    Mapped files are left out: they lie in the page cache, which the system takes back as it likes.
    """
    lines = [line.split() for rollup in _read(pid, "smaps_rollup") for line in rollup.splitlines()]
    return sum(int(words[1]) for words in lines if words[0] in ("Pss_Anon:", "Pss_Shmem:")) / 1024


def _read(pid: int, name: str) -> Iterator[str]:
    """Yield this file of /proc of the process and of each of its descendants that still runs."""
    with suppress(OSError):  # children before their parent: what it shares with one forked meanwhile would count twice
        threads = Path(f"/proc/{pid}/task").glob("*/children")
        for child in " ".join(path.read_text() for path in threads).split():
            yield from _read(int(child), name)
    with suppress(OSError):
        yield Path(f"/proc/{pid}/{name}").read_text()


@dataclass
class Outcome:
    """The measurements of each round, and the error if one failed."""

    rounds: list[dict[str, float]] = field(default_factory=list)
    error: str = ""

    def values(self, name: str = "samples_per_second") -> list[float]:
        return [measured[name] for measured in self.rounds if name in measured]

    def median(self, name: str = "samples_per_second") -> float:
        """Return the median of the rounds, 0 if there are none."""
        return statistics.median(self.values(name) or [0.0])


def in_turns(measures: Mapping[str, Callable[[], dict[str, float]]], rounds: int) -> dict[str, Outcome]:
    """Measure all, round by round, so that other load hits all alike; one that fails is not run again."""
    outcomes = {name: Outcome() for name in measures}
    for name in track([*measures] * rounds, "measuring"):
        one = outcomes[name]
        try:
            if not one.error:
                one.rounds.append(measures[name]())
        except (InputError, ValueError) as error:
            one.error = str(error)
    return outcomes


COLUMNS = {
    "cpu_us_per_sample": ("CPU us/sample", ",.0f"),
    "memory_mib": ("memory, MiB", ",.0f"),
    "start_seconds": ("start, s", ".2f"),
    "import_seconds": ("imports, s", ".2f"),
    "pixel_difference": ("pixels differ by", ".2f"),
}
"""The heading and form of every measurement beside the rate."""


def table(outcomes: dict[str, Outcome], references: dict[str, float]) -> str:
    """Return medians in Markdown, the fastest first, rates as multiples of the `references` too, and errors below."""
    columns = {name: column for name, column in COLUMNS.items() if any(one.values(name) for one in outcomes.values())}
    headings = ["", "samples/s", "least - most", *(f"x {other}" for other in references)]
    headings += [heading for heading, _ in columns.values()]
    rows = [headings, ["---", *["---:"] * (len(headings) - 1)]]
    for name, one in sorted(outcomes.items(), key=lambda item: -item[1].median()):
        rates, rate = one.values(), one.median()
        cells = [f"{rate:,.0f}", f"{min(rates):,.0f} - {max(rates):,.0f}"] if rates else ["failed", ""]
        cells += [f"{rate / other:.2f}" if rates and other else "" for other in references.values()]
        cells += [format(one.median(name), form) if one.values(name) else "" for name, (_, form) in columns.items()]
        rows.append([name, *cells])
    failed = [f"- {name} failed: `{one.error.replace('`', chr(39))}`" for name, one in outcomes.items() if one.error]
    return "\n".join([*("| " + " | ".join(cells) + " |" for cells in rows), *[""] * bool(failed), *failed])


def machine(*packages: str) -> str:
    """Return the date, the processor, its cores, the memory, the load, and the versions of Python and some packages."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    gib, load = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, os.getloadavg()[0]
    installed = {one.name: one.version for one in distributions()}
    versions = ", ".join(f"{one} {installed.get(one, 'not installed')}" for one in packages)
    host = f"{time.strftime('%Y-%m-%d')}, {cpu}, {os.cpu_count()} cores, {gib:.0f} GiB, load {load:.1f} before"
    return f"{host}, Python {platform.python_version()}, {versions}"


def write_section(path: Path, name: str, text: str) -> None:
    """Print `text` and put it between the marks of this name, or at the end where there are none yet."""
    print(text)
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = (path.read_text() if path.exists() else "# Results\n").partition(begin)
    after = rest.partition(end)[2] or "\n"
    path.write_text(f"{before.rstrip()}\n\n{begin}\n\n{text}\n\n{end}{after}")
