"""What the headers of encoded images say, before a decoder sees them.

One header that cannot be parsed may end the process: DALI 2.4 throws then, while its threads still decode the others.
All headers of a batch are read at once, because what is done an image in Python, all threads wait for.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.portable import Components
from pipeline.reader import Encoded
from shards.format.images import JPEG_FRAMES, PNG_START, Size

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]
_SCAN, _FILL = 0xDA, 0xFF  # after a scan's header the pixels come; any marker may be filled up
_PNG = np.frombuffer(PNG_START, np.uint8)
_BITS, _COLOURS = (1, 2, 4, 8, 16), (0, 2, 3, 6)  # DALI 2.4 knows no grey with alpha, which is 4
_END = np.frombuffer(b"IEND", np.uint8)


class Headers:
    """Tells images of a data set's size and formats from what is none, by their headers."""

    def __init__(self, components: Components, size: Size) -> None:
        """`size`: height and width of every image."""
        self._components, self._size = components, size
        self._known: dict[str, _Beginning] = {}

    def check(self, encoded: Encoded) -> None:
        """Raise ValueError unless all headers are whole, of their component's format and of the right size."""
        flat, offsets = encoded.rows.reshape(-1), np.arange(len(encoded.rows)) * encoded.rows.shape[1]
        begins = {name: begin + offsets for name, begin in encoded.begin.items()}
        ends = {name: begin + encoded.size[name] for name, begin in begins.items()}
        for extension, are_right in (("jpg", self._are_jpegs), ("png", self._are_pngs)):
            names = [name for name in begins if self._components[name].extension == extension]
            if names and not are_right(flat, {name: begins[name] for name in names}, ends):
                height, width = self._size
                raise ValueError(f"{', '.join(names)}: not all images are {extension} of {width}x{height} pixels")

    def _are_jpegs(self, flat: Bytes, begins: dict[str, Places], ends: dict[str, Places]) -> bool:
        """Follow the segments of all images, in step, to where their pixels begin.

        Most images of a component begin alike, up to their Huffman tables; then it goes on from there.
        """
        starts, frames, unknown = list[Places](), list[Places](), list[tuple[int, str]]()
        for number, (name, begin) in enumerate(begins.items()):
            known = self._known.get(name)
            if known and (ends[name] >= begin + known.length).all() and known.is_in(flat, begin):
                starts.append(begin + known.length)
                frames.append(begin + known.frame)
            elif (ends[name] >= begin + 4).all() and (_bytes(flat, begin, 2) == (0xFF, 0xD8)).all():
                starts.append(begin + 2)
                frames.append(np.zeros_like(begin))
                unknown.append((number * len(begin), name))
            else:
                return False
        at, frame, end = np.concatenate(starts), np.concatenate(frames), np.concatenate([ends[name] for name in begins])
        steps, scan = list[Places](), np.zeros(len(at), bool)
        while not scan.all():
            if (at + 4 > end).any():
                return False
            mark, marker, high, low = _bytes(flat, at, 4).T
            after = np.where(marker == _FILL, at + 1, at + 2 + (high.astype(np.int64) << 8 | low))
            if (mark != 0xFF).any() or (after > end).any():
                return False
            if unknown:
                frame = np.where(np.isin(marker, JPEG_FRAMES), at, frame)
            steps.append(at)
            scan = marker == _SCAN
            at = np.where(scan, at, after)
        if unknown and (not frame.all() or (_numbers(flat, frame + 5, 2, 2) != self._size).any()):
            return False
        for first, name in unknown:
            segments = [int(step[first]) for step in steps]
            self._known[name] = _Beginning(flat, int(begins[name][0]), segments, int(frame[first]))
        return True

    def _are_pngs(self, flat: Bytes, begins: dict[str, Places], ends: dict[str, Places]) -> bool:
        """Follow the chunks of all images, in step, to their ends."""
        begin, end = (np.concatenate([places[name] for name in begins]) for places in (begins, ends))
        if (end < begin + 33).any() or (_bytes(flat, begin, len(_PNG)) != _PNG).any():
            return False
        if (_numbers(flat, begin + 16, 2, 4) != self._size[::-1]).any():
            return False
        if not (np.isin(flat[begin + 24], _BITS) & np.isin(flat[begin + 25], _COLOURS)).all():
            return False
        at, last = begin + 33, np.zeros(len(begin), bool)
        while not last.all():
            if (at + 12 > end).any():
                return False
            last = (_bytes(flat, at + 4, 4) == _END).all(1)
            at = np.where(last, at, at + 12 + _numbers(flat, at, 1, 4)[:, 0])
        return True


class _Beginning:
    """Where the segments of a JPEG lie up to its frame header, and what is written there of kind, length and size."""

    def __init__(self, flat: Bytes, begin: int, segments: list[int], frame: int) -> None:
        places = [place - begin for place in segments if place <= frame]
        self.frame = frame - begin
        self.length = self.frame + 2 + int(_numbers(flat, np.array([frame + 2]), 1, 2)[0, 0])
        self._places = np.concatenate([[*range(place, place + (9 if place == self.frame else 4))] for place in places])
        self._expected = flat[begin + self._places]

    def is_in(self, flat: Bytes, begin: Places) -> bool:
        return bool((flat.take(begin[:, None] + self._places) == self._expected).all())


def _bytes(flat: Bytes, at: Places, count: int) -> Bytes:
    """Return `count` bytes that begin at each of `at` (N,), uint8 (N, count)."""
    return flat.take(at[:, None] + np.arange(count))


def _numbers(flat: Bytes, at: Places, count: int, width: int) -> Places:
    """Return `count` numbers of `width` bytes, the highest first, that begin at each of `at` (N,), int64 (N, count)."""
    numbers: Places = _bytes(flat, at, count * width).view(f">u{width}").astype(np.int64)
    return numbers
