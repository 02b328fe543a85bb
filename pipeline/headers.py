"""What the headers of encoded images say, before a decoder sees them.

One header that cannot be parsed may end the process: DALI 2.4 throws then, while its threads still decode the others.
All headers of a batch are read at once, because what is done an image in Python, all threads wait for.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.portable import Components
from pipeline.reader import Encoded
from shards.format.images import Size

_PARTS = 1000
"""JPEG segments before the pixels, or PNG chunks, at most; the usual encoders write ten"""
_FRAMES = 0xC0, 0xC1, 0xC2  # baseline, extended, progressive
_SCAN, _FILL = 0xDA, 0xFF
_PNG = np.frombuffer(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", np.uint8)
_BITS, _COLOURS = (1, 2, 4, 8, 16), (0, 2, 3, 6)  # DALI 2.4 knows no grey with alpha, which is 4
_END = np.frombuffer(b"IEND", np.uint8)


def check_headers(encoded: Encoded, components: Components, size: Size) -> None:
    """Raise ValueError unless all headers are whole, of their component's format and of this height and width."""
    flat, offsets = encoded.rows.reshape(-1), np.arange(len(encoded.rows)) * encoded.rows.shape[1]
    for extension, right in (("jpg", _are_jpegs), ("png", _are_pngs)):
        names = [name for name in encoded.begin if components[name].extension == extension]
        if names:
            begin = np.concatenate([encoded.begin[name] + offsets for name in names])
            end = begin + np.concatenate([encoded.size[name] for name in names])
            if not right(flat, begin, end, size):
                raise ValueError(f"not all of {', '.join(names)} are {extension} of {size[1]}x{size[0]} pixels")


def _are_jpegs(flat: NDArray[np.uint8], begin: NDArray[np.int64], end: NDArray[np.int64], size: Size) -> bool:
    """Follow the segments of all images, in step, to where their pixels begin."""
    if (end < begin + 4).any() or (flat[begin[:, None] + np.arange(2)] != (0xFF, 0xD8)).any():
        return False
    at, frame = begin + 2, np.zeros_like(begin)
    for _ in range(_PARTS):
        if (at + 4 > end).any():
            return False
        mark, marker, high, low = flat[at + np.arange(4)[:, None]]
        after = at + 2 + (high.astype(np.int64) << 8 | low)
        after = np.where(marker == _FILL, at + 1, after)
        if (mark != 0xFF).any() or (after > end).any():
            return False
        frame = np.where(np.isin(marker, _FRAMES), at, frame)
        scan = marker == _SCAN
        if scan.all():
            return bool(frame.all() and (_numbers(flat, frame + 5, 2, 2) == size).all())
        at = np.where(scan, at, after)
    return False


def _are_pngs(flat: NDArray[np.uint8], begin: NDArray[np.int64], end: NDArray[np.int64], size: Size) -> bool:
    """Follow the chunks of all images, in step, to their ends."""
    if (end < begin + 33).any() or (flat[begin[:, None] + np.arange(len(_PNG))] != _PNG).any():
        return False
    if (_numbers(flat, begin + 16, 2, 4) != size[::-1]).any():
        return False
    if not (np.isin(flat[begin + 24], _BITS) & np.isin(flat[begin + 25], _COLOURS)).all():
        return False
    at = begin + 33
    for _ in range(_PARTS):
        if (at + 12 > end).any():
            return False
        last = (flat[at[:, None] + np.arange(4, 8)] == _END).all(1)
        if last.all():
            return True
        at = np.where(last, at, at + 12 + _numbers(flat, at, 1, 4)[:, 0])
    return False


def _numbers(flat: NDArray[np.uint8], at: NDArray[np.int64], count: int, width: int) -> NDArray[np.int64]:
    """Return `count` numbers of `width` bytes, the highest first, that begin at each of `at` (N,), int64 (N, count)."""
    numbers: NDArray[np.int64] = flat[at[:, None] + np.arange(count * width)].view(f">u{width}").astype(np.int64)
    return numbers
