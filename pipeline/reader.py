"""The encoded bytes of samples: views of memory-mapped tars, no copy, in any order."""

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.manifest import Dataset, Locations

__all__ = ["Encoded", "Reader"]

Encoded = list[NDArray[np.uint8]]
"""the bytes of one component's images, a view for each"""


class Reader:
    """Reads images of a data set by where they lie.

    Raises InputError at once if a shard is missing or not as long as the manifest says, rather than in mid-epoch.
    """

    def __init__(self, dataset: Dataset) -> None:
        manifest = dataset.manifest
        shards = [*manifest.shards, *([manifest.shared] if manifest.shared else [])]
        self._tars = [_mapped(dataset.root / shard.name, shard.bytes) for shard in shards]

    def read(self, places: Locations) -> Encoded:
        """The bytes of the images at `places`."""
        return [
            self._tars[file][offset : offset + size]
            for file, offset, size in zip(*(column.tolist() for column in places), strict=True)
        ]


def _mapped(path: Path, size: int) -> NDArray[np.uint8]:
    found = path.stat().st_size if path.exists() else 0
    if found != size:
        raise InputError(f"{path}: {found:,} bytes where the manifest says {size:,}. Copy the data set again.")
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, np.uint8)
