"""How the files of each component become what is stored: as they are; or turned, converted, scaled and encoded."""

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.errors import InputError
from shards.format.depth import DepthRange, depth_image
from shards.format.images import (
    BadImage,
    ImageFormat,
    Size,
    converted,
    decode_image,
    eight_bit,
    encode_image,
    load_image,
    open_image,
    scale_image,
    upright,
)

_NUMPY = b"\x93NUMPY"
_SAME_SHAPE = 0.02
"""How far the shapes (aspect ratios) of a sample's images may be apart, for one may have been cropped by a pixel."""


class Levels(NamedTuple):
    """A mask's values from `black` to `white` become 0 to 255, evenly, and those beyond are cut off.

    indices: of an image with a palette the values are its indices, not its colours.
    """

    black: float
    white: float
    indices: bool = False

    def image(self, image: Image.Image) -> Image.Image:
        share = np.clip((numbers_of(image) - self.black) / (self.white - self.black), 0, 1)
        return Image.fromarray(np.uint8(share * 255 + 0.5))


class Metres(NamedTuple):
    """Depth of `scale` values a metre is stored in `range`, in 16 bits. What is no distance counts as 0 m."""

    scale: float
    range: DepthRange

    def image(self, image: Image.Image) -> Image.Image:
        return depth_image(distances_of(numbers_of(grey_of(image))) / np.float32(self.scale), self.range, bits=16)


class ColourMap(NamedTuple):
    """Depth was drawn by a colour map, and becomes 0 to 255 again."""

    name: str

    def image(self, image: Image.Image) -> Image.Image:
        colours = np.asarray(colour_of(image), np.uint32)
        return Image.fromarray(_levels(self.name)[colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]])


@lru_cache(maxsize=4)
def colours_of(name: str) -> NDArray[np.float32]:
    """Return the 256 colours of one of Matplotlib's maps, 0 to 255, float32 (256, 3). Raises InputError if none."""
    from matplotlib import colormaps  # 0.2 s, which all others are spared

    if name not in colormaps:
        raise InputError(
            f"depth-colormap: {name!r} is no colour map of Matplotlib, such as jet, or jet_r, its reverse."
        )
    return np.asarray(colormaps[name](np.linspace(0, 1, 256), bytes=True)[:, :3], np.float32)


@lru_cache(maxsize=1)
def _levels(name: str) -> NDArray[np.uint8]:
    """Return the level, 0 to 255, of each colour by its 24 bits, uint8 (2^24,).

    It is that of the nearest of the map's colours, to the nearest of 64 values a channel; of these themselves, exact.
    """
    colours = colours_of(name)
    steps = np.arange(64, dtype=np.float32) * 4 + 1.5
    cells = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(64, -1, 3)
    lengths = np.square(colours).sum(1)
    nearest = np.stack([(lengths - 2 * some @ colours.T).argmin(1) for some in cells]).astype(np.uint8)
    levels = nearest.reshape(64, 64, 64).repeat(4, 0).repeat(4, 1).repeat(4, 2).reshape(-1)
    own = colours.astype(np.int64) @ [1 << 16, 1 << 8, 1]
    for code in np.unique(own):  # of several levels of one colour the one in the middle
        levels[code] = np.flatnonzero(own == code).mean()
    return levels


@dataclass(frozen=True, kw_only=True)
class Making:
    """How the files of one component become what is stored.

    convert: files of any format and mode are made that; else such files cannot be used. scale: so are those of any
    size. values: what becomes of the values; if anything, no file stays as it is.
    """

    component: str
    stored: ImageFormat
    convert: bool = False
    scale: bool = False
    values: Levels | Metres | ColourMap | None = None

    def keeps(self, data: bytes) -> bool:
        """Tell by header and end whether the file is what is stored."""
        return self.values is None and self.stored.heads(data)

    def make(self, data: bytes) -> tuple[bytes, Image.Image, Size]:
        """Return what is stored of a file, its pixels before encoding, and height and width of the image in the file.

        Raises BadImage if it cannot be used.
        """
        if self.values is None and (not self.scale or self.stored.heads(data)):
            try:
                return data, decode_image(data, self.stored), self.stored.size
            except BadImage as bad:
                if not self.convert and bad.kind != "turned":
                    raise self._advised(bad) from bad
        image = pixels_of(opened_file(data))
        size, image = (image.height, image.width), self._made(image)
        if size != self.stored.size:
            if not self.scale:
                height, width = self.stored.size
                detail = f"{image.width}x{image.height} where {width}x{height} is expected"
                raise self._advised(BadImage("wrong-size", detail))
            image = scale_image(image, self.stored.size)
        return encode_image(image, self.stored.extension, full_chroma=True), image, size

    def _made(self, image: Image.Image) -> Image.Image:
        """Return the image in RGB, L or, of 16 bits, I;16, its values those that are stored."""
        if self.component == "mask":
            image = figure_of(image, isinstance(self.values, Levels) and self.values.indices)
        if self.values:
            return self.values.image(image)
        if self.stored.channels == 3:
            return colour_of(image)
        grey = grey_of(image)
        if grey.mode == "F":
            raise BadImage("wrong-mode", f"floats or large integers where {self.stored.bits} bits are expected")
        if self.stored.bits == 8:
            return eight_bit(grey)
        return grey if grey.mode == "I;16" else Image.fromarray(np.asarray(grey, np.uint16) * np.uint16(257))

    def _advised(self, bad: BadImage) -> BadImage:
        wrong = bad.kind in ("wrong-format", "wrong-mode", "wrong-size")
        return BadImage(bad.kind, f"{bad.detail}; with --size it would be converted" if wrong else bad.detail)


