"""How those decode who want it fast: libjpeg-turbo (by simplejpeg, which calls it with less ado than PyTurboJPEG) and
OpenCV.

`half` lets libjpeg-turbo decode at half the size, which is still more than is needed, and resizes that. DALI and FFCV
have no such thing.
"""

# mypy: disable-error-code="import-not-found"

import cv2
import numpy as np
from numpy.typing import NDArray
from simplejpeg import decode_jpeg

from bench.race.contenders import SHAPES, SIZE
from bench.race.decoding import Encoded, Sample

cv2.setNumThreads(0)  # the workers are the threads


def turbo(encoded: Encoded) -> Sample:
    """All pixels, then OpenCV by area, which is its way not to alias."""
    return {name: _one(encoded[name], channels, cv2.INTER_AREA) for name, channels in SHAPES.items()}


def half(encoded: Encoded) -> Sample:
    """Half as high and wide but no smaller than is needed, then bilinear: from 80 to 64 pixels that hardly aliases."""
    least = {"min_height": SIZE, "min_width": SIZE}
    return {name: _one(encoded[name], channels, cv2.INTER_LINEAR, **least) for name, channels in SHAPES.items()}


def _one(data: bytes, channels: int, interpolation: int, **least: int) -> NDArray[np.uint8]:
    image: NDArray[np.uint8] = decode_jpeg(data, "RGB" if channels == 3 else "GRAY", **least)
    scaled: NDArray[np.uint8] = np.asarray(cv2.resize(image, (SIZE, SIZE), interpolation=interpolation), np.uint8)
    return scaled
