"""How fast shards are made, beside the least that it could take: `python -m bench.making`, or `make bench-making`.

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

from bench.measure import RESULTS, Taken, in_turns, machine, run_watched, shards_command, table, write_section
from demo.draw import draw_data
from shards.errors import report_errors
from shards.format.images import encoded
from shards.machine import cpu_count

WORKERS, ROUNDS, LIMIT = cpu_count(), 3, 600.0
"""processes of all but GNU tar; how often each command runs; seconds after which it counts as hanging"""
BARE, TAR, FULL, COMPOSE, ENCODE = "decoding alone", "GNU tar", "convert", "compose", "encoding alone"
CONVERTED, FEW, MANY, SIZES = 32_000, 40_000, 100_000, (160, 64)
"""samples of 160 px that are converted; samples that are composed, of heights and widths in pixels"""
TREES = ("OverlayedImages", "OverlayedMasks", "DepthImage")


def decode(folder: Path) -> None:
    """Decode every file of the folder once, and do nothing else."""
    files = sorted(folder.rglob("*.jpg"))
    with get_context("fork").Pool(WORKERS) as pool:
        pool.map(_decode, [files[part::WORKERS] for part in range(WORKERS)])


def _decode(files: list[Path]) -> None:
    for path in files:
        with Image.open(path) as image:
            image.load()


def encode(folder: Path, samples: int) -> None:
    """Encode as many samples, those of the folder over and over, and do nothing else."""
    with get_context("fork").Pool(WORKERS) as pool:
        pool.map(_encode, [(folder, samples // WORKERS)] * WORKERS)


def _encode(given: tuple[Path, int]) -> None:
    folder, samples = given
    trees = [sorted((folder / name).rglob("*.jpg")) for name in TREES]
    ready = [[Image.open(path).copy() for path in paths] for paths in zip(*trees, strict=True)]
    for number in range(samples):
        for image in ready[number % len(ready)]:
            encoded(image, "jpg", full_chroma=image.width < 160)


def own_command(work: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "bench.making", work, *map(str, arguments)]


def compose_command(drawn: Path, out: Path | str, samples: int, size: int) -> list[str]:
    """Compose some of the 400,000 samples that 100 figures, mirrored too, make on 100 rooms at 20 places."""
    sources = {name: drawn / name for name in ("fg", "bg", "depth")}
    amount = {"places": 20, "mirror": True, "samples": samples, "size": size, "workers": WORKERS}
    return shards_command("compose", out=out, **sources, **amount)


def folders(drawn: Path, out: Path, samples: int, size: int) -> Path:
    """Compose samples in the folders of 2020."""
    data = out.with_suffix(".data")
    run_watched(compose_command(drawn, data, samples, size), limit=LIMIT)
    run_watched(shards_command("export", data, out), limit=LIMIT)
    shutil.rmtree(data)
    return out


def convert_commands(folder: Path) -> dict[str, list[str]]:
    """The commands that read or pack the files of a folder, by name."""
    convert = shards_command("convert", folder, "OUT/data", workers=WORKERS)
    return {
        BARE: own_command("decode", folder),
        FULL: convert,
        f"{FULL} --verify header": [*convert, "--verify", "header"],
        TAR: ["tar", "-cf", "OUT/all.tar", "-C", str(folder), "."],
        f"{TAR}, then sync": ["sh", "-c", f"tar -cf OUT/all.tar -C '{folder}' . && sync OUT/all.tar"],
    }


def run(command: list[str], scratch: Path) -> Taken:
    """Run it with an empty folder for OUT, which goes afterwards, when all that was written before is on the disk."""
    (out := scratch / "out").mkdir()
    os.sync()
    try:
        return run_watched([part.replace("OUT", str(out)) for part in command], limit=LIMIT)
    finally:
        shutil.rmtree(out)


def told(taken: Taken, samples: int) -> dict[str, float]:
    cpu, memory = taken.cpu / samples * 1e6, taken.memory
    return {"samples_per_second": samples / taken.seconds, "cpu_us_per_sample": cpu, "memory_mib": memory}


def converting(commands: dict[str, list[str]], scratch: Path, samples: int, rounds: int = ROUNDS) -> str:
    """The table of whole commands."""

    def whole(command: list[str]) -> dict[str, float]:
        return told(run(command, scratch), samples)

    outcomes = in_turns({name: partial(whole, command) for name, command in commands.items()}, rounds)
    return table(outcomes, {name: outcomes[name].median() for name in (BARE, TAR)})


def composing(drawn: Path, scratch: Path, size: int) -> str:
    """The table of samples FEW to MANY; so starting, and looking at the sources, is left out."""
    ready = folders(drawn, scratch / f"ready-{size}", 200, size)

    def between(command: Callable[[int], list[str]]) -> dict[str, float]:
        few, many = (run(command(samples), scratch) for samples in (FEW, MANY))
        return told(many._replace(seconds=many.seconds - few.seconds, cpu=many.cpu - few.cpu), MANY - FEW)

    commands = {
        ENCODE: partial(own_command, "encode", ready),
        COMPOSE: partial(compose_command, drawn, "OUT/data", size=size),
    }
    outcomes = in_turns({name: partial(between, command) for name, command in commands.items()}, ROUNDS)
    return table(outcomes, {ENCODE: outcomes[ENCODE].median()})


def main() -> None:
    parts = [f"## Making shards\n\n`python -m bench.making`, {machine(['pillow'])}. Rounds: {ROUNDS}."]
    with tempfile.TemporaryDirectory(prefix="sluice-making-") as name:
        scratch = Path(name)
        drawn = scratch / "drawn"
        draw_data(drawn / "fg", drawn / "bg", drawn / "depth", figures=100, rooms=100)
        folder = folders(drawn, scratch / "folders", CONVERTED, 160)
        parts += [
            f"Converting {CONVERTED:,} samples of 160 px:",
            converting(convert_commands(folder), scratch, CONVERTED),
        ]
        for size in SIZES:
            parts += [f"Composing {MANY - FEW:,} samples of {size} px:", composing(drawn, scratch, size)]
    write_section(RESULTS, "making", "\n\n".join(parts))


if __name__ == "__main__":
    with report_errors():
        match sys.argv[1:]:
            case ["decode", folder]:
                decode(Path(folder))
            case ["encode", folder, samples]:
                encode(Path(folder), int(samples))
            case _:
                main()
