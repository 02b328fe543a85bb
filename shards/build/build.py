"""From the records of finished shards to the manifest, the index, and the tar of shared images."""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from socket import gethostname
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from shards.build.plan import Plan, Unit, Work
from shards.build.run import RunConfig, run_units
from shards.build.shard import LeftOut, Record
from shards.errors import InputError
from shards.format.depth import Device
from shards.format.manifest import LOCATION, SPLITS, Manifest, Shard, Statistics, StoredComponent
from shards.format.schema import BY_NAME, SHARED_TAR, WORK
from shards.format.splits import split_numbers
from shards.format.storage import Folder, replacing, write_bytes
from shards.format.tar import BLOCK, ShardWriter, write_index

SHARED_AT_MOST = 0.5
"""distinct images a sample. With more, a second copy costs more room than decoding them once saves"""


def assemble(records: Iterable[Record], plan: Plan, out: Path, stored: Folder) -> None:
    """Writes index, shared tar and, last of all, the manifest to `out`; the shards lie in `stored`, as the report will.

    Raises InputError if the records hold no sample.
    """
    all_records = list(records)
    left_out = plan.left_out + [one for record in all_records for one in record.left_out]
    stored.write("left-out.tsv", _report(left_out))
    kept = [record for record in all_records if record.shard.samples]
    if not kept:
        raise InputError(f"{stored}: no sample is left ({_counts(left_out)}); see {stored}/left-out.tsv.")
    keys = np.concatenate([record.keys for record in kept])
    _refuse_duplicates(keys)
    numbers = plan.known.splits if plan.known else split_numbers((key.decode() for key in keys), plan.split)
    shared_tar, shared = _write_shared(out, stored, kept, plan.components)
    index = {"keys": keys, "samples": _samples(kept, plan.components, shared)}
    index |= {f"shared_{name}": locations for name, (locations, _) in shared.items()}
    index |= {name: np.flatnonzero(numbers == i).astype("<u4") for i, name in enumerate(SPLITS)}
    manifest = Manifest(
        image_size=plan.image_size,
        components={
            name: StoredComponent(
                extension=extension,
                channels=BY_NAME[name].channels,
                shared=len(shared[name][0]) if name in shared else 0,
                bits=plan.depth_bits if name == "depth" else 8,
            )
            for name, extension in plan.components.items()
        },
        depth=plan.depth,
        samples=len(keys),
        splits={name: len(index[name]) for name in SPLITS},
        split_by=plan.known.split_by if plan.known else plan.split.split_by,
        statistics=_ordered(statistics(kept) | (plan.known.statistics if plan.known else {}), plan.components),
        left_out=dict(sorted(Counter(one.kind for one in left_out).items())),
        shards=[record.shard for record in kept],
        shared=shared_tar,
        index=_write_arrays(out / "index", index),
        sources=plan.sources,
        made_from=plan.fingerprint,
        storage=plan.storage,
        verified=plan.verified,
        counted=plan.known.counted if plan.known else _counted(kept, plan),
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
    out: Path, stored: Folder, records: list[Record], components: dict[str, str]
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
            images = _images(stored, records, name, first)
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


def _images(stored: Folder, records: list[Record], name: str, rows: NDArray[np.int64]) -> Iterator[bytes]:
    """The images of one component of the samples in `rows`, read from their shards."""
    begin = np.cumsum([0, *(record.shard.samples for record in records)])
    numbers = np.searchsorted(begin, rows, side="right") - 1
    within = rows - begin[numbers]
    places = [records[n].locations[name][row] for n, row in zip(numbers, within, strict=True)]
    tars = [records[n].shard.name for n in numbers]
    return stored.pieces(
        [(tar, int(place["block"]) * BLOCK, int(place["bytes"])) for tar, place in zip(tars, places, strict=True)]
    )


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


def _counted(records: list[Record], plan: Plan) -> int | None:
    """How many samples the histograms are of; None if of all."""
    pixels = {name: sum(int(one.histograms[name][0].sum()) for one in records) for name in records[0].histograms}
    counted = min(pixels.values()) // (plan.image_size[0] * plan.image_size[1])
    return counted if counted < sum(record.shard.samples for record in records) else None


def _report(left_out: list[LeftOut]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(LeftOut._fields)
    writer.writerows(sorted(left_out))
    return text.getvalue().encode(errors="backslashreplace")


def _counts(left_out: list[LeftOut]) -> str:
    return (
        ", ".join(f"{count} {kind}" for kind, count in Counter(one.kind for one in left_out).most_common()) or "empty"
    )


FINGERPRINT, PLAN = f"{WORK}/fingerprint", f"{WORK}/plan.json"


@dataclass(frozen=True, kw_only=True)
class BuildConfig(RunConfig):
    """Who builds a data set, and how much of it."""

    part: str | None = None
    """I/N builds only the I-th of N parts, counted from 1, as a job of an array does; `merge` then joins them"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.part is not None:
            _numbers(self.part)


def _numbers(part: str) -> tuple[int, int]:
    number, slash, of = part.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise InputError(f"part {part}: two numbers are needed, such as 2/5 for the second of five parts.")
    return int(number), int(of)


def build(work: Work, out: Folder, config: BuildConfig) -> Manifest | None:
    """Builds the data set in `out`, or goes on with it. Returns its manifest; None if only a part of it was asked for.

    Raises InputError if `out` holds something else, or if no sample is left; OSError if the disk is full.
    """
    plan = work.plan
    if out.exists("manifest.json"):
        return _finished(out, plan)
    claim(out, plan.fingerprint)
    if not out.exists(PLAN):
        out.write(PLAN, plan.to_json().encode())
    number, of = _numbers(config.part or "1/1")
    _run(work.units[number - 1 :: of], out, plan.fingerprint, config, work.device)
    return None if config.part else _assembled(out, plan)


def _finished(out: Folder, plan: Plan) -> Manifest:
    manifest = Manifest.read(out)
    if manifest.made_from != plan.fingerprint:
        raise InputError(f"{out}: holds another data set already. Choose another folder, or delete that one.")
    out.remove(WORK)
    return manifest


def claim(out: Folder, fingerprint: str) -> None:
    """Marks `out` as belonging to this work. Raises InputError if it belongs to other work."""
    if not out.exists(FINGERPRINT):
        out.write(FINGERPRINT, fingerprint.encode())
    elif out.read(FINGERPRINT).decode() != fingerprint:
        raise InputError(
            f"{out}: holds the beginning of another data set (other sources or other options). "
            "Choose another folder, or delete that one."
        )


def _run(units: Sequence[Unit], out: Folder, fingerprint: str, config: BuildConfig, device: Device | None) -> None:
    # Only of its own shards: those of other parts may be under way elsewhere.
    out.sweep({stem for unit in units for stem in (unit.name, Path(unit.name).stem)})
    done = _done([unit.name for unit in units], out)
    missing = [unit for unit in units if unit.name not in done]
    total = sum(unit.size for unit in units)
    run_units(partial(_run_unit, out, fingerprint), missing, config, total=total, device=device)


def _done(shards: Sequence[str], out: Folder) -> set[str]:
    """Those that are finished: their tar and their record are there."""
    tars, records = out.names(), out.names(WORK)
    return {name for name in shards if name in tars and f"{name}.npz" in records}


def _run_unit(out: Folder, fingerprint: str, unit: Unit) -> None:
    if not out.exists(FINGERPRINT) or out.read(FINGERPRINT).decode() != fingerprint:
        raise InputError(
            f"{out}: {gethostname()} does not see in it what the machine that began has put there. It must be a folder "
            "that all machines mount under this path, or a URL."
        )
    with out.filling() as folder:
        record = unit.run(folder)
        (folder / WORK).mkdir(exist_ok=True)
        record.save(folder / WORK / f"{unit.name}.npz")


def _assembled(out: Folder, plan: Plan) -> Manifest:
    out.sweep(None)
    records = (Record.load(BytesIO(data)) for data in out.each([f"{WORK}/{name}.npz" for name in plan.shards]))
    with out.filling() as folder:
        assemble(records, plan, folder, out)
    out.remove(WORK)
    return Manifest.read(out)


def merge(parts: Sequence[Folder], out: Folder) -> Manifest:
    """Joins parts of a data set, built by `--part`, in `out`: those in `out` itself, and those in the folders `parts`.

    Raises InputError if a shard is missing, or if the parts are not all of one data set.
    """
    if out.exists("manifest.json") and not parts:
        return Manifest.read(out)
    plan = _plan(parts[0] if parts else out)
    if out.exists("manifest.json"):
        return _finished(out, plan)
    claim(out, plan.fingerprint)
    for part in parts:
        if _plan(part).fingerprint != plan.fingerprint:
            raise InputError(f"{part}: holds a part of another data set (other sources or other options).")
        _take(part, out, plan)
    if missing := sorted(set(plan.shards) - _done(plan.shards, out)):
        raise InputError(
            f"{out}: {len(missing)} of {len(plan.shards)} shards are not there yet, such as {missing[0]}. Run the "
            "parts that are missing, or the same command without --part."
        )
    return _assembled(out, plan)


def _plan(part: Folder) -> Plan:
    if not part.exists(PLAN):
        raise InputError(
            f"{part}: no part of a data set here. `compose`, `convert` and `depth` build one with --part I/N."
        )
    return Plan.from_json(part.read(PLAN).decode())


def _take(part: Folder, out: Folder, plan: Plan) -> None:
    """Copies the finished shards of a part; of each its record last, so that it counts only when it is whole."""
    new = _done(plan.shards, part) - _done(plan.shards, out)
    for name in track(sorted(new), f"{part}"):
        for file in (name, f"{Path(name).stem}.idx", f"{WORK}/{name}.npz"):
            out.write(file, part.read(file))
