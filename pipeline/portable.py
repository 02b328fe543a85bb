"""Decoding without DALI: for systems that it does not exist for, and as what DALI is compared with in tests."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.reader import Encoded

__all__ = ["PortableDecoder"]


class PortableDecoder:
    """Decodes with Pillow, on the host. Pillow lets go of the interpreter while it decodes, so threads help."""

    def __init__(self, channels: dict[str, int]) -> None:
        self._modes = {name: "RGB" if count == 3 else "L" for name, count in channels.items()}

    def decode(self, encoded: dict[str, Encoded]) -> dict[str, Tensor]:
        """Images by component, uint8 (N, H, W, C). Raises ValueError if one does not decode, or sizes differ."""
        return {name: self._decoded(images, self._modes[name]) for name, images in encoded.items()}

    def _decoded(self, images: Encoded, mode: str) -> Tensor:
        try:
            pixels = [np.asarray(Image.open(io.BytesIO(image.data)).convert(mode)) for image in images]
        except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            raise ValueError(f"an image does not decode: {error}") from error
        return torch.from_numpy(np.stack(pixels).reshape(len(pixels), *pixels[0].shape[:2], -1))
