"""One shard: a USTAR tar that any WebDataset reader opens, with DALI's text index beside it."""

import hashlib
import re
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Self

from shards.atomic import write_bytes

__all__ = ["BLOCK", "Member", "ShardWriter", "write_index"]

BLOCK = tarfile.BLOCKSIZE
"""bytes; every member's data begins at a multiple of it, so offsets are kept in blocks"""

Member = tuple[str, int, int]
"""component with extension ("mask.jpg"), offset of its data [bytes], size [bytes]"""


_BLANK = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
_OWNER, _TIME, _REST = _BLANK[100:124], _BLANK[136:148], _BLANK[156:]
_SUM = sum(_OWNER + _TIME + _REST) + 8 * ord(" ")
"""of the bytes of a header that are always the same, its own checksum counted as spaces"""


def _header(name: bytes, size: int) -> bytes:
    """The header that tarfile writes, in a tenth of its 20 us."""
    if len(name) > 100 or size >= 8**11:
        raise ValueError(f"{name!r} of {size} bytes: USTAR holds names of 100 bytes and files of 8 GiB")
    told = b"%b%011o\0" % (name.ljust(100, b"\0"), size)
    return b"%b%b%b%b%06o\0 %b" % (told[:100], _OWNER, told[100:], _TIME, _SUM + sum(told), _REST)


class ShardWriter:
    """Writes samples to a tar and notes where every image lies while doing so.

    Times, owners and modes are constant, so the same samples give the same bytes. PAX headers are never written: they
    shift offsets that readers compute from the header alone.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=1 << 20)
        self._digest = hashlib.sha256()
        self._offset = 0

    def write(self, key: str, images: dict[str, bytes]) -> list[Member]:
        """Appends one sample, `images` by component with extension; returns where each lies, in the same order."""
        return [self._write_member(key, name, data) for name, data in images.items()]

    def _write_member(self, key: str, name: str, data: bytes) -> Member:
        self._append(_header(f"{key}.{name}".encode(), len(data)) + data + bytes(-len(data) % BLOCK))
        return name, self._offset - len(data) - -len(data) % BLOCK, len(data)

    def _append(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._offset += len(data)

    def close(self) -> tuple[str, int]:
        """Ends the tar as the format asks; returns its sha256 and its size in bytes."""
        self._append(bytes(-(self._offset + 2 * BLOCK) % tarfile.RECORDSIZE + 2 * BLOCK))
        self._file.close()
        return self._digest.hexdigest(), self._offset

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _index_lines(samples: list[tuple[str, list[Member]]]) -> str:
    """DALI's index, version 1.2: a line a sample, `component offset size name` for each of its images.

    Its fields are separated by spaces, so a space in a name becomes _; DALI finds the image by the offset.
    """
    lines = [f"v1.2 {len(samples)}"]
    for key, members in samples:
        named = re.sub(r"\s", "_", key)
        lines.append(" ".join(f"{name} {offset} {size} {named}.{name}" for name, offset, size in members))
    return "\n".join(lines) + "\n"


def write_index(tar: Path, samples: list[tuple[str, list[Member]]]) -> str:
    """Writes the index of `tar` beside it, where DALI's wds2idx would. Returns the index's sha256."""
    text = _index_lines(samples).encode()
    write_bytes(tar.with_suffix(".idx"), text)
    return hashlib.sha256(text).hexdigest()
