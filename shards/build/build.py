"""Builds a data set shard by shard: in parallel, resumable after any kill, with the same bytes whatever happened.

A shard is the unit of work. Each one that is finished leaves its record in OUT/.work, beside the plan of the whole.
When all are there, whoever built them, index, shared tar and manifest are assembled from the records, in order, and
.work goes. Nothing of it depends on time, machine or number of workers.

A record is named after its shard and the digest of what that is made of. So where files were mended meanwhile, the same
command keeps the shards that they are no part of. It is the record of the tar that lies there: before a shard is made
again its other records go. Both are looked at before they count, so damage costs no more than its shard.
"""

import hashlib
from collections.abc import Callable, Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from socket import gethostname
from typing import TypeVar

from rich.progress import track

from shards.build.assemble import assemble
from shards.build.run import RunConfig, W, run_units
from shards.build.shard import Record, index_shard, write_shard
from shards.errors import InputError
from shards.format.dataset import ShardContents
from shards.format.manifest import Manifest, Shard
from shards.format.schema import WORK
from shards.format.storage import Folder
from shards.ingest.job import Job, Plan, Unit

FINGERPRINT, PLAN = f"{WORK}/fingerprint", f"{WORK}/plan"

_AT_ONCE = 16
"""Shards that are looked at together, for what is at a URL must be waited for."""

M = TypeVar("M", bound=Unit | ShardContents | Shard)
"""What has a record."""