def same_shape(one: Size, other: Size) -> bool:
    """Tell whether two images may show the same, each scaled."""
    return abs(one[0] * other[1] / (one[1] * other[0]) - 1) <= _SAME_SHAPE


def opened_file(data: bytes) -> Image.Image:
    """Read the header of an image, or an array. Raises BadImage."""
    return _of_array(data) if data.startswith(_NUMPY) else open_image(data)


def is_deep(opened: Image.Image) -> bool:
    """Tell whether an image has 16 bits a value, of one channel; of PNM Pillow says so in another way."""
    return opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format == "PPM")


def pixels_of(opened: Image.Image) -> Image.Image:
    """Decode an opened image, upright: L, P, RGB or other modes of 8 bits a value; I;16; F for all other numbers.

    Raises BadImage.
    """
    load_image(opened)
    deep, image = is_deep(opened), upright(opened)
    image.info.clear()  # or what is encoded again would keep profiles, comments and a transparent colour
    if image.mode == "1":
        return image.convert("L")
    if deep:
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    return Image.fromarray(np.asarray(image, np.float32)) if image.mode == "I" else image


def _of_array(data: bytes) -> Image.Image:
    """Make an image of the array in an .npy file."""
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # its header is Python, and may be anything
        raise BadImage("truncated", str(error) or type(error).__name__) from error
    shape = array.shape
    if array.ndim == 3 and 1 in (shape[0], shape[2]):
        array = array[0] if shape[0] == 1 else array[..., 0]
    colour = array.dtype == np.uint8 and array.ndim == 3 and shape[2] == 3
    if not array.size or array.dtype.kind not in "buif" or not (colour or array.ndim == 2):
        wanted = "(H, W), (1, H, W) or (H, W, 1) of numbers, or (H, W, 3) of uint8"
        raise BadImage("wrong-mode", f"an array {shape} of {array.dtype} where {wanted} is expected")
    if array.dtype == bool:
        array = array * np.uint8(255)
    kind = array.dtype.newbyteorder("=")
    with np.errstate(over="ignore"):  # to infinity, which is no distance either
        return Image.fromarray(np.ascontiguousarray(array, kind if kind in (np.uint8, np.uint16) else np.float32))


def colour_of(image: Image.Image) -> Image.Image:
    """Return RGB; transparent pixels have the colours that they have."""
    if image.mode == "F":
        raise BadImage("wrong-mode", "floats or large integers where RGB is expected")
    return converted(eight_bit(image), "RGB")


def grey_of(image: Image.Image) -> Image.Image:
    """Return L, or I;16 or F as they are."""
    return image if image.mode in ("L", "I;16", "F") else converted(image, "L")


def figure_of(image: Image.Image, indices: bool) -> Image.Image:
    """Return what tells a mask's figure: its alpha, unless that is opaque everywhere; its indices; or its grey."""
    if image.mode == "P" and indices:
        return Image.fromarray(np.asarray(image))
    if "A" in image.getbands() and image.mode != "LAB":
        alpha = image.getchannel("A")
        if alpha.getextrema() != (255, 255):
            return alpha
    return grey_of(image)


def numbers_of(image: Image.Image) -> NDArray[np.float32]:
    """Return an image's values, what is no number as 0, float32 (H, W)."""
    return np.nan_to_num(np.asarray(image, np.float32), posinf=np.inf, neginf=-np.inf)


def distances_of(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return numbers (H, W) with 0 for those that no distance has."""
    return np.where(np.isfinite(numbers) & (numbers > 0), numbers, np.float32(0))
