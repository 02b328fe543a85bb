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
"""The last fields of a Record, in their order."""


@dataclass
class Record:
    """What is known of a finished shard. Arrays go by component.

    keys: UTF-8 (samples,). locations: LOCATION (samples,). digests: BLAKE2b of the images of shared components, uint8
    (samples, 16). histograms: how many pixels have each value, int64 (channels, 256).
    """

    shard: Shard
    keys: NDArray[np.bytes_]
    left_out: list[LeftOut]
    locations: dict[str, NDArray[Any]]
    digests: dict[str, NDArray[np.uint8]]
    histograms: dict[str, NDArray[np.int64]]

    def to_bytes(self) -> bytes:
        about = {"shard": asdict(self.shard), "left_out": self.left_out}
        arrays = {f"{kind}/{name}": array for kind in _ARRAYS for name, array in getattr(self, kind).items()}
        np.savez(buffer := BytesIO(), about=np.array(json.dumps(about)), keys=self.keys, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Record":
        with np.load(BytesIO(data)) as file:
            about, keys = json.loads(str(file["about"])), file["keys"]
            named = [name.split("/") for name in file.files if "/" in name]
            arrays = [{name: file[f"{kind}/{name}"] for of, name in named if of == kind} for kind in _ARRAYS]
        return cls(Shard(**about["shard"]), keys, [LeftOut(*one) for one in about["left_out"]], *arrays)


@lru_cache(maxsize=1024)
def _digest(image: bytes) -> bytes:
    """Remembered, because an image that is shared comes again and again."""
    return hashlib.blake2b(image, digest_size=16).digest()


def write_shard(tar: Path, components: dict[str, str], samples: Iterable[Sample | LeftOut]) -> Record:
    """Write `samples` to `tar`, with its index beside it. `components` gives each component's extension."""
    with replacing(tar) as temporary, ShardWriter(temporary) as writer:
        return index_shard(tar, components, samples, writer)


def index_shard(
    tar: Path, components: dict[str, str], samples: Iterable[Sample | LeftOut], writer: ShardWriter | None = None
) -> Record:
    """Write the index of `tar` beside it. Without a writer it holds `samples` already, at their `places`."""
    placed: list[tuple[str, list[TarMember]]] = []
    left_out: list[LeftOut] = []
    histograms = {name: np.zeros((BY_NAME[name].channels, 256), np.int64) for name in components}
    digests = {name: bytearray() for name in components if BY_NAME[name].shared}
    for sample in samples:
        if isinstance(sample, LeftOut):
            left_out.append(sample)
            continue
        if writer:
            named = {f"{name}.{extension}": sample.images[name] for name, extension in components.items()}
            placed.append((sample.key, writer.write(sample.key, named)))
        else:
            placed.append((sample.key, [sample.places[name] for name in components]))
        for name, histogram in sample.histograms.items():
            histograms[name] += histogram
        for name, joined in digests.items():
            joined += _digest(sample.images[name])
    if writer:
        sha256, size = writer.close()
    else:
        with tar.open("rb") as file:
            sha256, size = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
    places = [[(offset // BLOCK, size) for _, offset, size in members] for _, members in placed]
    return Record(
        shard=Shard(tar.name, len(placed), size, sha256, write_index(tar, placed)),
        keys=np.array([key.encode() for key, _ in placed], np.bytes_),
        left_out=left_out,
        locations={name: np.array([p[i] for p in places], LOCATION) for i, name in enumerate(histograms)},
        digests={name: np.frombuffer(joined, np.uint8).reshape(-1, 16) for name, joined in digests.items()},
        histograms=histograms,
    )
