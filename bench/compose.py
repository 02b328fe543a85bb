"""How fast samples are composed, beside what encoding their three JPEGs alone takes. `python -m bench.compose`

Both in turns, on all cores. Composing is the command that a user gives, in a process of its own; encoding is the same
number of processes that encode pixels which lie ready, and do nothing else. The table replaces its section of
bench/RESULTS.md.
"""

import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from rich.console import Console
from rich.table import Table

from bench.race.watch import memory
from bench.written import RESULTS, children_cpu, machine, markdown, replace_section
from shards.draw import draw_data
from shards.errors import InputError, report_errors
from shards.format.images import encoded
from shards.ingest.compose import ComposeConfig, ComposeUnit, plan_composition
from shards.ingest.paste import SIZE_2020

WORKERS = os.cpu_count() or 1
SIZES, ROUNDS, SECONDS = (160, 64), 2, 3.0
PICTURES, PLACES = 100, 20
FEW, MANY, ALL = 40_000, 100_000, 400_000
"""samples; ALL is what 100 figures, mirrored too, make on 100 backgrounds at 20 places"""
READY = 200
"""samples whose pixels lie ready in each process that encodes"""
BEGIN, END = "<!-- compose -->", "<!-- /compose -->"
HEADINGS = (
    "px",
    "composed, samples/s",
    "encoded alone, samples/s",
    "share",
    "CPU, us/sample",
    "encoded alone",
    "share",
    f"memory at {FEW:,}, MiB",
    f"at {MANY:,}, MiB",
    f"{ALL:,} samples, minutes",
    "GB",
)
NOTES = f"""\
{PICTURES} drawn figures on {PICTURES} drawn rooms, {PLACES} places, mirrored too: {ALL:,} samples, of which
`python -m shards compose` makes {FEW:,} and {MANY:,}, straight to shards. {ROUNDS} rounds, in turns with the
encoding: median (least - most).

- Composed: the samples between the two numbers, in the time between the two. What both take is left out: starting
  Python and the workers, checking and hashing the pictures, and the order of all {ALL:,}.
- CPU: user and system time of all processes, per sample; it depends less on what else the machine does.
- Encoded alone: fg_bg, mask and depth by the same libjpeg-turbo, quality and chroma, from pixels that lie ready.
- Memory: peak of anonymous and shared memory over all processes, what they share counted once (PSS).
- Minutes and GB: of {ALL:,}, carried on from {MANY:,}, with what is left out above. GB is what lies on the disk."""


class Composed(NamedTuple):
    """What composing took: seconds, seconds of CPU, MiB of memory at its peak, and bytes on the disk."""

    seconds: float
    cpu: float
    memory: float
    size: int


class Encoding(NamedTuple):
    """Samples a second of all processes together, and the seconds of CPU that one sample takes."""

    rate: float
    cpu: float


class Round(NamedTuple):
    """Composing of FEW and of MANY samples, and encoding before each."""

    few: Composed
    many: Composed
    encoding: tuple[Encoding, Encoding]

    @property
    def composing(self) -> float:
        """Samples a second."""
        return (MANY - FEW) / (self.many.seconds - self.few.seconds)

    @property
    def cpu(self) -> float:
        """Seconds a sample."""
        return (self.many.cpu - self.few.cpu) / (MANY - FEW)

    @property
    def all_seconds(self) -> float:
        return self.many.seconds + (ALL - MANY) / self.composing


def composed(drawn: Path, out: Path, size: int, samples: int) -> Composed:
    """Composes so many samples into `out`, which is deleted again."""
    folders = [argument for name in ("fg", "bg", "depth") for argument in (f"--{name}", str(drawn / name))]
    numbers = {"--places": PLACES, "--samples": samples, "--size": size, "--workers": WORKERS}
    options = [str(one) for pair in numbers.items() for one in pair]
    command = [sys.executable, "-m", "shards", "compose", *folders, *options, "--mirror", "--out", str(out)]
    begin, cpu, peak = time.perf_counter(), children_cpu(), 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.returncode is None:
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                peak = max(peak, memory(process.pid).own)
    seconds = time.perf_counter() - begin
    if process.returncode:
        raise InputError(f"composing failed: {' '.join(command)}")
    size_on_disk = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    shutil.rmtree(out)
    return Composed(seconds, children_cpu() - cpu, peak, size_on_disk)


