"""What goes into a shard, and the record of it that stays until the manifest is assembled."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.format.manifest import LOCATION, Shard
from shards.format.schema import BY_NAME
from shards.format.storage import replacing
from shards.format.tar import BLOCK, Member, ShardWriter, write_index

Placed = list[tuple[str, list[Member]]]
"""keys of the samples in a tar, with where each of their images lies"""


class LeftOut(NamedTuple):
    """Something that did not become part of the data set, and why. `kind` is one word, the rest is for a person."""

    kind: str
    key: str
    component: str
    source: str
    detail: str


class Sample(NamedTuple):
    """A sample ready to be written. `images` and `histograms` (int64 (channels, 256)) go by component."""

    key: str
    images: dict[str, bytes]
    histograms: dict[str, NDArray[np.int64]]


_ARRAYS = ("locations", "digests", "histograms")


@dataclass
class Record:
    """What is known of a finished shard. Arrays go by component."""

    shard: Shard
    keys: NDArray[np.bytes_]
    """UTF-8 (samples,)"""
    left_out: list[LeftOut]
    locations: dict[str, NDArray[Any]]
    """LOCATION (samples,)"""
    digests: dict[str, NDArray[np.uint8]]
    """BLAKE2b of the images of shared components, uint8 (samples, 16)"""
    histograms: dict[str, NDArray[np.int64]]
    """how many pixels have each value, int64 (channels, 256)"""

    def save(self, path: Path) -> None:
        about = {"shard": asdict(self.shard), "left_out": self.left_out}
        arrays = {f"{what}/{name}": array for what in _ARRAYS for name, array in getattr(self, what).items()}
        with replacing(path) as temporary:
            np.savez(temporary, about=np.array(json.dumps(about)), keys=self.keys, **arrays)

    @classmethod
    def load(cls, stored: BinaryIO) -> "Record":
        arrays: dict[str, dict[str, Any]] = {what: {} for what in _ARRAYS}
        with np.load(stored) as file:
            about, keys = json.loads(str(file["about"])), file["keys"]
            for name in (name for name in file.files if "/" in name):
                what, component = name.split("/")
                arrays[what][component] = file[name]
        left_out = [LeftOut(*one) for one in about["left_out"]]
        return cls(shard=Shard(**about["shard"]), keys=keys, left_out=left_out, **arrays)


@lru_cache(maxsize=1024)
def _digest(image: bytes) -> bytes:
    """Remembered, because an image that is shared comes again and again."""
    return hashlib.blake2b(image, digest_size=16).digest()


class Tally:
    """Adds up what is known of a shard's samples while they pass by."""

    def __init__(self, components: Iterable[str]) -> None:
        self._placed: Placed = []
        self._histograms = {name: np.zeros((BY_NAME[name].channels, 256), np.int64) for name in components}
        self._digests = {name: bytearray() for name in self._histograms if BY_NAME[name].shared}

    def add(self, sample: Sample, members: list[Member]) -> None:
        self._placed.append((sample.key, members))
        for name, histogram in sample.histograms.items():
            self._histograms[name] += histogram
        for name, digests in self._digests.items():
            digests += _digest(sample.images[name])

    def record(self, tar: Path, sha256: str, size: int, left_out: list[LeftOut]) -> Record:
        """Writes DALI's index beside `tar` and returns the record. `size` is the tar's, in bytes."""
        index_sha256 = write_index(tar, self._placed)
        places = [[(offset // BLOCK, size) for _, offset, size in members] for _, members in self._placed]
        return Record(
            shard=Shard(tar.name, len(self._placed), size, sha256, index_sha256),
            keys=np.array([key.encode() for key, _ in self._placed], np.bytes_),
            left_out=left_out,
            locations={name: np.array([p[i] for p in places], LOCATION) for i, name in enumerate(self._histograms)},
            digests={name: np.frombuffer(d, np.uint8).reshape(-1, 16) for name, d in self._digests.items()},
            histograms=self._histograms,
        )


def write_shard(tar: Path, components: dict[str, str], samples: Iterable[Sample | LeftOut]) -> Record:
    """Writes `samples` to `tar`, with its index beside it. `components` gives each component's extension."""
    tally, left_out = Tally(components), []
    with replacing(tar) as temporary, ShardWriter(temporary) as writer:
        for sample in samples:
            if isinstance(sample, LeftOut):
                left_out.append(sample)
                continue
            named = {f"{name}.{extension}": sample.images[name] for name, extension in components.items()}
            tally.add(sample, writer.write(sample.key, named))
        sha256, size = writer.close()
    return tally.record(tar, sha256, size, left_out)
