"""What there is to do: the work of each shard, and the plan of the data set that the shards are to make up."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.build.shard import LeftOut, Record
from shards.errors import InputError
from shards.format.depth import Device
from shards.format.images import Size
from shards.format.manifest import DepthRange, Statistics, Storage
from shards.format.splits import SplitConfig

COUNTED = 4_000
"""samples whose pixels are counted for the statistics, at most, spread evenly. Counting takes 48 us a sample of 160 px,
half as long as pasting it and a third as long as decoding; the mean of 4,000 is within 0.003 of that of all"""


def spread(begin: int, size: int, total: int, at_most: int) -> range:
    """The numbers, among `size` samples from `begin` on, of those that are in `at_most` spread evenly over `total`."""
    every = -(-total // at_most)
    return range(-begin % every, size, every)


@dataclass(frozen=True, kw_only=True)
class DivisionConfig(SplitConfig):
    """How samples are divided into shards, and into train, val and test."""

    samples_per_shard: int = 1000
    """about 25 MB a shard at 160 px: one request to an object store, and fine enough to spread over ranks"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples_per_shard < 1:
            raise InputError("samples-per-shard must be at least 1.")


class Unit(Protocol):
    """The work of one shard: small enough to be sent to another process or machine."""

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
    """as `shards.format.splits.split_numbers` returns them, (N,)"""
    split_by: str
    statistics: dict[str, Statistics]
    """of the components that stay as they are"""
    counted: int | None
    """as Manifest.counted"""

    @classmethod
    def from_json(cls, splits: list[int], split_by: str, statistics: dict[str, Any], counted: int | None) -> "Known":
        found = {name: Statistics(**one) for name, one in statistics.items()}
        return cls(np.array(splits, np.int8), split_by, found, counted)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A data set to be built, but for what its shards hold: with the records of these it becomes the manifest."""

    shards: tuple[str, ...]
    """their file names, in their order"""
    components: dict[str, str]
    """extension by component, in the order in which a sample's images lie in the tar"""
    image_size: Size
    depth: DepthRange
    split: SplitConfig
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

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=np.ndarray.tolist)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        raw: dict[str, Any] = json.loads(text)
        raw["shards"], raw["image_size"] = tuple(raw["shards"]), tuple(raw["image_size"])
        raw["depth"], raw["split"] = DepthRange(**raw["depth"]), DivisionConfig(**raw["split"])
        raw["left_out"] = [LeftOut(*one) for one in raw["left_out"]]
        raw["storage"] = Storage.from_json(raw["storage"])
        raw["known"] = Known.from_json(*raw["known"]) if raw["known"] else None
        return cls(**raw)


class Work(NamedTuple):
    """A data set to be built."""

    plan: Plan
    units: Sequence[Unit]
    """of each of the plan's shards"""
    device: Device | None = None
    """that a teacher predicts depth on: a unit then has this machine to itself, or on a cluster a GPU"""
