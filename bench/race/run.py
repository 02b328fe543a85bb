"""A fair race of loaders: `python -m bench.race.run [--data DATA_SET]`, or `make bench-loaders`."""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import tyro
from rich.progress import track

from bench import measure
from bench.race.formats import FORMATS, Truth
from bench.race.loaders import CONTENDERS, Contender
from shards.errors import InputError, report_errors
from shards.format.dataset import Dataset

LIMIT = 120.0
"""Seconds beyond its measurement after which a contender counts as hanging."""
PEERS = "litdata mosaicml-streaming nvidia-dali-cuda120 opencv-python-headless pillow simplejpeg spdl torch webdataset"
COLOURS = {"peer": "#8a9bb0", "ours": "#d9622b", "floor": "#404040"}


def build_formats(data: Path, scratch: Path) -> dict[str, str]:
    """Write the samples of a data set in all formats. Return the errors of those that failed, by format."""
    measure.run_watched(measure.shards_command("export", data, scratch / "folders"), limit=10 * LIMIT)
    errors = {}
    for name in track(FORMATS, "formats"):
        try:
            measure.run_watched([sys.executable, "-m", "bench.race.formats", name, str(scratch)], limit=10 * LIMIT)
        except InputError as error:
            errors[name] = f"its format could not be written: {error}"
    return errors


def race(
    contenders: Sequence[Contender], scratch: Path, errors: dict[str, str], rounds: int, seconds: float, warm_up: float
) -> dict[str, measure.Outcome]:
    """Run all contenders, round by round, on the formats in `scratch`; `errors` has those of formats not written."""
    truth = Truth(scratch / "folders")

    def measured(one: Contender) -> dict[str, float]:
        if one.format in errors:
            raise InputError(errors[one.format])
        warm_samples, batch = len(truth.arrays["mask"]) if one.warm_epoch else 0, scratch / "first.npz"
        what = (one.run.__name__, scratch / one.format, seconds, warm_up, warm_samples, batch)
        command = [sys.executable, "-m", "bench.race.loaders", *map(str, what), *one.modules]
        usage = measure.run_watched(command, limit=seconds + LIMIT, every=0.25)
        judged = {} if one.kind == "floor" else {"pixel_difference": truth.difference(batch)}
        return {**json.loads(usage.printed), "memory_mib": usage.memory, **judged}

    return measure.in_turns({one.name: partial(measured, one) for one in contenders}, rounds)


def section(contenders: Sequence[Contender], outcomes: dict[str, measure.Outcome], *told: str) -> str:
    """Return the section of RESULTS.md."""
    rates = {kind: [outcomes[one.name].median() for one in contenders if one.kind == kind] for kind in COLOURS}
    references = {"best peer": max(rates["peer"], default=0.0), "floor": max(rates["floor"], default=0.0)}
    picture = "![samples a second of each loader](results/loaders.png)"
    return "\n\n".join(["## Loaders", *told, measure.table(outcomes, references), picture])


def plot(path: Path, contenders: Sequence[Contender], outcomes: dict[str, measure.Outcome], title: str) -> None:
    """Draw medians as bars on a logarithmic axis, least and most as whiskers; failures are left out."""
    from matplotlib.figure import Figure

    good = sorted((one for one in contenders if outcomes[one.name].rounds), key=lambda one: outcomes[one.name].median())
    medians = [outcomes[one.name].median() for one in good]
    extremes = [(min(rates), max(rates)) for rates in (outcomes[one.name].values() for one in good)]
    whiskers = np.abs(np.transpose(extremes) - medians)
    figure = Figure(figsize=(9, 1.6 + 0.34 * len(good)), layout="constrained")
    axes = figure.subplots()
    colours = [COLOURS[one.kind] for one in good]
    bars = axes.barh([one.name for one in good], medians, xerr=whiskers, color=colours, ecolor="#222222", log=True)
    axes.bar_label(bars, [f"{median:,.0f}" for median in medians], padding=4, fontsize=9)
    axes.set_xlim(0.5 * min(medians), 3 * max(medians))
    axes.set_xlabel("samples a second (logarithmic), median, least and most of the rounds")
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main(
    data: Path | None = None, samples: int = 8000, rounds: int = 5, seconds: float = 2.5, warm_up: float = 1.0
) -> None:
    """Build the same samples in every contender's format, run them in turns, each in a process of its own, and write
    bench/results/loaders.png and a section of bench/RESULTS.md.

    Args:
        data: A data set to race on, of JPEGs; one is drawn if not given.
        samples: Samples that are drawn.
        rounds: Runs of each contender.
        seconds: Seconds of each measurement.
        warm_up: Seconds before each measurement.
    """
    if samples < 100 or rounds < 1 or seconds <= 0 or warm_up < 0:
        raise InputError("samples must be 100 or more, rounds 1 or more, seconds positive, warm-up not negative.")
    with tempfile.TemporaryDirectory(prefix="sluice-race-") as folder:
        os.environ["TMPDIR"], scratch = folder, Path(folder)  # what peers leave there goes with it
        sources = {"figures": min(100, samples // 20), "rooms": min(80, samples // 20)}
        dataset = Dataset.open(data) if data else measure.drawn_data(scratch, **sources, samples=samples)
        before, unwritten = measure.machine(*PEERS.split()), build_formats(dataset.root, scratch)
        (height, width), stored = dataset.manifest.image_size, sum(shard.bytes for shard in dataset.manifest.shards)
        told = f"{len(dataset):,} samples, {'given' if data else 'drawn'}, {width}x{height} px, "
        told += f"{stored / len(dataset) / 1e3:.0f} kB each; "
        told += f"rounds: {rounds}, each {seconds:g} s after {warm_up:g} s of warm-up"
        outcomes = race(CONTENDERS, scratch, unwritten, rounds, seconds, warm_up)
    title, picture = f"{told}\n{before.partition(', Python')[0]}", measure.RESULTS.parent / "results" / "loaders.png"
    plot(picture, CONTENDERS, outcomes, title)
    text = section(CONTENDERS, outcomes, f"`python -m bench.race.run`, {before}.", f"{told}.")
    measure.write_section(measure.RESULTS, "loaders", text)


if __name__ == "__main__":
    with report_errors():
        tyro.cli(main, prog="python -m bench.race.run")
