"""JPEG and PNG: how a component is encoded, and whether a file is the image that it claims to be."""

import io
import struct
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from shards.errors import InputError
from shards.format.storage import LFS_POINTER, read_file, replacing

Size = tuple[int, int]
"""Height and width in pixels."""

IMAGE_SUFFIXES = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png"}
"""The format that a file name promises."""
JPEG_QUALITY = 95
"""The quality of the data set of 2020."""
_READ = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
"""What Pillow may open: the formats that images come in, and none that it leaves to other programs."""
_PILLOW_NAMES = {"jpg": "JPEG", "png": "PNG"}
_PILLOW_MODES = {8: {"L", "RGB"}, 16: {"I;16"}}


class ImageFormat(NamedTuple):
    """How an image is encoded: "jpg" or "png", height and width, bits of a value, channels (3 RGB, 1 grey)."""

    extension: str
    size: Size
    bits: int
    channels: int

    def heads(self, data: bytes) -> bool:
        """Tell by header and end, as `read_header` does, whether `data` is such an image."""
        return read_header(data) == (self.extension, self.size, self.bits)


class BadImage(Exception):  # noqa: N818 - a finding about the data, not a failure of the program
    """The reason why an image cannot be used: `kind` is one word for counting, `detail` is for a person."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


class LeftOut(NamedTuple):
    """Something that did not become part of the data set, and why. `kind` is one word, the rest is for a person."""

    kind: str
    key: str
    component: str
    source: str
    detail: str


def decode_image(data: bytes, expected: ImageFormat) -> Image.Image:
    """Decode `data` wholly, to mode RGB, L or, of 16 bits, I;16; RGB and grey are converted to each other.

    Raises BadImage of kind empty, not-an-image, wrong-format, wrong-mode, too-large, turned, wrong-size or truncated.
    Format, mode and size are checked by the header, before memory is spent on the pixels.
    """
    image = open_image(data)
    if image.format != _PILLOW_NAMES[expected.extension]:
        raise BadImage("wrong-format", f"{image.format} where {expected.extension} is expected")
    if image.mode not in _PILLOW_MODES[expected.bits]:
        wanted = "RGB or grey" if expected.bits == 8 else f"grey of {expected.bits} bits"
        raise BadImage("wrong-mode", f"{image.mode} where {wanted} is expected")
    _refuse_turned(image)
    height, width = expected.size
    if image.size != (width, height):
        raise BadImage("wrong-size", f"{image.width}x{image.height} where {width}x{height} is expected")
    load_image(image)
    _refuse_turned(image)  # a PNG may say so behind its pixels
    mode = "I;16" if expected.bits == 16 else "RGB" if expected.channels == 3 else "L"
    return image if image.mode == mode else image.convert(mode)


def open_image(data: bytes) -> Image.Image:
    """Read the header of an image. Raises BadImage of kind empty, not-there, not-an-image or too-large."""
    if not data:
        raise BadImage("empty", "zero bytes")
    if data.startswith(LFS_POINTER):
        raise BadImage("not-there", "Git LFS has the image, and this points to it: git lfs pull")
    try:
        return Image.open(io.BytesIO(data), formats=_READ)
    except Image.DecompressionBombError as error:
        raise BadImage("too-large", str(error)) from error
    except Exception as error:  # of as many kinds as there are decoders
        raise BadImage("not-an-image", f"begins with {data[:16]!r}") from error


def load_image(image: Image.Image) -> None:
    """Decode the pixels of an opened image. Raises BadImage of kind truncated."""
    try:
        image.load()
    except Exception as error:  # as above
        raise BadImage("truncated", str(error) or type(error).__name__) from error


def read_image(path: Path) -> Image.Image:
    """Decode the image in a file. Raises BadImage of the kinds of `open_image` and `load_image`, and unreadable."""
    try:
        image = open_image(read_file(path))
    except OSError as error:
        raise BadImage("unreadable", str(error)) from error
    load_image(image)
    return image


def converted(image: Image.Image, mode: str) -> Image.Image:
    """Return an image in another mode. Raises BadImage if there is no way from its own."""
    try:
        return image if image.mode == mode else image.convert(mode)
    except ValueError as error:
        raise BadImage("wrong-mode", f"{image.mode} where {mode} is expected ({error})") from error


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What is to be done to an image of each orientation in EXIF."""


