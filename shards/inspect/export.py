"""A data set back as image files, in the folders of 2020: the bytes as they are, so converting them gives it again."""

import hashlib
import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

import numpy as np

from shards.build.build import claim
from shards.build.run import RunConfig, run_units
from shards.errors import InputError
from shards.format.dataset import Dataset
from shards.format.manifest import Shard
from shards.format.schema import BY_NAME, WORK, identity
from shards.format.storage import PARTIAL, LocalFolder, write_bytes

IN_A_FOLDER = 10_000
"""samples a folder where the keys tell no round; it is what the folders of 2020 hold"""


def export(root: Path, out: Path, workers: int) -> Dataset:
    """Writes every image of the data set in `root` to `out`, or goes on with it. Returns the data set.

    The files are OverlayedImages/FOLDER/KEY.jpg and its likes. FOLDER is the round that all keys tell, else a number.
    Backgrounds are Background/Shelves_NUMBER.jpg where the keys tell them, else Background/FOLDER/KEY.jpg.
    Raises InputError if there is no data set, if a shard is damaged, or if `out` holds something else.
    """
    dataset = Dataset.open(root)
    if out.exists() and any(out.iterdir()) and not (out / WORK).exists():
        raise InputError(f"{out}: not empty. Name a folder that is not there yet.")
    stems = _stems(dataset)
    identities = [identity(stem) for stem in stems]
    numbered = None not in identities
    shared = _shared_backgrounds(dataset, [one.bg for one in identities if one]) if numbered else {}
    claim(LocalFolder(out), hashlib.sha256((root / "manifest.json").read_bytes()).hexdigest())
    LocalFolder(out).sweep(None)
    if dataset.manifest.shared:
        _check(root, dataset.manifest.shared)
    _write_backgrounds(dataset, out, shared)
    own = [name for name in dataset.manifest.components if not (name == "bg" and shared)]
    units = [
        _Unit(number, shard.samples)
        for number, shard in enumerate(dataset.manifest.shards)
        if not _mark(out, shard).exists()
    ]
    run_units(partial(_write_shard, root, out, own, numbered), units, RunConfig(workers=workers), total=len(dataset))
    return dataset


def _stem(key: str) -> str:
    """The key as a file name. `convert` would do the same to it, but for the folders that foreign tars have."""
    return re.sub(r"[\s./\\]", "_", key)


def _stems(dataset: Dataset) -> list[str]:
    keys = [dataset.key(row) for row in range(len(dataset))]
    first: dict[str, str] = {}
    for key in keys:
        other = first.setdefault(_stem(key), key)
        if other != key:
            raise InputError(f"{dataset.root}: samples {other!r} and {key!r} would both be {_stem(key)!r} as files.")
    return list(first)


def _shared_backgrounds(dataset: Dataset, named: list[str]) -> dict[str, int]:
    """The number in shared.tar of every background that the keys name; nothing if a name stands for several images."""
    if not dataset.manifest.components["bg"].shared:
        return {}
    pairs = set(zip(named, dataset.shared_number("bg", np.arange(len(named))).tolist(), strict=True))
    found = dict(pairs)
    return found if len(found) == len(pairs) else {}


def _check(root: Path, shard: Shard) -> None:
    if LocalFolder(root).sha256(shard.name) != shard.sha256:
        raise InputError(f"{root / shard.name}: damaged. `python -m shards verify {root}` tells what else is.")


def _write_backgrounds(dataset: Dataset, out: Path, shared: dict[str, int]) -> None:
    if not shared:
        return
    places = dataset.locate_shared("bg", np.array(list(shared.values())))
    extension, folder = dataset.manifest.components["bg"].extension, out / BY_NAME["bg"].folder
    folder.mkdir(exist_ok=True)
    for name, data in zip(shared, dataset.read(places), strict=True):
        _write(folder / f"Shelves_{name}.{extension}", data)


@dataclass(frozen=True)
class _Unit:
    """A shard to be written, by its number, and its samples."""

    number: int
    size: int


def _mark(out: Path, shard: Shard) -> Path:
    return out / WORK / f"{shard.name}.done"


def _write_shard(root: Path, out: Path, components: list[str], numbered: bool, unit: _Unit) -> None:
    dataset = Dataset.open(root)
    shard, first = dataset.manifest.shards[unit.number], int(dataset.first_row[unit.number])
    _check(root, shard)
    rows = np.arange(first, first + unit.size)
    names = [_file(dataset.key(row), row, numbered) for row in rows.tolist()]
    for component in components:
        places, extension = dataset.locate(component, rows), dataset.manifest.components[component].extension
        folder = out / BY_NAME[component].folder
        for inside in {name.parent for name in names}:
            (folder / inside).mkdir(parents=True, exist_ok=True)
        for name, data in zip(names, dataset.read(places), strict=True):
            _write(folder / f"{name}.{extension}", data)
    os.sync()
    write_bytes(_mark(out, shard), b"")


def _file(key: str, row: int, numbered: bool) -> PurePath:
    """A sample's folder and name, without an extension."""
    stem = _stem(key)
    known = identity(stem) if numbered else None
    return PurePath(known.round if known else str(row // IN_A_FOLDER), stem)


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all; on the disk once the whole shard is: a wait for every single file takes 7 times as long."""
    temporary = path.with_name(f"{PARTIAL}{path.name}")
    temporary.write_bytes(data)
    temporary.replace(path)
