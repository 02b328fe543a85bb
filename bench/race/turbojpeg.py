"""How those decode who want it fast: libjpeg-turbo (by simplejpeg, which calls it with less ado than PyTurboJPEG), then
OpenCV by area, which is its way not to alias.
"""

# mypy: disable-error-code="import-not-found"

import cv2
import numpy as np
from simplejpeg import decode_jpeg

from bench.race.formats import SHAPES, SIZE, Encoded, Sample

cv2.setNumThreads(0)  # the workers are the threads


def turbo(encoded: Encoded) -> Sample:
    sample = {}
    for name, channels in SHAPES.items():
        image = decode_jpeg(encoded[name], "RGB" if channels == 3 else "GRAY")
        sample[name] = np.asarray(cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA), np.uint8)
    return sample