def _turn(exif: bytes) -> Image.Transpose | None:
    try:
        found = Image.Exif()
        found.load(exif)
        return _TURNS.get(found.get(ExifTags.Base.Orientation, 1))
    except Exception:  # as above
        return None  # DALI does not turn such an image either


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Tell how an image must be turned to be seen as its EXIF data says; None where it is upright.

    What XMP says is not asked, as DALI does not ask it.
    """
    return _turn(image.info["exif"]) if "exif" in image.info else None


def upright(image: Image.Image) -> Image.Image:
    """Turn a decoded image as its EXIF data says."""
    turn = turn_of(image)
    return image if turn is None else image.transpose(turn)


def _refuse_turned(image: Image.Image) -> None:
    if turn_of(image) is not None:
        raise BadImage("turned", "its EXIF data says that it must be turned; not every reader does")


def read_any_header(data: bytes) -> tuple[str, Size, int] | None:
    """Read the same as `read_header` of any JPEG or PNG, whole or not; None where `data` is neither."""
    try:
        image = open_image(data)
    except BadImage:
        return None
    extension = next((one for one, name in _PILLOW_NAMES.items() if name == image.format), None)
    bits = 16 if image.mode in _PILLOW_MODES[16] else 8
    return (extension, (image.height, image.width), bits) if extension else None


def histogram(image: Image.Image) -> NDArray[np.int64]:
    """Count the pixels of each value 0..255 in each channel, int64 (channels, 256); of 16 bits, the nearest of these.

    65,536 counts would make every shard's record half a megabyte, for a mean that differs in the fifth digit.
    """
    return np.array(eight_bit(image).histogram(), dtype=np.int64).reshape(-1, 256)


def eight_bit(image: Image.Image) -> Image.Image:
    """Return an image of 16 bits in 8, each value the nearest; others as they are."""
    if image.mode != "I;16":
        return image
    return Image.fromarray(np.uint8((np.asarray(image, np.uint32) + 128) // 257))


def save_image(path: Path, image: Image.Image) -> None:
    """Write an image in the format that its name says, whole or not at all. Raises InputError if that says none."""
    with replacing(path) as temporary:
        try:
            image.save(temporary)
        except ValueError as error:
            raise InputError(f"{path}: {error}. End the name with .png.") from error


def scale_image(image: Image.Image, size: Size) -> Image.Image:
    """Scale an image by the filter that the loader scales by, so that it matters little which of them does it.

    Pillow widens BILINEAR when it shrinks, which is antialiasing. PyTorch's is the same to 1 level of 255.
    """
    if image.mode == "I;16":
        scaled = Image.fromarray(np.asarray(image, np.float32)).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        return Image.fromarray(np.uint16(np.asarray(scaled) + 0.5))
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)


def encode_image(image: Image.Image, extension: str, full_chroma: bool = False) -> bytes:
    """Encode an image as PNG, or as JPEG of quality 95.

    JPEG halves the resolution of colour (4:2:0) unless `full_chroma` (4:4:4, and Huffman tables of the image's own).
    That does not show in images that are scaled down when they are read, but it does at the size that is trained at
    (bench/LOG.md has what it costs in levels, bytes and IoU).
    """
    full = {"subsampling": "4:4:4", "optimize": True} if full_chroma and extension == "jpg" else {}
    image.save(buffer := io.BytesIO(), _PILLOW_NAMES[extension], quality=JPEG_QUALITY, **full)  # PNG knows no quality
    return buffer.getvalue()


PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
JPEG_FRAMES = 0xC0, 0xC1, 0xC2
"""Markers of frames that libjpeg decodes: baseline, extended, progressive."""
_SCAN = b"\xff\xda"
"""What begins a scan's header, after which a JPEG's pixels come."""
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_PLAIN = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)} - {0xE2}
"""JPEG markers that may come before a frame: tables, restart interval, comment, applications' own. Not E2: one kind of
it announces further images, which makes the file another format (MPO) to Pillow."""


def read_header(data: bytes) -> tuple[str, Size, int] | None:
    """Read extension, size and bits of a plain grey or RGB image, in a fraction of the time that Pillow takes.

    None where there is anything unusual before the pixels, EXIF data that turns the image included, or the file does
    not end as its format must: such a file must be decoded to be judged.
    """
    if data.startswith(b"\xff\xd8\xff") and data.endswith(b"\xff\xd9"):
        beginning = data[: data.find(_SCAN, 0, 1024) + len(_SCAN)]  # the scan of most images does not begin later
        return _of_beginning(beginning) or _jpeg_header(data)
    if data.startswith(PNG_START) and data.endswith(_PNG_END) and b"eXIf" not in data:
        width, height, bits, kind = struct.unpack_from(">2L2B", data, len(PNG_START))
        plain = (bits, kind) in ((8, 0), (8, 2), (16, 0))  # grey or RGB; of 16 bits only grey is stored
        return ("png", (height, width), bits) if plain else None
    return None


def _jpeg_header(data: bytes) -> tuple[str, Size, int] | None:
    """Follow the segments to the first scan. A second frame would be of another size to another reader."""
    at, found = 2, None
    while data[at : at + 1] == b"\xff" and not data.startswith(_SCAN, at):
        if at + 10 > len(data):
            return None
        marker, length = data[at + 1], data[at + 2] << 8 | data[at + 3]
        exif = data[at + 4 : at + 2 + length] if marker == 0xE1 and data.startswith(b"Exif\0", at + 4) else b""
        if marker in JPEG_FRAMES and not found:
            bits, height, width, channels = struct.unpack_from(">B2HB", data, at + 4)
            if bits != 8 or channels not in (1, 3) or not (height and width):
                return None
            found = "jpg", (height, width), bits
        elif marker not in _PLAIN or (exif and _turn(exif) is not None):
            return None
        at += 2 + length
    return found if data.startswith(_SCAN, at) else None


_of_beginning = lru_cache(maxsize=1024)(_jpeg_header)
"""Remembers the header by a JPEG's beginning, for one encoder's images begin alike."""
