"""Images that many samples share: decoded once, kept on the device, gathered for every batch."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.cache import gathered
from pipeline.reader import Encoded
from shards.errors import InputError


class Bank:
    """The distinct images of one shared component: uint8 (K, C, H, W) on the device. `bad` are those not decodable."""

    def __init__(self, encoded: Encoded, decode: Callable[[Encoded], Tensor], chunk: int) -> None:
        """`decode` turns encoded images into uint8 (N, C, H, W), and raises ValueError if one does not decode."""
        parts = [_decoded(encoded[i : i + chunk], decode) for i in range(0, len(encoded), chunk)]
        flat = [image for part in parts for image in part]
        good = next((image for image in flat if image is not None), None)
        if good is None:
            raise InputError(f"none of {len(flat)} shared images decodes. Check with `python -m shards verify`.")
        self.bad = frozenset(i for i, image in enumerate(flat) if image is None)
        images = torch.stack([good if image is None else image for image in flat])
        self._images = images.permute(0, 2, 3, 1).contiguous()

    def gather(self, numbers: NDArray[np.int64]) -> Tensor:
        """The images of these numbers (N,), uint8 (N, C, H, W)."""
        return gathered(self._images, numbers, self._images.device)


def _decoded(encoded: Encoded, decode: Callable[[Encoded], Tensor]) -> list[Tensor | None]:
    """Decodes together, and one by one only if that fails."""
    try:
        return list(decode(encoded))
    except ValueError:
        return [None] if len(encoded) == 1 else [one for image in encoded for one in _decoded([image], decode)]
