"""Builds a data set shard by shard: in parallel, resumable after any kill, with the same bytes whatever happened.

A shard is the unit of work. Each one that is finished leaves a record in OUT/.work; when all are there the manifest
is assembled from the records, in order, and .work goes. Nothing of it depends on time, machine or number of workers.
"""

import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shards.assemble import assemble
from shards.atomic import PARTIAL, write_bytes
from shards.errors import InputError
from shards.manifest import Dataset
from shards.parallel import run_parallel
from shards.record import Record
from shards.schema import WORK
from shards.splits import SplitConfig
from shards.work import Unit, Work

__all__ = ["BuildConfig", "build", "claim"]


@dataclass(frozen=True, kw_only=True)
class BuildConfig(SplitConfig):
    """How a data set is built, whatever it is built from."""

    samples_per_shard: int = 1000
    """about 25 MB a shard at 160 px: one request to an object store, and fine enough to spread over ranks"""
    workers: int = os.cpu_count() or 1
    """processes; the result does not depend on it"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples_per_shard < 1 or self.workers < 1:
            raise InputError("samples-per-shard and workers must be at least 1.")


def build(work: Work, out: Path, config: BuildConfig) -> Dataset:
    """Builds the data set in `out`, or goes on with it. Returns it opened.

    Raises InputError if `out` holds something else, or if no sample is left; OSError if the disk is full.
    """
    if (out / "manifest.json").exists():
        _refuse_another(Dataset.open(out), work)
    else:
        claim(out, work.fingerprint)
        missing = [unit for unit in work.units if not _is_done(out, unit)]
        run_parallel(partial(_run_unit, out), missing, config.workers, total=sum(unit.size for unit in work.units))
        records = [_record_path(out, unit) for unit in work.units]
        missing.clear()
        work = work._replace(units=())  # what they know of each sample is no longer needed
        assemble(map(Record.load, records), work, out, config)
    shutil.rmtree(out / WORK, ignore_errors=True)
    return Dataset.open(out)


def _refuse_another(dataset: Dataset, work: Work) -> None:
    if dataset.manifest.made_from != work.fingerprint:
        raise InputError(f"{dataset.root}: holds another data set already. Choose another folder, or delete that one.")


def claim(out: Path, fingerprint: str) -> None:
    """Marks `out` as belonging to this work, and clears away what a killed run left half written.

    Raises InputError if it belongs to other work.
    """
    (out / WORK).mkdir(parents=True, exist_ok=True)
    mark = out / WORK / "fingerprint"
    if not mark.exists():
        write_bytes(mark, fingerprint.encode())
    elif mark.read_text() != fingerprint:
        raise InputError(
            f"{out}: holds the beginning of another data set (other sources or other options). "
            "Choose another folder, or delete that one."
        )
    for stale in out.rglob(f"{PARTIAL}*"):
        stale.unlink()


def _record_path(out: Path, unit: Unit) -> Path:
    return out / WORK / f"{unit.name}.npz"


def _is_done(out: Path, unit: Unit) -> bool:
    return _record_path(out, unit).exists() and (out / unit.name).exists()


def _run_unit(out: Path, unit: Unit) -> None:
    unit.run(out).save(_record_path(out, unit))
