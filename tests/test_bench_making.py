"""The benchmark of making shards: who fails is named, and what is measured is made. Timings decide nothing."""

import re
import sys
from pathlib import Path

from small_data import SAMPLES, Drawn

from bench.making import BARE, FULL, OWN, TAR, compose_command, convert_commands, converting
from bench.measure import run_watched
from shards.format.dataset import Dataset


def test_who_fails_is_named_and_the_others_have_rates(folders: Path, tmp_path: Path) -> None:
    absent = [sys.executable, "-c", "import no_such_peer"]
    told = converting(convert_commands(folders) | {"absent": absent}, tmp_path, SAMPLES, rounds=1)
    assert re.search(r"^- absent failed: `ModuleNotFoundError: .*no_such_peer.*`$", told, re.MULTILINE)
    for name in (BARE, FULL, TAR):
        assert re.search(rf"^\| {name} \| [\d,]+ \|", told, re.MULTILINE)
    assert re.search(rf"^\| {BARE} \| .* \| 1\.00 \| [\d.]+ \|", told, re.MULTILINE)
    assert not (tmp_path / "out").exists()


def test_as_many_samples_are_composed_and_encoded_as_are_counted(drawn: Drawn, folders: Path, tmp_path: Path) -> None:
    command = [part.replace("OUT", str(tmp_path)) for part in compose_command(drawn.fg.parent, 32, 60)]
    usage = run_watched(command, limit=60)
    assert len(Dataset.open(tmp_path / "data")) == 60
    assert usage.cpu > 0
    assert usage.memory > 10
    few, many = (run_watched([*OWN, "encode", str(folders), "64", n], limit=60).cpu for n in ("2", "4000"))
    assert many > few
