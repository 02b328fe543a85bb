"""Pictures for people: the five rows that the 2020 system drew."""

import torch
from torch import Tensor

from model.unet import Prediction

__all__ = ["five_rows"]


def five_rows(fg_bg: Tensor, mask: Tensor, depth: Tensor, prediction: Prediction, columns: int = 8) -> Tensor:
    """fg_bg, true mask, true depth, predicted mask, predicted depth, a sample a column: uint8 (5 H, columns W, 3).

    fg_bg, mask, depth: uint8 (N, C, H, W). The prediction is of the same samples. On the host.
    """
    predicted = (_bytes(prediction.coverage), _bytes(prediction.depth))
    rows = [_row(images[:columns]) for images in (fg_bg, mask, depth, *predicted)]
    return torch.cat(rows).cpu()


def _bytes(values: Tensor) -> Tensor:
    return (values.detach().clamp(0, 1) * 255).round().to(torch.uint8)


def _row(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) to (H, N W, 3)."""
    coloured = images.expand(-1, 3, -1, -1)
    return coloured.permute(2, 0, 3, 1).reshape(images.shape[2], -1, 3)
