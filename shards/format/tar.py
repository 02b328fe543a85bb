"""One shard: a USTAR tar that any WebDataset reader opens, with DALI's text index beside it."""

import hashlib
import os
import re
import struct
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from shards.format.storage import write_bytes

BLOCK = tarfile.BLOCKSIZE
"""Bytes; every member's data begins at a multiple of it, so offsets are kept in blocks."""

TarMember = tuple[str, int, int]
"""Component with extension ("mask.jpg"), offset of its data [bytes], size [bytes]."""

_SPACE = re.compile(r"\s")
_AT_ONCE = 1 << 20
"""Bytes that are written at a time."""


_BLANK = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
_OWNER, _TIME, _REST = _BLANK[100:124], _BLANK[136:148], _BLANK[156:]
_HEADER = struct.Struct("100s24s11sx12s6s2s356s")
"""Name, owner, size, time, checksum, what ends it, the rest."""
_SUM = sum(_OWNER + _TIME + _REST) + 8 * ord(" ")
"""Of the bytes of a header that are always the same, its own checksum counted as spaces."""


def _header(name: bytes, size: int) -> bytes:
    """Return the header that tarfile writes, in a fortieth of its time."""
    if len(name) > 100 or size >= 8**11:
        raise ValueError(f"{name!r} of {size} bytes: USTAR holds names of 100 bytes and files of 8 GiB")
    octal = b"%011o" % size
    checksum = b"%06o" % (_SUM + sum(name) + sum(octal))
    return _HEADER.pack(name, _OWNER, octal, _TIME, checksum, b"\0 ", _REST)


class ShardWriter:
    """Writes samples to a tar and notes where every image lies while doing so.

    Times, owners and modes are constant, so the same samples give the same bytes. PAX headers are never written: they
    shift offsets that readers compute from the header alone.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._flusher = ThreadPoolExecutor(1)
        self._flushed = self._flusher.submit(lambda: None)
        self._digest = hashlib.sha256()
        self._parts: list[bytes] = []
        self._written = self._offset = 0

    def write(self, key: str, images: dict[str, bytes]) -> list[TarMember]:
        """Append one sample, `images` by component with extension; return where each lies, in the same order."""
        members = []
        for name, data in images.items():
            size, begin = len(data), self._offset + BLOCK
            self._parts += (_header(f"{key}.{name}".encode(), size), data, bytes(-size % BLOCK))
            self._offset = begin + size + -size % BLOCK
            members.append((name, begin, size))
        if self._offset - self._written >= _AT_ONCE:
            self._hand_over()
        return members

    def _hand_over(self) -> None:
        """Give what was appended to the file and the digest, and to the disk in a thread: less to wait for in the end.

        Raises OSError if what was handed over before could not be brought to the disk.
        """
        data = b"".join(self._parts)
        self._file.write(data)
        self._file.flush()
        self._digest.update(data)
        if self._flushed.done():
            self._flushed.result()
            self._flushed = self._flusher.submit(getattr(os, "fdatasync", os.fsync), self._file.fileno())
        self._parts.clear()
        self._written += len(data)

    def close(self) -> tuple[str, int]:
        """End the tar as the format asks; return its sha256 and its size in bytes."""
        end = -(self._offset + 2 * BLOCK) % tarfile.RECORDSIZE + 2 * BLOCK
        self._parts.append(bytes(end))
        self._offset += end
        self._hand_over()
        self._flushed.result()
        self._file.close()
        return self._digest.hexdigest(), self._offset

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flusher.shutdown()
        self._file.close()


def write_index(tar: Path, samples: Sequence[tuple[str, list[TarMember]]]) -> str:
    """Write the index of `tar` beside it, where DALI's wds2idx would, and return the index's sha256.

    It is version 1.2: a line a sample, `component offset size name` for each of its images. Its fields are separated by
    spaces, so a space in a name becomes _; DALI finds the image by the offset.
    """
    lines = [f"v1.2 {len(samples)}"]
    for key, members in samples:
        named = _SPACE.sub("_", key)
        lines.append(" ".join([f"{name} {offset} {size} {named}.{name}" for name, offset, size in members]))
    text = ("\n".join(lines) + "\n").encode()
    write_bytes(tar.with_suffix(".idx"), text)
    return hashlib.sha256(text).hexdigest()
