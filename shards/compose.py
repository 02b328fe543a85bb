"""Cut-outs pasted on backgrounds: figure, mask and depth of every sample, into shards or into the folders of 2020."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from shards.atomic import write_bytes
from shards.build import BuildConfig, claim
from shards.depth import METRES, depth_image, figure_depth, load_millimetres, with_figure
from shards.errors import InputError
from shards.images import JPEG_QUALITY, BadImage, encoded, formats, histogram
from shards.manifest import Storage
from shards.parallel import run_parallel
from shards.record import LeftOut, Record, Sample, write_shard
from shards.schema import BY_NAME, WORK, sample_key, shard_name
from shards.sources import IMAGES
from shards.splits import unit_interval
from shards.work import Unit, Work

__all__ = ["ComposeConfig", "compose_folders", "composition", "paste"]

SIZE_2020 = 160
"""pixels; smaller images are taken to be of the size that is trained at, and their colour is stored in full"""


@dataclass(frozen=True, kw_only=True)
class ComposeConfig:
    """What is pasted where. Each sample's randomness comes from the seed and its own key, from nothing else."""

    fg: Path
    """folder of cut-outs: images with an alpha channel"""
    bg: Path
    """folder of backgrounds; those of another size are cropped to a square and scaled"""
    depth: Path
    """folder of the backgrounds' depth maps: 16-bit PNG, millimetres, 0 where nothing was measured; named and framed
    like the backgrounds"""
    places: int = 20
    """how often each figure is pasted on each background"""
    mirror: bool = False
    """paste each mirrored figure as often again"""
    samples: int | None = None
    """keep so many of them, chosen at random; all if not given"""
    size: int = SIZE_2020
    """height and width of all images, pixels"""
    scale: tuple[float, float] = (0.3, 0.6)
    """least and greatest length of the figure's longer side, as a share of the image's"""
    floor: float = 0.4
    """feet stand in this lowest share of the image; 1 puts them anywhere that the figure fits"""
    seed: int = 0
    lossless: bool = False
    """mask and depth as PNG instead of JPEG"""
    build: BuildConfig = field(default_factory=BuildConfig)

    def __post_init__(self) -> None:
        if self.places < 1 or self.size < 16 or (self.samples is not None and self.samples < 1):
            raise InputError("places and samples must be at least 1, size at least 16.")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(
                f"scale {self.scale}: two shares of the image's side are needed, 0 < least <= greatest <= 1."
            )
        if not 0 < self.floor <= 1:
            raise InputError(f"floor {self.floor}: a share of the image's height is needed, above 0 and up to 1.")


class Pasting(NamedTuple):
    """One sample to be made: numbers of its background and figure, counted from 1, and its round."""

    bg: int
    fg: int
    round: int

    @property
    def key(self) -> str:
        return sample_key(self.bg, self.fg, self.round)


class Background(NamedTuple):
    """A room: its image as it is stored, its pixels, and its depth in metres, float32 (H, W)."""

    data: bytes
    image: Image.Image
    depth: NDArray[np.float32]


