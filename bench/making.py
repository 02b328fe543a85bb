"""The rates at which shards are made, beside the least that it could take: `python -m bench.making`.

Converting stands beside decoding alone and GNU tar, composing beside encoding alone. All are commands in processes of
their own, in turns, timed from start to end; the tables replace their section of bench/RESULTS.md.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from PIL import Image

from bench import measure
from shards.errors import report_errors
from shards.format.images import encode_image
from shards.machine import cpu_count

WORKERS, ROUNDS, LIMIT = cpu_count(), 3, 600.0
"""The processes of all but GNU tar; the runs of each command; the seconds after which it counts as hanging."""
OWN = [sys.executable, "-m", "bench.making"]
BARE, TAR, FULL, COMPOSE, ENCODE = "decoding alone", "GNU tar", "convert", "compose", "encoding alone"
CONVERTED, FEW, MANY, SIZES = 32_000, 40_000, 100_000, (160, 64)
"""The samples of 160 px that are converted; those that are composed, and their heights and widths in pixels."""
Commands = dict[str, list[str]]


def decode(folder: str) -> None:
    """Decode every file of the folder once, and do nothing else."""
    with get_context("fork").Pool(WORKERS) as pool:
        pool.map(_load, sorted(map(str, Path(folder).rglob("*.jpg"))), chunksize=500)


def _load(path: str) -> None:
    Image.open(path).load()


def encode(folder: str, size: str, samples: str) -> None:
    """Encode as many samples, the first 200 of the folder over and over, and do nothing else."""
    with get_context("fork").Pool(WORKERS) as pool:
        pool.map(partial(_encode, Path(folder), int(size)), [int(samples) // WORKERS] * WORKERS)


def _encode(folder: Path, size: int, samples: int) -> None:
    names = ("OverlayedImages", "OverlayedMasks", "DepthImage")
    trees = [sorted((folder / name).rglob("*.jpg"))[:200] for name in names]
    ready = [[Image.open(path).resize((size, size)) for path in paths] for paths in zip(*trees, strict=True)]
    for number in range(samples):
        for image in ready[number % len(ready)]:
            encode_image(image, "jpg", full_chroma=size < 160)


def convert_commands(folder: Path) -> Commands:
    """Return the commands that read or pack the files of a folder, by name. OUT stands for an empty folder."""
    convert = measure.shards_command("convert", folder, "OUT/data", workers=WORKERS)
    return {
        BARE: [*OWN, "decode", str(folder)],
        FULL: convert,
        f"{FULL} --verify header": [*convert, "--verify", "header"],
        TAR: ["tar", "-cf", "OUT/all.tar", "-C", str(folder), "."],
        f"{TAR}, then sync": ["sh", "-c", f"tar -cf OUT/all.tar -C '{folder}' . && sync OUT/all.tar"],
    }


def compose_commands(drawn: Path, folder: Path, size: int, samples: int) -> Commands:
    """Return the commands that make as many samples: of the 400,000 that 100 figures, mirrored too, give in 100 rooms
    at 20 places, or of the files of a folder.
    """
    sources = {name: drawn / name for name in ("fg", "bg", "depth")}
    amount = {"places": 20, "mirror": True, "samples": samples, "size": size, "workers": WORKERS}
    compose = measure.shards_command("compose", out="OUT/data", **sources, **amount)
    return {COMPOSE: compose, ENCODE: [*OWN, "encode", str(folder), str(size), str(samples)]}


def run(command: list[str]) -> measure.Usage:
    """Run a command once all written before is on the disk; its OUT is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="sluice-making-") as out:
        os.sync()
        return measure.run_watched([part.replace("OUT", out) for part in command], limit=LIMIT)


def rates(samples: int, command: list[str], shorter: list[str] | None) -> dict[str, float]:
    """Return the rates of the samples that a command makes, or makes more than a shorter one."""
    few = run(shorter) if shorter else measure.Usage(0, 0, 0, "")
    many = run(command)
    per_second, cpu = samples / (many.seconds - few.seconds), (many.cpu - few.cpu) / samples * 1e6
    return {"samples_per_second": per_second, "cpu_us_per_sample": cpu, "memory_mib": many.memory}


def compare(commands: Commands, samples: int, references: Sequence[str], shorter: Commands | None = None) -> str:
    """Return the table of commands that make as many samples, or so many more than `shorter`: without their start."""
    measures = {name: partial(rates, samples, one, (shorter or {}).get(name)) for name, one in commands.items()}
    outcomes = measure.in_turns(measures, ROUNDS)
    return measure.table(outcomes, {name: outcomes[name].median() for name in references})


def main() -> None:
    parts = [f"## Making shards\n\n`python -m bench.making`, {measure.machine('pillow')}. Rounds: {ROUNDS}."]
    with tempfile.TemporaryDirectory(prefix="sluice-making-") as name:
        drawn, folder = Path(name) / "drawn", Path(name) / "folders"
        data = measure.drawn_data(drawn.parent, figures=100, rooms=100, samples=CONVERTED)
        measure.run_watched(measure.shards_command("export", data.root, folder), limit=LIMIT)
        parts.append(f"Converting {CONVERTED:,} samples of 160 px:")
        parts.append(compare(convert_commands(folder), CONVERTED, (BARE, TAR)))
        for size in SIZES:
            many, few = (compose_commands(drawn, folder, size, samples) for samples in (MANY, FEW))
            parts.append(f"Composing {MANY - FEW:,} samples of {size} px:")
            parts.append(compare(many, MANY - FEW, (ENCODE,), shorter=few))
    measure.write_section(measure.RESULTS, "making", "\n\n".join(parts))


if __name__ == "__main__":
    with report_errors():
        work: dict[str, Callable[..., None]] = {"decode": decode, "encode": encode}
        work.get(" ".join(sys.argv[1:2]), main)(*sys.argv[2:])
