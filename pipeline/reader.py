"""The encoded bytes of samples, read from the tars at the places that the index gives, in any order."""

import os
import resource
from collections import OrderedDict
from collections.abc import Callable, Collection
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.dataset import Dataset, Locations

OpenTar = Callable[[int], int]
"""returns a descriptor to read from, for the caller to close, of the tar of this number in `Dataset.tars`"""
ReplaceTar = Callable[[int, int], bool]
"""tells whether the tar of this number will be another when it is opened again, if that with this descriptor is not
what the manifest says"""

WORD = 8
"""bytes; images begin at multiples of it, as all that is in tars does"""
GAP = 4096
"""bytes between two images that are read along with them, at most"""
MOST_OPEN = 256
"""tars that are open at once, or a quarter of the files that the process may have; two loaders take half of them"""


class Encoded(NamedTuple):
    """The encoded images of N samples, in one piece of memory: what is done an image in Python, all threads wait for.

    rows: uint8 (N, L), a sample's images in each row, whose other bytes mean nothing. begin, size: by component, where
    in the row its image lies, bytes, int64 (N,). L and `begin` are multiples of WORD, by which an image may be copied;
    what then follows it is the tar's padding.
    """

    rows: NDArray[np.uint8]
    begin: dict[str, NDArray[np.int64]]
    size: dict[str, NDArray[np.int64]]

    def images(self, name: str) -> list[memoryview]:
        """Return the images of a component."""
        memory, begin = self.rows.reshape(-1).data, self.begin[name] + np.arange(len(self.rows)) * self.rows.shape[1]
        return [
            memory[first:last] for first, last in zip(begin.tolist(), (begin + self.size[name]).tolist(), strict=True)
        ]

    def part(self, numbers: NDArray[np.int64]) -> "Encoded":
        """Return the images of some of the samples."""
        begin, size = ({name: array[numbers] for name, array in one.items()} for one in (self.begin, self.size))
        return Encoded(self.rows[numbers], begin, size)


def local_tars(dataset: Dataset) -> OpenTar:
    """Return what opens the tars of a data set on this machine.

    Raises InputError if a tar is missing or not as long as the manifest says, rather than in mid-epoch.
    """
    found = {entry.name: entry.stat().st_size for entry in os.scandir(dataset.root) if entry.is_file()}
    for tar in dataset.tars:
        if (size := found.get(tar.name, 0)) != tar.bytes:
            told = f"{size:,} bytes where the manifest says {tar.bytes:,}. Copy the data set again."
            raise InputError(f"{dataset.root}/{tar.name}: {told}")
    return lambda number: os.open(dataset.tar_path(number), os.O_RDONLY)


class Reader:
    """Reads images by where they lie, on any number of threads.

    Reading is slower than a view of a mapped tar would be, but a disk or network that fails is an error that can be
    told, not the end of the process.
    """

    def __init__(self, dataset: Dataset, open_tar: OpenTar, replace_tar: ReplaceTar | None = None) -> None:
        """Without `replace_tar`, tars stay what they are."""
        self._dataset, self._open_tar, self._replace_tar, self._lock = dataset, open_tar, replace_tar, Lock()
        self._opened: OrderedDict[int, _Tar] = OrderedDict()
        self.renewals = 0
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_open = MOST_OPEN if files == resource.RLIM_INFINITY else max(1, min(MOST_OPEN, files // 4))

    def read(self, places: dict[str, Locations]) -> Encoded:
        """Return the images at `places`, by component, as many of each.

        What lies side by side in a tar, as the images of a sample do, is read in one go. Raises InputError if a tar
        cannot be read.
        """
        file, offset, size = (np.stack(columns) for columns in zip(*places.values(), strict=True))  # (C, N)
        whole = -(-size // WORD) * WORD
        first, last = offset.min(0), (offset + whole).max(0)
        if (file != file[0]).any() or (last - first > size.sum(0) + GAP * len(places)).any():
            begin = at = np.cumsum(whole, 0) - whole
            length = whole
        else:
            begin = offset - first
            file, offset, length, at = file[:1], first[None], (last - first)[None], np.zeros_like(first)[None]
        rows = np.empty((at.shape[1], (at + length).max()), np.uint8)
        self._fill(rows, file, offset, length, at + np.arange(len(rows)) * rows.shape[1])
        return Encoded(rows, dict(zip(places, begin, strict=True)), dict(zip(places, size, strict=True)))

    def _fill(self, rows: NDArray[np.uint8], *pieces: NDArray[np.int64]) -> None:
        """Read pieces, each given by number of the tar, offset and length in it, and place in `rows`."""
        memory, order = rows.reshape(-1).data, np.argsort(pieces[0].ravel(), kind="stable")
        last, tar = -1, None
        for number, offset, length, at in zip(*(column.ravel()[order].tolist() for column in pieces), strict=True):
            try:
                if tar is None or number != last:
                    last, tar = number, self._tar(number)
                count = os.preadv(tar.descriptor, (memory[at : at + length],), offset)
                if count <= length - WORD:  # less may be the padding that a foreign tar lacks at its end
                    raise OSError("it has become shorter")
            except OSError as error:
                advice = "Check the disk or network that it is on, and the tar with `python -m shards verify`."
                raise InputError(f"{self._dataset.tar_path(number)}: cannot be read ({error}). {advice}") from error

    def renew(self, numbers: Collection[int]) -> None:
        """Have those of these tars replaced that are damaged, where that is possible; `renewals` counts them."""
        if not self._replace_tar:
            return
        for number in numbers:
            tar = self._tar(number)
            if self._replace_tar(number, tar.descriptor):
                with self._lock:
                    self._opened.pop(number, None)
                    self.renewals += 1

    def keep(self, numbers: Collection[int]) -> None:
        """Close all tars but these: what has been removed from the disk takes room there until it is closed."""
        with self._lock:
            for number in self._opened.keys() - set(numbers):
                del self._opened[number]

    def _tar(self, number: int) -> "_Tar":
        with self._lock:
            if tar := self._opened.get(number):
                self._opened.move_to_end(number)
                return tar
        tar = _Tar(self._open_tar(number))  # outside the lock: to wait for one shard must not hold up the others
        with self._lock:
            self._opened[number] = tar
            if len(self._opened) > self._most_open:
                self._opened.popitem(last=False)
        return tar


class _Tar:
    """An open tar, closed when nobody reads from it any more."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)
