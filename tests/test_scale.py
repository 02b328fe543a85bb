"""Many samples: the index takes few bytes for each of them, and Python no object."""

import gc
import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from shards.format.dataset import Dataset
from shards.format.schema import shard_name
from shards.format.splits import SPLITS

SHARDS = 10


def enlarged(source: Dataset, root: Path, samples: int) -> int:
    """Write the index of `samples` samples in 10 shards, those of `source` over and over; return its bytes but keys."""
    index = root / "index"
    index.mkdir(parents=True)
    arrays = {path.stem: np.load(path) for path in (source.root / "index").glob("*.npy")}
    arrays |= {name: np.resize(arrays[name], samples) for name in ("samples", "keys")}
    arrays |= {name: np.arange(place, samples, len(SPLITS), dtype="<u4") for place, name in enumerate(SPLITS)}
    digests = {}
    for name, array in arrays.items():
        np.save(path := index / f"{name}.npy", array)
        digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    shard = replace(source.manifest.shards[0], samples=samples // SHARDS)
    shards = [replace(shard, name=shard_name(number)) for number in range(SHARDS)]
    splits = {name: len(arrays[name]) for name in SPLITS}
    manifest = replace(source.manifest, samples=samples, splits=splits, shards=shards, index=digests)
    (root / "manifest.json").write_text(manifest.to_json())
    return sum(path.stat().st_size for path in index.iterdir() if path.stem != "keys")


def grown_by_opening(root: Path) -> int:
    """Return how many blocks Python has allocated while a data set and its splits are open."""
    gc.collect()
    before = sys.getallocatedblocks()
    dataset = Dataset.open(root)
    splits = [dataset.split(name) for name in SPLITS]
    gc.collect()
    grown = sys.getallocatedblocks() - before
    assert splits
    return grown


def test_a_sample_takes_few_bytes_and_no_object(dataset: Path, tmp_path: Path) -> None:
    source, roots = Dataset.open(dataset), {samples: tmp_path / str(samples) for samples in (10_000, 200_000)}
    for samples, root in roots.items():
        assert enlarged(source, root, samples) / samples < 40
    grown = [grown_by_opening(root) for root in (*roots.values(), *roots.values())][2:]
    assert abs(grown[0] - grown[1]) < 50
