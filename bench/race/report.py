"""What came of the race: a CSV file, a section of RESULTS.md, a table for the terminal."""

import argparse
import csv
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.markup import escape
from rich.table import Table

from bench import written
from bench.race.contenders import BATCH, CONTENDERS, SIZE, WORKERS, Contender
from bench.race.run import Run
from shards.format.dataset import Dataset

BEGIN, END = "<!-- loaders: begin, written by python -m bench.race -->", "<!-- loaders: end -->"
MEASURED = (
    "samples",
    "seconds",
    "samples_per_second",
    "cpu_us_per_sample",
    "memory_mib",
    "memory_with_files_mib",
    "start_seconds",
    "import_seconds",
    "pixel_difference",
)
HEADINGS = (
    "loader",
    "samples/s",
    "least - most",
    "x best peer",
    "x floor",
    "CPU us/sample",
    "memory, MiB",
    "start, s",
    "imports, s",
    "pixels differ by",
    "order",
)
NOTES = f"""\
Each contender runs in a process of its own, in turns, with {WORKERS} workers or threads, batches of {BATCH}, the page
cache warm and OMP_NUM_THREADS=1; every one but the floor hands over the four arrays in uint8 at {SIZE}x{SIZE} in random
order. samples/s: median over the rounds, after the warm-up. CPU: of all its processes while that was measured. Memory:
peak of anonymous and shared memory over all its processes, what they share counted once (PSS), without mapped files.
Start: from before the loader is made to the first batch, without the imports. Pixels differ by: mean over the arrays of
its first batch, in levels of 255, from Pillow's decoding of the stored images and antialiased bilinear scaling.

What is not alike:

- Peers decode the background of every sample, because their formats do not know that it is shared; Sluice decodes each
  once. The floor counts what Sluice must decode.
- "half" decodes at half the size by libjpeg-turbo's scaling, which skips work and makes other pixels. DALI cannot, so
  Sluice does not; neither does the floor. The best peer is the best of those that decode every pixel, as Sluice does.
- Training-size shards hold the images scaled and encoded a second time, hence their difference. The decoded cache is
  measured after its first epoch. Both can be above the floor, which decodes the stored images.
- FFCV reads the same JPEG bytes through a field written for it (its own would encode again); it knows no grey and
  decodes three channels. Its start includes compiling.
- SPDL has no format of its own and reads the folders. Its decoder is FFmpeg.
- torchvision and transformers, which Streaming imports and nobody needs here, are empty stand-ins; NumPy is newer than
  it asks for."""


class Standing(NamedTuple):
    """A contender's rounds together: medians, the spread of the rates, and its error if it failed."""

    contender: Contender
    rates: list[float]
    medians: dict[str, float]
    error: str

    @property
    def rate(self) -> float:
        return self.medians.get("samples_per_second", 0.0)


def standings(runs: Sequence[Run]) -> list[Standing]:
    """In the order in which they ran first."""
    found = []
    for contender in dict.fromkeys(run.contender for run in runs):
        own = [run for run in runs if run.contender == contender]
        good = [run.measured for run in own if not run.error]
        medians = {
            name: statistics.median(values)
            for name in MEASURED
            if (values := [measured[name] for measured in good if name in measured])
        }
        rates = [measured["samples_per_second"] for measured in good]
        found.append(Standing(contender, rates, medians, next((run.error for run in own if run.error), "")))
    return found


def facts(dataset: Dataset, samples: int, given: argparse.Namespace, kind: str) -> dict[str, str]:
    """The machine, the data and the versions, as they are told."""
    height, width = dataset.manifest.image_size
    size = sum(shard.bytes for shard in dataset.manifest.shards) / len(dataset)
    packages = sorted({package for one in CONTENDERS for package in one.packages} | {"numpy", "torch"})
    return {
        "Machine": written.machine(),
        "Date": time.strftime("%Y-%m-%d"),
        "Data": f"{samples:,} samples, {kind}, {width}x{height} px, {size / 1000:.0f} kB each",
        "Measured": f"rounds: {given.rounds}, each {given.seconds:g} s after {given.warm_up:g} s of warm-up",
        "Versions": f"Python {platform.python_version()}, "
        + ", ".join(f"{one} {written.version(one)}" for one in packages),
    }


