"""A second pass over a data set: the same samples, with depth from a teacher. Composing needs cores, this a GPU."""

import csv
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.depth import STORED, DepthFormat, DepthModel, depth_image
from shards.errors import InputError
from shards.images import BadImage, checked, encoded, histogram
from shards.manifest import SPLITS, Dataset
from shards.record import LeftOut, Record, Sample, write_shard
from shards.schema import BY_NAME, LONGEST_KEY
from shards.sources import IMAGES
from shards.teacher import TeacherConfig, fingerprint_of, load_teacher, settled
from shards.work import Known, Work

__all__ = ["LabelConfig", "labelling"]


@dataclass(frozen=True, kw_only=True)
class LabelConfig(TeacherConfig):
    """Which teacher predicts the depth, and how that is stored."""

    format: DepthFormat = "jpg"
    """jpg as in 2020, png without its loss, or png16: 16 bits a value"""


def labelling(source: Path, config: LabelConfig) -> Work:
    """Plans the pass over the data set in `source`, which may have depth already or none yet.

    Keys, splits, and all images but depth stay as they are. Raises InputError if there is no data set or no teacher.
    """
    dataset, config = Dataset.open(source), settled(config)
    manifest, (extension, bits) = dataset.manifest, STORED[config.format]
    has = {name: component.extension for name, component in manifest.components.items()} | {"depth": extension}
    components = {name: has[name] for name in BY_NAME}
    units = [LabelUnit(shard.name, number, shard.samples, source, components, config)
             for number, shard in enumerate(manifest.shards)]  # fmt: skip
    statistics = {name: found for name, found in manifest.statistics.items() if name != "depth"}
    return Work(
        units,
        components,
        manifest.image_size,
        config.depth_range,
        _left_out(source / "left-out.tsv"),
        _fingerprint(dataset, config),
        manifest.sources | {"depth": [config.called]},
        manifest.storage,
        depth_bits=bits,
        known=Known(_splits(dataset), manifest.split_by, statistics, manifest.counted),
        verified=manifest.verified,
    )


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


def _fingerprint(dataset: Dataset, config: LabelConfig) -> str:
    """Depends on samples, teacher and format. Devices and batch sizes differ in rounding at most, and may change."""
    same = replace(config, teacher=fingerprint_of(config), batch_size=1, device="auto")
    return hashlib.sha256(repr((dataset.manifest.to_json(), same)).encode()).hexdigest()


def _short(key: str) -> str:
    if len(key.encode()) > LONGEST_KEY:
        raise InputError(f"{key}: the name of a sample has {LONGEST_KEY} bytes at most in the tars that Sluice writes.")
    return key


@dataclass(frozen=True)
class LabelUnit:
    """The samples of one shard."""

    name: str
    number: int
    size: int
    source: Path
    components: dict[str, str]
    config: LabelConfig

    def run(self, folder: Path) -> Record:
        teacher, dataset = load_teacher(self.config), Dataset.open(self.source)
        return write_shard(folder / self.name, self.components, self._samples(dataset, teacher))

    def _samples(self, dataset: Dataset, teacher: DepthModel) -> Iterator[Sample]:
        """A batch at a time: its images are decoded, and its depth is encoded, on all cores."""
        begin, step = int(dataset.first_row[self.number]), self.config.batch_size
        end = begin + self.size
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for first in range(begin, end, step):
                rows = np.arange(first, min(first + step, end))
                keys = [_short(dataset.key(int(row))) for row in rows]
                stored = self._stored(dataset, rows)
                depths = teacher.predict(list(pool.map(self._pixels, keys, stored)))
                yield from pool.map(self._sample, keys, stored, depths)

    def _stored(self, dataset: Dataset, rows: NDArray[np.int64]) -> list[dict[str, bytes]]:
        """The image files, but depth, of the samples in these rows."""
        found: list[dict[str, bytes]] = [{} for _ in rows]
        for name in self.components.keys() - {"depth"}:
            for images, data in zip(found, dataset.read(dataset.locate(name, rows)), strict=True):
                images[name] = data
        return found

    def _pixels(self, key: str, stored: dict[str, bytes]) -> NDArray[np.uint8]:
        """fg_bg as uint8 (H, W, 3)."""
        component = replace(BY_NAME["fg_bg"], formats=(IMAGES[f".{self.components['fg_bg']}"],))
        try:
            return np.asarray(checked(stored["fg_bg"], component, None).image)
        except BadImage as bad:
            raise InputError(
                f"{key} in {self.source / self.name}: {bad}. See `python -m shards verify {self.source}`."
            ) from None

    def _sample(self, key: str, stored: dict[str, bytes], depth: NDArray[np.float32]) -> Sample:
        """Of the images that stay as they are the statistics are known."""
        extension, bits = STORED[self.config.format]
        image = depth_image(depth, self.config.depth_range, bits)
        return Sample(key, stored | {"depth": encoded(image, extension, full_chroma=True)}, {"depth": histogram(image)})
