"""`python -m shards verify`: is every byte what the manifest says, and does every image decode?"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
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
    index = {f"index/{name}": sha256 for name, sha256 in manifest.index.items()}
    if problems := list(_check_files(folder, index, folder.sha256)):
        return problems
    with open_dataset(folder) as dataset:
        units = [dataset.contents(number) for number in range(len(manifest.shards))]
        found = run_units(_check_shard, units, config, total=manifest.samples)
        return [*chain.from_iterable(found), *_check_shared(dataset)]


def _check_shard(contents: ShardContents) -> list[Problem]:
    problems = _check_tar(contents.folder, contents.shard)
    for name, form in contents.formats.items():
        if not (problems or name in contents.shared):
            problems += _check_images(name, form, contents.images(name), contents.keys)
    return problems


def _check_shared(dataset: Dataset) -> list[Problem]:
    shared, contents = dataset.manifest.shared, dataset.contents(0)
    problems = _check_tar(dataset.folder, shared) if shared else []
    for name, places in contents.shared.items() if not problems else ():
        called = [f"{SHARED_TAR} image {number}" for number in range(len(places))]
        problems += _check_images(name, contents.formats[name], contents.distinct(name), called)
    return problems


def _check_tar(folder: Folder, shard: Shard) -> list[Problem]:
    """Check a tar, and the index beside it. They stay in memory, to be decoded from."""

    def sha256(name: str) -> str:
        return hashlib.sha256(read_whole(folder, name)).hexdigest()

    digests = {shard.name: shard.sha256, f"{Path(shard.name).stem}.idx": shard.index_sha256}
    return list(_check_files(folder, digests, sha256))


def _check_files(folder: Folder, digests: dict[str, str], sha256: Callable[[str], str]) -> Iterator[Problem]:
    for name, digest in digests.items():
        if not folder.exists(name):
            yield Problem(name, "is not there")
        elif sha256(name) != digest:
            yield Problem(name, "its digest is not the one in the manifest")


def _check_images(name: str, form: ImageFormat, images: Iterable[bytes], called: list[str]) -> Iterator[Problem]:
    for one, data in zip(called, images, strict=True):
        try:
            decode_image(data, form)
        except BadImage as bad:
            yield Problem(f"{one} {name}", str(bad))
