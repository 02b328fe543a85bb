"""`python -m shards verify`: is every byte what the manifest says, and does every image decode?"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from shards.build.run import RunConfig, run_units
from shards.format.dataset import Dataset, ShardContents, open_dataset, read_whole
from shards.format.images import BadImage, ImageFormat, decode_image
from shards.format.manifest import Manifest, Shard
from shards.format.schema import SHARED_TAR
from shards.format.storage import Folder


class Problem(NamedTuple):
    """Something that is not as the manifest says: the file or sample, and what is wrong with it."""

    where: str
    what: str


def verify(folder: Folder, config: RunConfig) -> list[Problem]:
    """Check digests, indexes and images of a data set; return all that is wrong, nothing if all is well.

    Raises InputError if there is no data set to check.
    """
    manifest = Manifest.read(folder)
    if problems := _check_files(folder, {f"index/{name}": digest for name, digest in manifest.index.items()}):
        return problems
    with open_dataset(folder) as dataset:
        units = [dataset.contents(number) for number in range(len(manifest.shards))]
        found = run_units(_check_shard, units, config, total=manifest.samples)
        return [problem for shard in found for problem in shard] + _check_shared(dataset)


def _check_shard(contents: ShardContents) -> list[Problem]:
    problems = _check_tar(contents.folder, contents.shard)
    for name, form in contents.formats.items():
        if not (problems or name in contents.shared):
            problems += _check_images(name, form, contents.images(name), contents.keys)
    return problems


def _check_shared(dataset: Dataset) -> list[Problem]:
    if dataset.manifest.shared is None:
        return []
    problems, contents = _check_tar(dataset.folder, dataset.manifest.shared), dataset.contents(0)
    for name in contents.shared if not problems else ():
        images = list(contents.distinct(name))
        names = [f"{SHARED_TAR} image {number}" for number in range(len(images))]
        problems += _check_images(name, contents.formats[name], images, names)
    return problems


def _check_tar(folder: Folder, shard: Shard) -> list[Problem]:
    """Check a tar, and the index beside it."""
    return _check_files(folder, {shard.name: shard.sha256, f"{Path(shard.name).stem}.idx": shard.index_sha256})


def _check_files(folder: Folder, digests: dict[str, str]) -> list[Problem]:
    problems = []
    for name, digest in digests.items():
        if not folder.exists(name):
            problems.append(Problem(name, "is not there"))
        elif hashlib.sha256(read_whole(folder, name)).hexdigest() != digest:
            problems.append(Problem(name, "its digest is not the one in the manifest"))
    return problems


def _check_images(name: str, form: ImageFormat, images: Iterable[bytes], called: list[str]) -> list[Problem]:
    problems = []
    for one, data in zip(called, images, strict=True):
        try:
            decode_image(data, form)
        except BadImage as bad:
            problems.append(Problem(f"{one} {name}", f"{bad.kind}: {bad.detail}"))
    return problems
