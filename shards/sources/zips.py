"""A zip's directory read from front to back, file by file, and the bytes of files, in zips and outside of them.

Python's zipfile makes an object of 500 bytes for each member before it names the first, and takes 3.5 times as long at
1.2 million members (bench/LOG.md). Here nothing is kept; the order and the names are zipfile's.
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

from shards.errors import InputError
from shards.format.storage import LARGEST, LFS_POINTER, read_file

_END = struct.Struct("<4s4H2LH")
"""End of the directory: ..., number of members, bytes of the directory, where it begins, bytes of the comment."""
_END64_AT = struct.Struct("<4sLQL")
"""Where the larger form of it lies, for zips over 4 GB or 65,535 members."""
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s4x2H4x3L3H8xL")
"""Directory entry: signature, .., flags, method, .., CRC, packed, size, lengths of path, extra and comment, .., header;
the path, the extra fields and the comment follow."""
_LOCAL = struct.Struct("<4s22x2H")
"""Before a member's bytes: ..., lengths of the name and of the extra fields that follow."""
_FULL = 0xFFFFFFFF
"""Stands for a number that needs 8 bytes and is in the extra fields."""
_ENCRYPTED, _UTF8 = 1, 0x800
"""Flags: the member cannot be read without a password; the name is in UTF-8, else it is in code page 437."""
_LOCKED = -1
"""Stands for the method of members that are encrypted."""


class Entry(NamedTuple):
    """A file, or one in a zip. `path` is what a person is told; the fields from `zip` on are for `Reader`.

    Of a file in a zip, `folder` begins with the path of the zip. header: where its header lies. packed: its bytes as
    they are packed. crc: of its data.
    """

    folder: str
    name: str
    zip: str = ""
    method: int = 0
    header: int = 0
    packed: int = 0
    crc: int = 0

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.name}"


def list_zip(path: Path) -> Iterator[Entry]:
    """List the files in a zip, in the order of its directory. Raises InputError if that is not whole."""
    if not path.is_file():
        raise InputError(f"{path}: no zip but a pipe, a device or a link that leads nowhere. Remove it.")
    problem = "its directory is missing"
    try:
        with path.open("rb") as file:
            if file.peek(len(LFS_POINTER)).startswith(LFS_POINTER):
                raise InputError(f"{path}: Git LFS has the zip, and this points to it: git lfs pull")
            count, begin, shift = _directory(file)
            file.seek(begin)
            problem = "its directory is damaged"
            for _ in range(count):
                entry = _next(str(path), file, shift)
                if entry.name:  # else it is a folder
                    yield entry
    except (ValueError, struct.error) as error:
        raise InputError(f"{path}: not a whole zip ({problem}). Copy it again.") from error


def _directory(file: BinaryIO) -> tuple[int, int, int]:
    """Find the directory: its members, where it begins, and how many bytes before the zip its offsets leave out.

    Raises ValueError or struct.error if there is none.
    """
    length = file.seek(0, os.SEEK_END)
    tail_at = file.seek(max(0, length - _END.size - _END64_AT.size - _END64.size - 0xFFFF))
    tail = file.read()
    at = tail.rindex(b"PK\x05\x06")
    *_, count, size, begin, _ = _END.unpack_from(tail, at)
    larger = at - _END64_AT.size - _END64.size
    if larger >= 0 and tail.startswith(b"PK\x06\x07", at - _END64_AT.size):
        at = tail.index(b"PK\x06\x06", larger, larger + 4)
        *_, count, size, begin = _END64.unpack_from(tail, at)
    shift = tail_at + at - size - begin
    if shift < 0:
        raise ValueError("the directory is larger than what lies before its end")
    return count, begin + shift, shift


def _next(zip: str, file: BinaryIO, shift: int) -> Entry:
    """Read an entry of the directory. Raises ValueError or struct.error if there is none."""
    signature, flags, method, crc, packed, size, path, extra, comment, header = _ENTRY.unpack(file.read(_ENTRY.size))
    if signature != b"PK\x01\x02":
        raise ValueError("no entry")
    rest = file.read(path + extra + comment)
    if _FULL in (packed, size, header):
        packed, header = _in_full(rest[path : path + extra], size, packed, header)
    inside = rest[:path].decode("utf-8" if flags & _UTF8 else "cp437").partition("\0")[0]
    folder, _, name = f"{zip}/{inside}".rpartition("/")
    return Entry(folder, name, zip, _LOCKED if flags & _ENCRYPTED else method, header + shift, packed, crc)


def _in_full(extra: bytes, size: int, packed: int, header: int) -> tuple[int, int]:
    """Read `packed` and `header` from the extra field 1, which has those of the three that are full, in their order."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1:
            numbers = iter(struct.unpack_from(f"<{length // 8}Q", extra, 4))
            _, packed, header = (next(numbers, _FULL) if one == _FULL else one for one in (size, packed, header))
        extra = extra[4 + length :]
    return packed, header


class Reader(ExitStack):
    """Reads files, and those in zips at the places that were listed; keeps the zips open until it is left."""

    def __init__(self) -> None:
        super().__init__()
        self._zips: dict[str, BinaryIO] = {}

    def read(self, entry: Entry) -> bytes:
        """Read a file. Raises OSError if its bytes cannot be had, or are not what the zip's directory says."""
        if entry.zip:
            return self._in_zip(entry)
        return read_file(entry.path)

    def _in_zip(self, entry: Entry) -> bytes:
        if entry.zip not in self._zips:
            self._zips[entry.zip] = self.enter_context(Path(entry.zip).open("rb"))  # noqa: SIM115 - it does
        file = self._zips[entry.zip]
        if entry.method == _LOCKED:
            raise OSError(f"{entry.path}: encrypted; unpack the zip with its password")
        if entry.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise OSError(f"{entry.path}: packed by method {entry.method}; stored and deflated can be read")
        if entry.packed > LARGEST:
            raise OSError(f"{entry.path}: {entry.packed:,} bytes, more than any image has")
        try:
            file.seek(entry.header)
            local = file.read(_LOCAL.size)
        except OSError as error:
            raise OSError(f"{entry.path}: {error.strerror}") from error
        if not local.startswith(b"PK\x03\x04") or len(local) < _LOCAL.size:
            raise OSError(f"{entry.path}: no member at the place where the zip's directory has it")
        _, name, extra = _LOCAL.unpack(local)
        data = file.read(name + extra + entry.packed)[name + extra :]
        if entry.method == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, LARGEST + 1)
            except zlib.error as error:
                raise OSError(f"{entry.path}: {error}") from error
        if len(data) > LARGEST:
            raise OSError(f"{entry.path}: more than {LARGEST:,} bytes once unpacked, more than any image has")
        if zlib.crc32(data) != entry.crc:
            raise OSError(f"{entry.path}: its checksum is not the one that the zip's directory has")
        return data
