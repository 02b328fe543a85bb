"""The rates at which shards are made, beside the least that it could take: `python -m bench.making`.

Converting stands beside decoding alone and GNU tar, composing beside encoding alone. All are commands in processes of
their own, in turns, timed from start to end; the tables replace their section of bench/RESULTS.md.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from PIL import Image

from bench.measure import (
    RESULTS,
    Usage,
    drawn_data,
    in_turns,
    machine,
    run_watched,
    shards_command,
    table,
    write_section,
)
from shards.errors import report_errors
from shards.format.images import encode_image
from shards.machine import cpu_count

WORKERS, ROUNDS, LIMIT = cpu_count(), 3, 600.0
"""The processes of all but GNU tar; the runs of each command; the seconds after which it counts as hanging."""
OWN = [sys.executable, "-m", "bench.making"]
BARE, TAR, FULL, COMPOSE, ENCODE = "decoding alone", "GNU tar", "convert", "compose", "encoding alone"
CONVERTED, FEW, MANY, SIZES = 32_000, 40_000, 100_000, (160, 64)
"""The samples of 160 px that are converted; those that are composed, and their heights and widths in pixels."""


def decode(folder: str) -> None:
    """Decode every file of the folder once, and do nothing else."""
    with get_context("fork").Pool(WORKERS) as pool:
        pool.map(_load, sorted(map(str, Path(folder).rglob("*.jpg"))), chunksize=500)


def _load(path: str) -> None:
    with Image.open(path) as image:
        image.load()


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


def compose_command(drawn: Path, size: int, samples: int) -> list[str]:
    """Compose some of the 400,000 samples that 100 figures, mirrored too, make on 100 rooms at 20 places."""
    sources = {name: drawn / name for name in ("fg", "bg", "depth")}
    amount = {"places": 20, "mirror": True, "samples": samples, "size": size, "workers": WORKERS}
    return shards_command("compose", out="OUT/data", **sources, **amount)


def convert_commands(folder: Path) -> dict[str, list[str]]:
    """Return the commands that read or pack the files of a folder, by name. OUT stands for an empty folder."""
    convert = shards_command("convert", folder, "OUT/data", workers=WORKERS)
    return {
        BARE: [*OWN, "decode", str(folder)],
        FULL: convert,
        f"{FULL} --verify header": [*convert, "--verify", "header"],
        TAR: ["tar", "-cf", "OUT/all.tar", "-C", str(folder), "."],
        f"{TAR}, then sync": ["sh", "-c", f"tar -cf OUT/all.tar -C '{folder}' . && sync OUT/all.tar"],
    }


def run(command: list[str], scratch: Path) -> Usage:
    """Run a command once all written before is on the disk; its OUT is deleted afterwards."""
    (out := scratch / "out").mkdir()
    os.sync()
    try:
        return run_watched([part.replace("OUT", str(out)) for part in command], limit=LIMIT)
    finally:
        shutil.rmtree(out)


def rates(samples: int, many: Usage, few: Usage | None = None) -> dict[str, float]:
    """Return the rates of `samples`: those of a command, or those that it makes more than another."""
    seconds, cpu = (many.seconds - few.seconds, many.cpu - few.cpu) if few else (many.seconds, many.cpu)
    per_second, per_sample = samples / seconds, cpu / samples * 1e6
    return {"samples_per_second": per_second, "cpu_us_per_sample": per_sample, "memory_mib": many.memory}


def converting(commands: dict[str, list[str]], scratch: Path, samples: int, rounds: int = ROUNDS) -> str:
    """Return the table of whole commands."""

    def whole(command: list[str]) -> dict[str, float]:
        return rates(samples, run(command, scratch))

    outcomes = in_turns({name: partial(whole, command) for name, command in commands.items()}, rounds)
    return table(outcomes, {name: outcomes[name].median() for name in (BARE, TAR)})


def composing(drawn: Path, folder: Path, scratch: Path, size: int) -> str:
    """Return the table of samples FEW to MANY; so starting, and looking at the sources, is left out."""

    def between(command: Callable[[int], list[str]]) -> dict[str, float]:
        few = run(command(FEW), scratch)
        return rates(MANY - FEW, run(command(MANY), scratch), few)

    commands: dict[str, Callable[[int], list[str]]] = {COMPOSE: partial(compose_command, drawn, size)}
    commands[ENCODE] = lambda samples: [*OWN, "encode", str(folder), str(size), str(samples)]
    outcomes = in_turns({name: partial(between, command) for name, command in commands.items()}, ROUNDS)
    return table(outcomes, {ENCODE: outcomes[ENCODE].median()})


def main() -> None:
    parts = [f"## Making shards\n\n`python -m bench.making`, {machine(['pillow'])}. Rounds: {ROUNDS}."]
    with tempfile.TemporaryDirectory(prefix="sluice-making-") as name:
        scratch, folder = Path(name), Path(name) / "folders"
        data = drawn_data(scratch, figures=100, rooms=100, samples=CONVERTED)
        run_watched(shards_command("export", data.root, folder), limit=LIMIT)
        parts.append(f"Converting {CONVERTED:,} samples of 160 px:")
        parts.append(converting(convert_commands(folder), scratch, CONVERTED))
        for size in SIZES:
            parts.append(f"Composing {MANY - FEW:,} samples of {size} px:")
            parts.append(composing(scratch / "drawn", folder, scratch, size))
    write_section(RESULTS, "making", "\n\n".join(parts))


if __name__ == "__main__":
    with report_errors():
        work: dict[str, Callable[..., None]] = {"decode": decode, "encode": encode}
        work.get(" ".join(sys.argv[1:2]), main)(*sys.argv[2:])
