"""Small data sets for the tests: how they are composed and converted, and what lies in them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from shards.build.assemble import assemble
from shards.build.build import BuildConfig, build_dataset
from shards.build.shard import Record, index_shard, write_shard
from shards.format.dataset import Dataset
from shards.format.depth import ExistingDepthConfig
from shards.format.manifest import Manifest
from shards.format.splits import DivisionConfig, SplitConfig
from shards.format.storage import LocalFolder
from shards.ingest.compose import ComposeConfig
from shards.ingest.convert import ConvertConfig, plan_conversion
from shards.ingest.index import plan_index
from shards.ingest.job import Job, Unit

SIZE = 48
SAMPLES = 150
TREES = {"fg_bg": "OverlayedImages", "mask": "OverlayedMasks", "depth": "DepthImage", "bg": "Background"}


class Drawn(NamedTuple):
    """Folders of cut-outs, rooms, and the rooms' depth maps."""

    fg: Path
    bg: Path
    depth: Path


ONE_WORKER = BuildConfig(workers=1)


def division(**options: Any) -> DivisionConfig:
    return DivisionConfig(**{"samples_per_shard": 25} | options)


def compose_config(drawn: Drawn, **options: Any) -> ComposeConfig:
    """Four rounds of each figure in each room, two of them mirrored, of which 150 samples are kept."""
    own: dict[str, Any] = drawn._asdict() | {
        "places": 2,
        "mirror": True,
        "samples": SAMPLES,
        "size": SIZE,
        "division": division(),
    }
    return ComposeConfig(**own | options)


def built(work: Job, out: Path, how: BuildConfig = ONE_WORKER) -> Dataset:
    """The data set, built as the commands do; where one worker would do all of it, by this process."""
    if how == ONE_WORKER and not (out.exists() or work.in_place):
        return built_here(work, out)
    build_dataset(work, LocalFolder(out), how)
    return Dataset.open(out)


def shard(job: Job, unit: Unit, folder: Path) -> Record:
    """Writes the unit's shard in this process."""
    components = {name: one.extension for name, one in job.plan.manifest.components.items()}
    return write_shard(folder / unit.name, components, unit.samples())


def built_here(job: Job, out: Path) -> Dataset:
    """The data set, built in this process."""
    out.mkdir(parents=True)
    assemble([shard(job, unit, out) for unit in job.units], job.plan, out, LocalFolder(out))
    return Dataset.open(out)


def indexed_here(folder: Path, split: SplitConfig) -> Dataset:
    """The tars in `folder` as a data set, indexed in this process."""
    job = plan_index(folder, ExistingDepthConfig(), split)
    components = {name: one.extension for name, one in job.plan.manifest.components.items()}
    records = [index_shard(folder / unit.name, components, unit.samples()) for unit in job.units]
    assemble(records, job.plan, folder, LocalFolder(folder))
    return Dataset.open(folder)


def convert(
    sources: Sequence[Path],
    out: Path,
    component: tuple[str, ...] = (),
    workers: int = 1,
    again: bool = False,
    **options: Any,
) -> Dataset:
    config = ConvertConfig(component=component, division=division(**options))
    return built(plan_conversion(sources, config), out, BuildConfig(workers=workers, again=again))


def begun(work: Job, out: Path) -> None:
    """All shards, as a kill leaves them before the rest is made of them."""
    build_dataset(work, LocalFolder(out), replace(ONE_WORKER, part="1/1"))


def said(root: Path) -> Manifest:
    """The manifest, but for what tells the sources."""
    manifest = Manifest.read(root)
    return replace(manifest, made_from="", command="", shards=[replace(one, made_from="") for one in manifest.shards])


def images(dataset: Dataset) -> dict[str, dict[str, bytes]]:
    """The bytes of every image that the index leads to, by key and component."""
    tars = [dataset.tar_path(number).read_bytes() for number in range(len(dataset.tars))]
    found: dict[str, dict[str, bytes]] = {dataset.key(row): {} for row in range(len(dataset))}
    for name in dataset.manifest.components:
        places = dataset.locate(name, range(len(dataset)))  # type: ignore[arg-type]  # a range serves
        for key, file, offset, size in zip(found, *places, strict=True):
            found[key][name] = tars[file][offset : offset + size]
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in `folder`, hidden ones too, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip(path: Path, position: int) -> None:
    """Changes one bit in the byte at `position`."""
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))
