"""All there is to paste, every figure on every background, and which of it is kept."""

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from shards.build.build import claim
from shards.build.plan import COUNTED, DivisionConfig, Plan, Unit, Work, spread
from shards.build.run import RunConfig, run_units
from shards.build.shard import LeftOut, Record, Sample, write_shard
from shards.errors import InputError
from shards.format.depth import METRES, STORED, DepthFormat, load_millimetres
from shards.format.images import JPEG_QUALITY, BadImage, encoded, formats, histogram
from shards.format.manifest import Storage
from shards.format.schema import BY_NAME, WORK, sample_key, shard_name
from shards.format.splits import unit_interval
from shards.format.storage import LocalFolder, write_bytes
from shards.ingest.depth import DepthConfig, cache_key, labelled
from shards.ingest.listing import IMAGES
from shards.ingest.paste import SIZE_2020, Background, Figure, PasteConfig, Pasted, paste
from shards.ingest.teacher import PredictConfig, resolved


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


def usable(what: str, folder: Path, left_out: list[LeftOut], load: Callable[[Path], object]) -> list[Path]:
    """The images of a folder that `load` accepts, in the order of their names; the others are added to `left_out`.

    Raises InputError if there are none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. --{what} names the folder that holds the images.")
    found: list[Path] = []
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES):
        try:
            load(path)
            found.append(path)
        except BadImage as bad:
            left_out.append(LeftOut(bad.kind, "", what, str(path), bad.detail))
    if not found:
        reasons = "; ".join(f"{Path(one.source).name}: {one.detail}" for one in left_out[:3])
        raise InputError(f"{folder}: no usable image for {what}. {reasons or 'There is no .png or .jpg in it.'}")
    return found


def load_figure(path: Path) -> Image.Image:
    """A cut-out of any size, RGBA, cropped to what can be seen.

    Made RGBA where there is one way: palettes and single colours that are transparent, grey with alpha, and 16 bits per
    channel, of which the upper 8 are kept. Raises BadImage if there is no alpha, if nothing can be seen, or if one
    colour of 16 bits is transparent, which the upper 8 cannot tell from its neighbours.
    """
    image = _loaded(path)
    if not image.has_transparency_data:
        raise BadImage("no-alpha", f"mode {image.mode}; a cut-out needs an alpha channel")
    if "transparency" in image.info and image.format == "PNG" and _png_bits(path) == 16:
        raise BadImage("wide-alpha", "one colour of 16 bits per channel is transparent; save it with an alpha channel")
    figure = image.convert("RGBA")
    box = figure.getchannel("A").getbbox()
    if box is None:
        raise BadImage("empty-alpha", "all of it is transparent")
    return figure.crop(box)


def load_background(path: Path, depth: Path | None, size: int, bits: int = 8) -> Background:
    """A background, and its depth map if there is a folder `depth`, both `size` x `size`.

    `bits` are of a value of the depth images that are to be made. Raises BadImage if either cannot be used.
    A JPEG of that size already is stored as it is: encoding it again would only lose.
    """
    image = _loaded(path)
    metres = _measured(depth / f"{path.stem}.png", image.size, size) if depth else None
    as_it_is = image.size == (size, size) and image.format == "JPEG" and image.mode == "RGB"
    fitted = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    data = path.read_bytes() if as_it_is else encoded(fitted, "jpg", full_chroma=size < SIZE_2020)
    channels = (*Image.open(io.BytesIO(data)).convert("RGB").split(), Image.new("L", (size, size)))
    return Background(data, Image.merge("RGBX", channels), metres, bits)


def _measured(path: Path, framed: tuple[int, int], size: int) -> NDArray[np.float32]:
    """The depth map of a background of width and height `framed`, metres, float32 (size, size)."""
    millimetres = load_millimetres(path)
    if millimetres.size != framed:
        raise BadImage("wrong-size", f"{framed}, but its depth map has {millimetres.size}")
    return _fitted_metres(millimetres, size)


def _fitted_metres(millimetres: Image.Image, size: int) -> NDArray[np.float32]:
    """Depth cropped and scaled as its background is, metres, float32 (size, size).

    A pixel is the mean of what was measured in it, as the loader makes it of larger images: 11 mm from the loader's on
    300 rooms scaled from 160 to 64 px, where NEAREST is 69 mm from it (RMSE). Zeros mean that nothing was measured:
    they are no part of the mean, and a pixel that is mostly such stays 0.
    """
    values = np.asarray(millimetres, np.float32)
    total, known = (
        np.asarray(ImageOps.fit(Image.fromarray(one), (size, size), Image.Resampling.BILINEAR))
        for one in (values, np.float32(values > 0))
    )
    return np.where(known >= 0.5, total / np.maximum(known, 0.5), 0) * np.float32(1e-3)


def _loaded(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadImage("not-an-image", str(error)) from error


def _png_bits(path: Path) -> int:
    """Of a value, as the header says."""
    with path.open("rb") as file:
        return file.read(25)[24]


def plan_composition(config: ComposeConfig) -> Work:
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


def _label(config: ComposeConfig) -> DepthConfig | None:
    """The teacher, resolved what it predicts; None if there is none."""
    if config.teacher is None:
        return None
    return resolved(DepthConfig(teacher=config.teacher, format=config.stored_depth, **vars(config.predict)))


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
    label: DepthConfig | None

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


def compose_folders(work: Work, out: Path, engine: RunConfig) -> None:
    """Writes the samples in the folders of 2020 instead of shards; goes on where a killed run stopped."""
    claim(LocalFolder(out), work.plan.fingerprint)
    LocalFolder(out).sweep(None)
    missing = [unit for unit in work.units if not _mark(out, unit).exists()]
    total = sum(unit.size for unit in work.units)
    run_units(partial(_write_folders, out), missing, engine, total=total, device=work.device)


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


def _fingerprint(grid: Grid, label: DepthConfig | None) -> str:
    """Depends on what would be composed, not on where the images lie or who does it."""
    config = replace(grid.config, fg=Path(), bg=Path(), depth=None, teacher=None, predict=PredictConfig())
    digest = hashlib.sha256(repr((config, label and cache_key(label))).encode())
    measured = grid.config.depth
    depths = [measured / f"{path.stem}.png" for path in grid.backgrounds] if measured else []
    for path in (*grid.figures, *grid.backgrounds, *depths):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
