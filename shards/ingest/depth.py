"""A second pass over a data set: the same samples, with depth from a teacher. Composing needs cores, this a GPU."""

import csv
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.build.plan import Known, Plan, Work
from shards.build.shard import LeftOut, Record, Sample, write_shard
from shards.errors import InputError
from shards.format.dataset import Contents, Dataset
from shards.format.depth import STORED, DepthFormat, depth_image
from shards.format.images import BadImage, checked, encoded, histogram
from shards.format.manifest import SPLITS
from shards.format.schema import BY_NAME, LONGEST_KEY
from shards.format.splits import SplitConfig
from shards.ingest.listing import IMAGES
from shards.ingest.teacher import TeacherConfig, fingerprint_of, load_teacher, resolved


@dataclass(frozen=True, kw_only=True)
class DepthConfig(TeacherConfig):
    """Which teacher predicts the depth, and how that is stored."""

    format: DepthFormat = "jpg"
    """jpg as in 2020, png without its loss, or png16: 16 bits a value"""


def plan_depth(dataset: Dataset, config: DepthConfig) -> Work:
    """Plans the pass over a data set, which may have depth already or none yet.

    Keys, splits, and all images but depth stay as they are. Raises InputError if there is no teacher.
    """
    config = resolved(config)
    manifest, (extension, bits) = dataset.manifest, STORED[config.format]
    has = {name: component.extension for name, component in manifest.components.items()} | {"depth": extension}
    components = {name: has[name] for name in BY_NAME}
    units = [DepthUnit(dataset.contents(number), components, config) for number in range(len(manifest.shards))]
    statistics = {name: found for name, found in manifest.statistics.items() if name != "depth"}
    plan = Plan(
        shards=tuple(shard.name for shard in manifest.shards),
        components=components,
        image_size=manifest.image_size,
        depth=config.depth_range,
        split=SplitConfig(),
        left_out=_left_out(dataset.root / "left-out.tsv"),
        fingerprint=_fingerprint(dataset, config),
        sources=manifest.sources | {"depth": [config.called]},
        storage=manifest.storage,
        depth_bits=bits,
        known=Known(_splits(dataset), manifest.split_by, statistics, manifest.counted),
        verified=manifest.verified,
    )
    return Work(plan, units, config.device)


def _splits(dataset: Dataset) -> NDArray[np.int8]:
    numbers = np.full(len(dataset), -1, np.int8)
    for number, name in enumerate(SPLITS):
        if dataset.manifest.splits.get(name):
            numbers[dataset.split(name)] = number
    return numbers


def _left_out(path: Path) -> list[LeftOut]:
    """What did not become part of the data set when it was made."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [LeftOut(*row) for row in list(csv.reader(file, delimiter="\t"))[1:]]


def _fingerprint(dataset: Dataset, config: DepthConfig) -> str:
    return hashlib.sha256(repr((dataset.manifest.to_json(), cache_key(config))).encode()).hexdigest()


def cache_key(config: DepthConfig) -> DepthConfig:
    """What the depth depends on. Devices and batch sizes differ in rounding at most, and may change."""
    return replace(config, teacher=fingerprint_of(config), batch_size=1, device="auto")


def _short(key: str) -> str:
    if len(key.encode()) > LONGEST_KEY:
        raise InputError(f"{key}: the name of a sample has {LONGEST_KEY} bytes at most in the tars that Sluice writes.")
    return key


@dataclass(frozen=True)
class DepthUnit:
    """The samples of one shard."""

    contents: Contents
    components: dict[str, str]
    config: DepthConfig

    @property
    def name(self) -> str:
        return self.contents.shard.name

    @property
    def size(self) -> int:
        return self.contents.size

    def run(self, folder: Path) -> Record:
        samples = labelled(self._stored(), self.config, self.components["fg_bg"])
        return write_shard(folder / self.name, self.components, samples)

    def _stored(self) -> Iterator[Sample]:
        """The samples as they are, without depth. Of images that stay as they are the statistics are known."""
        names = [name for name in self.components if name != "depth"]
        tar = self.contents.folder.read(self.name)
        images = zip(*(self.contents.images(name, tar) for name in names), strict=True)
        for number, one in enumerate(images):
            yield Sample(_short(self.contents.key(number)), dict(zip(names, one, strict=True)), {})


def labelled(samples: Iterable[Sample], config: DepthConfig, extension: str) -> Iterator[Sample]:
    """The samples with depth that a teacher predicts from fg_bg as it is stored, a file of that extension.

    A batch at a time: its images are decoded, and its depth is encoded, on all cores.
    """
    teacher, waiting = load_teacher(config), iter(samples)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while batch := list(itertools.islice(waiting, config.batch_size)):
            depths = teacher.predict(list(pool.map(partial(_pixels, extension), batch)))
            yield from pool.map(partial(_with_depth, config), batch, depths)


def _pixels(extension: str, sample: Sample) -> NDArray[np.uint8]:
    """fg_bg as uint8 (H, W, 3)."""
    component = replace(BY_NAME["fg_bg"], formats=(IMAGES[f".{extension}"],))
    try:
        return np.asarray(checked(sample.images["fg_bg"], component, None).image)
    except BadImage as bad:
        raise InputError(
            f"fg_bg of {sample.key}: {bad}. `python -m shards verify` lists all that is damaged."
        ) from None


def _with_depth(config: DepthConfig, sample: Sample, depth: NDArray[np.float32]) -> Sample:
    extension, bits = STORED[config.format]
    image = depth_image(depth, config.depth_range, bits)
    data = {"depth": encoded(image, extension, full_chroma=True)}
    return Sample(sample.key, sample.images | data, sample.histograms | {"depth": histogram(image)})
