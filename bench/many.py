"""What many samples cost, up to 100 million: start-up, memory, and the index. `python -m bench.many`

Each data set has a manifest and an index of the real form and size, in a temporary folder (TMPDIR), but few images: its
shards are hard links to those of a small data set that is drawn first. Everything is measured in fresh processes, and
on that small data set too: what is as large there does not come from the number of samples. The tables replace their
section of bench/RESULTS.md.
"""

import gc
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.measure import drawn_data, endless, forget
from bench.written import RESULTS, machine, markdown, replace_section
from pipeline.loader import Loader, LoaderConfig
from pipeline.reader import LocalTars
from shards.errors import InputError, report_errors
from shards.format.dataset import Dataset
from shards.format.manifest import SPLITS, Manifest
from shards.format.schema import SHARED_TAR, shard_name

SIZES = ((400_000, 1_000), (10_000_000, 10_000), (100_000_000, 10_000), (1_000_000, 10))
"""samples, and how many of them in a shard; the last has as many shards as 100 million have at 1,000 a shard"""
BATCHES, BATCH, WINDOW, REPEATS = 200, 64, 16, 3
CHUNK = 1_000_000
"""rows of the index that are made together: memory stays near 100 MB"""
MOST = 60
"""bytes on the disk that a generated sample takes, at most"""
BEGIN, END = "<!-- many -->", "<!-- /many -->"
TABLES = {
    "Start-up, s": ("{:.3f}", 1, ("first batch", "windows", "cold", "manifest", "arrays", "tars", "the rest")),
    "Memory, MiB": ("{:,.0f}", 1 << 20, ("anonymous", "mapped", "mapped, windows", "opened")),
    "Python's objects": ("{:,.0f}", 1, ("objects", "blocks")),
    "Index on the disk, bytes a sample": ("{:.1f}", 1, ("index", "with keys")),
}
"""how their numbers are written, their unit, their columns"""

NOTES = f"""\
Medians of {REPEATS} fresh processes, imports not counted; batches of {BATCH}, 64 px, 2 threads, 100 backgrounds. What
the first row takes, every data set takes: it is the small one that the others link to.

- First batch: from before the loader is made, full shuffle. Windows: with `--shuffle-window {WINDOW}`. Cold: the index
  is not in the page cache. Then the parts of the first: manifest.json read, the index's arrays mapped, the sizes of the
  tars looked at; the rest is decoders, backgrounds and the batch itself.
- Anonymous and mapped: grown after {BATCHES} batches. Mapped is page cache: ranks share it, and it goes when memory is
  short. A full shuffle touches the whole index, windows only their part.
- Opened, objects, blocks: anonymous memory, objects that Python's collector knows, and blocks that Python allocated,
  grown when the data set alone is open. A sample costs none; a shard costs one object and six or seven blocks.
- Index: bytes a sample, all mapped, without keys.npy, which is read only to name a sample to a person.

The last row has as many shards as 100 million samples have in shards of 1,000."""

Array = NDArray[Any]
Figures = dict[str, float]


