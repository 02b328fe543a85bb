"""Shards that somebody else made: the same index and manifest beside them, their tars left as they are."""

import hashlib
import re
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from shards.depth import ExistingConfig
from shards.errors import InputError
from shards.images import BadImage, Size, checked, image_bits, image_size
from shards.manifest import Manifest
from shards.schema import BY_NAME, SHARED_TAR, WORK
from shards.sources.files import IMAGES
from shards.sources.members import Found, list_tar
from shards.splits import SplitConfig
from shards.tar import Member
from shards.work.build import FINGERPRINT
from shards.work.plan import Plan, Work
from shards.work.record import LeftOut, Record, Sample, Tally

__all__ = ["indexing"]

_PACKED = re.compile(r"\.(tgz|tar\.(gz|bz2|xz|zst))$")

_MARK = "index "
"""what the fingerprint of an index begins with"""


def indexing(folder: Path, existing: ExistingConfig, split: SplitConfig) -> Work:
    """Plans the indexing of all tars in `folder`.

    Raises InputError if none of them holds a complete sample, or if they have changed since they were indexed.
    """
    tars = sorted(path for path in folder.glob("*.tar") if path.name != SHARED_TAR)
    packed = sorted(path.name for path in folder.glob("*") if _PACKED.search(path.name))
    if not tars:
        raise InputError(f"{folder}: no .tar in it." + (f" Unpack {packed[0]} to a plain tar first." if packed else ""))
    formats, size, bits = _look(tars)
    units = [IndexUnit(tar.name, formats, size, bits) for tar in tars]
    about = [(tar.name, tar.stat().st_size, tar.stat().st_mtime_ns) for tar in tars]
    digest = hashlib.sha256(repr((about, existing.depth_range, split)).encode()).hexdigest()
    _forget_others(folder, _MARK + digest)
    left_out = [
        LeftOut("compressed", "", "", name, "images are read in place: unpack it to a plain tar") for name in packed
    ]
    plan = Plan(
        shards=tuple(unit.name for unit in units),
        components=formats,
        image_size=size,
        depth=existing.depth_range,
        split=split,
        left_out=left_out,
        fingerprint=_MARK + digest,
        sources={},
        depth_bits=bits,
    )
    return Work(plan, units)


def _forget_others(folder: Path, fingerprint: str) -> None:
    """Tars that were mended are indexed anew: the beginning of another index goes, a finished one is the user's."""
    begun, finished = folder / FINGERPRINT, folder / "manifest.json"
    if begun.exists() and begun.read_text().startswith(_MARK) and begun.read_text() != fingerprint:
        shutil.rmtree(folder / WORK)
    made_from = Manifest.read(folder).made_from if finished.exists() else ""
    if made_from.startswith(_MARK) and made_from != fingerprint:
        raise InputError(
            f"{folder}: its tars, or the options, are not those of its index. Delete {finished} to index it again."
        )


def _look(tars: list[Path]) -> tuple[dict[str, str], Size, int]:
    """Each component's format, the most common image size, and the bits of depth: of the first complete samples."""
    named: set[str] = set()
    for tar in tars:
        samples = list_tar(tar).samples.values()
        named |= {f"KEY.{place[0]}" for found in samples for place in found.values() if not isinstance(place, LeftOut)}
        complete = [members for members in map(_images, samples) if members.keys() == BY_NAME.keys()][:100]
        if complete:
            with tar.open("rb") as file:
                sizes = Counter(image_size(_read(file, members["fg_bg"])) for members in complete)
                bits = Counter(image_bits(_read(file, members["depth"])) for members in complete)
            size = sizes.most_common(1)[0][0]
            if size is None:
                raise InputError(f"{tar}: its fg_bg components are no images.")
            return {name: _format(complete[0][name]) for name in BY_NAME}, size, bits.most_common(1)[0][0]
    raise InputError(
        f"{tars[0]}{f' and {len(tars) - 1} more' if tars[1:] else ''}: no sample has all of {', '.join(BY_NAME)} as "
        f"images; its members are named {', '.join(sorted(named)[:8]) or 'otherwise (not KEY.fg_bg.jpg)'}."
    )


def _images(found: Found) -> dict[str, Member]:
    return {name: place for name, place in found.items() if not isinstance(place, LeftOut) and _format(place)}


def _format(member: Member) -> str:
    """ "jpg" or "png" by the member's name, however that is spelled; "" if it is neither."""
    return IMAGES.get("." + member[0].partition(".")[2].lower(), "")


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
    depth_bits: int

    @property
    def size(self) -> int:
        return 1

    def run(self, folder: Path) -> Record:
        tar = folder / self.name
        samples, left_out = list_tar(tar)
        tally = Tally(self.formats)
        with tar.open("rb") as file:
            for key, found in samples.items():
                unusable = [one for one in found.values() if isinstance(one, LeftOut)]
                members = {name: member for name, member in found.items() if not isinstance(member, LeftOut)}
                left_out += unusable
                if not unusable:
                    self._add(tally, file, key, members, left_out)
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return tally.record(tar, sha256, tar.stat().st_size, left_out)

    def _add(self, tally: Tally, file: BinaryIO, key: str, members: dict[str, Member], left_out: list[LeftOut]) -> None:
        missing = [name for name in self.formats if name not in members]
        if missing:
            detail = f"lacks {', '.join(missing)}; it has {', '.join(members)}"
            left_out.append(LeftOut("missing", key, "", self.name, detail))
            return
        images, histograms = {}, {}
        for name in self.formats:
            named, *_ = members[name]
            images[name] = _read(file, members[name])
            try:
                histograms[name] = self._checked(name, members[name], images[name])
            except BadImage as bad:
                left_out.append(LeftOut(bad.kind, key, name, f"{self.name}/{key}.{named}", bad.detail))
        if histograms.keys() == images.keys():
            tally.add(Sample(key, images, histograms), [members[name] for name in self.formats])

    def _checked(self, name: str, member: Member, data: bytes) -> NDArray[np.int64]:
        if _format(member) != self.formats[name]:
            raise BadImage("wrong-format", f"{member[0]} where {name}.{self.formats[name]} is expected")
        bits = self.depth_bits if name == "depth" else 8
        component = replace(BY_NAME[name], formats=(self.formats[name],), bits=bits)
        return checked(data, component, self.image_size).histogram
