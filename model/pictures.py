"""Pictures for people: the rows that the 2020 system drew, those that there are."""

import torch
from torch import Tensor

from model.losses import unit_range
from model.unet import Prediction


def rows_of(
    fg_bg: Tensor, mask: Tensor | None, depth: Tensor | None, prediction: Prediction, columns: int = 8
) -> Tensor:
    """Draw fg_bg, true mask, true depth, predicted mask and predicted depth, those that there are, a sample a column.

    fg_bg, mask, depth: uint8 (N, C, H, W), depth perhaps uint16. The prediction is of the same samples. Returns uint8
    (rows H, columns W, 3). Both depths of a sample are made brighter alike, so that its farthest true point, or without
    true depth the farthest predicted one, is white: a room of 3 m in a range of 10 m would be too dark to see.
    """
    true_mask, true_depth = (None if one is None else unit_range(one) for one in (mask, depth))
    depths = true_depth, prediction.depth
    farthest = next((one.amax((1, 2, 3), keepdim=True) for one in depths if one is not None), torch.ones(()))
    brighter = [None if one is None else one / farthest.clamp_min(1 / 255) for one in depths]
    rows = unit_range(fg_bg), true_mask, brighter[0], prediction.coverage, brighter[1]
    shown = [(row[:columns] * 255).round().clamp(0, 255).expand(-1, 3, -1, -1) for row in rows if row is not None]
    return torch.stack(shown).to(torch.uint8).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2).cpu()
