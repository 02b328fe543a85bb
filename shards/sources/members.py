"""What lies in a tar that somebody else made: its samples' images, and by name and reason what cannot be used."""

import tarfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from shards.errors import InputError
from shards.images import BadImage
from shards.schema import BY_NAME
from shards.tar import BLOCK, Member
from shards.work.record import LeftOut

__all__ = ["Contents", "Found", "list_tar"]

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
