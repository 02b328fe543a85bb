"""The race of loaders: what is handed over is looked at, and who cannot run is named. Timings decide nothing here."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.measure import RESULTS, ROOT, Outcome, drawn_data, shards_command, write_section
from bench.race import loaders
from bench.race.formats import BATCH, FORMATS, SHAPES, SIZE, Truth, members
from bench.race.loaders import CONTENDERS, Batch, Contender
from bench.race.run import plot, race, section


def installed(contender: Contender) -> bool:
    modules = ["streaming" if module == "bench.race.mds" else module for module in contender.modules]
    return all(find_spec(module.partition(".")[0]) for module in modules)


HERE = [one for one in CONTENDERS if one.kind != "floor" and installed(one)]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 samples of 96 x 96 pixels, in the formats of those that run here."""
    scratch = tmp_path_factory.mktemp("race")
    dataset = drawn_data(scratch, figures=6, rooms=5, samples=100, size=96)
    subprocess.run(shards_command("export", dataset.root, scratch / "folders"), cwd=ROOT, check=True)
    assert len(members(scratch / "folders")) == 100
    for name in {one.format for one in HERE} - {"folders"}:
        subprocess.run([sys.executable, "-m", "bench.race.formats", name, str(scratch)], cwd=ROOT, check=True)
    return scratch


@pytest.fixture(scope="module")
def truth(scratch: Path) -> Truth:
    return Truth(scratch / "folders")


def first_batch(contender: Contender, scratch: Path, batch: Path) -> Batch:
    """In a process of its own, as in the race: some fork workers, which can hang beside the threads of other tests."""
    what = [contender.run.__name__, str(scratch / contender.format), "0.01", "0", "0", str(batch)]
    command = [sys.executable, "-m", "bench.race.loaders", *what, *contender.modules]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    with np.load(batch) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def right(scratch: Path) -> Batch:
    return first_batch(CONTENDERS[0], scratch, scratch / "right.npz")


@pytest.mark.parametrize("contender", HERE, ids=lambda one: one.name)
def test_the_right_four_arrays_in_random_order(
    contender: Contender, scratch: Path, truth: Truth, tmp_path: Path
) -> None:
    first_batch(contender, scratch, tmp_path / "first.npz")
    assert truth.difference(tmp_path / "first.npz") < 3


@pytest.mark.parametrize("wrong", ["upside down", "mask for depth", "float", "small", "one twice", "in stored order"])
def test_wrong_arrays_are_told(wrong: str, right: dict[str, Any], truth: Truth, tmp_path: Path) -> None:
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
        batch = {name: images[:BATCH] for name, images in truth.arrays.items()}
    np.savez(tmp_path / "first.npz", **batch)
    with pytest.raises(ValueError, match=r"where uint8|differ|random order"):
        truth.difference(tmp_path / "first.npz")


def test_every_format_that_is_raced_on_is_written() -> None:
    assert {one.format for one in CONTENDERS} == {"folders", *FORMATS}


OURS = next(one for one in CONTENDERS if one.name == "Sluice")
RACED = (
    Contender("absent", loaders.folders, "folders", ("no_such_peer",)),
    Contender("formless", loaders.folders, "beton", ()),
    Contender("failing", loaders.folders, "no_such_folder", ()),
    OURS,
)


@pytest.fixture(scope="module")
def outcomes(scratch: Path) -> dict[str, Outcome]:
    """A missing peer, one whose format was not written, one that fails while it runs, and Sluice; two rounds."""
    return race(RACED, scratch, {"beton": "ImportError: no beton"}, rounds=2, seconds=0.1, warm_up=0.0)


def test_who_fails_is_named_and_the_others_run(outcomes: dict[str, Outcome]) -> None:
    assert re.search("ModuleNotFoundError: .*no_such_peer", outcomes["absent"].error)
    assert "no beton" in outcomes["formless"].error
    assert re.search("InputError: .*no_such_folder", outcomes["failing"].error)
    assert [name for name, one in outcomes.items() if not one.error] == ["Sluice"]
    rounds = outcomes["Sluice"].rounds
    assert len(rounds) == 2
    assert all(measured["samples_per_second"] > 0 for measured in rounds)
    assert all(measured["cpu_us_per_sample"] > 0 and measured["memory_mib"] > 10 for measured in rounds)
    assert "pixel_difference" in rounds[0]


def test_report_names_the_failures_and_a_picture_is_drawn(outcomes: dict[str, Outcome], tmp_path: Path) -> None:
    told = section(RACED, outcomes, "some machine")
    assert "some machine" in told
    assert re.search(r"^\| Sluice \| [\d,]+ \|", told, re.MULTILINE)
    for name in ("absent", "formless", "failing"):
        assert re.search(rf"^\| {name} \| failed \|", told, re.MULTILINE)
        assert re.search(rf"^- {name} failed: `.*(Error|beton).*`$", told, re.MULTILINE)
    plot(tmp_path / "loaders.png", RACED, outcomes, "title")
    assert (tmp_path / "loaders.png").stat().st_size > 1000


def test_only_its_own_section_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\nbefore\n")
    write_section(path, "loaders", "first")
    path.write_text(path.read_text() + "after\n")
    write_section(path, "loaders", "second")
    assert path.read_text() == "# Results\n\nbefore\n\n<!-- loaders -->\n\nsecond\n\n<!-- /loaders -->\nafter\n"


def test_peers_are_pinned() -> None:
    lines = (ROOT / "bench" / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert {"litdata", "mosaicml-streaming", "simplejpeg", "spdl"} <= {pin.partition("==")[0] for pin in pins}
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins), pins


def test_sizes_are_those_that_are_told() -> None:
    text = RESULTS.read_text()
    assert f"batches of {BATCH}" in text
    assert f"{SIZE}x{SIZE}" in text
    assert len(SHAPES) == 4
