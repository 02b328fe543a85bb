"""Shards that somebody else made: the same index and manifest beside them, their tars left as they are."""

import hashlib
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from shards.build import BuildConfig
from shards.errors import InputError
from shards.images import BadImage, Size, checked, image_size
from shards.manifest import DepthRange
from shards.record import LeftOut, Record, Sample, Tally
from shards.schema import BY_NAME, SHARED_TAR
from shards.sources import IMAGES
from shards.tar import Member
from shards.work import Work

__all__ = ["indexing"]

Found = dict[str, Member]
"""the members of one sample by component"""


def indexing(folder: Path, depth_metres: tuple[float, float] | None, config: BuildConfig) -> Work:
    """Plans the indexing of all tars in `folder`. Raises InputError if the first one holds no complete sample."""
    tars = sorted(path for path in folder.glob("*.tar") if path.name != SHARED_TAR)
    if not tars:
        raise InputError(f"{folder}: no .tar in it.")
    formats, size = _look(tars[0])
    units = [IndexUnit(tar.name, formats, size) for tar in tars]
    depth = DepthRange.metres(*depth_metres) if depth_metres else DepthRange()
    about = [(tar.name, tar.stat().st_size, tar.stat().st_mtime_ns) for tar in tars]
    fingerprint = hashlib.sha256(repr((about, depth, replace(config, workers=1))).encode()).hexdigest()
    return Work(units, formats, size, depth, [], fingerprint, {})


def _look(tar: Path) -> tuple[dict[str, str], Size]:
    """Each component's extension, and the most common image size, from the first complete samples."""
    first = list(islice((found for _, found in _samples(tar) if found.keys() == BY_NAME.keys()), 100))
    if not first:
        have = sorted({name for _, found in _samples(tar) for name in found})
        raise InputError(
            f"{tar}: no sample has all of {', '.join(BY_NAME)}; the components in it are {', '.join(have)}."
        )
    with tar.open("rb") as file:
        sizes = Counter(image_size(_read(file, found["fg_bg"])) for found in first)
    size = sizes.most_common(1)[0][0]
    if size is None:
        raise InputError(f"{tar}: its fg_bg components are no images.")
    return {name: first[0][name][0].rpartition(".")[2] for name in BY_NAME}, size


def _samples(tar: Path) -> Iterator[tuple[str, Found]]:
    """Keys, with each component's member; a sample's members need not lie side by side."""
    found: dict[str, Found] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                key, _, component = name.partition(".")
                if member.isfile() and key:
                    place = (component, member.offset_data, member.size)
                    found.setdefault(f"{folder}/{key}".lstrip("/"), {})[component.partition(".")[0]] = place
    except tarfile.TarError as error:
        raise InputError(f"{tar}: not a whole tar ({error}). Copy it again.") from error
    yield from found.items()


def _read(file: BinaryIO, member: Member) -> bytes:
    _, offset, size = member
    file.seek(offset)
    return file.read(size)


@dataclass(frozen=True)
class IndexUnit:
    """One tar that is there already."""

    name: str
    formats: dict[str, str]
    image_size: Size

    @property
    def size(self) -> int:
        return 1

    def run(self, folder: Path) -> Record:
        tar = folder / self.name
        tally, left_out = Tally(self.formats), []
        with tar.open("rb") as file:
            for key, found in _samples(tar):
                try:
                    tally.add(self._checked(file, key, found), [found[name] for name in self.formats])
                except BadImage as bad:
                    left_out.append(LeftOut(bad.kind, key, "", self.name, bad.detail))
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return tally.record(tar, sha256, tar.stat().st_size, left_out)

    def _checked(self, file: BinaryIO, key: str, found: Found) -> Sample:
        if any(character.isspace() for character in key):
            raise BadImage("bad-name", "DALI's index cannot hold a name with a space in it")
        missing = [name for name in self.formats if name not in found]
        if missing:
            raise BadImage("missing", f"lacks {', '.join(missing)}; it has {', '.join(found)}")
        images = {name: _read(file, found[name]) for name in self.formats}
        return Sample(key, images, {name: self._histogram(name, found[name][0], data) for name, data in images.items()})

    def _histogram(self, name: str, named: str, data: bytes) -> NDArray[np.int64]:
        extension = self.formats[name]
        if named != f"{name}.{extension}":
            raise BadImage("wrong-format", f"{named} where {name}.{extension} is expected")
        component = replace(BY_NAME[name], formats=(IMAGES.get(f".{extension}", extension),))
        try:
            return checked(data, component, self.image_size).histogram
        except BadImage as bad:
            raise BadImage(bad.kind, f"{name}: {bad.detail}") from None
