"""How Pillow decodes the four images of a sample: 64 x 64 pixels, uint8, antialiased. All are compared with it."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.race.contenders import SHAPES, SIZE

Encoded = dict[str, bytes]
Sample = dict[str, NDArray[np.uint8]]
"""(H, W, 3), or (H, W) where grey"""


def pillow(encoded: Encoded) -> Sample:
    return {name: _one(encoded[name], "RGB" if channels == 3 else "L") for name, channels in SHAPES.items()}


def _one(data: bytes, mode: str) -> NDArray[np.uint8]:
    image = Image.open(io.BytesIO(data)).convert(mode)
    return np.array(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
