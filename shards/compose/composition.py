"""Cut-outs pasted on backgrounds: every sample of a data set, into shards or into the folders of 2020."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.atomic import write_bytes
from shards.compose.cutouts import load_background, load_figure, usable
from shards.compose.grid import ComposeConfig, Grid, Pasting
from shards.compose.paste import SIZE_2020, Background, Figure, Pasted, paste
from shards.depth import METRES, STORED
from shards.folder import OnDisk
from shards.images import JPEG_QUALITY, encoded, histogram
from shards.label import LabelConfig, labelled, told_apart
from shards.manifest import Storage
from shards.schema import BY_NAME, WORK, shard_name
from shards.teacher import PredictConfig, settled
from shards.work.build import claim
from shards.work.parallel import EngineConfig, run_parallel
from shards.work.plan import COUNTED, Plan, Unit, Work, spread
from shards.work.record import LeftOut, Record, Sample, write_shard

__all__ = ["ComposeUnit", "compose_folders", "composition"]


def composition(config: ComposeConfig) -> Work:
    """Checks the cut-outs, backgrounds and depth maps, and plans the work.

    Raises InputError if a folder holds no usable image.
    """
    left_out: list[LeftOut] = []
    label = _label(config)
    figures = usable("fg", config.fg, left_out, load_figure)
    backgrounds = usable("bg", config.bg, left_out, partial(load_background, depth=config.depth, size=config.size))
    grid = Grid(tuple(figures), tuple(backgrounds), config)
    order, step = grid.order(), config.division.samples_per_shard
    units = [
        ComposeUnit(shard_name(i // step), order[i : i + step], spread(i, step, len(order), COUNTED), grid, label)
        for i in range(0, len(order), step)
    ]
    sources = {"fg": [path.name for path in figures], "bg": [path.name for path in backgrounds]}
    plan = Plan(
        shards=tuple(unit.name for unit in units),
        components=units[0].formats,
        image_size=(config.size, config.size),
        depth=label.depth_range if label else METRES,
        split=config.division,
        left_out=left_out,
        fingerprint=_fingerprint(grid, label),
        sources=sources | ({"depth": [label.called]} if label else {}),
        storage=_storage(config.size),
        depth_bits=STORED[config.stored_depth][1],
    )
    return Work(plan, units, label.device if label else None)


def _label(config: ComposeConfig) -> LabelConfig | None:
    """The teacher, settled what it predicts; None if there is none."""
    if config.teacher is None:
        return None
    return settled(LabelConfig(teacher=config.teacher, format=config.stored_depth, **vars(config.predict)))


def _storage(size: int) -> Storage:
    """Of all images but the backgrounds that are JPEGs of this size already."""
    return Storage(
        resized_from=None,
        resized_by="cut-outs and backgrounds by lanczos, depth by bilinear, both antialiased",
        jpeg_quality=JPEG_QUALITY,
        jpeg_chroma="4:4:4" if size < SIZE_2020 else "4:2:0",
    )


TOGETHER = 1000
"""samples that are made before any is written, 26 KB each at 160 px: of 100 backgrounds each comes ten times in a row,
which saves 20 us a sample, because its pixels are in the processor's cache"""

_background = lru_cache(maxsize=1024)(load_background)
_cutout = lru_cache(maxsize=1024)(load_figure)


@lru_cache(maxsize=2048)
def _figure(path: Path, mirrored: bool) -> Figure:
    return Figure(_cutout(path), mirrored)


