"""Conversion beside bare decoding, GNU tar and the peers' writers, in turns: `make bench-convert`.

    python -m bench.convert [--samples 8000] [--copies 4] [--rounds 3]

The folders of 2020 are drawn, and copied under other names to have enough for start-up not to matter. Every way runs as
a process of its own, from its start to its end. The table replaces its section of bench/RESULTS.md.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track

from bench.packing import PARTS
from bench.race.formats import write_folders
from bench.race.watch import memory
from bench.written import RESULTS, children_cpu, machine, markdown, replace_section, version
from shards.errors import InputError, report_errors
from shards.format.schema import COMPONENTS, sample_key

HERE = Path(__file__).parent
BEGIN, END = "<!-- convert -->", "<!-- /convert -->"
BARE, TAR, FULL, HEADER = "bare decoding, Pillow", "GNU tar", "Sluice", "Sluice, --verify header"
FEW, MANY = 40_000, 400_000
"""samples of 16 px whose conversion shows how memory grows with their number"""
EVERY = 0.05
"""seconds between two looks at the memory"""
LIMIT = 600.0
"""seconds after which a way counts as hanging"""
HEADINGS = (
    "way",
    "samples/s",
    "least - most",
    "x bare decoding",
    "x tar's time",
    "CPU us/sample",
    "memory, MiB",
    "checks",
)
NOTES = f"""\
Medians over the rounds of whole commands, from start to end; the page cache is warm, and what was written before is on
the disk. {PARTS} processes, but GNU tar has one. CPU: of all processes, which the load of others touches less. Memory:
peak of anonymous and shared memory over all processes, what they share counted once (PSS). Bare decoding opens and
decodes each file once and writes nothing. tar's time: that of GNU tar packing the same folder. Only Sluice flushes to
the disk (fsync), makes an index, splits and statistics, and can be killed and continued. Peers store a background with
every sample, as Sluice does."""


class Way(NamedTuple):
    """One row: its command, where OUT stands for the folder to write, and what it checks."""

    name: str
    command: tuple[str, ...]
    checks: str


class Run(NamedTuple):
    """One way in one round: seconds, CPU seconds of all its processes, MiB; or why it failed."""

    way: Way
    seconds: float
    cpu: float
    memory: float
    error: str = ""


def ways(folder: Path, zips: Path) -> list[Way]:
    python = (sys.executable, "-m")
    convert = (*python, "shards", "convert")
    workers = ("--workers", str(PARTS))
    packing = (*python, "bench.packing")
    return [
        Way(BARE, (*packing, "bare", str(folder), "OUT"), "every pixel"),
        Way(FULL, (*convert, str(folder), "OUT/data", *workers), "every pixel"),
        Way(HEADER, (*convert, str(folder), "OUT/data", *workers, "--verify", "header"), "headers, ends"),
        Way(f"{FULL}, from zips", (*convert, str(zips), "OUT/data", *workers), "every pixel, CRC"),
        Way(f"{HEADER}, from zips", (*convert, str(zips), "OUT/data", *workers, "--verify", "header"), "headers, CRC"),
        Way(TAR, ("tar", "-cf", "OUT/all.tar", "-C", str(folder), "."), "nothing"),
        Way(f"{TAR}, then sync", ("sh", "-c", f"tar -cf OUT/all.tar -C {folder} . && sync OUT/all.tar"), "nothing"),
        Way("webdataset, ShardWriter", (*packing, "webdataset", str(folder), "OUT"), "nothing"),
        Way("LitData, optimize", (*packing, "litdata", str(folder), "OUT"), "nothing"),
        Way("Streaming, MDSWriter", (*packing, "streaming", str(folder), "OUT"), "nothing"),
    ]


def drawn(samples: int, scratch: Path, size: int = 160) -> Path:
    """Draws `samples` of `size` px into `scratch`/folders; returns it, the list of their images beside it."""
    from bench.measure import drawn_data

    sources = {"figures": min(100, samples // 20), "rooms": min(80, samples // 20)}
    data = drawn_data(scratch / "source", **sources, samples=samples * 5 // 4, size=size)
    write_folders(data.root, samples, scratch)
    folder = scratch / "folders"
    (folder / "samples.json").rename(folder.with_suffix(".json"))
    shutil.rmtree(scratch / "source")
    return folder


def copied(folder: Path, copies: int) -> int:
    """Adds the samples `copies` - 1 times under other names; returns how many there are then."""
    path = folder.with_suffix(".json")
    listed: list[dict[str, str]] = json.loads(path.read_text())
    more = [
        {name: _renamed(image, copy) if name != "bg" else image for name, image in sample.items()}
        for copy in range(1, copies)
        for sample in listed
    ]
    for sample, new in zip(listed * (copies - 1), more, strict=True):
        for name in new.keys() - {"bg"}:
            (folder / new[name]).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / sample[name], folder / new[name])
    path.write_text(json.dumps(listed + more))
    return len(listed + more)


def _renamed(image: str, copy: int) -> str:
    """Round 0 becomes round `copy`, in folders of its own."""
    path = Path(image)
    _, bg, fg, _ = path.stem.split("_")
    return f"{path.parent.parent}/{copy}-{path.parent.name}/{sample_key(int(bg[1:]), int(fg[1:]), copy)}.jpg"


def zipped(folder: Path) -> Path:
    """One zip a tree beside `folder`, the images not packed again."""
    out = folder.with_name("zips")
    out.mkdir()
    for component in COMPONENTS:
        with zipfile.ZipFile(out / f"{component.folder}.zip", "w") as archive:
            for path in sorted((folder / component.folder).rglob("*.jpg")):
                archive.write(path, path.relative_to(folder))
    return out


def run(way: Way, scratch: Path) -> Run:
    """Runs it once, writing into `scratch`; what it wrote goes."""
    out = scratch / "out"
    out.mkdir()
    os.sync()
    command = [part.replace("OUT", str(out)) for part in way.command]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(out)}
    peak, cpu, begin = 0.0, children_cpu(), time.perf_counter()
    with (scratch / "said").open("w+") as said:
        process = subprocess.Popen(
            command, cwd=HERE.parent, env=environment, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
        )
        while process.poll() is None and time.perf_counter() - begin < LIMIT:
            peak = max(peak, memory(process.pid).own)
            time.sleep(EVERY)
        seconds, code = time.perf_counter() - begin, process.poll()
        if code is None:
            process.kill()
            process.wait()
        said.seek(0)
        lines = [line.strip() for line in said.read().splitlines() if line.strip()]
    shutil.rmtree(out)
    if code is None:
        return Run(way, seconds, children_cpu() - cpu, peak, f"had not ended after {LIMIT:.0f} s")
    return Run(way, seconds, children_cpu() - cpu, peak, "" if code == 0 else (lines or [f"exit code {code}"])[-1])


def section(runs: Sequence[Run], samples: int, told: Sequence[str]) -> str:
    """The section of RESULTS.md: a row for each way, those that failed last with their error."""
    median = {one.way.name: _median(runs, one.way.name) for one in runs}
    rows = [list(HEADINGS), ["---", *["---:"] * 6, "---"]]
    for name in sorted(median, key=lambda name: median[name]):
        own = [one for one in runs if one.way.name == name and not one.error]
        if not own:
            continue
        rates = [samples / one.seconds for one in own]
        rows.append(
            [
                name,
                f"{samples / median[name]:,.0f}",
                f"{min(rates):,.0f} - {max(rates):,.0f}",
                f"{median[BARE] / median[name]:.2f}",
                f"{median[name] / median[TAR]:.2f}",
                f"{statistics.median(one.cpu for one in own) / samples * 1e6:,.0f}",
                f"{statistics.median(one.memory for one in own):,.0f}",
                own[0].way.checks,
            ]
        )
    failed = {one.way.name: one.error for one in runs if one.error}
    errors = [f"- {name} failed: `{error.replace('`', chr(39))}`" for name, error in failed.items()]
    return "\n".join(["## Conversion", "", *told, "", markdown(rows), "", *errors, *[""] * bool(errors), NOTES])


def _median(runs: Sequence[Run], name: str) -> float:
    seconds = [one.seconds for one in runs if one.way.name == name and not one.error]
    return statistics.median(seconds) if seconds else float("inf")


def growth(scratch: Path) -> str:
    """What a conversion of FEW and one of MANY samples take."""
    found = []
    for samples in (FEW, MANY):
        (own := scratch / str(samples)).mkdir()
        folder = drawn(FEW // 4, own, size=16)
        copied(folder, samples // (FEW // 4))
        (full,) = (way for way in ways(folder, own) if way.name == FULL)
        one = run(full, own)
        found.append(one.error or f"{one.memory:,.0f} MiB for {samples:,} samples ({one.seconds:.0f} s)")
        shutil.rmtree(own)
    return (
        f"Converting images of 16 px, each decoded, takes {' and '.join(found)}: "
        "what grows is the list of files, 300 bytes a sample."
    )


def write(path: Path, text: str) -> None:
    """Puts `text` between the marks, or at the end where there are none yet."""
    replace_section(path, BEGIN, END, f"{BEGIN}\n\n{text}\n\n{END}")


def facts(samples: int, bytes_: int, rounds: int) -> list[str]:
    packages = ("pillow", "webdataset", "litdata", "mosaicml-streaming")
    return [
        f"`python -m bench.convert`, {time.strftime('%Y-%m-%d')}, {machine()}. "
        f"{samples:,} samples, drawn, 160 px, {bytes_ / samples / 1000:.1f} kB each; rounds: {rounds}.",
        "",
        f"Python {platform.python_version()}, " + ", ".join(f"{one} {version(one)}" for one in packages) + ".",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.convert", description="Conversion and its peers, in turns.")
    parser.add_argument("--samples", type=int, default=8000, help="samples that are drawn")
    parser.add_argument("--copies", type=int, default=4, help="how often each of them is there, under other names")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way runs")
    given = parser.parse_args()
    if given.samples < 100 or given.copies < 1 or given.rounds < 1:
        raise InputError("samples must be 100 or more, copies and rounds 1 or more.")
    with tempfile.TemporaryDirectory(prefix="sluice-convert-") as name:
        scratch = Path(name)
        folder = drawn(given.samples, scratch)
        samples = copied(folder, given.copies)
        contenders = ways(folder, zipped(folder))
        bytes_ = sum(len(path.read_bytes()) for path in folder.rglob("*.jpg"))
        told = facts(samples, bytes_, given.rounds)
        plan = [way for _ in range(given.rounds) for way in contenders]
        runs = [run(way, scratch) for way in track(plan, "conversion")]
        shutil.rmtree(folder)
        text = f"{section(runs, samples, told)}\n\n{growth(scratch)}"
    write(RESULTS, text)
    Console(width=160, highlight=False).print(text, markup=False)


if __name__ == "__main__":
    with report_errors():
        main()
