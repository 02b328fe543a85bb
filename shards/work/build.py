"""Builds a data set shard by shard: in parallel, resumable after any kill, with the same bytes whatever happened.

A shard is the unit of work. Each one that is finished leaves a record in OUT/.work, beside the plan of the whole; when
all are there, whoever built them, the manifest is assembled from the records, in order, and .work goes. Nothing of it
depends on time, machine or number of workers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from socket import gethostname

from rich.progress import track

from shards.depth import Device
from shards.errors import InputError
from shards.folder import Folder
from shards.manifest import Manifest
from shards.schema import WORK
from shards.work.assemble import assemble
from shards.work.parallel import EngineConfig, run_parallel
from shards.work.plan import Plan, Unit, Work
from shards.work.record import Record

__all__ = ["FINGERPRINT", "BuildConfig", "build", "claim", "merge"]

FINGERPRINT, PLAN = f"{WORK}/fingerprint", f"{WORK}/plan.json"


@dataclass(frozen=True, kw_only=True)
class BuildConfig(EngineConfig):
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
    run_parallel(partial(_run_unit, out, fingerprint), missing, config, total=total, device=device)


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
