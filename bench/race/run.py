"""A fair race of loaders: `python -m bench.race.run [--data DATA_SET]`, or `make bench-loaders`.

Builds the same samples in every contender's format, then runs them in turns, each in a process of its own, and writes
results/loaders.png and a section of RESULTS.md in the folder `--out`.
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

from bench.measure import (
    RESULTS,
    CommandError,
    Outcome,
    drawn_data,
    in_turns,
    machine,
    run_watched,
    shards_command,
    table,
    write_section,
)
from bench.race.formats import FORMATS, members
from bench.race.loaders import CONTENDERS, Contender
from bench.race.truth import Truth
from shards.errors import InputError, report_errors
from shards.format.dataset import Dataset

LIMIT = 120.0
"""seconds beyond its measurement after which a contender counts as hanging"""
PACKAGES = "litdata mosaicml-streaming numpy nvidia-dali-cuda120 opencv-python-headless pillow simplejpeg spdl torch"
COLOURS = {"peer": "#8a9bb0", "ours": "#d9622b", "floor": "#404040"}


@dataclass(frozen=True, kw_only=True)
class RaceConfig:
    """How long the race takes, and on what."""

    data: Path | None = None
    """a data set to race on, of JPEGs; one is drawn if not given"""
    samples: int = 8000
    """that are drawn"""
    rounds: int = 5
    """how often each contender runs"""
    seconds: float = 2.5
    """of each measurement"""
    warm_up: float = 1.0
    """seconds before each measurement"""
    out: Path = RESULTS.parent
    """folder of RESULTS.md and results/"""

    def __post_init__(self) -> None:
        if self.samples < 100 or self.rounds < 1 or self.seconds <= 0 or self.warm_up < 0:
            raise InputError("samples must be 100 or more, rounds 1 or more, seconds positive, warm-up not negative.")


def build_formats(config: RaceConfig, scratch: Path) -> dict[str, str]:
    """Write the samples in all formats. Return why the others are not there, by format."""
    sources = {"figures": min(100, config.samples // 20), "rooms": min(80, config.samples // 20)}
    data = config.data or drawn_data(scratch, **sources, samples=config.samples).root
    run_watched(shards_command("export", data, scratch / "folders"), limit=10 * LIMIT)
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
    """Run all contenders, round by round, on the formats in `scratch`. `unwritten`: why a format is not there."""
    truth, samples = Truth(scratch / "folders"), len(members(scratch / "folders"))
    for path in scratch.rglob("*"):
        if path.is_file():
            path.read_bytes()  # into the page cache

    def measured(one: Contender) -> dict[str, float]:
        if one.format in unwritten:
            raise CommandError(unwritten[one.format])
        what = (one.run.__name__, " ".join(one.modules), scratch / one.format)
        how = (config.seconds, config.warm_up, samples if one.warm_epoch else 0, batch := scratch / "first.npz")
        command = [sys.executable, "-m", "bench.race.one", *map(str, (*what, *how))]
        taken = run_watched(command, limit=config.seconds + LIMIT, every=0.25)
        judged = {} if one.kind == "floor" else {"pixel_difference": truth.difference(batch)}
        return {**json.loads(taken.printed), "memory_mib": taken.memory, **judged}

    return in_turns({one.name: partial(measured, one) for one in contenders}, config.rounds)


def section(contenders: Sequence[Contender], outcomes: dict[str, Outcome], *told: str) -> str:
    """The section of RESULTS.md."""
    rates = {kind: [outcomes[one.name].median() for one in contenders if one.kind == kind] for kind in COLOURS}
    beside = {"best peer": max(rates["peer"], default=0.0), "floor": max(rates["floor"], default=0.0)}
    picture = "![samples a second of each loader](results/loaders.png)"
    return "\n\n".join(["## Loaders", *told, table(outcomes, beside), picture])


def plot(path: Path, contenders: Sequence[Contender], outcomes: dict[str, Outcome], title: str) -> None:
    """Medians as bars on a logarithmic axis, least and most as whiskers; failures are left out."""
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
    unwritten, before = build_formats(config, scratch), machine([*PACKAGES.split(), "webdataset"])
    dataset = Dataset.open(scratch / "shards")
    height, width = dataset.manifest.image_size
    size = sum(shard.bytes for shard in dataset.manifest.shards) / len(dataset)
    kind = "given" if config.data else "drawn"
    data = f"{len(dataset):,} samples, {kind}, {width}x{height} px, {size / 1000:.0f} kB each"
    how = f"rounds: {config.rounds}, each {config.seconds:g} s after {config.warm_up:g} s of warm-up"
    outcomes = race(CONTENDERS, config, scratch, unwritten)
    (config.out / "results").mkdir(parents=True, exist_ok=True)
    plot(config.out / "results" / "loaders.png", CONTENDERS, outcomes, f"{data}\n{before.partition(', Python')[0]}")
    text = section(CONTENDERS, outcomes, f"`python -m bench.race.run`, {before}.", f"{data}; {how}.")
    write_section(config.out / "RESULTS.md", "loaders", text)


if __name__ == "__main__":
    with report_errors(), tempfile.TemporaryDirectory(prefix="sluice-race-") as folder:
        main(tyro.cli(RaceConfig, prog="python -m bench.race.run", description=__doc__), Path(folder))
