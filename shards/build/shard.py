"""One shard from its samples, and the record of it that stays until the manifest is assembled."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.format.images import LeftOut
from shards.format.manifest import LOCATION, Shard
from shards.format.schema import BY_NAME, Sample
from shards.format.storage import replacing
from shards.format.tar import BLOCK, ShardWriter, TarMember, write_index

_ARRAYS = ("locations", "digests", "histograms")


@dataclass
class Record:
    """What is known of a finished shard. Arrays go by component."""

    shard: Shard
    keys: NDArray[np.bytes_]
    """UTF-8 (samples,)."""
    left_out: list[LeftOut]
    locations: dict[str, NDArray[Any]]
    """LOCATION (samples,)."""
    digests: dict[str, NDArray[np.uint8]]
    """BLAKE2b of the images of shared components, uint8 (samples, 16)."""
    histograms: dict[str, NDArray[np.int64]]
    """How many pixels have each value, int64 (channels, 256)."""

    def to_bytes(self) -> bytes:
        about = {"shard": asdict(self.shard), "left_out": self.left_out}
        arrays = {f"{kind}/{name}": array for kind in _ARRAYS for name, array in getattr(self, kind).items()}
        buffer = BytesIO()
        np.savez(buffer, about=np.array(json.dumps(about)), keys=self.keys, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Record":
        arrays: dict[str, dict[str, Any]] = {kind: {} for kind in _ARRAYS}
        with np.load(BytesIO(data)) as file:
            about, keys = json.loads(str(file["about"])), file["keys"]
            for name in (name for name in file.files if "/" in name):
                kind, component = name.split("/")
                arrays[kind][component] = file[name]
        left_out = [LeftOut(*one) for one in about["left_out"]]
        return cls(shard=Shard(**about["shard"]), keys=keys, left_out=left_out, **arrays)


@lru_cache(maxsize=1024)
def _digest(image: bytes) -> bytes:
    """Remembered, because an image that is shared comes again and again."""
    return hashlib.blake2b(image, digest_size=16).digest()


class _Tally:
    """Adds up what is known of a shard's samples while they pass by."""

    def __init__(self, components: Iterable[str]) -> None:
        self._placed: list[tuple[str, list[TarMember]]] = []
        self._left_out: list[LeftOut] = []
        self._histograms = {name: np.zeros((BY_NAME[name].channels, 256), np.int64) for name in components}
        self._digests = {name: bytearray() for name in self._histograms if BY_NAME[name].shared}

    def add(self, sample: Sample, members: list[TarMember]) -> None:
        self._placed.append((sample.key, members))
        for name, histogram in sample.histograms.items():
            self._histograms[name] += histogram
        for name, digests in self._digests.items():
            digests += _digest(sample.images[name])

    def leave_out(self, finding: LeftOut) -> None:
        self._left_out.append(finding)

    def record(self, tar: Path, sha256: str, size: int) -> Record:
        """Write DALI's index beside `tar` and return the record. `size` is the tar's, in bytes."""
        index_sha256 = write_index(tar, self._placed)
        places = [[(offset // BLOCK, size) for _, offset, size in members] for _, members in self._placed]
        return Record(
            shard=Shard(tar.name, len(self._placed), size, sha256, index_sha256),
            keys=np.array([key.encode() for key, _ in self._placed], np.bytes_),
            left_out=self._left_out,
            locations={name: np.array([p[i] for p in places], LOCATION) for i, name in enumerate(self._histograms)},
            digests={name: np.frombuffer(d, np.uint8).reshape(-1, 16) for name, d in self._digests.items()},
            histograms=self._histograms,
        )


def write_shard(tar: Path, components: dict[str, str], samples: Iterable[Sample | LeftOut]) -> Record:
    """Write `samples` to `tar`, with its index beside it. `components` gives each component's extension."""
    tally = _Tally(components)
    with replacing(tar) as temporary, ShardWriter(temporary) as writer:
        for sample in samples:
            if isinstance(sample, LeftOut):
                tally.leave_out(sample)
                continue
            named = {f"{name}.{extension}": sample.images[name] for name, extension in components.items()}
            tally.add(sample, writer.write(sample.key, named))
        sha256, size = writer.close()
    return tally.record(tar, sha256, size)


def index_shard(tar: Path, components: dict[str, str], samples: Iterable[Sample | LeftOut]) -> Record:
    """Index `tar`, which holds `samples` already, at their `places`, and stays as it is."""
    tally = _Tally(components)
    for sample in samples:
        if isinstance(sample, LeftOut):
            tally.leave_out(sample)
        else:
            assert sample.places is not None
            tally.add(sample, [sample.places[name] for name in components])
    with tar.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return tally.record(tar, sha256, tar.stat().st_size)
