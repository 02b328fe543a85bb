"""From the records of finished shards to the manifest, the index, and the tar of shared images."""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.atomic import replacing, write_bytes
from shards.errors import InputError
from shards.manifest import LOCATION, SPLITS, Manifest, Shard, Statistics, StoredComponent
from shards.record import LeftOut, Record
from shards.schema import BY_NAME, SHARED_TAR
from shards.splits import SplitConfig, split_numbers
from shards.tar import BLOCK, ShardWriter, write_index
from shards.work import Work

__all__ = ["assemble", "statistics"]

SHARED_AT_MOST = 0.5
"""distinct images a sample. With more, a second copy costs more room than decoding them once saves"""


def assemble(records: Iterable[Record], work: Work, out: Path, split: SplitConfig) -> None:
    """Writes index, shared tar, report and, last of all, the manifest.

    Raises InputError if the records hold no sample.
    """
    all_records = list(records)
    left_out = work.left_out + [one for record in all_records for one in record.left_out]
    _write_report(out / "left-out.tsv", left_out)
    kept = [record for record in all_records if record.shard.samples]
    if not kept:
        raise InputError(f"{out}: no sample is left ({_counts(left_out)}); see {out / 'left-out.tsv'}.")
    keys = np.concatenate([record.keys for record in kept])
    _refuse_duplicates(keys)
    numbers = work.known.splits if work.known else split_numbers((key.decode() for key in keys), split)
    shared_tar, shared = _write_shared(out, kept, work.components)
    index = {"keys": keys, "samples": _samples(kept, work.components, shared)}
    index |= {f"shared_{name}": locations for name, (locations, _) in shared.items()}
    index |= {name: np.flatnonzero(numbers == i).astype("<u4") for i, name in enumerate(SPLITS)}
    manifest = Manifest(
        image_size=work.image_size,
        components={
            name: StoredComponent(
                extension=extension,
                channels=BY_NAME[name].channels,
                shared=len(shared[name][0]) if name in shared else 0,
                bits=work.depth_bits if name == "depth" else 8,
            )
            for name, extension in work.components.items()
        },
        depth=work.depth,
        samples=len(keys),
        splits={name: len(index[name]) for name in SPLITS},
        split_by=work.known.split_by if work.known else split.split_by,
        statistics=_ordered(statistics(kept) | (work.known.statistics if work.known else {}), work.components),
        left_out=dict(sorted(Counter(one.kind for one in left_out).items())),
        shards=[record.shard for record in kept],
        shared=shared_tar,
        index=_write_arrays(out / "index", index),
        sources=work.sources,
        made_from=work.fingerprint,
        storage=work.storage,
        verified=work.verified,
        counted=work.known.counted if work.known else _counted(kept, work),
    )
    write_bytes(out / "manifest.json", manifest.to_json().encode())


def _refuse_duplicates(keys: NDArray[np.bytes_]) -> None:
    in_order = np.sort(keys)
    twice = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    if len(twice):
        some = twice[0].decode()
        raise InputError(f"{len(twice)} keys occur more than once, such as {some!r}. A key names one sample.")


def _samples(
    records: list[Record], components: dict[str, str], shared: dict[str, tuple[NDArray[Any], NDArray[Any]]]
) -> NDArray[Any]:
    dtype = np.dtype([(name, "<u4" if name in shared else LOCATION) for name in components])
    samples = np.empty(sum(record.shard.samples for record in records), dtype)
    for name in components:
        own = np.concatenate([record.locations[name] for record in records])
        samples[name] = shared[name][1] if name in shared else own
    return samples


