"""A fair race of loaders: `python -m bench.race.run [--data DATA_SET]`, or `make bench-loaders`.

Builds the same samples in every contender's format, then runs them in turns, each in a process of its own, and writes
bench/results/loaders.png and a section of bench/RESULTS.md.
"""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro
from rich.progress import track

from bench import measure
from bench.measure import CommandError, Outcome, run_watched
from bench.race.formats import FORMATS
from bench.race.loaders import CONTENDERS, Contender
from bench.race.truth import Truth
from shards.errors import InputError, report_errors
from shards.format.dataset import Dataset

LIMIT = 120.0
"""Seconds beyond its measurement after which a contender counts as hanging."""
PACKAGES = (
    "litdata mosaicml-streaming nvidia-dali-cuda120 opencv-python-headless pillow simplejpeg spdl torch webdataset"
)
COLOURS = {"peer": "#8a9bb0", "ours": "#d9622b", "floor": "#404040"}


@dataclass(frozen=True, kw_only=True)
class RaceConfig:
    """The length of the race, and its data."""

    data: Path | None = None
    """A data set to race on, of JPEGs; one is drawn if not given."""
    samples: int = 8000
    """Samples that are drawn."""
    rounds: int = 5
    """Runs of each contender."""
    seconds: float = 2.5
    """Seconds of each measurement."""
    warm_up: float = 1.0
    """Seconds before each measurement."""

    def __post_init__(self) -> None:
        if self.samples < 100 or self.rounds < 1 or self.seconds <= 0 or self.warm_up < 0:
            raise InputError("samples must be 100 or more, rounds 1 or more, seconds positive, warm-up not negative.")


def build_formats(data: Path, scratch: Path) -> dict[str, str]:
    """Write the samples of a data set in all formats. Return the errors of those that failed, by format."""
    run_watched(measure.shards_command("export", data, scratch / "folders"), limit=10 * LIMIT)
    errors = {}
    for name in track(FORMATS, "formats"):
        try:
            run_watched([sys.executable, "-m", "bench.race.formats", name, str(scratch)], limit=10 * LIMIT)
        except CommandError as error:
            errors[name] = f"its format could not be written: {error}"
    return errors


def race(
    contenders: Sequence[Contender], config: RaceConfig, scratch: Path, unwritten: dict[str, str]
) -> dict[str, Outcome]:
    """Run all contenders, round by round, on the formats in `scratch`; `unwritten` has the errors of those missing."""
    truth = Truth(scratch / "folders")

    def measured(one: Contender) -> dict[str, float]:
        if one.format in unwritten:
            raise CommandError(unwritten[one.format])
        warm_samples, batch = len(truth.arrays["mask"]) if one.warm_epoch else 0, scratch / "first.npz"
        what = (one.run.__name__, scratch / one.format, config.seconds, config.warm_up, warm_samples, batch)
        command = [sys.executable, "-m", "bench.race.loaders", *map(str, what), *one.modules]
        usage = run_watched(command, limit=config.seconds + LIMIT, every=0.25)
        judged = {} if one.kind == "floor" else {"pixel_difference": truth.difference(batch)}
        return {**json.loads(usage.printed), "memory_mib": usage.memory, **judged}

    return measure.in_turns({one.name: partial(measured, one) for one in contenders}, config.rounds)


def section(contenders: Sequence[Contender], outcomes: dict[str, Outcome], *told: str) -> str:
    """Return the section of RESULTS.md."""
    rates = {kind: [outcomes[one.name].median() for one in contenders if one.kind == kind] for kind in COLOURS}
    references = {"best peer": max(rates["peer"], default=0.0), "floor": max(rates["floor"], default=0.0)}
    picture = "![samples a second of each loader](results/loaders.png)"
    return "\n\n".join(["## Loaders", *told, measure.table(outcomes, references), picture])


def plot(path: Path, contenders: Sequence[Contender], outcomes: dict[str, Outcome], title: str) -> None:
    """Draw medians as bars on a logarithmic axis, least and most as whiskers; failures are left out."""
    from matplotlib.figure import Figure

    good = sorted((one for one in contenders if outcomes[one.name].rounds), key=lambda one: outcomes[one.name].median())
    rates = [outcomes[one.name].values() for one in good]
    medians = [outcomes[one.name].median() for one in good]
    spread = [[median - min(own) for median, own in zip(medians, rates, strict=True)]]
    spread.append([max(own) - median for median, own in zip(medians, rates, strict=True)])
    figure = Figure(figsize=(9, 1.6 + 0.34 * len(good)), layout="constrained")
    axes = figure.subplots()
    colours = [COLOURS[one.kind] for one in good]
    bars = axes.barh([one.name for one in good], medians, xerr=spread, color=colours, ecolor="#222222", log=True)
    axes.bar_label(bars, [f"{median:,.0f}" for median in medians], padding=4, fontsize=9)
    axes.set_xlim(0.5 * min(medians), 3 * max(medians))
    axes.set_xlabel("samples a second (logarithmic), median, least and most of the rounds")
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main(config: RaceConfig, scratch: Path) -> None:
    """Race in `scratch`."""
    os.environ["TMPDIR"] = str(scratch)  # what peers leave there goes with it
    sources = {"figures": min(100, config.samples // 20), "rooms": min(80, config.samples // 20)}
    given = Dataset.open(config.data) if config.data else None
    dataset = given or measure.drawn_data(scratch, **sources, samples=config.samples)
    before = measure.machine(PACKAGES.split())
    unwritten = build_formats(dataset.root, scratch)
    size, each = dataset.manifest.image_size, sum(shard.bytes for shard in dataset.manifest.shards) / len(dataset) / 1e3
    data = f"{len(dataset):,} samples, {'given' if given else 'drawn'}, {size[1]}x{size[0]} px, {each:.0f} kB each"
    data += f"; rounds: {config.rounds}, each {config.seconds:g} s after {config.warm_up:g} s of warm-up"
    outcomes = race(CONTENDERS, config, scratch, unwritten)
    title = f"{data}\n{before.partition(', Python')[0]}"
    plot(measure.RESULTS.parent / "results" / "loaders.png", CONTENDERS, outcomes, title)
    text = section(CONTENDERS, outcomes, f"`python -m bench.race.run`, {before}.", f"{data}.")
    measure.write_section(measure.RESULTS, "loaders", text)


if __name__ == "__main__":
    with report_errors(), tempfile.TemporaryDirectory(prefix="sluice-race-") as folder:
        main(tyro.cli(RaceConfig, prog="python -m bench.race.run", description=__doc__), Path(folder))
