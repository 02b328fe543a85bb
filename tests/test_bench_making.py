"""The benchmark of making shards: who fails is named, and what is measured is made. Timings decide nothing."""

import re
import sys
from pathlib import Path

import pytest
from small_data import SAMPLES, Drawn

from bench.making import BARE, COMPOSE, ENCODE, FULL, TAR, compare, compose_commands, convert_commands
from bench.measure import run_watched
from shards.format.dataset import Dataset


def test_who_fails_is_named_and_the_others_have_rates(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("bench.making.ROUNDS", 1)
    absent = [sys.executable, "-c", "import no_such_peer"]
    told = compare(convert_commands(folders) | {"absent": absent}, SAMPLES, (BARE, TAR))
    assert re.search(r"^- absent failed: `ModuleNotFoundError: .*no_such_peer.*`$", told, re.MULTILINE)
    for name in (BARE, FULL, TAR):
        assert re.search(rf"^\| {name} \| [\d,]+ \|", told, re.MULTILINE)
    assert re.search(rf"^\| {BARE} \| .* \| 1\.00 \| [\d.]+ \|", told, re.MULTILINE)
    assert not list(tmp_path.iterdir())


def test_as_many_samples_are_composed_and_encoded_as_are_counted(drawn: Drawn, folders: Path, tmp_path: Path) -> None:
    command = compose_commands(drawn.fg.parent, folders, 32, 60)[COMPOSE]
    usage = run_watched([part.replace("OUT", str(tmp_path)) for part in command], limit=60)
    assert len(Dataset.open(tmp_path / "data")) == 60
    assert usage.cpu > 0
    assert usage.memory > 10
    commands = [compose_commands(drawn.fg.parent, folders, 64, samples)[ENCODE] for samples in (2, 4000)]
    few, many = (run_watched(command, limit=60).cpu for command in commands)
    assert many > few
