"""The encoded bytes of samples, read from the tars at the places that the index gives, in any order."""

import os
from collections import OrderedDict
from collections.abc import Callable, Collection
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.dataset import Dataset, Locations

Encoded = list[NDArray[np.uint8]]
"""the bytes of one component's images, an array each"""
OpenTar = Callable[[int], int]
"""returns a descriptor to read from, for the caller to close, of the tar of this number in `Dataset.tars`"""

GAP = 4096
"""bytes between two images that are read along with them, at most"""
MOST_OPEN = 256
"""tars that are open at once; a process may have 1,024 files"""


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

    def __init__(self, open_tar: OpenTar) -> None:
        self._open_tar, self._lock = open_tar, Lock()
        self._opened: OrderedDict[int, _Tar] = OrderedDict()

    def read(self, places: dict[str, Locations]) -> dict[str, Encoded]:
        """Return the bytes of the images at `places`, by component, as many of each.

        What lies side by side in a tar, as the images of a sample do, is read in one go. Raises InputError if a tar
        cannot be read.
        """
        file, begin, size = (np.stack(columns) for columns in zip(*places.values(), strict=True))
        first, last = begin.min(0), (begin + size).max(0)
        if (file != file[0]).any() or (last - first > size.sum(0) + GAP * len(places)).any():
            return {name: self._read(images) for name, images in places.items()}
        samples = self._read(Locations(file[0], first, last - first))
        parts = zip(places, (begin - first).tolist(), (begin - first + size).tolist(), strict=True)
        return {name: [sample[a:b] for sample, a, b in zip(samples, *ends, strict=True)] for name, *ends in parts}

    def _read(self, places: Locations) -> Encoded:
        tars = {number: self._tar(number) for number in np.unique(places.file).tolist()}
        try:
            return [
                np.frombuffer(os.pread(tars[number].descriptor, size, offset), np.uint8)
                for number, offset, size in zip(*(column.tolist() for column in places), strict=True)
            ]
        except OSError as error:
            raise InputError(f"a shard cannot be read ({error}). Check the disk or network that it is on.") from error

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
            if len(self._opened) > MOST_OPEN:
                self._opened.popitem(last=False)
        return tar


class _Tar:
    """An open tar, closed when nobody reads from it any more."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)
