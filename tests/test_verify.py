"""No byte can change unnoticed."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import ONE_WORKER, flip

from shards.format.dataset import Dataset
from shards.format.storage import LocalFolder
from shards.inspect.verify import Problem, verify

TARS = ["shard-000000", "shard-000003", "shard-000005", "shared"]


def where(problems: list[Problem]) -> list[str]:
    return sorted(place for place, _ in problems)


@pytest.fixture(scope="module")
def copied(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(dataset, tmp_path_factory.mktemp("copied") / "dataset"))


def test_a_data_set_as_it_was_made_has_no_problems(dataset: Path) -> None:
    assert verify(LocalFolder(dataset), ONE_WORKER) == []


@settings(max_examples=4)
@given(st.floats(0, 1, exclude_max=True))
def test_a_changed_bit_anywhere_in_a_tar_or_its_index_is_found(
    dataset: Path, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    damaged = shutil.copytree(dataset, tmp_path_factory.mktemp("flipped") / "dataset")
    files = [damaged / f"{name}{extension}" for name in TARS for extension in (".tar", ".idx")]
    for path in files:
        flip(path, int(share * path.stat().st_size))
    assert where(verify(LocalFolder(damaged), ONE_WORKER)) == sorted(path.name for path in files)


@given(st.sampled_from(["samples", "keys", "shared_bg", "train", "val", "test"]), st.data())
def test_a_changed_bit_anywhere_in_the_index_is_found(copied: Path, name: str, data: st.DataObject) -> None:
    path = copied / "index" / f"{name}.npy"
    position = data.draw(st.integers(0, path.stat().st_size - 1))
    flip(path, position)
    try:
        assert where(verify(LocalFolder(copied), ONE_WORKER)) == [f"index/{name}.npy"]
    finally:
        flip(path, position)


def test_files_that_are_missing_are_found(damaged: Path) -> None:
    for name in ("shard-000001.tar", "shard-000002.idx", "shared.tar"):
        (damaged / name).unlink()
    assert where(verify(LocalFolder(damaged), ONE_WORKER)) == ["shard-000001.tar", "shard-000002.idx", "shared.tar"]
    (damaged / "index" / "val.npy").unlink()
    assert where(verify(LocalFolder(damaged), ONE_WORKER)) == ["index/val.npy"]


def test_a_digest_made_good_does_not_hide_an_image_that_does_not_decode(damaged: Path) -> None:
    opened, row = Dataset.open(damaged), 60
    place = opened.locate("depth", np.array([row]))
    tar, path = opened.tar_path(int(place.file[0])), damaged / "manifest.json"
    data = bytearray(tar.read_bytes())
    data[int(place.offset[0]) : int(place.offset[0] + place.size[0])] = bytes(int(place.size[0]))
    tar.write_bytes(data)
    manifest = json.loads(path.read_text())
    manifest["shards"][int(place.file[0])]["sha256"] = hashlib.sha256(data).hexdigest()
    path.write_text(json.dumps(manifest))
    assert where(verify(LocalFolder(damaged), ONE_WORKER)) == [f"{opened.key(row)} depth"]