def _write_shared(
    out: Path, records: list[Record], components: dict[str, str]
) -> tuple[Shard | None, dict[str, tuple[NDArray[Any], NDArray[Any]]]]:
    """Writes each distinct image of the shared components to shared.tar, in the order of their first samples.

    Returns the tar, and for each component the distinct images' LOCATIONs and each sample's number among them.
    """
    found = {name: _distinct([r.digests[name] for r in records]) for name in components if BY_NAME[name].shared}
    found = {
        name: (first, number) for name, (first, number) in found.items() if len(first) <= SHARED_AT_MOST * len(number)
    }
    if not found:
        return None, {}
    shared, placed = {}, []
    with replacing(out / SHARED_TAR) as temporary, ShardWriter(temporary) as writer:
        for name, (first, number) in found.items():
            images = _images(out, records, name, first)
            keyed = [
                (f"{name}{i:06d}", writer.write(f"{name}{i:06d}", {f"{name}.{components[name]}": data}))
                for i, data in enumerate(images)
            ]
            placed += keyed
            shared[name] = (np.array([(m[0][1] // BLOCK, m[0][2]) for _, m in keyed], LOCATION), number)
        sha256, size = writer.close()
    index_sha256 = write_index(out / SHARED_TAR, placed)
    return Shard(SHARED_TAR, len(placed), size, sha256, index_sha256), shared


def _distinct(digests: list[NDArray[np.uint8]]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Rows at which the distinct digests occur first, ascending; and for each row, which of them its digest is."""
    whole = np.concatenate(digests).view("V16").ravel()
    _, first, member = np.unique(whole, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[member].astype("<u4")


def _images(out: Path, records: list[Record], name: str, rows: NDArray[np.int64]) -> Iterator[bytes]:
    """The images of one component of the samples in `rows`, read from their shards."""
    begin = np.cumsum([0, *(record.shard.samples for record in records)])
    for row in rows:
        number = int(np.searchsorted(begin, row, side="right")) - 1
        place = records[number].locations[name][row - begin[number]]
        with (out / records[number].shard.name).open("rb") as tar:
            tar.seek(int(place["block"]) * BLOCK)
            yield tar.read(int(place["bytes"]))


def _write_arrays(folder: Path, arrays: dict[str, NDArray[Any]]) -> dict[str, str]:
    """Writes the index; returns each file's sha256."""
    folder.mkdir(exist_ok=True)
    digests = {}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        write_bytes(folder / f"{name}.npy", buffer.getvalue())
        digests[f"{name}.npy"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    return digests


def statistics(records: list[Record]) -> dict[str, Statistics]:
    """Mean and standard deviation of each channel over all pixels, from the counts of the 256 values.

    Of components of which nothing was counted there are none.
    """
    values = np.arange(256) / 255
    found = {}
    for name in records[0].histograms:
        counts = sum((record.histograms[name] for record in records[1:]), records[0].histograms[name])
        if not counts.any():
            continue
        mean = counts @ values / counts.sum(1)
        variance = counts @ values**2 / counts.sum(1) - mean**2
        std = np.sqrt(np.maximum(variance, 0))
        found[name] = Statistics(mean=mean.round(6).tolist(), std=std.round(6).tolist())
    return found


def _ordered(found: dict[str, Statistics], components: Iterable[str]) -> dict[str, Statistics]:
    if missing := [name for name in components if name not in found]:
        raise InputError(
            f"{', '.join(missing)}: none of the samples that were to be counted for the statistics is whole."
        )
    return {name: found[name] for name in components}


def _counted(records: list[Record], work: Work) -> int | None:
    """How many samples the histograms are of; None if of all."""
    pixels = {name: sum(int(one.histograms[name][0].sum()) for one in records) for name in records[0].histograms}
    counted = max(pixels.values()) // (work.image_size[0] * work.image_size[1])
    return counted if counted < sum(record.shard.samples for record in records) else None


def _write_report(path: Path, left_out: list[LeftOut]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(LeftOut._fields)
    writer.writerows(sorted(left_out))
    write_bytes(path, text.getvalue().encode(errors="backslashreplace"))


def _counts(left_out: list[LeftOut]) -> str:
    return (
        ", ".join(f"{count} {kind}" for kind, count in Counter(one.kind for one in left_out).most_common()) or "empty"
    )
