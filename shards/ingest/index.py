"""What lies in a tar that somebody else made: its samples' images, and by name and reason what cannot be used."""

import hashlib
import re
import shutil
import tarfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.build.build import FINGERPRINT
from shards.build.plan import Plan, Work
from shards.build.shard import LeftOut, Record, Sample, Tally
from shards.errors import InputError
from shards.format.depth import ExistingConfig
from shards.format.images import BadImage, Size, checked, image_bits, image_size
from shards.format.manifest import Manifest
from shards.format.schema import BY_NAME, SHARED_TAR, WORK
from shards.format.splits import SplitConfig
from shards.format.tar import BLOCK, Member
from shards.ingest.listing import IMAGES

Found = dict[str, Member | LeftOut]
"""one sample by component: where its image lies, or why that member cannot be used"""

Place = tuple[int, int]
"""offset of a member's data [bytes], size [bytes]"""

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_PADDING = 1 << 20
"""bytes read at a time where nothing but zeros is expected"""


class Contents(NamedTuple):
    """The samples of a tar by key, in the order of their first members, and what is no part of any."""

    samples: dict[str, Found]
    left_out: list[LeftOut]


def list_tar(tar: Path) -> Contents:
    """Reads the headers of a USTAR, GNU, PAX or v7 tar.

    A sample's members need not lie side by side: our loader and DALI's reader go by the index. The webdataset library
    goes by the tar, and sees parts of such samples. Other members of a sample (KEY.json) are passed over; those of no
    sample at all are left out as litter.
    Raises InputError if the tar is compressed, cut short, damaged, or several joined into one.
    """
    with tar.open("rb") as file:
        _refuse_compressed(tar, file.read(8))
        file.seek(0)
        listing = _Listing(tar.name)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    listing.add(member)
                end = archive.offset
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise InputError(f"{tar}: not a whole tar ({error}). Copy it again.") from error
        _check_end(tar, file, end)
    return listing.contents()


def _refuse_compressed(tar: Path, first: bytes) -> None:
    for magic, name in _COMPRESSED.items():
        if first.startswith(magic):
            raise InputError(
                f"{tar}: compressed by {name}. Images are read in place, so unpack it to a plain tar first."
            )


def _check_end(tar: Path, file: BinaryIO, end: int) -> None:
    """A tar ends with empty blocks and nothing after them; Python's reader stops at anything else without a word."""
    file.seek(end)
    last = file.read(BLOCK)
    if len(last) < BLOCK:
        raise InputError(
            f"{tar}: not a whole tar (it ends at byte {end} without the empty block of an end). Copy it again."
        )
    if any(last):
        raise InputError(f"{tar}: not a whole tar (no header can be read at byte {end}). Copy it again.")
    while padding := file.read(_PADDING):
        if any(padding):
            raise InputError(
                f"{tar}: goes on after its end at byte {end}; several tars in one? "
                "`tar --ignore-zeros -xf` unpacks all of them; make it again from that."
            )


class _Listing:
    """What the members that have passed by add up to."""

    def __init__(self, tar: str) -> None:
        self._tar = tar
        self._samples: dict[str, Found] = {}
        self._places: dict[PurePosixPath, Place] = {}
        self._others: list[tuple[str, str]] = []
        self._replaced: list[LeftOut] = []

    def add(self, member: tarfile.TarInfo) -> None:
        if member.isdir():
            return
        path = PurePosixPath(member.name)
        if member.isreg() and not member.issparse():
            self._places[path] = member.offset_data, member.size
        stem, _, named = path.name.partition(".")
        key = "/".join([*(part for part in path.parts[:-1] if part != "/"), stem])
        component = named.partition(".")[0]
        if not stem or component not in BY_NAME:
            self._others.append((key, member.name))
            return
        try:
            self._put(key, component, (named, *self._place(member, path)), member.name)
        except BadImage as bad:
            left_out = LeftOut(bad.kind, key, component, f"{self._tar}/{member.name}", bad.detail)
            self._put(key, component, left_out, member.name)

    def _put(self, key: str, component: str, found: Member | LeftOut, name: str) -> None:
        """The last of several wins, as it does when the tar is unpacked."""
        sample = self._samples.setdefault(key, {})
        before = sample.get(component)
        if isinstance(before, LeftOut):
            self._replaced.append(before)
        elif before:
            source = f"{self._tar}/{key}.{before[0]}"
            self._replaced.append(LeftOut("duplicate", key, component, source, f"{name} comes after it and is used"))
        sample[component] = found

    def _place(self, member: tarfile.TarInfo, path: PurePosixPath) -> Place:
        if ".." in path.parts:
            raise BadImage("bad-name", "the name leads out of the folder that it would be unpacked into")
        if not _is_text(member.name):
            raise BadImage("bad-name", "the name is not UTF-8")
        if member.issym():
            raise BadImage("link", f"a symbolic link to {member.linkname}; `tar --dereference` stores the image itself")
        found = self._places.get(PurePosixPath(member.linkname) if member.islnk() else path)
        if found:
            return found
        if member.islnk():
            raise BadImage("link", f"a hard link to {member.linkname}, which is not in the tar before it")
        if member.issparse():
            raise BadImage("sparse", "stored without its empty parts; make the tar without --sparse")
        raise BadImage("not-a-file", "a device or a pipe")

    def contents(self) -> Contents:
        litter = [
            LeftOut("litter", "", "", f"{self._tar}/{name}", "no component of a sample by its name")
            for key, name in self._others
            if key not in self._samples
        ]
        return Contents(self._samples, self._replaced + litter)


def _is_text(name: str) -> bool:
    """Whether the bytes of a member's name were UTF-8: those that were not became surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


_PACKED = re.compile(r"\.(tgz|tar\.(gz|bz2|xz|zst))$")

_MARK = "index "
"""what the fingerprint of an index begins with"""


def plan_index(folder: Path, existing: ExistingConfig, split: SplitConfig) -> Work:
    """Plans the indexing of all tars in `folder`.

    Raises InputError if none of them holds a complete sample, or if they have changed since they were indexed.
    """
    tars = sorted(path for path in folder.glob("[!.]*.tar") if path.name != SHARED_TAR)
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