def encoding(drawn: Path, size: int) -> Encoding:
    """The same number of processes, each of which encodes what lies ready."""
    context = multiprocessing.get_context("spawn")
    begin = context.Barrier(WORKERS)
    with ProcessPoolExecutor(WORKERS, context, initializer=_get_ready, initargs=(drawn, size, begin)) as pool:
        found = list(pool.map(_encode, [size] * WORKERS))
    return Encoding(sum(one.rate for one in found), statistics.mean(one.cpu for one in found))


def _get_ready(drawn: Path, size: int, begin: "multiprocessing.synchronize.Barrier") -> None:
    fg, bg, depth = (drawn / name for name in ("fg", "bg", "depth"))
    config = ComposeConfig(fg=fg, bg=bg, depth=depth, size=size, places=1, samples=READY)
    (unit,) = plan_composition(config).units
    assert isinstance(unit, ComposeUnit)
    _ready[:] = [image for pasting in unit.pastings for image in unit.pasted(pasting).images.values()]
    begin.wait()


_ready: list[Image.Image] = []


def _encode(size: int) -> Encoding:
    begin, cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begin < SECONDS:
        for image in _ready:
            encoded(image, "jpg", full_chroma=size < SIZE_2020)
        done += READY
    return Encoding(done / (time.perf_counter() - begin), (time.process_time() - cpu) / done)


def round_of(drawn: Path, size: int) -> Round:
    """Encodes, composes few, encodes, composes many."""
    pairs = [(encoding(drawn, size), composed(drawn, drawn.parent / "data", size, some)) for some in (FEW, MANY)]
    (before_few, few), (before_many, many) = pairs
    return Round(few, many, (before_few, before_many))


def row(size: int, rounds: list[Round]) -> list[str]:
    """The cells of one size."""
    composing = [one.composing for one in rounds]
    alone = [one.rate for each in rounds for one in each.encoding]
    cpu, cpu_alone = (
        statistics.median(values) * 1e6
        for values in ([one.cpu for one in rounds], [one.cpu for each in rounds for one in each.encoding])
    )
    few, many = (max(getattr(one, name).memory for one in rounds) for name in ("few", "many"))
    minutes = statistics.median(one.all_seconds for one in rounds) / 60
    rates = [f"{statistics.median(some):,.0f} ({min(some):,.0f} - {max(some):,.0f})" for some in (composing, alone)]
    share = statistics.median(composing) / statistics.median(alone)
    times = [f"{cpu:,.0f}", f"{cpu_alone:,.0f}", f"{cpu_alone / cpu:.2f}"]
    size_of_all = rounds[0].many.size / MANY * ALL / 1e9
    rest = [f"{few:,.0f}", f"{many:,.0f}", f"{minutes:.1f}", f"{size_of_all:.1f}"]
    return [str(size), *rates, f"{share:.2f}", *times, *rest]


def write(path: Path, told: str, rows: list[list[str]]) -> None:
    """Puts the section in the place of the earlier one, or at the end."""
    cells = markdown([HEADINGS, ["---:"] * len(HEADINGS), *rows])
    text = "\n\n".join((BEGIN, f"## Composing\n\n`python -m bench.compose`, {told}", cells, NOTES, END))
    replace_section(path, BEGIN, END, text)


def main() -> None:
    told = f"{time.strftime('%Y-%m-%d')}, {machine()}"
    with tempfile.TemporaryDirectory(prefix="sluice-compose-") as folder:
        drawn = Path(folder) / "drawn"
        draw_data(drawn / "fg", drawn / "bg", drawn / "depth", figures=PICTURES, rooms=PICTURES)
        rounds = [[round_of(drawn, size) for size in SIZES] for _ in range(ROUNDS)]
    rows = [row(size, list(of_size)) for size, of_size in zip(SIZES, zip(*rounds, strict=True), strict=True)]
    shown = Table(*HEADINGS)
    for cells in rows:
        shown.add_row(*cells)
    Console(width=140).print(shown)
    write(RESULTS, told, rows)


if __name__ == "__main__":
    with report_errors():
        main()
