"""Is this an image of the component it claims to be? Every byte is decoded before it is believed."""

import io
import struct
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.format.schema import COMPONENTS, Component
from shards.format.storage import replacing

Size = tuple[int, int]
"""height and width in pixels"""

JPEG_QUALITY = 95
"""what the 2020 data set used"""

_MODES = {8: {"L", "RGB"}, 16: {"I;16"}}
"""what Pillow calls the images of so many bits a value"""
_FORMATS = {"JPEG": "jpg", "PNG": "png"}


class BadImage(Exception):  # noqa: N818 - a finding about the data, not a failure of the program
    """Why an image cannot be used: `kind` is one word for counting, `detail` is for a person."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


class Checked(NamedTuple):
    """An image that decodes: its format ("jpg" or "png") and its pixels, RGB or grey as the component has it.

    Grey is of mode L, or I;16 where the component has 16 bits.
    """

    extension: str
    image: Image.Image

    @property
    def histogram(self) -> NDArray[np.int64]:
        """How often each value occurs, int64 (channels, 256)."""
        return histogram(self.image)


def checked(data: bytes, component: Component, size: Size | None) -> Checked:
    """Decodes `data` wholly and checks it against the component and the data set's image size.

    Raises BadImage of kind empty, not-an-image, wrong-format, wrong-mode, too-large, wrong-size or truncated.
    Size and mode are checked from the header, before memory is spent on the pixels.
    """
    image = _opened(data)
    extension = _FORMATS.get(image.format or "")
    if extension not in component.formats:
        raise BadImage("wrong-format", f"{image.format} where {' or '.join(component.formats)} is expected")
    if image.mode not in _MODES[component.bits]:
        expected = "RGB or grey" if component.bits == 8 else f"grey of {component.bits} bits"
        raise BadImage("wrong-mode", f"{image.mode} where {expected} is expected")
    if size and (image.height, image.width) != size:
        raise BadImage("wrong-size", f"{image.width}x{image.height} where {size[1]}x{size[0]} is expected")
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise BadImage("truncated", str(error)) from error
    mode = _mode(component)
    return Checked(extension, image if image.mode == mode else image.convert(mode))


def _mode(component: Component) -> str:
    if component.channels == 3:
        return "RGB"
    return "L" if component.bits == 8 else "I;16"


def _opened(data: bytes) -> Image.Image:
    if not data:
        raise BadImage("empty", "zero bytes")
    try:
        return Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise BadImage("too-large", str(error)) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise BadImage("not-an-image", f"begins with {data[:16]!r}") from error


def image_size(data: bytes) -> Size | None:
    """Height and width from the header; None where there is none to read."""
    try:
        image = _opened(data)
    except BadImage:
        return None
    return image.height, image.width


def image_bits(data: bytes) -> int:
    """8 or 16 bits a value, from the header; 8 where there is none to read."""
    try:
        return 16 if _opened(data).mode in _MODES[16] else 8
    except BadImage:
        return 8


def histogram(image: Image.Image) -> NDArray[np.int64]:
    """How many pixels of each value 0..255 each channel has, int64 (channels, 256); of 16 bits, the nearest of these.

    65,536 counts would make every shard's record half a megabyte, for a mean that differs in the fifth digit.
    """
    return np.array(eight_bit(image).histogram(), dtype=np.int64).reshape(-1, 256)


def eight_bit(image: Image.Image) -> Image.Image:
    """An image of 16 bits in 8, each value the nearest; others as they are."""
    if image.mode != "I;16":
        return image
    return Image.fromarray(np.uint8((np.asarray(image, np.uint32) + 128) // 257))


def save(path: Path, image: Image.Image) -> None:
    """Writes an image in the format that its name says, whole or not at all."""
    with replacing(path) as temporary:
        image.save(temporary)


def formats(lossless: bool) -> dict[str, str]:
    """Each component's extension: "jpg", but `lossless` makes mask and depth, which a network is to predict, "png"."""
    return {one.name: "png" if lossless and one.channels == 1 else "jpg" for one in COMPONENTS}


def resized(image: Image.Image, size: Size) -> Image.Image:
    """Scaled by the filter that the loader scales by, so that it matters little which of them does it.

    Pillow widens BILINEAR when it shrinks, which is antialiasing. PyTorch's is the same to 1 level of 255.
    """
    if image.mode == "I;16":
        scaled = Image.fromarray(np.asarray(image, np.float32)).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return Image.fromarray(np.uint16(np.asarray(scaled) + 0.5))
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)


def encoded(image: Image.Image, extension: str, full_chroma: bool = False) -> bytes:
    """The bytes of `image` as PNG, or as JPEG of quality 95.

    JPEG halves the resolution of colour (4:2:0) unless `full_chroma` (4:4:4, and Huffman tables of the image's own).
    That does not show in images that are scaled down when they are read, but it does at the size that is trained at:
    photographs resized to 64 px are 2.3 levels of 255 off in the mean at 2.9 KB with 4:2:0, and 1.6 at 3.1 KB with
    `full_chroma`. All four images take 10.8 KB in a shard either way; the mask's IoU is 0.893 or 0.903 (bench/LOG.md).
    At 160 px 4:2:0 is decoded faster, 324 instead of 344 us a sample.
    """
    buffer = io.BytesIO()
    if extension == "jpg":
        chroma = {"subsampling": "4:4:4", "optimize": True} if full_chroma else {}
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, **chroma)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()


class Form(NamedTuple):
    """How an image is encoded ("jpg" or "png"), its height and width, and the bits of a value."""

    extension: str
    size: Size
    bits: int


_FAR = 1024
"""bytes among which the frame header of most images is"""
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_GREY_OR_RGB = {(8, 0), (8, 2), (16, 0)}
"""bits and kind of colour in a PNG; RGB of 16 bits is not among those that are stored"""
_FRAMES = {0xC0, 0xC1, 0xC2}
"""JPEG markers before the sizes of an image that libjpeg decodes: baseline, extended, progressive"""
_PLAIN = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)} - {0xE2}
"""markers that may come before: tables, restart interval, comment, applications' own. Not E2: one kind of it announces
further images, which makes the file another format (MPO) to Pillow"""


def header(data: bytes) -> Form | None:
    """The form of a grey or RGB image by its header; None where it is not plain, or does not end as its format must."""
    if data.startswith(b"\xff\xd8\xff") and data.endswith(b"\xff\xd9"):
        return _alike(data[: data.find(b"\xff\xc0", 0, _FAR) + 10]) or _jpeg(data)
    if data.startswith(_PNG) and data.endswith(_PNG_END):
        width, height, bits, kind = struct.unpack_from(">2L2B", data, len(_PNG))
        return Form("png", (height, width), bits) if (bits, kind) in _GREY_OR_RGB else None
    return None


@lru_cache(maxsize=1024)
def _alike(beginning: bytes) -> Form | None:
    """What images with this beginning are. One encoder's begin alike, and to look that up takes a third as long."""
    return _jpeg(beginning)


def _jpeg(data: bytes) -> Form | None:
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], data[at + 2] << 8 | data[at + 3]
        if marker in _FRAMES:
            bits, height, width, channels = struct.unpack_from(">B2HB", data, at + 4)
            plain = bits == 8 and channels in (1, 3) and height and width
            return Form("jpg", (height, width), bits) if plain else None
        if marker not in _PLAIN:
            return None
        at += 2 + length
    return None