def generate(source: Dataset, out: Path, samples: int, per_shard: int) -> Dataset:
    """A data set in `out` of so many samples, each of which has its images where one of `source` has them.

    Its shards are hard links to those of `source`, in turns. `samples` is a multiple of `per_shard`, and of 10.
    """
    (out / "index").mkdir(parents=True)
    tars = source.manifest.shards
    turns = [tars[number % len(tars)] for number in range(samples // per_shard)]
    shards = [replace(tar, name=shard_name(number), samples=per_shard) for number, tar in enumerate(turns)]
    for tar, shard in zip(turns, shards, strict=True):
        (out / shard.name).hardlink_to(source.root / tar.name)
    (out / SHARED_TAR).hardlink_to(source.root / SHARED_TAR)
    for path in (source.root / "index").glob("shared_*.npy"):
        shutil.copy(path, out / "index")
    _write(out, "samples", samples, samples, partial(_places, source, per_shard))
    _write(out, "keys", samples, samples, _keys)
    splits = {name: samples * tenths // 10 for name, tenths in zip(SPLITS, (8, 1, 1), strict=True)}
    for name, count in splits.items():
        _write(out, name, count, samples, partial(_members, name))
    manifest = replace(source.manifest, samples=samples, splits=splits, shards=shards, made_from=f"generated {samples}")
    (out / "manifest.json").write_text(manifest.to_json())
    return Dataset.open(out)


def _write(out: Path, name: str, length: int, samples: int, values: Callable[[Array], Array]) -> None:
    """Writes an array of the index, of `length` values: what `values` makes of all the rows, a chunk at a time."""
    with (out / "index" / f"{name}.npy").open("wb") as file:
        for begin in range(0, samples, CHUNK):
            some = values(np.arange(begin, min(begin + CHUNK, samples)))
            if not begin:
                header = np.lib.format.header_data_from_array_1_0(some) | {"shape": (length,)}
                np.lib.format.write_array_header_1_0(file, header)
            some.tofile(file)


def _places(source: Dataset, per_shard: int, rows: Array) -> Array:
    counts = np.diff(source.first_row)
    shard, inside = np.divmod(rows, per_shard)
    tar = shard % len(counts)
    found: Array = np.load(source.root / "index" / "samples.npy")[source.first_row[tar] + inside % counts[tar]]
    return found


def _keys(rows: Array) -> Array:
    """As shards.format.schema.sample_key names samples, with leading zeros."""
    form = b"combined_s00_p00_it0000"
    keys = np.tile(np.frombuffer(form, np.uint8), (len(rows), 1))
    digits = [place for place, letter in enumerate(form) if letter == ord("0")]
    for power, place in enumerate(reversed(digits)):
        keys[:, place] += (rows // 10**power % 10).astype(np.uint8)
    return keys.view(f"S{len(form)}").ravel()


def _members(split: str, rows: Array) -> Array:
    """Of every ten rows eight for train and one each for val and test, in changing places."""
    turned = (rows + rows // 10 * 7) % 10
    members: Array = rows[np.maximum(turned - 7, 0) == SPLITS.index(split)]
    return members.astype("<u4")


def index_bytes(dataset: Dataset) -> dict[str, int]:
    """Bytes on the disk of each part of the index."""
    return {path.stem: path.stat().st_size for path in sorted((dataset.root / "index").glob("*.npy"))}


class State(NamedTuple):
    """Of this process: anonymous and mapped memory in bytes, objects that the collector tracks, allocated blocks."""

    anonymous: int
    mapped: int
    tracked: int
    blocks: int

    @classmethod
    def now(cls) -> "State":
        gc.collect()
        lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
        bytes_of = {words[0]: int(words[1]) << 10 for words in lines if words[0] in ("RssAnon:", "RssFile:")}
        return cls(bytes_of["RssAnon:"], bytes_of["RssFile:"], len(gc.get_objects()), sys.getallocatedblocks())

    def since(self, before: "State") -> "State":
        return State(*(now - then for now, then in zip(self, before, strict=True)))


def opening(root: Path) -> Figures:
    """Opens a data set as a loader does: seconds that the parts of it take, and what has grown when it is open."""
    before, times = State.now(), [time.perf_counter()]
    manifest = Manifest.read(root)
    times.append(time.perf_counter())
    dataset = Dataset(root, manifest)
    times.append(time.perf_counter())
    LocalTars(dataset)
    times.append(time.perf_counter())
    grown = State.now().since(before)
    seconds = dict(zip(("manifest", "arrays", "tars"), np.diff(times).tolist(), strict=True))
    return seconds | {"opened": grown.anonymous, "objects": grown.tracked, "blocks": grown.blocks}


def start(root: Path, window: int, cold: bool = False) -> Figures:
    """Starts a loader: seconds from before it is made to its first batch, and what has grown some batches later."""
    torch.set_num_threads(1)
    if find_spec("nvidia"):
        import nvidia.dali  # noqa: F401  # takes longer than all that is measured here
    for path in (root / "index").iterdir() if cold else ():
        forget(path)
    config = LoaderConfig(data=root, batch_size=BATCH, size=64, num_threads=2, shuffle_window=window)
    before, begin = State.now(), time.perf_counter()
    with Loader(config) as loader:
        batches = endless(loader)
        next(batches)
        first = time.perf_counter() - begin
        for _ in islice(batches, BATCHES - 1):
            pass
        grown = State.now().since(before)
    return {"first batch": first, "anonymous": grown.anonymous, "mapped": grown.mapped}


def repeated(measure: Callable[..., Figures], *arguments: Any) -> Figures:
    """The medians of what `measure` returns, each time in a fresh process."""
    several = []
    for _ in range(REPEATS):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            several.append(process.submit(measure, *arguments).result())
    return {name: statistics.median(figures[name] for figures in several) for name in several[0]}


def row(dataset: Dataset) -> Figures:
    """Measures one data set: seconds, bytes and counts by the columns' headings."""
    root, sizes = dataset.root, index_bytes(dataset)
    figures = repeated(start, root, 0) | repeated(opening, root)
    windows, cold = repeated(start, root, WINDOW), repeated(start, root, 0, True)
    parts = figures["manifest"] + figures["arrays"] + figures["tars"]
    return figures | {
        "samples": len(dataset),
        "shards": len(dataset.manifest.shards),
        "windows": windows["first batch"],
        "cold": cold["first batch"],
        "the rest": figures["first batch"] - parts,
        "mapped, windows": windows["mapped"],
        "index": (sum(sizes.values()) - sizes["keys"]) / len(dataset),
        "with keys": sum(sizes.values()) / len(dataset),
    }


def measured(folder: Path) -> list[Figures]:
    """Generates one data set after the other in `folder`, and measures each."""
    source = drawn_data(folder, figures=10, rooms=100, samples=1000, size=64)
    rows = [row(source)]
    for samples, per_shard in SIZES:
        needed, free = samples * MOST, shutil.disk_usage(folder).free
        print(f"{samples:,} samples: {needed / 1e9:.1f} GB of disk, {free / 1e9:.0f} GB free", flush=True)
        if free < needed:
            raise InputError(f"{folder}: no room for {needed / 1e9:.1f} GB. Set TMPDIR to a folder on another disk.")
        rows.append(row(generate(source, folder / "many", samples, per_shard)))
        shutil.rmtree(folder / "many")
    return rows


def tables(rows: list[Figures]) -> Iterator[tuple[str, list[list[str]]]]:
    """Title and cells of each table, headings first."""
    for title, (form, unit, names) in TABLES.items():
        counts = [[f"{one[name]:,.0f}" for name in ("samples", "shards")] for one in rows]
        cells = [[form.format(one[name] / unit) for name in names] for one in rows]
        yield title, [["samples", "shards", *names], *(a + b for a, b in zip(counts, cells, strict=True))]


def section(rows: list[Figures], told: str) -> str:
    """The section of RESULTS.md."""
    parts = [f"## Many samples\n\n`python -m bench.many`, {told}"]
    for title, (headings, *lines) in tables(rows):
        drawn = [headings, ["---:"] * len(headings), *lines]
        parts += [f"{title}:", markdown(drawn)]
    return "\n\n".join([BEGIN, *parts, NOTES, END])


def write(path: Path, text: str) -> None:
    """Puts the section in the place of the earlier one, or at the end."""
    replace_section(path, BEGIN, END, text)


def main() -> None:
    told = f"{time.strftime('%Y-%m-%d')}, {machine()}"
    with tempfile.TemporaryDirectory(prefix="sluice-many-") as folder:
        rows = measured(Path(folder))
    for title, (headings, *lines) in tables(rows):
        shown = Table(*headings, title=title)
        for line in lines:
            shown.add_row(*line)
        Console(width=120).print(shown)
    write(RESULTS, section(rows, told))


if __name__ == "__main__":
    with report_errors():
        main()
