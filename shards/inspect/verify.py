"""Is every byte of this data set what the manifest says, and does every image decode?"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from shards.build.run import RunConfig, run_units
from shards.format.dataset import Contents, Dataset, open_dataset
from shards.format.images import BadImage, Size, checked
from shards.format.manifest import Manifest, Shard, StoredComponent
from shards.format.schema import BY_NAME, SHARED_TAR
from shards.format.storage import Folder
from shards.ingest.listing import IMAGES


class Problem(NamedTuple):
    """Something that is not as the manifest says: the file or sample, and what is wrong with it."""

    where: str
    what: str


def verify(folder: Folder, engine: RunConfig) -> list[Problem]:
    """Checks digests, indexes and images of a data set; returns all that is wrong, nothing if all is well.

    Raises InputError if there is no data set to check.
    """
    manifest = Manifest.read(folder)
    problems = [
        Problem(f"index/{name}", "its digest is not the one in the manifest")
        for name, digest in manifest.index.items()
        if folder.sha256(f"index/{name}") != digest
    ]
    if problems:
        return problems
    with open_dataset(folder) as dataset:
        units = [_Check(dataset.contents(number), manifest.image_size) for number in range(len(manifest.shards))]
        found = run_units(_Check.problems, units, engine, total=manifest.samples)
        return [problem for shard in found for problem in shard] + _check_shared(dataset)


class _Check(NamedTuple):
    contents: Contents
    image_size: Size

    @property
    def size(self) -> int:
        return self.contents.size

    def problems(self) -> list[Problem]:
        contents = self.contents
        tar, problems = _read(contents.folder, contents.shard)
        keys = [contents.key(number) for number in range(contents.size)]
        for name, stored in contents.components.items():
            if not (problems or stored.shared):
                problems += _check_images(name, stored, self.image_size, contents.images(name, tar), keys)
        return problems


def _check_shared(dataset: Dataset) -> list[Problem]:
    if dataset.manifest.shared is None:
        return []
    tar, problems = _read(dataset.folder, dataset.manifest.shared)
    if problems:
        return problems
    contents = dataset.contents(0)
    for name, stored in dataset.manifest.components.items():
        if stored.shared:
            names = [f"{SHARED_TAR} image {i}" for i in range(stored.shared)]
            images = contents.distinct(name, tar)
            problems += _check_images(name, stored, dataset.manifest.image_size, images, names)
    return problems


def _read(folder: Folder, shard: Shard) -> tuple[bytes, list[Problem]]:
    """A tar, and what is wrong with it and the index beside it."""
    files = {shard.name: shard.sha256, f"{Path(shard.name).stem}.idx": shard.index_sha256}
    data = {name: folder.read(name) if folder.exists(name) else None for name in files}
    problems = [
        Problem(name, "its digest is not the one in the manifest" if found is not None else "is not there")
        for name, found in data.items()
        if found is None or hashlib.sha256(found).hexdigest() != files[name]
    ]
    return data[shard.name] or b"", problems


def _check_images(
    name: str, stored: StoredComponent, size: Size, images: Iterable[bytes], called: list[str]
) -> list[Problem]:
    component = replace(BY_NAME[name], formats=(IMAGES[f".{stored.extension}"],), bits=stored.bits)
    problems = []
    for one, data in zip(called, images, strict=True):
        try:
            checked(data, component, size)
        except BadImage as bad:
            problems.append(Problem(f"{one} {name}", f"{bad.kind}: {bad.detail}"))
    return problems
