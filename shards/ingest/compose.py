"""`python -m shards compose`: cut-outs pasted on backgrounds, each figure on each background, at random places."""

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from itertools import product
from pathlib import Path
from random import Random
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from shards.errors import InputError
from shards.format.depth import METRES, STORED, DepthFormat, load_millimetres
from shards.format.fields import Bounds, Count, Seed
from shards.format.images import BadImage, ImageFormat, LeftOut, converted, encode_image, histogram, read_image, upright
from shards.format.manifest import Encoding
from shards.format.schema import BY_NAME, Sample, sample_key
from shards.format.splits import COUNTED, DivisionConfig, unit_interval
from shards.ingest.job import Formats, Job, Unit, divided, fingerprint, options_of, planned
from shards.ingest.paste import SIZE_2020, Background, Figure, PasteConfig, paste
from shards.sources.listing import is_image

Crowd = Annotated[int, Bounds(1, 1000)]
MOST = 2**28
"""Samples that can be chosen from: their order takes 16 bytes each."""
TOGETHER = 1000
"""Samples that are made before any is written: of 100 backgrounds each comes ten times in a row then, its pixels still
in the processor's cache."""


@dataclass(frozen=True, kw_only=True)
class ComposeConfig(PasteConfig):
    """What is pasted where. Each sample's randomness comes from the seed and its own key, from nothing else."""

    fg: Path
    """folder of cut-outs: images with an alpha channel"""
    bg: Path
    """folder of backgrounds; those of another size are cropped to a square and scaled"""
    depth: Path | None = None
    """folder of depth maps, named and framed like the backgrounds: 16-bit PNG, millimetres, 0 where unknown"""
    format: DepthFormat | None = None
    """depth as jpg, png (no loss) or png16 (16 bits a value); if not given png with --lossless, else jpg"""
    places: Count = 20
    """how often each figure is pasted on each background"""
    mirror: bool = False
    """paste each mirrored figure as often again"""
    figures_per_image: tuple[Crowd, Crowd] = (1, 1)
    """least and most figures in an image: the one that the sample is named after, and others at random"""
    samples: Count | None = None
    """keep so many of them, chosen at random; all if not given"""
    seed: Seed = 0
    """another seed, other samples, places, sizes and colours"""
    lossless: bool = False
    """mask and depth as PNG instead of JPEG"""
    division: DivisionConfig = field(default_factory=DivisionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        least, most = self.figures_per_image
        if least > most:
            raise InputError(f"figures-per-image {least} {most}: two numbers are needed, 1 <= least <= most.")
        if most > 1 and self.division.split_by == "identity":
            raise InputError(
                "figures-per-image above 1 puts figures of all splits into an image, which is named after one of them, "
                "so it cannot be split by identity. Split by key."
            )

    @cached_property
    def formats(self) -> Formats:
        """How each component is stored."""
        exact: DepthFormat = "png" if self.lossless else "jpg"
        forms = {"mask": exact, "depth": self.format or exact}
        stored = {name: STORED[forms.get(name, "jpg")] for name in BY_NAME if name != "depth" or self.depth}
        size = self.size, self.size
        return {name: ImageFormat(form, size, bits, BY_NAME[name].channels) for name, (form, bits) in stored.items()}

    @property
    def rounds(self) -> int:
        """How often each figure is pasted on each background, mirrored or not."""
        return self.places * (2 if self.mirror else 1)


def plan_composition(config: ComposeConfig) -> Job:
    """Check the cut-outs, backgrounds and depth maps, and plan the work.

    Raises InputError if a folder holds no usable image.
    """
    left_out: list[LeftOut] = []
    figures = usable("fg", config.fg, left_out, load_figure)
    backgrounds = usable("bg", config.bg, left_out, partial(load_background, depth=config.depth, size=config.size))
    order = _order(len(backgrounds), len(figures), config)
    depths = [config.depth / f"{path.stem}.png" for path in backgrounds] if config.depth else []
    digests = (hashlib.sha256(path.read_bytes()).digest() for path in (*figures, *backgrounds, *depths))
    options, folders = options_of(config, "fg", "bg", "depth"), (config.fg, config.bg, config.depth)
    made_from = fingerprint(options, digests)  # of each shard too: all figures and backgrounds come in it
    unit = partial(
        ComposeUnit, made_from=made_from, figures=tuple(figures), backgrounds=tuple(backgrounds), config=config
    )
    units = [
        unit(name=name, size=len(part), numbers=part, counted=counted)
        for name, part, counted in divided(order, config.division, COUNTED)
    ]
    return planned(
        units,
        config.formats,
        config.division,
        left_out,
        depth=METRES,
        sources={"fg": [path.name for path in figures], "bg": [path.name for path in backgrounds]},
        made_from=made_from,
        command=fingerprint(options | {"compose": [folder and folder.resolve() for folder in folders]}, []),
        storage=Encoding(
            resized_from=None,
            resized_by="cut-outs and backgrounds by lanczos, depth by bilinear, both antialiased",
            jpeg_chroma="4:4:4" if config.size < SIZE_2020 else "4:2:0",
        ),
    )


def _order(backgrounds: int, figures: int, config: ComposeConfig) -> NDArray[np.uint32]:
    """Choose what is made: numbers of pastings, where those of the first figure on the first background come first.

    They are in the order of a hash of each sample's key, in which other samples have no part.
    """
    if (total := backgrounds * figures * config.rounds) > MOST:
        raise InputError(
            f"places {config.places}: {figures} figures on {backgrounds} backgrounds make {total:,} samples to choose "
            f"from; {MOST:,} are the most. Give fewer places."
        )
    pastings = product(range(1, backgrounds + 1), range(1, figures + 1), range(config.rounds))
    hashes = np.fromiter((unit_interval(sample_key(*one), config.seed) for one in pastings), np.float64)
    return np.argsort(hashes, kind="stable")[: config.samples].astype(np.uint32)


def usable(name: str, folder: Path, left_out: list[LeftOut], load: Callable[[Path], object]) -> list[Path]:
    """List the images of a folder that `load` accepts, in the order of their names; the others are added to `left_out`.

    Raises InputError if there are none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. --{name} names the folder that holds the images.")
    found: list[Path] = []
    for path in sorted(path for path in folder.iterdir() if is_image(path.name)):
        try:
            load(path)
            found.append(path)
        except BadImage as bad:
            left_out.append(LeftOut(bad.kind, "", name, str(path), bad.detail))
    if not found:
        reasons = "; ".join(f"{Path(one.source).name}: {one.detail}" for one in left_out[:3])
        raise InputError(f"{folder}: no usable image for {name}. {reasons or 'There is no image in it.'}")
    return found


def load_figure(path: Path) -> Image.Image:
    """Load a cut-out of any size as RGBA, cropped to what can be seen.

    Made RGBA where there is one way: palettes and single colours that are transparent, grey with alpha, and 16 bits per
    channel, of which the upper 8 are kept. Raises BadImage if there is no alpha, if nothing can be seen, or if one
    colour of 16 bits is transparent, which the upper 8 cannot tell from its neighbours.
    """
    image = read_image(path)
    if not image.has_transparency_data:
        raise BadImage("no-alpha", f"mode {image.mode}; a cut-out needs an alpha channel")
    if "transparency" in image.info and image.format == "PNG" and path.read_bytes()[24] == 16:  # bits of a value
        raise BadImage("wide-alpha", "one colour of 16 bits per channel is transparent; save it with an alpha channel")
    figure = converted(upright(image), "RGBA")
    box = figure.getchannel("A").getbbox()
    if box is None:
        raise BadImage("empty-alpha", "all of it is transparent")
    return figure.crop(box)


def load_background(path: Path, depth: Path | None, size: int, bits: int = 8) -> Background:
    """Load a background, and its depth map if there is a folder `depth`, both `size` x `size`.

    `bits` are of a value of the depth images that are to be made. Raises BadImage if either cannot be used.
    A JPEG of that size already is stored as it is, unless its EXIF data turns it: encoding it again would only lose.
    """
    image = upright(read_image(path))  # which has no format any more if it is turned
    metres = _measured(depth / f"{path.stem}.png", image.size, size) if depth else None
    as_it_is = image.size == (size, size) and image.format == "JPEG" and image.mode == "RGB"
    fitted = ImageOps.fit(converted(image, "RGB"), (size, size), Image.Resampling.LANCZOS)
    data = path.read_bytes() if as_it_is else encode_image(fitted, "jpg", full_chroma=size < SIZE_2020)
    channels = (*Image.open(io.BytesIO(data)).convert("RGB").split(), Image.new("L", (size, size)))
    return Background(data, Image.merge("RGBX", channels), metres, bits)


def _measured(path: Path, framed: tuple[int, int], size: int) -> NDArray[np.float32]:
    """Load the depth map of a background of width and height `framed`, cropped and scaled as the background is.

    Returns metres, float32 (size, size). A pixel is the mean of what was measured in it, as the loader makes it of
    larger images. Zeros mean that nothing was measured: they are no part of the mean, and a pixel that is mostly such
    stays 0.
    """
    millimetres = load_millimetres(path)
    if millimetres.size != framed:
        raise BadImage("wrong-size", f"{framed}, but its depth map has {millimetres.size}")
    values = np.asarray(millimetres, np.float32)
    total, known = (
        np.asarray(ImageOps.fit(Image.fromarray(one), (size, size), Image.Resampling.BILINEAR))
        for one in (values, np.float32(values > 0))
    )
    return np.where(known >= 0.5, total / np.maximum(known, 0.5), 0) * np.float32(1e-3)


class Pasting(NamedTuple):
    """One sample to be made: numbers of its background and figure, counted from 1, and its round."""

    bg: int
    fg: int
    round: int


_background = lru_cache(maxsize=1024)(load_background)
_cutout = lru_cache(maxsize=1024)(load_figure)


@lru_cache(maxsize=2048)
def _figure(path: Path, mirrored: bool) -> Figure:
    return Figure(_cutout(path), mirrored)


@dataclass(frozen=True, kw_only=True)
class ComposeUnit(Unit):
    """The samples of one shard.

    numbers: of its pastings among all that can be made, uint32 (N,). counted: for which of them pixels are counted.
    """

    numbers: NDArray[np.uint32]
    counted: range
    figures: tuple[Path, ...]
    backgrounds: tuple[Path, ...]
    config: ComposeConfig

    @property
    def pastings(self) -> list[Pasting]:
        shape = len(self.backgrounds), len(self.figures), self.config.rounds
        found = np.transpose(np.unravel_index(self.numbers, shape)).tolist()
        return [Pasting(bg + 1, fg + 1, round) for bg, fg, round in found]

    def samples(self) -> Iterator[Sample]:
        """Make all of them, background by background; yield them in the order of the numbers."""
        pastings = self.pastings
        for begin in range(0, len(pastings), TOGETHER):
            numbers = range(begin, min(begin + TOGETHER, len(pastings)))
            by_background = sorted(numbers, key=pastings.__getitem__)
            made = {number: self.sample(pastings[number], number in self.counted) for number in by_background}
            yield from (made.pop(number) for number in numbers)

    def sample(self, pasting: Pasting, count: bool = True) -> Sample:
        """Make one sample. Its statistics, if any, are those of the pixels before they were encoded."""
        background, images = self._background(pasting), self.pasted(pasting)
        formats, full_chroma = self.config.formats, self.config.size < SIZE_2020
        data = {name: encode_image(image, formats[name].extension, full_chroma) for name, image in images.items()}
        histograms = {}
        if count:  # of fg_bg without its fourth channel, which is the mask
            histograms = {name: histogram(image)[: BY_NAME[name].channels] for name, image in images.items()}
            histograms["bg"] = background.histogram
        return Sample(sample_key(*pasting), data | {"bg": background.data}, histograms)

    def pasted(self, pasting: Pasting) -> dict[str, Image.Image]:
        """Make the pixels of one sample, as `paste` returns them."""
        random = Random(f"{self.config.seed} {sample_key(*pasting)}")
        return paste(self._background(pasting), self._figures(pasting), random, self.config)

    def _background(self, pasting: Pasting) -> Background:
        config = self.config
        _, bits = STORED[config.format or "jpg"]
        return _background(self.backgrounds[pasting.bg - 1], config.depth, config.size, bits)

    def _figures(self, pasting: Pasting) -> list[Figure]:
        """Return the figure that the sample is named after, and those that join it."""
        config, paths = self.config, self.figures
        figures = [_figure(paths[pasting.fg - 1], pasting.round >= config.places)]
        if config.figures_per_image != (1, 1):
            random = Random(f"{config.seed} {sample_key(*pasting)} others")
            others = random.randint(*config.figures_per_image) - 1
            figures += [_figure(random.choice(paths), config.mirror and random.random() < 0.5) for _ in range(others)]
        return figures