@dataclass(frozen=True)
class ComposeUnit:
    """The samples of one shard: their numbers in the grid, uint32 (N,); and of which of them the pixels are counted."""

    name: str
    numbers: NDArray[np.uint32]
    counted: range
    grid: Grid
    label: LabelConfig | None

    @property
    def size(self) -> int:
        return len(self.numbers)

    @property
    def pastings(self) -> list[Pasting]:
        return [self.grid.pasting(number) for number in self.numbers.tolist()]

    @cached_property
    def formats(self) -> dict[str, str]:
        """Each component's extension."""
        config = self.grid.config
        own = {name: extension for name, extension in config.components.items() if name != "depth"}
        return config.components if config.depth or self.label else own

    def run(self, folder: Path) -> Record:
        return write_shard(folder / self.name, self.formats, self.samples())

    def samples(self) -> Iterator[Sample]:
        """All of them, in the order of the numbers."""
        return labelled(self._composed(), self.label, self.formats["fg_bg"]) if self.label else self._composed()

    def _composed(self) -> Iterator[Sample]:
        """In the order of the numbers, but made background by background."""
        pastings = self.pastings
        for begin in range(0, len(pastings), TOGETHER):
            numbers = range(begin, min(begin + TOGETHER, len(pastings)))
            by_background = sorted(numbers, key=pastings.__getitem__)
            made = {number: self.sample(pastings[number], number in self.counted) for number in by_background}
            yield from (made.pop(number) for number in numbers)

    def sample(self, pasting: Pasting, count: bool = True) -> Sample:
        """Makes one sample. Its statistics, if any, are those of the pixels before they were encoded."""
        background, images = self._background(pasting), self.pasted(pasting).images
        extensions, full = self.formats, self.grid.config.size < SIZE_2020
        data = {name: encoded(image, extensions[name], full) for name, image in images.items()}
        histograms = _counts(images) | {"bg": background.histogram} if count else {}
        return Sample(pasting.key, data | {"bg": background.data}, histograms)

    def pasted(self, pasting: Pasting) -> Pasted:
        """The pixels of one sample."""
        config = self.grid.config
        return paste(self._background(pasting), self._figures(pasting), Random(f"{config.seed} {pasting.key}"), config)

    def _background(self, pasting: Pasting) -> Background:
        config = self.grid.config
        return _background(
            self.grid.backgrounds[pasting.bg - 1], config.depth, config.size, STORED[config.stored_depth][1]
        )

    def _figures(self, pasting: Pasting) -> list[Figure]:
        """The figure that the sample is named after, and those that join it."""
        config, paths = self.grid.config, self.grid.figures
        figures = [_figure(paths[pasting.fg - 1], pasting.round >= config.places)]
        if config.figures_per_image != (1, 1):
            random = Random(f"{config.seed} {pasting.key} others")
            others = random.randint(*config.figures_per_image) - 1
            figures += [_figure(random.choice(paths), config.mirror and random.random() < 0.5) for _ in range(others)]
        return figures


def _counts(images: dict[str, Image.Image]) -> dict[str, NDArray[np.int64]]:
    """Of fg_bg without its fourth channel, which is the mask."""
    return {name: histogram(image)[: BY_NAME[name].channels] for name, image in images.items()}


def compose_folders(work: Work, out: Path, engine: EngineConfig) -> None:
    """Writes the samples in the folders of 2020 instead of shards; goes on where a killed run stopped."""
    claim(OnDisk(out), work.plan.fingerprint)
    OnDisk(out).sweep(None)
    missing = [unit for unit in work.units if not _mark(out, unit).exists()]
    total = sum(unit.size for unit in work.units)
    run_parallel(partial(_write_folders, out), missing, engine, total=total, device=work.device)


def _mark(out: Path, unit: Unit) -> Path:
    return out / WORK / f"{unit.name}.done"


def _write_folders(out: Path, unit: ComposeUnit) -> None:
    for pasting, sample in zip(unit.pastings, unit.samples(), strict=True):
        for name, data in sample.images.items():
            stem = f"Shelves_{pasting.bg}" if name == "bg" else f"{pasting.round}/{pasting.key}"
            path = out / BY_NAME[name].folder / f"{stem}.{unit.formats[name]}"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(path, data)
    write_bytes(_mark(out, unit), b"")


def _fingerprint(grid: Grid, label: LabelConfig | None) -> str:
    """Depends on what would be composed, not on where the images lie or who does it."""
    config = replace(grid.config, fg=Path(), bg=Path(), depth=None, teacher=None, predict=PredictConfig())
    digest = hashlib.sha256(repr((config, label and told_apart(label))).encode())
    measured = grid.config.depth
    depths = [measured / f"{path.stem}.png" for path in grid.backgrounds] if measured else []
    for path in (*grid.figures, *grid.backgrounds, *depths):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
