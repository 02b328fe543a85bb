"""What there is to do: the work of each shard, and what is the same for a whole data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.images import Size
from shards.manifest import DepthRange, Statistics, Storage
from shards.record import LeftOut, Record

__all__ = ["Known", "Unit", "Work"]


class Unit(Protocol):
    """The work of one shard: small enough to be sent to another process."""

    @property
    def name(self) -> str:
        """Its file name."""

    @property
    def size(self) -> int:
        """How many samples it tries, for the progress bar."""

    def run(self, folder: Path) -> Record:
        """Puts the shard into `folder`, whole or not at all, and says what is in it."""


class Known(NamedTuple):
    """What is not found anew where the samples are those of another data set, all of them and in their order."""

    splits: NDArray[np.int8]
    """as `shards.splits.split_numbers` returns them, (N,)"""
    split_by: str
    statistics: dict[str, Statistics]
    """of the components that stay as they are"""
    counted: int | None
    """as Manifest.counted"""


class Work(NamedTuple):
    """A data set to be built."""

    units: Sequence[Unit]
    components: dict[str, str]
    """extension by component, in the order in which a sample's images lie in the tar"""
    image_size: Size
    depth: DepthRange
    left_out: list[LeftOut]
    """what was left out before any image was opened"""
    fingerprint: str
    """equal for two of these exactly when they build the same data set"""
    sources: dict[str, list[str]]
    """names of the files that the numbers in the keys stand for, by component, where the keys hold numbers"""
    storage: Storage | None = None
    """what is done to the pixels; None if nothing"""
    depth_bits: int = 8
    """of a value of depth, 8 or 16"""
    known: Known | None = None
    verified: str = "full"
    """as Manifest.verified"""