def _rows(runs: Sequence[Run]) -> list[list[str]]:
    """The cells of the table, fastest first, those that failed last with their error."""
    found = sorted(standings(runs), key=lambda one: -one.rate)
    best = max((one.rate for one in found if one.contender.kind == "peer"), default=0.0)
    floor = max((one.rate for one in found if one.contender.kind == "floor"), default=0.0)
    return [_cells(one, best, floor) if one.rates else _failed(one) for one in found]


def _cells(one: Standing, best: float, floor: float) -> list[str]:
    forms = (
        ("cpu_us_per_sample", ",.0f"),
        ("memory_mib", ",.0f"),
        ("start_seconds", ".2f"),
        ("import_seconds", ".2f"),
        ("pixel_difference", ".2f"),
    )
    return [
        one.contender.name,
        f"{one.rate:,.0f}",
        f"{min(one.rates):,.0f} - {max(one.rates):,.0f}",
        *(f"{one.rate / other:.2f}" if other else "" for other in (best, floor)),
        *(format(one.medians[name], form) if name in one.medians else "" for name, form in forms),
        one.contender.order,
    ]


def _failed(one: Standing) -> list[str]:
    return [one.contender.name, "failed", *[""] * (len(HEADINGS) - 2)]


def failures(runs: Sequence[Run]) -> list[str]:
    """A line for each contender that failed, with its error."""
    return [f"{one.contender.name} failed: {one.error}" for one in standings(runs) if one.error]


def table(runs: Sequence[Run]) -> Table:
    """For the terminal."""
    shown = Table(*HEADINGS)
    for cells in _rows(runs):
        shown.add_row(*(escape(cell) for cell in cells), style="red" if cells[1] == "failed" else None)
    return shown


def section(told: dict[str, str], runs: Sequence[Run]) -> str:
    """The section of RESULTS.md."""
    rows = [list(HEADINGS), ["---"] * len(HEADINGS), *_rows(runs)]
    failed = [f"- {_in_code(line)}" for line in failures(runs)] or ["- none"]
    return "\n".join(
        [
            "## Loaders",
            "",
            *(f"- {name}: {value}" for name, value in told.items()),
            "",
            written.markdown(rows),
            "",
            "![samples a second of each loader](results/loaders.png)",
            "",
            "Failed:",
            "",
            *failed,
            "",
            NOTES,
        ]
    )


def _in_code(line: str) -> str:
    name, _, error = line.partition(": ")
    return f"{name}: `{error.replace('`', chr(39))}`"


def write(out: Path, told: dict[str, str], runs: Sequence[Run]) -> None:
    """Writes results/loaders.csv, results/loaders.png and the section of RESULTS.md, which replaces the one there."""
    from bench.race.plot import plot

    (out / "results").mkdir(parents=True, exist_ok=True)
    write_csv(out / "results" / "loaders.csv", runs)
    plot(out / "results" / "loaders.png", standings(runs), told)
    replace_section(out / "RESULTS.md", section(told, runs))


def write_csv(path: Path, runs: Sequence[Run]) -> None:
    """A row for each contender in each round."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("round", "loader", "kind", "order", *MEASURED, "error"))
        for run in runs:
            one, measured = run.contender, (_short(run.measured.get(name, "")) for name in MEASURED)
            writer.writerow((run.round, one.name, one.kind, one.order, *measured, run.error))


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def replace_section(path: Path, text: str) -> None:
    """Puts `text` between the marks, or at the end where there are none yet."""
    written.replace_section(path, BEGIN, END, f"{BEGIN}\n\n{text}\n\n{END}")
