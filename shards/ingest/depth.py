"""`python -m shards depth`: the samples of a data set, with depth from a teacher. Composing needs cores, this a GPU."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.dataset import Dataset, ShardContents
from shards.format.depth import STORED, depth_image
from shards.format.images import BadImage, decode_image, encode_image, histogram
from shards.format.left_out import read_left_out
from shards.format.manifest import Shard, StoredComponent
from shards.format.schema import BY_NAME, LONGEST_KEY, Sample
from shards.format.splits import SPLITS, DivisionConfig
from shards.ingest.job import Job, Plan, Unit, fingerprint, options_of
from shards.ingest.teacher import DepthConfig, load_teacher, model_digest, resolved
from shards.machine import cpu_count


def plan_depth(dataset: Dataset, config: DepthConfig) -> Job:
    """Plan the pass over a data set, which may have depth already or none yet.

    Keys, splits, and all images but depth stay as they are. Raises InputError if there is no teacher.
    """
    config, manifest, teacher = resolved(config), dataset.manifest, Path(config.teacher)
    extension, bits = STORED[config.format]
    has = manifest.components | {"depth": StoredComponent(extension=extension, channels=1, bits=bits)}
    options, model = options_of(config, "teacher", "device", "batch_size"), model_digest(config)
    named = teacher.resolve() if teacher.is_dir() else config.teacher
    shards = list(map(dataset.contents, range(len(manifest.shards))))
    units = [
        DepthUnit(
            name=one.name,
            size=one.size,
            # Of the same tar another index may lead to other samples.
            made_from=fingerprint(options, [one.shard.sha256.encode(), one.shard.index_sha256.encode(), model]),
            contents=one,
            config=config,
        )
        for one in shards
    ]
    goal = replace(
        manifest,
        components={name: has[name] for name in BY_NAME if name in has},
        depth=config.depth_range,
        statistics={name: found for name, found in manifest.statistics.items() if name != "depth"},
        shards=[Shard(unit.name, made_from=unit.made_from) for unit in units],
        sources=manifest.sources | {"depth": [named.name if isinstance(named, Path) else named]},
        made_from=fingerprint(options, [(dataset.root / "manifest.json").read_bytes(), model]),
        command=fingerprint(options | {"depth": [dataset.folder.resolved, named]}, []),
    )
    splits = {name: dataset.split(name).tolist() for name in SPLITS if manifest.splits.get(name)}
    plan = Plan(manifest=goal, left_out=[*read_left_out(dataset.root)], split=DivisionConfig(), splits=splits)
    return Job(plan, units, exclusive=True, gpu=config.device != "cpu")


@dataclass(frozen=True, kw_only=True)
class DepthUnit(Unit):
    """The samples of one shard."""

    contents: ShardContents
    config: DepthConfig

    def samples(self) -> Iterator[Sample]:
        """Predict a batch at a time: its images are decoded, and its depth is encoded, on all cores."""
        teacher, stored = load_teacher(self.config), self._stored()
        with ThreadPoolExecutor(cpu_count()) as pool:
            while batch := list(itertools.islice(stored, self.config.batch_size)):
                depths = teacher.predict(list(pool.map(self._pixels, batch)))
                yield from pool.map(self._with_depth, batch, depths)

    def _stored(self) -> Iterator[Sample]:
        """The samples as they are, without depth. Of images that stay as they are the statistics are known."""
        names = [name for name in self.contents.formats if name != "depth"]
        for key, *images in zip(self.contents.keys, *map(self.contents.images, names), strict=True):
            if len(key.encode()) > LONGEST_KEY:
                raise InputError(
                    f"{key}: the name of a sample has {LONGEST_KEY} bytes at most in the tars that Sluice writes."
                )
            yield Sample(key, dict(zip(names, images, strict=True)), {})

    def _pixels(self, sample: Sample) -> NDArray[np.uint8]:
        """Decode fg_bg, uint8 (H, W, 3)."""
        try:
            return np.asarray(decode_image(sample.images["fg_bg"], self.contents.formats["fg_bg"]))
        except BadImage as bad:
            raise InputError(
                f"fg_bg of {sample.key}: {bad}. `python -m shards verify` lists all that is damaged."
            ) from None

    def _with_depth(self, sample: Sample, depth: NDArray[np.float32]) -> Sample:
        extension, bits = STORED[self.config.format]
        image = depth_image(depth, self.config.depth_range, bits)
        images = sample.images | {"depth": encode_image(image, extension, full_chroma=True)}
        return Sample(sample.key, images, {"depth": histogram(image)})
