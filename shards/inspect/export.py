"""`python -m shards export`: a data set back as image files, in the folders of 2020; converting them gives it again."""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePath

import numpy as np

from shards.build.build import claim, resume
from shards.build.run import RunConfig
from shards.errors import InputError
from shards.format.dataset import Dataset, ShardContents, read_whole
from shards.format.manifest import Shard
from shards.format.schema import BY_NAME, SHARED_TAR, WORK, identity
from shards.format.storage import PARTIAL, Folder, LocalFolder, naming

IN_A_FOLDER = 10_000
"""Samples a folder where the keys tell no round; as many as the folders of 2020 hold."""


def export(dataset: Dataset, out: Path, config: RunConfig) -> None:
    """Write every image of the data set to `out`, or go on with it.

    The files are OverlayedImages/FOLDER/KEY.jpg and its likes. FOLDER is the round that all keys tell, else a number.
    Backgrounds are Background/Shelves_NUMBER.jpg where the keys tell them, else Background/FOLDER/KEY.jpg. There is no
    folder for a component that the data set does not have.
    Raises InputError if a shard is damaged, or if `out` holds something else.
    """
    if out.exists() and any(out.iterdir()) and not (out / WORK).exists():
        raise InputError(f"{out}: not empty. Name a folder that is not there yet.")
    folder, manifest = LocalFolder(out), dataset.manifest
    keys = [dataset.key(row) for row in range(len(dataset))]
    files, backgrounds = _files(dataset.folder, keys), _shared_backgrounds(dataset, keys)
    fingerprint = hashlib.sha256((dataset.root / "manifest.json").read_bytes()).hexdigest()
    claim(folder, fingerprint)
    folder.sweep(None)
    if manifest.shared:
        _refuse_damaged(dataset.folder, manifest.shared, dataset.folder.sha256(SHARED_TAR))
    if backgrounds:
        shelves, extension = out / BY_NAME["bg"].folder, manifest.components["bg"].extension
        shelves.mkdir(exist_ok=True)
        places = dataset.locate_shared("bg", np.array(list(backgrounds.values())))
        for name, data in zip(backgrounds, dataset.read(places), strict=True):
            path = shelves / f"Shelves_{name}.{extension}"
            if not path.exists() or path.read_bytes() != data:  # to `convert` a file of another time is another file
                _write(path, data)
    own = [name for name in manifest.components if not (name == "bg" and backgrounds)]
    shards = map(dataset.contents, range(len(manifest.shards)))
    units = [_Unit(**vars(one), files=list(islice(files, one.size))) for one in shards]
    resume(partial(_write_shard, own), units, folder, fingerprint, config, finished=lambda *_: True)


def _files(folder: Folder, keys: list[str]) -> Iterator[PurePath]:
    """Choose each sample's folder and file name, without an extension, for its key may not be one."""
    first: dict[str, str] = {}
    for key in keys:
        # The key as `convert` would make it of a file's name; keys of foreign tars may have folders too.
        other = first.setdefault(stem := re.sub(r"[\s./\\]", "_", key), key)
        if other != key:
            raise InputError(f"{folder}: samples {other!r} and {key!r} would both be {stem!r} as files.")
    rounds = [known.round if (known := identity(stem)) else None for stem in first]
    if None in rounds:
        rounds = [str(row // IN_A_FOLDER) for row in range(len(first))]
    return map(PurePath, map(str, rounds), first)


def _shared_backgrounds(dataset: Dataset, keys: list[str]) -> dict[str, int]:
    """Find the number in shared.tar of every background that the keys name; nothing if a name stands for several."""
    names = [known.bg for key in keys if (known := identity(key))]
    stored = dataset.manifest.components.get("bg")
    if len(names) < len(keys) or not stored or not stored.shared:
        return {}
    pairs = set(zip(names, dataset.shared_number("bg", np.arange(len(names))).tolist(), strict=True))
    found = dict(pairs)
    return found if len(found) == len(pairs) else {}


def _refuse_damaged(folder: Folder, shard: Shard, sha256: str) -> None:
    if sha256 != shard.sha256:
        raise InputError(f"{folder}/{shard.name}: damaged. `python -m shards verify {folder}` tells what else is.")


@dataclass(frozen=True)
class _Unit(ShardContents):
    """A shard, and the folder and name of each of its samples, without extension."""

    files: list[PurePath]


def _write_shard(components: list[str], unit: _Unit, out: Path) -> bytes:
    tar = read_whole(unit.folder, unit.name)  # which its images are cut from
    _refuse_damaged(unit.folder, unit.shard, hashlib.sha256(tar).hexdigest())
    for component in components:
        tree, extension = out / BY_NAME[component].folder, unit.formats[component].extension
        for inside in {file.parent for file in unit.files}:
            (tree / inside).mkdir(parents=True, exist_ok=True)
        for file, data in zip(unit.files, unit.images(component), strict=True):
            _write(tree / f"{file}.{extension}", data)
    os.sync()
    return b""


def _write(path: Path, data: bytes) -> None:
    """Write whole or not at all; on the disk once the whole shard is, for a wait for every file takes far longer."""
    temporary = path.with_name(f"{PARTIAL}{path.name}")
    try:
        with naming(path):
            temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