def composition(config: ComposeConfig) -> Work:
    """Checks the cut-outs, backgrounds and depth maps, and plans the work.

    Raises InputError if a folder holds no usable image.
    """
    left_out: list[LeftOut] = []
    figures = _usable("fg", config.fg, left_out, load_figure)
    backgrounds = _usable("bg", config.bg, left_out, partial(load_background, depth=config.depth, size=config.size))
    rounds = range(config.places * (2 if config.mirror else 1))
    pastings = [Pasting(bg, fg, round) for bg in backgrounds for fg in figures for round in rounds]
    pastings.sort(key=lambda pasting: (unit_interval(pasting.key, config.seed), pasting))
    kept, step = pastings[: config.samples], config.build.samples_per_shard
    units = [
        ComposeUnit(shard_name(i // step), kept[i : i + step], figures, backgrounds, config)
        for i in range(0, len(kept), step)
    ]
    sources = {"fg": [path.name for path in figures.values()], "bg": [path.name for path in backgrounds.values()]}
    size = (config.size, config.size)
    fingerprint = _fingerprint(config, figures, backgrounds)
    return Work(units, formats(config.lossless), size, METRES, left_out, fingerprint, sources, _storage(config.size))


def _storage(size: int) -> Storage:
    """Of all images but the backgrounds that are JPEGs of this size already."""
    return Storage(
        resized_from=None,
        resized_by="cut-outs and backgrounds by lanczos, depth by bilinear, both antialiased",
        jpeg_quality=JPEG_QUALITY,
        jpeg_chroma="4:4:4" if size < SIZE_2020 else "4:2:0",
    )


def _usable(what: str, folder: Path, left_out: list[LeftOut], load: Callable[[Path], object]) -> dict[int, Path]:
    """The images of a folder that can be used, numbered from 1 in the order of their names."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. --{what} names the folder that holds the images.")
    usable: dict[int, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES):
        try:
            load(path)
            usable[len(usable) + 1] = path
        except BadImage as bad:
            left_out.append(LeftOut(bad.kind, "", what, str(path), bad.detail))
    if not usable:
        reasons = "; ".join(f"{Path(one.source).name}: {one.detail}" for one in left_out[:3])
        raise InputError(f"{folder}: no usable image for {what}. {reasons or 'There is no .png or .jpg in it.'}")
    return usable


@lru_cache(maxsize=1024)
def load_figure(path: Path) -> Image.Image:
    """A cut-out, RGBA, cropped to what can be seen. Raises BadImage if it has no alpha, or nothing can be seen."""
    image = _loaded(path)
    if "A" not in image.getbands():
        raise BadImage("no-alpha", f"mode {image.mode}; a cut-out needs an alpha channel")
    box = image.getchannel("A").getbbox()
    if box is None:
        raise BadImage("empty-alpha", "all of it is transparent")
    return image.convert("RGBA").crop(box)


@lru_cache(maxsize=1024)
def load_background(path: Path, depth: Path, size: int) -> Background:
    """A background with its depth map, both `size` x `size`. Raises BadImage if either cannot be used.

    A JPEG of that size already is stored as it is: encoding it again would only lose.
    """
    image = _loaded(path)
    millimetres = load_millimetres(depth / f"{path.stem}.png")
    if millimetres.size != image.size:
        raise BadImage("wrong-size", f"{image.size}, but its depth map has {millimetres.size}")
    as_it_is = image.size == (size, size) and image.format == "JPEG" and image.mode == "RGB"
    fitted = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    data = path.read_bytes() if as_it_is else encoded(fitted, "jpg", full_chroma=size < SIZE_2020)
    return Background(data, Image.open(io.BytesIO(data)).convert("RGB"), _fitted_metres(millimetres, size))


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
        image = Image.open(path)
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadImage("not-an-image", str(error)) from error
    return image


class Pasted(NamedTuple):
    """The three new images of a sample: RGB, grey, grey."""

    fg_bg: Image.Image
    mask: Image.Image
    depth: Image.Image


def paste(background: Background, figure: Image.Image, random: np.random.Generator, config: ComposeConfig) -> Pasted:
    """The figure at a random place and size in the background: fg_bg = alpha * figure + (1 - alpha) * background."""
    scaled = _scaled(figure, random.uniform(*config.scale) * config.size)
    left = int(random.integers(0, config.size - scaled.width + 1))
    lowest = max(scaled.height, round(config.size * (1 - config.floor)))
    feet = int(random.integers(lowest, config.size + 1))
    mask = Image.new("L", background.image.size)
    mask.paste(scaled.getchannel("A"), (left, feet - scaled.height))
    fg_bg = background.image.copy()
    fg_bg.paste(scaled, (left, feet - scaled.height), scaled)
    alpha = np.asarray(mask)
    metres = with_figure(background.depth, alpha, figure_depth(background.depth, alpha))
    return Pasted(fg_bg, mask, depth_image(metres, METRES))


def _scaled(figure: Image.Image, longer_side: float) -> Image.Image:
    ratio = longer_side / max(figure.size)
    width, height = (max(1, round(side * ratio)) for side in figure.size)
    return figure.resize((width, height), Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class ComposeUnit:
    """The samples of one shard."""

    name: str
    pastings: list[Pasting]
    figures: dict[int, Path]
    backgrounds: dict[int, Path]
    config: ComposeConfig

    @property
    def size(self) -> int:
        return len(self.pastings)

    @property
    def formats(self) -> dict[str, str]:
        """Each component's extension."""
        return formats(self.config.lossless)

    def run(self, folder: Path) -> Record:
        return write_shard(folder / self.name, self.formats, (self.sample(pasting) for pasting in self.pastings))

    def sample(self, pasting: Pasting) -> Sample:
        """Makes one sample. Its statistics are those of the pixels before they were encoded."""
        figure = load_figure(self.figures[pasting.fg])
        if pasting.round >= self.config.places:
            figure = ImageOps.mirror(figure)
        background = load_background(self.backgrounds[pasting.bg], self.config.depth, self.config.size)
        random = np.random.Generator(np.random.Philox(_number(f"{self.config.seed} {pasting.key}")))
        images = paste(background, figure, random, self.config)._asdict()
        full = self.config.size < SIZE_2020
        data = {name: encoded(image, self.formats[name], full) for name, image in images.items()}
        data["bg"], images["bg"] = background.data, background.image
        return Sample(pasting.key, data, {name: histogram(image) for name, image in images.items()})


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def compose_folders(work: Work, out: Path, workers: int) -> None:
    """Writes the samples in the folders of 2020 instead of shards; goes on where a killed run stopped."""
    claim(out, work.fingerprint)
    missing = [unit for unit in work.units if not _mark(out, unit).exists()]
    run_parallel(partial(_write_folders, out), missing, workers, total=sum(unit.size for unit in work.units))


def _mark(out: Path, unit: Unit) -> Path:
    return out / WORK / f"{unit.name}.done"


def _write_folders(out: Path, unit: ComposeUnit) -> None:
    for pasting in unit.pastings:
        images = unit.sample(pasting).images
        for name, data in images.items():
            stem = f"Shelves_{pasting.bg}" if name == "bg" else f"{pasting.round}/{pasting.key}"
            path = out / BY_NAME[name].folder / f"{stem}.{unit.formats[name]}"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(path, data)
    write_bytes(_mark(out, unit), b"")


def _fingerprint(config: ComposeConfig, figures: dict[int, Path], backgrounds: dict[int, Path]) -> str:
    """Depends on what would be composed, not on where the images lie or how many workers do it."""
    nowhere = Path()
    digest = hashlib.sha256(
        repr(replace(config, fg=nowhere, bg=nowhere, depth=nowhere, build=replace(config.build, workers=1))).encode()
    )
    depths = [config.depth / f"{path.stem}.png" for path in backgrounds.values()]
    for path in (*figures.values(), *backgrounds.values(), *depths):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
