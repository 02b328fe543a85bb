"""Builds a data set shard by shard: in parallel, resumable after any kill, with the same bytes whatever happened.

A shard is the unit of work. Each one that is finished leaves its record in OUT/.work, beside the plan of the whole.
When all are there, whoever built them, index, shared tar and manifest are assembled from the records, in order, and
.work goes. Nothing of it depends on time, machine or number of workers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from socket import gethostname

from rich.progress import track

from shards.build.assemble import assemble
from shards.build.run import RunConfig, W, run_units
from shards.build.shard import Record, index_shard, write_shard
from shards.errors import InputError
from shards.format.manifest import Manifest
from shards.format.schema import WORK
from shards.format.storage import Folder
from shards.ingest.job import Job, Plan, Unit

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


def build_dataset(job: Job, out: Folder, config: BuildConfig) -> Manifest | None:
    """Build the data set in `out`, or go on with it. Return its manifest; None if only a part of it was asked for.

    Raises InputError if `out` holds something else, or if no sample is left; OSError if the disk is full.
    """
    plan = job.plan
    if out.exists("manifest.json"):
        return _finished(out, plan)
    claim(out, plan.manifest.made_from)
    if not out.exists(PLAN):
        out.write(PLAN, plan.to_json().encode())
    number, of = _numbers(config.part or "1/1")
    components = {name: one.extension for name, one in plan.manifest.components.items()}
    do = partial(_build_shard, components, job.in_place)
    how = replace(config, workers=1) if job.exclusive else config
    resume(do, job.units[number - 1 :: of], out, how, gpu=job.gpu)
    return None if config.part else _assembled(out, plan)


def _build_shard(components: dict[str, str], in_place: bool, unit: Unit, folder: Path) -> bytes:
    make = index_shard if in_place else write_shard
    return make(folder / unit.name, components, unit.samples()).to_bytes()


def _finished(out: Folder, plan: Plan) -> Manifest:
    manifest = Manifest.read(out)
    if manifest.made_from != plan.manifest.made_from:
        raise InputError(f"{out}: holds another data set already. Choose another folder, or delete that one.")
    out.remove(WORK)
    return manifest


def claim(out: Folder, fingerprint: str) -> None:
    """Mark `out` as belonging to this work. Raises InputError if it belongs to other work."""
    if not out.exists(FINGERPRINT):
        out.write(FINGERPRINT, fingerprint.encode())
    elif out.read(FINGERPRINT).decode() != fingerprint:
        raise InputError(
            f"{out}: holds the beginning of another data set (other sources or other options). "
            "Choose another folder, or delete that one."
        )


def resume(
    do: Callable[[W, Path], bytes], units: Sequence[W], out: Folder, config: RunConfig, *, gpu: bool = False
) -> None:
    """Do those of `units` that `out`, claimed by this work, has no record of.

    `do` fills the local folder that it is given, whole files only, and returns the unit's record, which is kept.
    """
    # Only of these units: others may be under way elsewhere.
    out.sweep({stem for unit in units for stem in (unit.name, Path(unit.name).stem)})
    done = _recorded(out)
    missing = [unit for unit in units if unit.name not in done]
    run_units(partial(_do, do, out, out.read(FINGERPRINT)), missing, config, sum(unit.size for unit in units), gpu)


def _record(name: str) -> str:
    return f"{WORK}/{name}.npz"


def _recorded(out: Folder) -> set[str]:
    """Name the shards that are finished. A record is written after all else."""
    return {name.removesuffix(".npz") for name in out.names(WORK) if name.endswith(".npz")}


def _do(do: Callable[[W, Path], bytes], out: Folder, fingerprint: bytes, unit: W) -> None:
    if not out.exists(FINGERPRINT) or out.read(FINGERPRINT) != fingerprint:
        raise InputError(
            f"{out}: {gethostname()} does not see in it what the machine that began has put there. It must be a folder "
            "that all machines mount under this path, or a URL."
        )
    with out.filling() as folder:
        record = do(unit, folder)
    out.write(_record(unit.name), record)


def merge(parts: Sequence[Folder], out: Folder) -> Manifest:
    """Join parts of a data set, built by `--part`, in `out`: those in `out` itself, and those in the folders `parts`.

    Raises InputError if a shard is missing, or if the parts are not all of one data set.
    """
    if out.exists("manifest.json") and not parts:
        return Manifest.read(out)
    plan = _plan(parts[0] if parts else out)
    if out.exists("manifest.json"):
        return _finished(out, plan)
    claim(out, plan.manifest.made_from)
    for part in parts:
        if _plan(part).manifest.made_from != plan.manifest.made_from:
            raise InputError(f"{part}: holds a part of another data set (other sources or other options).")
        for name in track(sorted(_recorded(part) - _recorded(out)), f"{part}"):
            for file in (name, f"{Path(name).stem}.idx", _record(name)):
                out.write(file, part.read(file))
    names = [shard.name for shard in plan.manifest.shards]
    if missing := sorted(set(names) - _recorded(out)):
        raise InputError(
            f"{out}: {len(missing)} of {len(names)} shards are not there yet, such as {missing[0]}. Run the "
            "parts that are missing, or the same command without --part."
        )
    return _assembled(out, plan)


def _plan(part: Folder) -> Plan:
    if not part.exists(PLAN):
        raise InputError(
            f"{part}: no part of a data set here. `compose`, `convert` and `depth` build one with --part I/N."
        )
    return Plan.from_json(part.read(PLAN).decode())


def _assembled(out: Folder, plan: Plan) -> Manifest:
    out.sweep(None)
    records = [(_record(shard.name), 0, None) for shard in plan.manifest.shards]
    with out.filling() as folder:
        assemble([Record.from_bytes(data) for data in out.ranges(records)], plan, folder, out)
    out.remove(WORK)
    return Manifest.read(out)
