"""Writes the samples in one format, in a process of its own: python -m bench.race.formats FORMAT SCRATCH.

The folders of 2020 come first, from the train split of a data set; every other format is made from them, so that all
hold the same images, byte for byte. `shards64` alone holds others: the same images scaled down to training size.
"""

import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.race.contenders import SHAPES, SIZE
from shards.build.build import BuildConfig, build
from shards.build.plan import DivisionConfig
from shards.errors import InputError, report_errors
from shards.format.dataset import Dataset, Locations
from shards.format.schema import BY_NAME, sample_key
from shards.format.storage import LocalFolder
from shards.ingest.convert import ConvertConfig, plan_conversion

LIST = "samples.json"
"""beside folders and zips: the paths of each sample's images by component"""


def images(dataset: Dataset, places: Locations) -> Iterator[NDArray[np.uint8]]:
    """Views of the encoded images at `places`."""
    files = {number: np.memmap(dataset.tar_path(number), np.uint8, "r") for number in np.unique(places.file).tolist()}
    for file, offset, size in zip(*(column.tolist() for column in places), strict=True):
        yield files[file][offset : offset + size]


def members(folder: Path) -> list[dict[str, str]]:
    """The paths of each sample's images, by component, below `folder`."""
    listed: list[dict[str, str]] = json.loads((folder / LIST).read_text())
    return listed


def write_folders(data: Path, samples: int, scratch: Path) -> int:
    """Copies the images of the train split, `samples` of them at most, into folders. Returns how many there are.

    Raises InputError if they are not JPEGs, which is all that some of the formats know.
    """
    dataset = Dataset.open(data)
    if other := [name for name, c in dataset.manifest.components.items() if c.extension != "jpg"]:
        raise InputError(f"{data}: {', '.join(other)} not stored as JPEG. The race is of JPEG loaders; give it JPEGs.")
    rows = np.asarray(dataset.split("train"), np.int64)[:samples]
    shared = dataset.manifest.components["bg"].shared
    numbers = dataset.shared_number("bg", rows) if shared else np.arange(len(rows))
    listed = [_paths(place, int(bg)) for place, bg in enumerate(numbers)]
    for name in SHAPES:
        for paths, image in zip(listed, images(dataset, dataset.locate(name, rows)), strict=True):
            path = scratch / "folders" / paths[name]
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(image.tobytes())
    (scratch / "folders" / LIST).write_text(json.dumps(listed))
    return len(rows)


def _paths(place: int, bg: int) -> dict[str, str]:
    key = sample_key(bg, place, 0)
    paths = {name: f"{BY_NAME[name].folder}/{place // 1000}/{key}.jpg" for name in SHAPES if name != "bg"}
    return paths | {"bg": f"{BY_NAME['bg'].folder}/Shelves_{bg}.jpg"}


def _samples(scratch: Path) -> Iterator[dict[str, bytes]]:
    folder = scratch / "folders"
    for paths in members(folder):
        yield {name: (folder / paths[name]).read_bytes() for name in SHAPES}


def _zips(scratch: Path) -> None:
    folder, out = scratch / "folders", scratch / "zips"
    out.mkdir()
    for name in SHAPES:
        with zipfile.ZipFile(out / f"{BY_NAME[name].folder}.zip", "w") as opened:
            for path in sorted({paths[name] for paths in members(folder)}):
                opened.write(folder / path, path)
    (out / LIST).write_bytes((folder / LIST).read_bytes())


def _shards(scratch: Path, name: str, size: int | None) -> None:
    folder = scratch / "folders"
    listed = members(folder)
    with Image.open(folder / listed[0]["fg_bg"]) as image:
        stored = min(image.size)
    if size and stored <= size:
        size = None  # they are of that size already
    own = DivisionConfig(val_share=0, test_share=0, samples_per_shard=max(1, min(1000, len(listed) // 4)))
    build(plan_conversion([folder], ConvertConfig(size=size, division=own)), LocalFolder(scratch / name), BuildConfig())


def _mds(scratch: Path) -> None:
    from bench.race import streaming_mds

    streaming_mds.write(_samples(scratch), scratch / "mds")


def _litdata(scratch: Path) -> None:
    from bench.race import lit

    lit.write(_samples(scratch), scratch / "litdata")


def _ffcv(scratch: Path) -> None:
    from bench.race import ffcv_beton

    ffcv_beton.write(_samples(scratch), scratch / "ffcv")


FORMATS: dict[str, Callable[[Path], None]] = {
    "zips": _zips,
    "shards": partial(_shards, name="shards", size=None),
    "shards64": partial(_shards, name="shards64", size=SIZE),
    "mds": _mds,
    "litdata": _litdata,
    "ffcv": _ffcv,
}
"""all but the folders, from which they are made"""


def write(name: str, scratch: Path) -> None:
    """Writes one of FORMATS into `scratch`/`name`."""
    FORMATS[name](scratch)


if __name__ == "__main__":
    with report_errors():
        write(sys.argv[1], Path(sys.argv[2]))