@dataclass(frozen=True, kw_only=True)
class BuildConfig(RunConfig):
    """Who builds a data set, and how much of it."""

    part: str | None = None
    """I/N builds only the I-th of N parts, counted from 1, as a job of an array does; `merge` then joins them"""
    again: bool = False
    """make a finished data set again, in place, if the files that it was made of have changed since"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.part is not None:
            _numbers(self.part)
        if self.part is not None and self.again:
            raise InputError(
                f"again with part {self.part}: each part would take away what the others have made. Make all of it "
                "again without --part, or build the parts in a new folder."
            )


def _numbers(part: str) -> tuple[int, int]:
    number, slash, of = part.partition("/")
    if not (slash and len(part) < 20 and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise InputError(f"part {part}: two numbers are needed, such as 2/5 for the second of five parts.")
    return int(number), int(of)


def build_dataset(job: Job, out: Folder, config: BuildConfig) -> Manifest | None:
    """Build the data set in `out`, or go on with it. Return its manifest; None if only a part of it was asked for.

    Raises InputError if `out` holds something else, or the same made of files that have changed since, unless
    `config.again`; and if no sample is left. Raises OSError if the disk is full.
    """
    plan = job.plan
    if out.exists("manifest.json"):
        before = Manifest.read(out)
        if before.made_from == plan.manifest.made_from or not _same_command(before, plan.manifest):
            return _finished(out, plan, job.in_place)
        if not config.again:
            raise InputError(
                f"{out}: {_change(before, plan.manifest)} Add --again to make the data set again in place."
            )
        _reopen(out, replace(plan, manifest=before))
    _begin(out, plan)
    number, of = _numbers(config.part or "1/1")
    components = {name: one.extension for name, one in plan.manifest.components.items()}
    do = partial(_build_shard, components, job.in_place)
    how = replace(config, workers=1) if job.exclusive else config
    units = job.units[number - 1 :: of]
    resume(do, units, out, plan.manifest.made_from, how, gpu=job.gpu, finished=_is_finished)
    return None if config.part else _assembled(out, plan)


def _build_shard(components: dict[str, str], in_place: bool, unit: Unit, folder: Path) -> bytes:
    make = index_shard if in_place else write_shard
    return make(folder / unit.name, components, unit.samples()).to_bytes()


def _finished(out: Folder, plan: Plan, in_place: bool = False) -> Manifest:
    manifest = Manifest.read(out)
    if manifest.made_from != plan.manifest.made_from:
        advice = "Delete its manifest.json" if in_place else "Choose another folder, or delete that one"
        raise InputError(f"{out}: holds another data set already. {advice}.")
    out.remove(WORK)
    return manifest


def _same_command(one: Manifest, other: Manifest) -> bool:
    return one.command == other.command != ""


def _change(before: Manifest, goal: Manifest) -> str:
    """Say which shards are made of something else than before."""
    old, new = ({shard.name: shard.made_from for shard in one.shards} for one in (before, goal))
    if not (changed := sorted(name for name in old | new if old.get(name) != new.get(name))):
        return "its shards would be the same, but not what is said of them, such as splits or the range of depth."
    more = f" and {len(changed) - 1} more" if changed[1:] else ""
    return f"files have changed since; {changed[0]}{more} of {len(old | new)} shards would no longer be the same."


def _reopen(out: Folder, plan: Plan) -> None:
    """Make the finished data set one that is begun, of which no shard is done. Its manifest goes last."""
    _write_plan(out, plan)
    out.write(FINGERPRINT, plan.manifest.made_from.encode())
    out.remove("manifest.json")


def _begin(out: Folder, plan: Plan) -> None:
    """Mark `out` as belonging to this plan, of which it may hold a part. Raises InputError if it belongs to other work.

    If the same command began it when its files were others, what the plan no longer has is removed.
    """
    goal = plan.manifest
    if out.exists(FINGERPRINT) and out.read(FINGERPRINT) != goal.made_from.encode():
        before = _read_plan(out)
        if before and (before.manifest.made_from == goal.made_from or _same_command(before.manifest, goal)):
            gone = {tar.name for tar in before.manifest.tars} - {shard.name for shard in goal.shards}
            _forget(out, gone)
            for name in gone:
                out.remove(name)
                out.remove(_idx(name))
            out.remove("index")
            out.write(FINGERPRINT, goal.made_from.encode())
    claim(out, goal.made_from)
    _write_plan(out, plan)


def claim(out: Folder, fingerprint: str) -> None:
    """Mark `out` as belonging to this work. Raises InputError if it belongs to other work."""
    if not out.exists(FINGERPRINT):
        out.write(FINGERPRINT, fingerprint.encode())
    elif out.read(FINGERPRINT) != fingerprint.encode():
        raise InputError(
            f"{out}: holds the beginning of another data set (other sources or other options). "
            "Choose another folder, or delete that one."
        )


def resume(
    do: Callable[[W, Path], bytes],
    units: Sequence[W],
    out: Folder,
    fingerprint: str,
    config: RunConfig,
    *,
    gpu: bool = False,
    finished: Callable[[Folder, bytes], bool],
) -> None:
    """Do those of `units` that `out`, claimed by this work under `fingerprint`, has no record of.

    `do` fills the local folder that it is given, whole files only, and returns the unit's record, which is kept.
    `finished` tells by such a record whether what it is of is still there.
    """
    # Only of these units: others may be under way elsewhere.
    out.sweep({stem for unit in units for stem in (Path(_record(unit)).stem, Path(unit.name).stem)})
    missing = _missing(out, units, finished)
    _forget(out, {unit.name for unit in missing})
    run_units(partial(_do, do, out, fingerprint.encode()), missing, config, sum(unit.size for unit in units), gpu)


def _idx(tar: str) -> str:
    return f"{Path(tar).stem}.idx"


def _record(one: Unit | ShardContents | Shard) -> str:
    return f"{WORK}/{one.name}.{one.made_from[:16]}.npz"


def _missing(out: Folder, wanted: Sequence[M], finished: Callable[[Folder, bytes], bool]) -> list[M]:
    """List those of the `wanted` that are not `finished`. A record is written after all else."""
    found = out.names(WORK)

    def is_missing(one: M) -> bool:
        return Path(_record(one)).name not in found or not finished(out, out.read(_record(one)))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [one for one, missing in zip(wanted, pool.map(is_missing, wanted), strict=True) if missing]


def _is_finished(out: Folder, record: bytes) -> bool:
    """Tell whether a record is whole, and the files in `out` are those that it is of."""
    try:
        shard = Record.from_bytes(record).shard
    except Exception:  # damaged, in whatever way
        return False
    return out.holds(shard.name, shard.bytes, shard.sha256) and out.holds(_idx(shard.name), None, shard.index_sha256)


def _forget(out: Folder, shards: Container[str]) -> None:
    """Remove all records of these shards, whatever they were made of."""
    for name in out.names(WORK):
        if name.endswith(".npz") and name.rsplit(".", 2)[0] in shards:
            out.remove(f"{WORK}/{name}")


def _do(do: Callable[[W, Path], bytes], out: Folder, fingerprint: bytes, unit: W) -> None:
    if not out.exists(FINGERPRINT):
        raise InputError(
            f"{out}: {gethostname()} does not see in it what the machine that began has put there. It must be a folder "
            "that all machines mount under this path, or a URL."
        )
    if out.read(FINGERPRINT) != fingerprint:
        raise InputError(
            f"{out}: the same command has begun anew in it, for files have changed since this one began. Run it again. "
            f"If none have, their sizes or times are not the same there as on {gethostname()}: mount the same files."
        )
    with out.filling() as folder:
        record = do(unit, folder)
    out.write(_record(unit), record)


def merge(parts: Sequence[Folder], out: Folder) -> Manifest:
    """Join parts of a data set, built by `--part`, in `out`: those in `out` itself, and those in the folders `parts`.

    Raises InputError if a shard is missing, or if the parts are not all of one data set.
    """
    if out.exists("manifest.json") and not parts:
        out.remove(WORK)
        return Manifest.read(out)
    plan = _plan(parts[0] if parts else out)
    if out.exists("manifest.json"):
        return _finished(out, plan)
    claim(out, plan.manifest.made_from)
    shards = plan.manifest.shards
    lacking = wanted = _missing(out, shards, _is_finished)
    for part in parts:
        if _plan(part).manifest.made_from != plan.manifest.made_from:
            raise InputError(
                f"{part}: holds a part of another data set (other sources or other options, or files that have changed "
                "between the parts: run its command again then)."
            )
        absent = _missing(part, lacking, _is_finished)
        for shard in track([one for one in lacking if one not in absent], "shards"):
            for file in (shard.name, _idx(shard.name), _record(shard)):
                out.write(file, part.read(file))
        lacking = absent
    if missing := _missing(out, wanted, _is_finished):
        raise InputError(
            f"{out}: {len(missing)} of {len(shards)} shards are not there yet or damaged, such as {missing[0].name}. "
            "Run their parts, or the same command without --part."
        )
    return _assembled(out, plan)


def _write_plan(out: Folder, plan: Plan) -> None:
    """Write the plan, with its digest before it."""
    text = plan.to_json().encode()
    out.write(PLAN, hashlib.sha256(text).hexdigest().encode() + b"\n" + text)


def _read_plan(part: Folder) -> Plan | None:
    """Return None if the plan is not there, or damaged."""
    digest, _, text = part.read(PLAN).partition(b"\n") if part.exists(PLAN) else (b"", b"", b"")
    return Plan.from_json(text.decode()) if hashlib.sha256(text).hexdigest().encode() == digest else None


def _plan(part: Folder) -> Plan:
    if plan := _read_plan(part):
        return plan
    if part.exists(PLAN):
        raise InputError(f"{part}: {PLAN} is damaged. Run the command of one of the parts again; it writes it anew.")
    raise InputError(f"{part}: no part of a data set here. `compose`, `convert` and `depth` build one with --part I/N.")


def _assembled(out: Folder, plan: Plan) -> Manifest:
    out.sweep(None)
    records = [(_record(shard), 0, None) for shard in plan.manifest.shards]
    with out.filling() as folder:
        assemble([Record.from_bytes(data) for data in out.ranges(records)], plan, folder, out)
    out.remove(WORK)
    return Manifest.read(out)
