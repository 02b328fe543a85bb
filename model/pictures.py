"""Pictures for people: the rows that the 2020 system drew, those that there are."""

import torch
from torch import Tensor

from model.losses import unit_range
from model.unet import Prediction


def rows_of(fg_bg: Tensor, mask: Tensor | None, depth: Tensor | None, prediction: Prediction) -> dict[str, Tensor]:
    """Draw image, true mask, true depth, predicted mask and predicted depth of N samples, those that there are.

    fg_bg, mask, depth: uint8 (N, C, H, W), depth perhaps uint16. The prediction is of the same samples. Returns uint8
    (N, H, W, 3) on the host each. Both depths of a sample are made brighter alike, so that its farthest true point, or
    without true depth the farthest predicted one, is white: a room of 3 m in a range of 10 m would be too dark to see.
    """
    true_mask, true_depth = (None if one is None else unit_range(one) for one in (mask, depth))
    depths = true_depth, prediction.depth
    farthest = next((one.amax((1, 2, 3), keepdim=True) for one in depths if one is not None), torch.ones(()))
    brighter = [None if one is None else one / farthest.clamp_min(1 / 255) for one in depths]
    rows = {
        "image": unit_range(fg_bg),
        "true mask": true_mask,
        "true depth": brighter[0],
        "predicted mask": prediction.coverage,
        "predicted depth": brighter[1],
    }
    return {name: _pixels(row) for name, row in rows.items() if row is not None}


def _pixels(shares: Tensor) -> Tensor:
    pixels = (shares * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu()
