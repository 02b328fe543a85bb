"""A zip's directory read from front to back, member by member, and a member's bytes read in place.

Python's zipfile makes an object of 500 bytes for each member before it names the first, and takes 3.5 times as long at
1.2 million members (bench/LOG.md). Here nothing is kept; the order and the names are zipfile's.
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from shards.errors import InputError

_END = struct.Struct("<4s4H2LH")
"""End of the directory: ..., number of members, bytes of the directory, where it begins, bytes of the comment."""
_END64_AT = struct.Struct("<4sLQL")
"""Where the larger form of it lies, for zips over 4 GB or 65,535 members."""
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
"""Directory entry: signature, versions, flags, method, time, CRC, packed, size, lengths of name, extra and comment, ..,
header; the name, the extra fields and the comment follow."""
_LOCAL = struct.Struct("<4s22x2H")
"""Before a member's bytes: ..., lengths of the name and of the extra fields that follow."""
_FULL = 0xFFFFFFFF
"""Stands for a number that needs 8 bytes and is in the extra fields."""
_UTF8 = 0x800
"""Flag: the name is in UTF-8; else it is in code page 437."""


class ZipMember(NamedTuple):
    """A file in a zip: its path in there, where its header lies, its bytes as packed, how, and the CRC of its data."""

    path: str
    header: int
    packed: int
    method: int
    crc: int


def zip_members(path: Path) -> Iterator[ZipMember]:
    """List the files in a zip, in the order of its directory. Raises InputError if that is not whole."""
    with path.open("rb") as file:
        directory = _directory(file)
        if directory is None:
            raise _broken(path, "its directory is missing")
        count, begin, shift = directory
        file.seek(begin)
        for _ in range(count):
            member = _next(file, shift)
            if member is None:
                raise _broken(path, "its directory is damaged")
            if not member.path.endswith("/"):
                yield member


def _broken(path: Path, why: str) -> InputError:
    return InputError(f"{path}: not a whole zip ({why}). Copy it again.")


def _directory(file: BinaryIO) -> tuple[int, int, int] | None:
    """Find the directory: its members, where it begins, and how many bytes before the zip its offsets leave out."""
    length = file.seek(0, os.SEEK_END)
    tail_at = max(0, length - _END.size - _END64_AT.size - _END64.size - 0xFFFF)
    file.seek(tail_at)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        return None
    *_, count, size, begin, _ = _END.unpack_from(tail, at)
    end = tail_at + at
    larger = at - _END64_AT.size - _END64.size
    if larger >= 0 and tail[at - _END64_AT.size :].startswith(b"PK\x06\x07"):
        signature, *_, count, size, begin = _END64.unpack_from(tail, larger)
        end = tail_at + larger
        if signature != b"PK\x06\x06":
            return None
    shift = end - size - begin
    return (count, begin + shift, shift) if shift >= 0 else None


def _next(file: BinaryIO, shift: int) -> ZipMember | None:
    fixed = file.read(_ENTRY.size)
    if len(fixed) < _ENTRY.size or not fixed.startswith(b"PK\x01\x02"):
        return None
    _, _, _, flags, method, _, _, crc, packed, size, name, extra, comment, _, _, _, header = _ENTRY.unpack(fixed)
    rest = file.read(name + extra + comment)
    if _FULL in (packed, size, header):
        packed, header = _in_full(rest[name : name + extra], size, packed, header)
    try:
        path = rest[:name].decode("utf-8" if flags & _UTF8 else "cp437")
    except UnicodeDecodeError:
        return None
    return ZipMember(path.partition("\0")[0], header + shift, packed, method, crc)


def _in_full(extra: bytes, size: int, packed: int, header: int) -> tuple[int, int]:
    """Read `packed` and `header` from the extra field 1, which has those of the three that are full, in their order."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1:
            numbers = iter(struct.unpack_from(f"<{length // 8}Q", extra, 4))
            _, packed, header = (next(numbers, _FULL) if one == _FULL else one for one in (size, packed, header))
        extra = extra[4 + length :]
    return packed, header


class Zips:
    """Zips held open, to read members at the places that `zip_members` told: no directory is read again."""

    def __init__(self) -> None:
        self._files: dict[str, BinaryIO] = {}

    def read(self, path: str, member: ZipMember) -> bytes:
        """Read the member's bytes. Raises OSError if they cannot be had, or are not what the zip's directory says."""
        if path not in self._files:
            self._files[path] = Path(path).open("rb")  # noqa: SIM115 - closed by __exit__
        file = self._files[path]
        file.seek(member.header)
        local = file.read(_LOCAL.size)
        if not local.startswith(b"PK\x03\x04") or len(local) < _LOCAL.size:
            raise OSError(f"{member.path}: no member at the place where the zip's directory has it")
        _, name, extra = _LOCAL.unpack(local)
        data = _unpacked(file.read(name + extra + member.packed)[name + extra :], member)
        if zlib.crc32(data) != member.crc:
            raise OSError(f"{member.path}: its checksum is not the one that the zip's directory has")
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


def _unpacked(data: bytes, member: ZipMember) -> bytes:
    if member.method == zipfile.ZIP_STORED:
        return data
    if member.method != zipfile.ZIP_DEFLATED:
        raise OSError(f"{member.path}: packed by method {member.method}; stored and deflated can be read")
    try:
        return zlib.decompress(data, wbits=-zlib.MAX_WBITS)
    except zlib.error as error:
        raise OSError(f"{member.path}: {error}") from error
