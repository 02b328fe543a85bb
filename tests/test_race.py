"""The race of loaders: what is handed over is looked at, and who cannot run is named. Timings decide nothing here."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.measure import drawn_data
from bench.race import install, report
from bench.race.contenders import BATCH, CONTENDERS, SHAPES, SIZE, Batch, Contender
from bench.race.formats import FORMATS, members, write, write_folders
from bench.race.one import save
from bench.race.run import Race, Run, race
from bench.race.truth import Truth

ROOT = Path(__file__).parent.parent
HERE = ("files:", "wds:pillow", "dali:", "ours:")
"""contenders that need nothing but what Sluice needs"""
WRITTEN = ("zips", "shards", "shards64")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 samples of 96 x 96 pixels, in the formats that need no peer."""
    folder = tmp_path_factory.mktemp("race")
    dataset = drawn_data(folder / "source", figures=6, rooms=5, samples=130, size=96)
    assert write_folders(dataset.root, 100, folder) == 100
    for name in WRITTEN:
        write(name, folder)
    return folder


@pytest.fixture(scope="module")
def truth(scratch: Path) -> Truth:
    return Truth(scratch / "folders")


def first_batch(contender: Contender, scratch: Path, batch: Path) -> Batch:
    """In a process of its own, as in the race: some fork workers, which can hang beside the threads of other tests."""
    arguments = [contender.runs, str(scratch / contender.format), "0.01", "0", "0", str(batch)]
    command = [sys.executable, "-m", "bench.race.one", *arguments]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    with np.load(batch) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def right(scratch: Path) -> Batch:
    return first_batch(CONTENDERS[0], scratch, scratch / "right.npz")


def judged(truth: Truth, batch: Batch, folder: Path) -> float:
    save(batch, folder / "first.npz")
    return truth.difference(folder / "first.npz")


@pytest.mark.parametrize(
    "contender", [one for one in CONTENDERS if one.runs.startswith(HERE)], ids=lambda one: one.name
)
def test_the_right_four_arrays_in_random_order(
    contender: Contender, scratch: Path, truth: Truth, tmp_path: Path
) -> None:
    first_batch(contender, scratch, tmp_path / "first.npz")
    assert truth.difference(tmp_path / "first.npz") < 3


@pytest.mark.parametrize("wrong", ["upside down", "mask for depth", "float", "small", "one twice", "in stored order"])
def test_wrong_arrays_are_told(wrong: str, right: dict[str, Any], scratch: Path, truth: Truth, tmp_path: Path) -> None:
    batch = dict(right)
    if wrong == "upside down":
        batch = {name: images[:, ::-1] for name, images in right.items()}
    elif wrong == "mask for depth":
        batch["depth"] = right["mask"]
    elif wrong == "float":
        batch["bg"] = right["bg"].astype(np.float32)
    elif wrong == "small":
        batch["bg"] = right["bg"][:, ::2, ::2]
    elif wrong == "one twice":
        batch = {name: np.repeat(images[:1], BATCH, axis=0) for name, images in right.items()}
    else:
        stored = [truth._sample(number) for number in range(BATCH)]
        batch = {name: np.stack([sample[name] for sample in stored]) for name in SHAPES}
    with pytest.raises(ValueError, match=r"where uint8|differ|random order"):
        judged(truth, batch, tmp_path)


def test_all_formats_hold_the_same_samples(scratch: Path) -> None:
    listed = members(scratch / "folders")
    assert len({paths["fg_bg"] for paths in listed}) == 100
    assert members(scratch / "zips") == listed
    assert {one.format for one in CONTENDERS} == {"folders", *FORMATS}


@pytest.fixture(scope="module")
def runs(scratch: Path, truth: Truth) -> list[Run]:
    """A missing peer, one whose format was not written, one that fails while it runs, and Sluice; two rounds."""
    ours = next(one for one in CONTENDERS if one.name == "Sluice")
    missing = Contender("absent", "no_such_peer:run", "folders", ("no-such-peer",), "none")
    unwritten = Contender("formless", "files:folders", "beton", (), "none")
    failing = Contender("failing", "files:folders", "no_such_folder", (), "none")
    plan = Race(scratch, rounds=2, seconds=0.1, warm_up=0.0, unwritten={"beton": "ImportError: no beton"})
    return race([missing, unwritten, failing, ours], plan, truth)


def test_who_fails_is_named_and_the_others_run(runs: list[Run]) -> None:
    errors = {run.contender.name: run.error for run in runs}
    assert re.search("ModuleNotFoundError: .*no_such_peer", errors["absent"])
    assert "no beton" in errors["formless"]
    assert re.search("FileNotFoundError: .*no_such_folder", errors["failing"])
    good = [run for run in runs if not run.error]
    assert [run.contender.name for run in good] == ["Sluice", "Sluice"]
    assert all(run.measured["samples_per_second"] > 0 for run in good)
    assert all(run.measured["cpu_us_per_sample"] > 0 and run.measured["memory_mib"] > 10 for run in good)
    assert "pixel_difference" in good[0].measured


def test_report_and_file_name_the_failures(runs: list[Run], tmp_path: Path) -> None:
    told = report.section({"Machine": "some"}, runs)
    for name in ("absent", "formless", "failing"):
        assert re.search(rf"^\| {name} \| failed \|", told, re.MULTILINE)
        assert re.search(rf"^- {name} failed: `.*(Error|beton).*`$", told, re.MULTILINE)
    report.write_csv(tmp_path / "loaders.csv", runs)
    lines = (tmp_path / "loaders.csv").read_text().splitlines()
    assert len(lines) == 1 + len(runs)
    assert "no_such_peer" in lines[1]


def test_only_its_own_section_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\nbefore\n")
    report.replace_section(path, "first")
    path.write_text(path.read_text() + "after\n")
    report.replace_section(path, "second")
    text = path.read_text()
    assert "first" not in text
    assert [text.index(part) for part in ("before", report.BEGIN, "second", report.END, "after")] == sorted(
        text.index(part) for part in ("before", report.BEGIN, "second", report.END, "after")
    )


def test_peers_are_pinned_and_what_pip_says_is_kept() -> None:
    blocks = install.blocks(install.REQUIREMENTS.read_text())
    assert {"", "mosaicml-streaming", "litdata", "ffcv", "spdl"} == set(blocks)
    pins = [pin for lines in blocks.values() for pin in lines if not pin.startswith("-r")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins), pins
    assert "no-such-package" in install.pip("--no-index", "no-such-package==1.0")


def test_sizes_are_those_that_are_told() -> None:
    assert (SIZE, BATCH) == (64, 64)
    assert "64x64" in report.NOTES
