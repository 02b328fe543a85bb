"""Cut-outs pasted on backgrounds: every sample of a data set, into shards or into the folders of 2020."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.atomic import write_bytes
from shards.build import claim
from shards.cutouts import load_background, load_figure, usable
from shards.depth import METRES, STORED, DepthFormat
from shards.errors import InputError
from shards.folder import OnDisk
from shards.images import JPEG_QUALITY, encoded, formats, histogram
from shards.label import LabelConfig, labelled, told_apart
from shards.manifest import Storage
from shards.parallel import EngineConfig, run_parallel
from shards.paste import SIZE_2020, Background, Figure, PasteConfig, Pasted, paste
from shards.record import LeftOut, Record, Sample, write_shard
from shards.schema import BY_NAME, WORK, sample_key, shard_name
from shards.splits import unit_interval
from shards.teacher import PredictConfig, settled
from shards.work import COUNTED, DivisionConfig, Plan, Unit, Work, spread

__all__ = ["ComposeConfig", "compose_folders", "composition", "load_background"]


@dataclass(frozen=True, kw_only=True)
class ComposeConfig(PasteConfig):
    """What is pasted where. Each sample's randomness comes from the seed and its own key, from nothing else."""

    fg: Path
    """folder of cut-outs: images with an alpha channel"""
    bg: Path
    """folder of backgrounds; those of another size are cropped to a square and scaled"""
    depth: Path | None = None
    """folder of the backgrounds' depth maps: 16-bit PNG, millimetres, 0 where nothing was measured; named and framed
    like the backgrounds"""
    teacher: str | None = None
    """a model that predicts depth instead, as `python -m shards depth` does; with neither the data set has none yet"""
    predict: PredictConfig = field(default_factory=PredictConfig)
    format: DepthFormat | None = None
    """depth as jpg, as in 2020, png without its loss, or png16: 16 bits a value; png if lossless, else jpg if not
    given"""
    places: int = 20
    """how often each figure is pasted on each background"""
    mirror: bool = False
    """paste each mirrored figure as often again"""
    figures_per_image: tuple[int, int] = (1, 1)
    """least and most figures in an image: the one that the sample is named after, and others drawn from all of them"""
    samples: int | None = None
    """keep so many of them, chosen at random; all if not given"""
    seed: int = 0
    lossless: bool = False
    """mask and depth as PNG instead of JPEG"""
    division: DivisionConfig = field(default_factory=DivisionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth and self.teacher:
            raise InputError("depth is measured or predicted: give --depth or --teacher, not both.")
        if self.predict != PredictConfig() and not self.teacher:
            raise InputError(
                "predicts, metres, batch-size and device are about a teacher. Give --teacher, or none of them."
            )
        if self.places < 1 or (self.samples is not None and self.samples < 1):
            raise InputError("places and samples must be at least 1.")
        least, most = self.figures_per_image
        if not 1 <= least <= most:
            raise InputError(f"figures-per-image {least} {most}: two numbers are needed, 1 <= least <= most.")
        if most > 1 and self.division.split_by == "identity":
            raise InputError(
                "figures-per-image above 1 puts figures of all splits into an image, which is named after one of them, "
                "so it cannot be split by identity. Split by key."
            )

    @property
    def stored_depth(self) -> DepthFormat:
        return self.format or ("png" if self.lossless else "jpg")

    @property
    def components(self) -> dict[str, str]:
        """Each component's extension, of depth too even if that is still to come."""
        return formats(self.lossless) | {"depth": STORED[self.stored_depth][0]}


class Pasting(NamedTuple):
    """One sample to be made: numbers of its background and figure, counted from 1, and its round."""

    bg: int
    fg: int
    round: int

    @property
    def key(self) -> str:
        return sample_key(self.bg, self.fg, self.round)


@dataclass(frozen=True)
class Grid:
    """All there is to paste: every figure on every background, so many rounds of each."""

    figures: tuple[Path, ...]
    backgrounds: tuple[Path, ...]
    config: ComposeConfig

    @property
    def shape(self) -> tuple[int, int, int]:
        rounds = self.config.places * (2 if self.config.mirror else 1)
        return len(self.backgrounds), len(self.figures), rounds

    def pasting(self, number: int) -> Pasting:
        """Counted as the rounds of the first figure on the first background come first."""
        _, figures, rounds = self.shape
        pair, round = divmod(number, rounds)
        bg, fg = divmod(pair, figures)
        return Pasting(bg + 1, fg + 1, round)

    def order(self) -> NDArray[np.uint32]:
        """The numbers of those that are kept, shuffled: by a hash of their keys, which other samples have no part in.

        400,000 take 0.6 s and 8 MB; as a sorted list of tuples they took 100 MB.
        """
        count = int(np.prod(self.shape))
        keys = (self.pasting(number).key for number in range(count))
        hashes = np.fromiter((unit_interval(key, self.config.seed) for key in keys), np.float64, count)
        return np.argsort(hashes, kind="stable")[: self.config.samples].astype(np.uint32)


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

    @property
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
