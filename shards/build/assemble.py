"""Records of finished shards to what says once what the data set is: index, shared tar, manifest."""

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.build.shard import Record
from shards.errors import InputError
from shards.format.dataset import extents
from shards.format.left_out import write_left_out
from shards.format.manifest import LOCATION, Manifest, Shard, Statistics
from shards.format.schema import BY_NAME, SHARED_TAR
from shards.format.splits import SPLITS, split_numbers
from shards.format.storage import Folder, replacing, write_bytes
from shards.format.tar import BLOCK, ShardWriter, write_index
from shards.ingest.job import Plan

SHARED_AT_MOST = 0.5
"""Distinct images a sample. With more, a second copy costs more room than decoding them once saves."""

Array = NDArray[Any]


def assemble(records: Sequence[Record], plan: Plan, out: Path, stored: Folder) -> None:
    """Write index, shared tar and, last of all, the manifest to `out`; the shards lie in `stored`, as the report will.

    Raises InputError if the records hold no sample.
    """
    left_out = plan.left_out + [one for record in records for one in record.left_out]
    counts = Counter(one.kind for one in left_out)
    write_left_out(stored, left_out)
    kept = [record for record in records if record.shard.samples]
    if not kept:
        reasons = ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) or "empty"
        raise InputError(f"{stored}: no sample is left ({reasons}); see {stored}/left-out.tsv.")
    keys = np.concatenate([record.keys for record in kept])
    names, times = np.unique(keys, return_counts=True)
    if len(twice := names[times > 1]):
        ends = np.cumsum([len(record.keys) for record in kept])
        tars = [kept[i].shard.name for i in np.searchsorted(ends, np.flatnonzero(keys == twice[0]), "right").tolist()]
        said = f"{len(twice)} keys occur more than once, such as {twice[0].decode()!r} in {' and '.join(tars)}"
        raise InputError(f"{stored}: {said}. A key names one sample: take one of the tars out, or rename its samples.")
    goal = plan.manifest
    made_from = {shard.name: shard.made_from for shard in goal.shards}
    shared_tar, shared = _write_shared(out, stored, kept, goal)
    samples = np.empty(len(keys), np.dtype([(name, "<u4" if name in shared else LOCATION) for name in goal.components]))
    for name in goal.components:
        own = np.concatenate([record.locations[name] for record in kept])
        samples[name] = shared[name][1] if name in shared else own
    index = {"keys": keys, "samples": samples}
    index |= {f"shared_{name}": locations for name, (locations, _) in shared.items()}
    index |= _splits(plan, keys)
    distinct = {name: len(locations) for name, (locations, _) in shared.items()}
    manifest = replace(
        goal,
        components={name: replace(one, shared=distinct.get(name, 0)) for name, one in goal.components.items()},
        samples=len(keys),
        splits={name: len(index[name]) for name in SPLITS},
        statistics=_statistics(kept, goal),
        left_out=dict(sorted(counts.items())),
        shards=[replace(record.shard, made_from=made_from[record.shard.name]) for record in kept],
        shared=shared_tar,
        index=_write_arrays(out / "index", index),
        counted=goal.counted if plan.splits is not None else _counted(kept, goal),
    )
    write_bytes(out / "manifest.json", manifest.to_json().encode())


def _splits(plan: Plan, keys: NDArray[np.bytes_]) -> dict[str, Array]:
    """List the rows of each split."""
    if plan.splits is not None:
        return {name: np.array(plan.splits.get(name, []), "<u4") for name in SPLITS}
    numbers = split_numbers((key.decode() for key in keys), plan.split)
    return {name: np.flatnonzero(numbers == i).astype("<u4") for i, name in enumerate(SPLITS)}


def _write_shared(
    out: Path, stored: Folder, records: Sequence[Record], goal: Manifest
) -> tuple[Shard | None, dict[str, tuple[Array, Array]]]:
    """Write each distinct image of the shared components to shared.tar, in the order of their first samples.

    Returns the tar, and for each component the distinct images' LOCATIONs and each sample's number among them.
    """
    distinct = {name: _distinct([r.digests[name] for r in records]) for name in goal.components if BY_NAME[name].shared}
    recurring = {name: found for name, found in distinct.items() if len(found[0]) <= SHARED_AT_MOST * len(found[1])}
    if not recurring:
        return None, {}
    shared, placed = {}, []
    with replacing(out / SHARED_TAR) as temporary, ShardWriter(temporary) as writer:
        for name, (first, number) in recurring.items():
            named = f"{name}.{goal.components[name].extension}"
            images = enumerate(stored.ranges(_places(records, name, first)))
            keyed = [(key := f"{name}{i:06d}", writer.write(key, {named: data})) for i, data in images]
            locations = [(offset // BLOCK, size) for _, [(_, offset, size)] in keyed]
            shared[name] = np.array(locations, LOCATION), number
            placed += keyed
        sha256, size = writer.close()
    return Shard(SHARED_TAR, len(placed), size, sha256, write_index(out / SHARED_TAR, placed)), shared


def _distinct(digests: list[NDArray[np.uint8]]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Find the rows at which the distinct digests occur first, ascending; and for each row, which of them it has."""
    whole = np.concatenate(digests).view("V16").ravel()
    _, first, number = np.unique(whole, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], np.argsort(order)[number].astype("<u4")


def _places(records: Sequence[Record], name: str, rows: NDArray[np.int64]) -> list[tuple[str, int, int]]:
    """Tell tar, offset and size of one component's images of the samples in `rows`."""
    number = np.repeat(np.arange(len(records)), [record.shard.samples for record in records])[rows]
    offsets, sizes = extents(np.concatenate([record.locations[name] for record in records])[rows])
    tars = [records[i].shard.name for i in number.tolist()]
    return list(zip(tars, offsets.tolist(), sizes.tolist(), strict=True))


def _write_arrays(folder: Path, arrays: dict[str, Array]) -> dict[str, str]:
    """Write the index; return each file's sha256."""
    folder.mkdir(exist_ok=True)
    digests = {}
    for name, array in arrays.items():
        np.save(buffer := io.BytesIO(), array)
        write_bytes(folder / f"{name}.npy", buffer.getvalue())
        digests[f"{name}.npy"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    return digests


def _statistics(records: Sequence[Record], goal: Manifest) -> dict[str, Statistics]:
    """Compute mean and standard deviation of each channel over all pixels, from the counts of the 256 values.

    Components of which nothing was counted keep those in `goal`. Raises InputError if one has none there either.
    """
    values, found = np.arange(256) / 255, dict(goal.statistics)
    for name in goal.components:
        counts = np.sum([record.histograms[name] for record in records], axis=0)
        if counts.any():
            mean = counts @ values / counts.sum(1)
            std = np.sqrt(np.maximum(counts @ values**2 / counts.sum(1) - mean**2, 0))
            found[name] = Statistics(mean=mean.round(6).tolist(), std=std.round(6).tolist())
    if missing := ", ".join(name for name in goal.components if name not in found):
        raise InputError(f"{missing}: none of the samples that were to be counted for the statistics is whole.")
    return {name: found[name] for name in goal.components}


def _counted(records: Sequence[Record], goal: Manifest) -> int | None:
    """Count the samples that the histograms are of; None if all."""
    pixels = {name: sum(int(one.histograms[name][0].sum()) for one in records) for name in records[0].histograms}
    counted = min(pixels.values()) // (goal.image_size[0] * goal.image_size[1])
    return counted if counted < sum(record.shard.samples for record in records) else None
