"""Figures pasted on a background: the pixels of one sample."""

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from shards.errors import InputError
from shards.format.depth import METRES, depth_image
from shards.format.fields import Checked, Share, Square
from shards.format.images import histogram

SIZE_2020 = 160
"""Pixels; smaller images are taken to be of the size that is trained at, and their colour is stored in full."""
LUMA = np.array([0.299, 0.587, 0.114])
"""The weights of red, green and blue in brightness, as JPEG has them."""
HALF = 128
"""Alpha from which a pixel belongs to the figure rather than to what is behind it; also where Pillow's white begins."""
KEPT = 160 << 20
"""Bytes of scaled figures that a process keeps, for scaling one takes longer than encoding the sample. 100 figures,
mirrored too, in all 49 sizes that they have at 160 px take 150 MB."""
SQUASHED, BLUR = 1 / 8, 1 / 20
"""Height of a shadow, and standard deviation of its blur, as shares of the figure's height."""


@dataclass(frozen=True, kw_only=True)
class PasteConfig(Checked):
    """How figures are pasted."""

    size: Square = SIZE_2020
    """height and width of all images, pixels"""
    scale: tuple[Share, Share] = (0.3, 0.6)
    """least and greatest length of the figure's longer side, as a share of the image's"""
    floor: Share = 0.4
    """feet stand in this lowest share of the image; 1 puts them anywhere that the figure fits"""
    jitter: Share = 0.0
    """strength, 0 to 1, of random changes of each figure's brightness, contrast, saturation and hue (90 degrees)"""
    shadow: Share = 0.0
    """a soft shadow on the background at the feet of each figure takes at most this share of the light, 0 to 1"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.scale[0] <= self.scale[1]:
            raise InputError(
                f"scale {self.scale}: two shares of the image's side are needed, 0 < least <= greatest <= 1."
            )
        if not self.floor:
            raise InputError(f"floor {self.floor}: a share of the image's height is needed, above 0 and up to 1.")


@dataclass(frozen=True)
class Background:
    """A room: its image as it is stored, its pixels, RGBX with X 0, and its depth in metres, float32 (H, W), if known.

    bits: of a value of the depth images that are made of it.
    """

    data: bytes
    image: Image.Image
    depth: NDArray[np.float32] | None
    bits: int = 8

    @cached_property
    def depth_image(self) -> Image.Image:
        """Its depth without a figure, grey."""
        assert self.depth is not None
        return depth_image(self.depth, METRES, self.bits)

    @cached_property
    def histogram(self) -> NDArray[np.int64]:
        """The histogram of its colours, int64 (3, 256)."""
        return histogram(self.image)[:3]


class Scaled(NamedTuple):
    """A figure of its final size, and where it meets the floor: its lowest visible row, and the columns there.

    `image` is RGBX, X 255 everywhere; `alpha` is apart, so that pasting by it makes the mask of X.
    """

    image: Image.Image
    alpha: Image.Image
    row: int
    columns: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Figure:
    """A cut-out, RGBA, and whether it is to be mirrored."""

    image: Image.Image
    mirrored: bool = False

    def scaled(self, size: tuple[int, int]) -> Scaled:
        """Scale the figure to this width and height."""
        image = ImageOps.mirror(self.image) if self.mirrored else self.image
        image = image.resize(size, Image.Resampling.LANCZOS)
        alpha = image.getchannel("A")
        share = np.asarray(alpha)
        visible = share >= min(HALF, share.max())
        row = int(np.flatnonzero(visible.any(axis=1))[-1])
        return Scaled(image.convert("RGBX"), alpha, row, np.flatnonzero(visible[row]))


class _Kept:
    """Scaled figures, those used last, of at most so many bytes together: 5 a pixel."""

    def __init__(self, most: int) -> None:
        self._most, self.bytes = most, 0
        self._images: OrderedDict[tuple[Figure, tuple[int, int]], Scaled] = OrderedDict()

    def get(self, figure: Figure, size: tuple[int, int]) -> Scaled:
        """Scale the figure, or find it scaled: not to be changed, for it is kept."""
        if (figure, size) in self._images:
            self._images.move_to_end((figure, size))
            return self._images[figure, size]
        scaled = self._images[figure, size] = figure.scaled(size)
        self.bytes += 5 * size[0] * size[1]
        while self.bytes > self._most:
            (_, (width, height)), _ = self._images.popitem(last=False)
            self.bytes -= 5 * width * height
        return scaled


_kept = _Kept(KEPT)


class Placed(NamedTuple):
    """A figure and where it stands: its left column, and the row under its feet."""

    scaled: Scaled
    left: int
    feet: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in pixels, the last two just outside."""
        width, height = self.scaled.image.size
        return self.left, self.feet - height, self.left + width, self.feet

    def metres(self, depth: NDArray[np.float32]) -> np.float32:
        """Measure how far the floor is that it stands on: the median of `depth` (H, W) under its lowest visible row.

        That is the floor, even where a table leg or a hole in the measurement is in the way.
        """
        below = np.sort(depth[self.box[1] + self.scaled.row][self.left + self.scaled.columns])
        middle: np.float32 = (below[(len(below) - 1) // 2] + below[len(below) // 2]) / np.float32(2)
        return middle  # by hand, for np.median takes ten times as long for so few


def paste(background: Background, figures: list[Figure], random: Random, config: PasteConfig) -> dict[str, Image.Image]:
    """Paste the figures at random places and sizes: fg_bg = alpha * figure + (1 - alpha) * background.

    Returns the new images of a sample: fg_bg is RGBX, of which X is the mask; mask and depth, of 8 or 16 bits, are
    grey. There is no depth if that of the background is not known.

    The lower its feet, the nearer a figure is: nearer ones cover farther ones in all three images. The mask is the
    share of each pixel in which the background does not show. A pixel has one depth, that of a figure which covers half
    of it or more: blending depth as colours are blended would invent surfaces between figure and wall. Jitter and
    shadow change fg_bg alone, and move nothing.
    """
    placed = [_placed(figure, random, config) for figure in figures]
    if config.jitter:
        placed = [one._replace(scaled=_jittered(one.scaled, random, config.jitter)) for one in placed]
    placed.sort(key=lambda one: one.feet)
    canvas = background.image.copy()
    if config.shadow:
        for one in placed:
            _cast_shadow(canvas, one, config.shadow)
    for one in placed:
        canvas.paste(one.scaled.image, one.box, one.scaled.alpha)
    images = {"fg_bg": canvas, "mask": canvas.getchannel("X")}
    if background.depth is not None:
        images["depth"] = depth = background.depth_image.copy()
        for one in placed:
            opaque = one.scaled.alpha.convert("1", dither=Image.Dither.NONE)
            level = _level(one.metres(background.depth), background.bits)
            # An image, because a mere number is pasted wrongly by Pillow 13 where there are 16 bits.
            depth.paste(Image.new(depth.mode, opaque.size, level), one.box, opaque)
    return images


def _level(metres: np.float32, bits: int) -> int:
    """Return the grey that `depth_image` has for a distance, in a tenth of its time for one pixel."""
    share = (metres - METRES.black) / (METRES.white - METRES.black)
    return int(min(max(share, np.float32(0)), np.float32(1)) * (2**bits - 1) + 0.5)


def _placed(figure: Figure, random: Random, config: PasteConfig) -> Placed:
    ratio = random.uniform(*config.scale) * config.size / max(figure.image.size)
    width, height = (max(1, round(side * ratio)) for side in figure.image.size)
    left = random.randint(0, config.size - width)
    lowest = max(height, round(config.size * (1 - config.floor)))
    return Placed(_kept.get(figure, (width, height)), left, random.randint(lowest, config.size))


def _jittered(figure: Scaled, random: Random, strength: float) -> Scaled:
    """Change the colours of a figure, but not its alpha."""
    brightness, contrast, saturation = (random.uniform(1 - strength, 1 + strength) for _ in range(3))
    turn = random.uniform(-strength, strength) * np.pi / 2
    colours = figure.image.convert("RGB")
    mean = float(np.average(np.asarray(colours) @ LUMA, weights=np.asarray(figure.alpha) + 1e-3))
    matrix = brightness * contrast * _chroma_matrix(saturation, turn)
    offset = brightness * (1 - contrast) * mean
    changed = colours.convert("RGB", tuple(np.column_stack([matrix, np.full(3, offset)]).ravel().tolist()))
    return figure._replace(image=changed.convert("RGBX"))


def _chroma_matrix(saturation: float, turn: float) -> NDArray[np.float64]:
    """Make a matrix (3, 3) that multiplies the chroma of RGB columns by `saturation` and turns it by `turn` radians."""
    from_rgb = np.array([LUMA, [1, 0, 0] - LUMA, [0, 0, 1] - LUMA])  # luma, R - luma, B - luma
    from_rgb[1:] *= [[0.713], [0.564]]  # JPEG's Cr and Cb: both reach from -0.5 to 0.5
    across, along = saturation * np.sin(turn), saturation * np.cos(turn)
    turned = np.array([[1, 0, 0], [0, along, -across], [0, across, along]])
    return np.linalg.solve(from_rgb, turned @ from_rgb)


def _cast_shadow(canvas: Image.Image, placed: Placed, strength: float) -> None:
    """Darken the background at the figure's feet: its alpha squashed flat, centred on their row, blurred."""
    alpha = placed.scaled.alpha
    width, height = alpha.size
    flat = alpha.resize((width, max(1, round(height * SQUASHED))), Image.Resampling.BOX)
    blur = max(1.0, height * BLUR)
    margin = round(3 * blur)
    shade = Image.new("L", (width + 2 * margin, flat.height + 2 * margin))
    shade.paste(flat, (margin, margin))
    share = shade.filter(ImageFilter.GaussianBlur(blur)).point([round(strength * value) for value in range(256)])
    canvas.paste((0, 0, 0, 0), (placed.left - margin, placed.feet - shade.height // 2), share)
