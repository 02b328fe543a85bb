"""A fair race of loaders: python -m bench.race [--data DATA_SET], or `make bench-loaders`.

Builds the same samples in every contender's format, then runs them in turns, each in a process of its own, and writes
results/loaders.csv, results/loaders.png and a section of RESULTS.md in the folder `--out`.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from bench.race import report
from bench.race.contenders import CONTENDERS
from bench.race.run import Race, build_formats, race
from bench.race.truth import Truth
from shards.errors import InputError, report_errors
from shards.format.dataset import Dataset

HERE = Path(__file__).parent.parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.race", description="Sluice and its peers, in turns.")
    parser.add_argument("--data", type=Path, help="a data set of Sluice's to race on; one is drawn if not given")
    parser.add_argument("--samples", type=int, default=8000, help="samples in the race, at most")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender runs")
    parser.add_argument("--seconds", type=float, default=2.5, help="of each measurement")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds before each measurement")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of RESULTS.md and results/")
    given = parser.parse_args()
    if given.samples < 100 or given.rounds < 1 or given.seconds <= 0 or given.warm_up < 0:
        raise InputError("samples must be 100 or more, rounds 1 or more, seconds positive, warm-up not negative.")
    return given


def drawn(samples: int, folder: Path) -> Dataset:
    """Figures in rooms, 160 px, of which the train split has `samples`."""
    from bench.measure import drawn_data

    sources = {"figures": min(100, samples // 20), "rooms": min(80, samples // 20)}
    return drawn_data(folder, **sources, samples=samples * 5 // 4)


def main() -> None:
    given = arguments()
    with tempfile.TemporaryDirectory(prefix="sluice-race-") as folder:
        scratch = Path(folder)
        dataset = Dataset.open(given.data) if given.data else drawn(given.samples, scratch / "source")
        samples, unwritten = build_formats(dataset.root, given.samples, scratch)
        facts = report.facts(dataset, samples, given, "given" if given.data else "drawn")
        plan = Race(scratch, given.rounds, given.seconds, given.warm_up, unwritten)
        runs = race(CONTENDERS, plan, Truth(scratch / "folders"))
    report.write(given.out, facts, runs)
    Console(width=160).print(report.table(runs))
    for failure in report.failures(runs):
        print(failure)
    print(f"written: {given.out / 'RESULTS.md'}, {given.out / 'results'}/loaders.csv and .png")


if __name__ == "__main__":
    with report_errors():
        main()
        sys.exit(0)
