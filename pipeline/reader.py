"""The encoded bytes of samples, read from the tars at the places that the index gives, in any order."""

import os
from collections import OrderedDict
from collections.abc import Collection
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.dataset import Dataset, Locations

Encoded = list[NDArray[np.uint8]]
"""the bytes of one component's images, an array each"""

GAP = 4096
"""bytes between two images that are read along with them, at most"""
MOST_OPEN = 256
"""tars that are open at once; a process may have 1,024 files"""


class Tars(Protocol):
    def open(self, number: int) -> int:
        """A descriptor, to read from, of the tar of this number in `Dataset.tars`; whoever asks closes it."""


class LocalTars:
    """The tars of a data set that lies on this machine."""

    def __init__(self, dataset: Dataset) -> None:
        """Raises InputError if a tar is missing or not as long as the manifest says, rather than in mid-epoch."""
        self._dataset = dataset
        for shard in dataset.tars:
            found = _size(path := f"{dataset.root}/{shard.name}")
            if found != shard.bytes:
                raise InputError(
                    f"{path}: {found:,} bytes where the manifest says {shard.bytes:,}. Copy the data set again."
                )

    def open(self, number: int) -> int:
        return os.open(self._dataset.tar_path(number), os.O_RDONLY)


class Reader:
    """Reads images by where they lie, on any number of threads.

    Reading costs a microsecond an image more than a view of a mapped tar would, but a disk or network that fails is an
    error that can be told, not the end of the process.
    """

    def __init__(self, tars: Tars) -> None:
        self._tars, self._lock = tars, Lock()
        self._opened: OrderedDict[int, _Tar] = OrderedDict()

    def read(self, places: dict[str, Locations]) -> dict[str, Encoded]:
        """The bytes of the images at `places`, by component, as many of each. Raises InputError if they cannot be read.

        What lies side by side in a tar, as the images of a sample do, is read in one go.
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
        columns = (column.tolist() for column in places)
        try:
            return [
                np.frombuffer(os.pread(tars[number].descriptor, size, offset), np.uint8)
                for number, offset, size in zip(*columns, strict=True)
            ]
        except OSError as error:
            raise InputError(f"a shard cannot be read ({error}). Check the disk or network that it is on.") from error

    def keep(self, numbers: Collection[int]) -> None:
        """Closes all tars but these: what has been removed from the disk takes room there until it is closed."""
        with self._lock:
            for number in self._opened.keys() - set(numbers):
                del self._opened[number]

    def _tar(self, number: int) -> "_Tar":
        with self._lock:
            if tar := self._opened.get(number):
                self._opened.move_to_end(number)
                return tar
        tar = _Tar(self._tars.open(number))  # outside the lock: to wait for one shard must not hold up the others
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


def _size(path: str) -> int:
    """In bytes; 0 where there is no such file."""
    try:
        return os.stat(path).st_size  # noqa: PTH116  # to make a Path of it would take longer
    except FileNotFoundError:
        return 0
