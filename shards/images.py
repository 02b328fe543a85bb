"""Is this an image of the component it claims to be? Every byte is decoded before it is believed."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.atomic import replacing
from shards.schema import Component

__all__ = ["BadImage", "Size", "checked", "encoded", "histogram", "image_size", "save"]

Size = tuple[int, int]
"""height and width in pixels"""

_MODES = {"L", "RGB"}
_FORMATS = {"JPEG": "jpg", "PNG": "png"}


class BadImage(Exception):  # noqa: N818 - a finding about the data, not a failure of the program
    """Why an image cannot be used: `kind` is one word for counting, `detail` is for a person."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


class Checked(NamedTuple):
    """An image that decodes: its format ("jpg" or "png") and how often each value occurs, int64 (channels, 256)."""

    extension: str
    histogram: NDArray[np.int64]


def checked(data: bytes, component: Component, size: Size | None) -> Checked:
    """Decodes `data` wholly and checks it against the component and the data set's image size.

    Raises BadImage of kind empty, not-an-image, wrong-format, wrong-mode, too-large, wrong-size or truncated.
    Size and mode are checked from the header, before memory is spent on the pixels.
    """
    image = _opened(data)
    extension = _FORMATS.get(image.format or "")
    if extension not in component.formats:
        raise BadImage("wrong-format", f"{image.format} where {' or '.join(component.formats)} is expected")
    if image.mode not in _MODES:
        raise BadImage("wrong-mode", f"{image.mode} where RGB or grey is expected")
    if size and (image.height, image.width) != size:
        raise BadImage("wrong-size", f"{image.width}x{image.height} where {size[1]}x{size[0]} is expected")
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise BadImage("truncated", str(error)) from error
    return Checked(extension, histogram(image.convert("RGB" if component.channels == 3 else "L")))


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


def histogram(image: Image.Image) -> NDArray[np.int64]:
    """How many pixels of each value 0..255 each channel has, int64 (channels, 256)."""
    return np.array(image.histogram(), dtype=np.int64).reshape(-1, 256)


def save(path: Path, image: Image.Image) -> None:
    """Writes an image in the format that its name says, whole or not at all."""
    with replacing(path) as temporary:
        image.save(temporary)


def encoded(image: Image.Image, extension: str) -> bytes:
    """The bytes of `image` as JPEG of quality 95 (what the 2020 data set used) or PNG."""
    buffer = io.BytesIO()
    if extension == "jpg":
        image.save(buffer, "JPEG", quality=95)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()
