"""The manifest says what is there: counts, statistics, shared images, splits; and survives being written and read."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from small_data import SAMPLES, TREES, contents, convert, images

from shards.errors import InputError
from shards.format.dataset import Dataset
from shards.format.manifest import Manifest
from shards.format.schema import identity
from shards.format.splits import SPLITS


def decoded(data: bytes) -> NDArray[np.float64]:
    image = np.asarray(Image.open(io.BytesIO(data))) / 255
    return image.reshape(-1, image.shape[2] if image.ndim == 3 else 1)


def test_a_manifest_written_and_read_is_the_same(dataset: Path) -> None:
    manifest = Manifest.read(dataset)
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.to_json() == (dataset / "manifest.json").read_text()


def test_statistics_are_those_of_all_decoded_pixels(dataset: Path) -> None:
    opened = Dataset.open(dataset)
    found = images(opened)
    for name, statistics in opened.manifest.statistics.items():
        pixels = np.concatenate([decoded(parts[name]) for parts in found.values()])
        assert statistics.mean == pytest.approx(pixels.mean(0), abs=1e-6)
        assert statistics.std == pytest.approx(pixels.std(0), abs=1e-6)


def test_every_background_is_shared_once_with_its_own_bytes(dataset: Path, folders: Path) -> None:
    opened = Dataset.open(dataset)
    places = opened.locate_shared("bg", np.arange(8))
    tar = (dataset / "shared.tar").read_bytes()
    shared = [tar[offset : offset + size] for offset, size in zip(places.offset, places.size, strict=True)]
    assert opened.manifest.components["bg"].shared == 8
    assert sorted(shared) == sorted(path.read_bytes() for path in (folders / TREES["bg"]).iterdir())


def test_shared_images_are_numbered_as_they_first_occur(dataset: Path) -> None:
    numbers = Dataset.open(dataset).shared_number("bg", np.arange(SAMPLES))
    assert list(dict.fromkeys(numbers.tolist())) == list(range(8))


def test_backgrounds_that_hardly_recur_are_not_shared(messy: Path, tmp_path: Path) -> None:
    for tree in ("OverlayedImages", "OverlayedMasks", "DepthImage"):
        for path in sorted((messy / tree).rglob("*.jpg")):
            key = identity(path.stem)
            if key and (int(key.fg), int(key.round)) != (1, 0):
                path.unlink()
    dataset = convert([messy], tmp_path / "out", test_share=0)
    assert len(dataset) <= 8
    assert dataset.manifest.shared is None
    assert not (tmp_path / "out" / "shared.tar").exists()
    assert all(parts["bg"] in contents(messy / TREES["bg"]).values() for parts in images(dataset).values())


def test_splits_are_disjoint_and_hold_all(dataset: Path) -> None:
    opened = Dataset.open(dataset)
    rows = np.concatenate([opened.split(name) for name in SPLITS])
    assert sorted(rows) == list(range(SAMPLES))
    assert opened.manifest.splits == {"train": 120, "val": 15, "test": 15}


def test_a_split_that_is_empty_or_unknown_is_named(dataset: Path) -> None:
    with pytest.raises(InputError, match=r"no samples in split 'tset'; it has train \(120\)"):
        Dataset.open(dataset).split("tset")


def test_the_manifest_counts_what_the_files_hold(dataset: Path) -> None:
    manifest = Manifest.read(dataset)
    assert sum(shard.samples for shard in manifest.shards) == manifest.samples == SAMPLES
    assert [(dataset / shard.name).stat().st_size for shard in manifest.shards] == [s.bytes for s in manifest.shards]
    assert sorted(manifest.index) == sorted(path.name for path in (dataset / "index").iterdir())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "sluice 9"}'])
def test_a_file_that_is_no_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json: not a manifest that this version reads"):
        Dataset.open(tmp_path)


def test_another_format_is_named(damaged: Path) -> None:
    path = damaged / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": "sluice 9"}))
    with pytest.raises(InputError, match=r"format 'sluice 9', but this version reads 'sluice 1'"):
        Dataset.open(damaged)


@pytest.mark.parametrize("name", ["samples", "keys", "shared_bg"])
@pytest.mark.parametrize("damage", [0, 40, None])
def test_an_index_that_cannot_be_read_is_named(damaged: Path, name: str, damage: int | None) -> None:
    path = damaged / "index" / f"{name}.npy"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:damage])
    with pytest.raises(InputError, match=rf"{name}\.npy: cannot be read"):
        Dataset.open(damaged)
