"""Is every byte of this data set what the manifest says, and does every image decode?"""

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shards.images import BadImage, checked
from shards.manifest import Dataset, Locations, Manifest, Shard
from shards.parallel import run_parallel
from shards.schema import BY_NAME, SHARED_TAR
from shards.sources import IMAGES

__all__ = ["Problem", "sha256_of", "verify"]


class Problem(NamedTuple):
    """Something that is not as the manifest says: the file or sample, and what is wrong with it."""

    where: str
    what: str


def verify(root: Path, workers: int) -> list[Problem]:
    """Checks digests, indexes and images of a data set; returns all that is wrong, nothing if all is well.

    Raises InputError if there is no data set to check.
    """
    manifest = Manifest.read(root)
    problems = [
        Problem(f"index/{name}", "its digest is not the one in the manifest")
        for name, digest in manifest.index.items()
        if not (root / "index" / name).exists() or sha256_of(root / "index" / name) != digest
    ]
    if problems:
        return problems
    units = [_Check(number, shard.samples) for number, shard in enumerate(manifest.shards)]
    found = run_parallel(partial(_check_shard, root), units, workers, total=manifest.samples)
    return [problem for shard in found for problem in shard] + _check_shared(Dataset(root, manifest))


@dataclass(frozen=True)
class _Check:
    number: int
    size: int


def _check_shard(root: Path, check: _Check) -> list[Problem]:
    dataset = Dataset.open(root)
    shard = dataset.manifest.shards[check.number]
    problems = _check_file(root, shard)
    if problems:
        return problems
    rows = np.flatnonzero(dataset.shard_of(np.arange(len(dataset))) == check.number)
    keys = [dataset.key(int(row)) for row in rows]
    own = [name for name, component in dataset.manifest.components.items() if not component.shared]
    data = (root / shard.name).read_bytes()
    return [one for name in own for one in _check_images(dataset, name, data, dataset.locate(name, rows), keys)]


def _check_shared(dataset: Dataset) -> list[Problem]:
    if dataset.manifest.shared is None:
        return []
    problems = _check_file(dataset.root, dataset.manifest.shared)
    if problems:
        return problems
    data = (dataset.root / SHARED_TAR).read_bytes()
    for name, component in dataset.manifest.components.items():
        places = dataset.locate_shared(name, np.arange(component.shared)) if component.shared else None
        if places:
            names = [f"{SHARED_TAR} image {i}" for i in range(component.shared)]
            problems += _check_images(dataset, name, data, places, names)
    return problems


def _check_file(root: Path, shard: Shard) -> list[Problem]:
    tar = root / shard.name
    files = {tar: shard.sha256, tar.with_suffix(".idx"): shard.index_sha256}
    return [
        Problem(path.name, "its digest is not the one in the manifest" if path.exists() else "is not there")
        for path, digest in files.items()
        if not path.exists() or sha256_of(path) != digest
    ]


def _check_images(dataset: Dataset, name: str, data: bytes, places: Locations, called: list[str]) -> list[Problem]:
    stored = dataset.manifest.components[name]
    component = replace(BY_NAME[name], formats=(IMAGES[f".{stored.extension}"],), bits=stored.bits)
    problems = []
    for one, offset, size in zip(called, places.offset, places.size, strict=True):
        try:
            checked(data[offset : offset + size], component, dataset.manifest.image_size)
        except BadImage as bad:
            problems.append(Problem(f"{one} {name}", f"{bad.kind}: {bad.detail}"))
    return problems


def sha256_of(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
