"""Decoding without DALI: for systems that it does not exist for, and as what DALI is compared with in tests."""

import io
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.reader import Encoded
from shards.format.images import upright
from shards.format.manifest import StoredComponent

Components = Mapping[str, StoredComponent]


class PortableDecoder:
    """Decodes with Pillow, on the host. Pillow lets go of the interpreter while it decodes, so threads help."""

    def __init__(self, components: Components) -> None:
        self._modes = {
            name: "I;16" if component.bits == 16 else "RGB" if component.channels == 3 else "L"
            for name, component in components.items()
        }

    def decode(self, encoded: Encoded) -> dict[str, Tensor]:
        """Return images by component, (N, H, W, C), uint8, or uint16 where they have 16 bits a value.

        Raises ValueError if one does not decode, or sizes differ.
        """
        return {name: _decoded(encoded.images(name), mode) for name, mode in self._modes.items()}


def _decoded(images: list[memoryview], mode: str) -> Tensor:
    try:
        pixels = [_pixels(image, mode) for image in images]
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"an image does not decode: {error}") from error
    return torch.from_numpy(np.stack(pixels).reshape(len(pixels), *pixels[0].shape[:2], -1))


def _pixels(image: memoryview, mode: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    opened = Image.open(io.BytesIO(image))
    if mode == "I;16" and opened.mode != mode:  # Pillow would convert it, and its numbers mean something else
        raise ValueError(f"an image has mode {opened.mode} where 16 bits a value are expected")
    opened.load()
    return np.asarray(upright(opened).convert(mode))
