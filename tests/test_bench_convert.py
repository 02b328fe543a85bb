"""The benchmark of conversion: who fails is named, and what is converted is what was copied. Timings decide nothing."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from small_data import SAMPLES, TREES, convert

from bench.convert import BARE, BEGIN, END, FULL, TAR, Way, copied, run, section, ways, write, zipped


@pytest.fixture
def copies(folders: Path, tmp_path: Path) -> Path:
    """The samples of `folders`, each there twice, and the list of their images beside them."""
    folder = Path(shutil.copytree(folders, tmp_path / "folders"))
    found = [path.relative_to(folder / TREES["fg_bg"]) for path in (folder / TREES["fg_bg"]).rglob("*.jpg")]
    listed = [
        {name: f"{TREES[name]}/{path}" for name in ("fg_bg", "mask", "depth")}
        | {"bg": f"{TREES['bg']}/Shelves_{path.stem.split('_')[1][1:]}.jpg"}
        for path in found
        if path.stem.endswith("_it0")
    ]
    folder.with_suffix(".json").write_text(json.dumps(listed))
    for path in found:
        if not path.stem.endswith("_it0"):
            for name in ("fg_bg", "mask", "depth"):
                (folder / TREES[name] / path).unlink()
    assert copied(folder, 3) == 3 * len(listed) < SAMPLES
    return folder


def test_copies_are_samples_and_zips_hold_the_same(copies: Path, tmp_path: Path) -> None:
    from_folders = convert([copies], tmp_path / "from_folders")
    from_zips = convert([zipped(copies)], tmp_path / "from_zips")
    assert len(from_folders) == len(json.loads(copies.with_suffix(".json").read_text()))
    assert [one.sha256 for one in from_folders.manifest.shards] == [one.sha256 for one in from_zips.manifest.shards]


def test_who_fails_is_named_and_the_others_have_rates(copies: Path, tmp_path: Path) -> None:
    contenders = {way.name: way for way in ways(copies, copies)}
    absent = Way("absent", (sys.executable, "-c", "import no_such_peer"), "nothing")
    runs = [run(way, tmp_path) for way in (contenders[BARE], contenders[FULL], contenders[TAR], absent)]
    assert [bool(one.error) for one in runs] == [False, False, False, True]
    text = section(runs, 100, ["said before"])
    assert re.search(r"^- absent failed: `ModuleNotFoundError: .*no_such_peer.*`$", text, re.MULTILINE)
    for name in (BARE, FULL, TAR):
        assert re.search(rf"^\| {name} \| [\d,]+ \|", text, re.MULTILINE)
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\nbefore\n")
    write(path, "first")
    path.write_text(path.read_text() + "after\n")
    write(path, text)
    found = path.read_text()
    assert "first" not in found
    assert re.search(rf"before\n\n{BEGIN}\n\n## Conversion.*{END}\nafter\n$", found, re.DOTALL)
