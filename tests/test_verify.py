"""No byte can change unnoticed; and tars that somebody else made are indexed as they are."""

import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import build_config, contents, flip, images

from shards.build import build
from shards.errors import InputError
from shards.foreign import indexing
from shards.manifest import Dataset
from shards.verify import Problem, verify

TARS = ["shard-000000", "shard-000003", "shard-000005", "shared"]


def where(problems: list[Problem]) -> list[str]:
    return sorted(place for place, _ in problems)


@pytest.fixture(scope="module")
def copied(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(dataset, tmp_path_factory.mktemp("copied") / "dataset"))


def test_a_data_set_as_it_was_made_has_no_problems(dataset: Path) -> None:
    assert verify(dataset, workers=2) == []


@settings(max_examples=4)
@given(st.floats(0, 1, exclude_max=True))
def test_a_changed_bit_anywhere_in_a_tar_or_its_index_is_found(
    dataset: Path, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    damaged = shutil.copytree(dataset, tmp_path_factory.mktemp("flipped") / "dataset")
    files = [damaged / f"{name}{extension}" for name in TARS for extension in (".tar", ".idx")]
    for path in files:
        flip(path, int(share * path.stat().st_size))
    assert where(verify(damaged, workers=1)) == sorted(path.name for path in files)


@given(st.sampled_from(["samples", "keys", "shared_bg", "train", "val", "test"]), st.data())
def test_a_changed_bit_anywhere_in_the_index_is_found(copied: Path, name: str, data: st.DataObject) -> None:
    path = copied / "index" / f"{name}.npy"
    position = data.draw(st.integers(0, path.stat().st_size - 1))
    flip(path, position)
    try:
        assert where(verify(copied, workers=1)) == [f"index/{name}.npy"]
    finally:
        flip(path, position)


def test_files_that_are_missing_are_found(damaged: Path) -> None:
    for name in ("shard-000001.tar", "shard-000002.idx", "shared.tar"):
        (damaged / name).unlink()
    assert where(verify(damaged, 1)) == ["shard-000001.tar", "shard-000002.idx", "shared.tar"]
    (damaged / "index" / "val.npy").unlink()
    assert where(verify(damaged, 1)) == ["index/val.npy"]


def test_a_digest_made_good_does_not_hide_an_image_that_does_not_decode(damaged: Path) -> None:
    opened, row = Dataset.open(damaged), 60
    place = opened.locate("depth", np.array([row]))
    tar, path = opened.files[int(place.file[0])], damaged / "manifest.json"
    data = bytearray(tar.read_bytes())
    data[int(place.offset[0]) : int(place.offset[0] + place.size[0])] = bytes(int(place.size[0]))
    tar.write_bytes(data)
    manifest = json.loads(path.read_text())
    manifest["shards"][int(place.file[0])]["sha256"] = hashlib.sha256(data).hexdigest()
    path.write_text(json.dumps(manifest))
    assert where(verify(damaged, 1)) == [f"{opened.key(row)} depth"]


def exported(dataset: Path, folder: Path) -> dict[str, dict[str, bytes]]:
    """Writes every image as a file KEY.COMPONENT.EXTENSION."""
    opened = Dataset.open(dataset)
    found = images(opened)
    folder.mkdir()
    for key, parts in found.items():
        for name, data in parts.items():
            (folder / f"{key}.{name}.{opened.manifest.components[name].extension}").write_bytes(data)
    return found


@pytest.mark.parametrize("form", ["ustar", "gnu", "pax", "gnu tar"])
def test_tars_made_elsewhere_hold_the_same_samples(dataset: Path, tmp_path: Path, form: str) -> None:
    expected, out = exported(dataset, tmp_path / "files"), tmp_path / "tars"
    out.mkdir()
    names = sorted(path.name for path in (tmp_path / "files").iterdir())
    halves = {"a.tar": names[: 4 * 70], "b.tar": names[4 * 70 :]}
    for name, members in halves.items():
        if form == "gnu tar":
            if not shutil.which("tar"):
                pytest.skip("there is no tar here")
            subprocess.run(["tar", "-cf", out / name, "-C", tmp_path / "files", *members], check=True)
            continue
        formats = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
        with tarfile.open(out / name, "w", format=formats[form]) as tar:
            for member in members:
                tar.add(tmp_path / "files" / member, member)
    before = contents(out)
    indexed = build(indexing(out, (0.0, 10.0), build_config()), out, build_config())
    assert images(indexed) == expected
    assert {name: contents(out)[name] for name in before} == before
    assert indexed.manifest.statistics == Dataset.open(dataset).manifest.statistics
    assert indexed.manifest.depth.unit == "m"


def test_incomplete_and_broken_samples_of_other_tars_are_left_out(dataset: Path, tmp_path: Path) -> None:
    expected, out = exported(dataset, tmp_path / "files"), tmp_path / "tars"
    out.mkdir()
    missing, broken, *good = expected
    (tmp_path / "files" / f"{missing}.mask.jpg").unlink()
    (tmp_path / "files" / f"{broken}.depth.jpg").write_bytes(b"no image")
    with tarfile.open(out / "all.tar", "w") as tar:
        for path in sorted((tmp_path / "files").iterdir()):
            tar.add(path, path.name)
    indexed = build(indexing(out, None, build_config()), out, build_config())
    assert images(indexed) == {key: expected[key] for key in sorted(good)}
    assert indexed.manifest.left_out == {"missing": 1, "not-an-image": 1}
    assert verify(out, workers=1) == []


def test_a_tar_cut_short_is_named(dataset: Path, tmp_path: Path) -> None:
    data = (dataset / "shard-000000.tar").read_bytes()
    (tmp_path / "short.tar").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"short\.tar: not a whole tar"):
        indexing(tmp_path, None, build_config())
