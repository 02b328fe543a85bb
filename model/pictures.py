"""Pictures for people: the five rows that the 2020 system drew."""

import torch
from torch import Tensor

from model.unet import Prediction


def five_rows(fg_bg: Tensor, mask: Tensor, depth: Tensor, prediction: Prediction, columns: int = 8) -> Tensor:
    """Draw fg_bg, true mask, true depth, predicted mask and predicted depth, a sample a column.

    fg_bg, mask, depth: uint8 (N, C, H, W), depth perhaps uint16. The prediction is of the same samples. Returns uint8
    (5 H, columns W, 3). Both depths of a sample are made brighter alike, so that its farthest true point is white: a
    room of 3 m in a range of 10 m would be too dark to see.
    """
    depth = depth.float() * (255 / torch.iinfo(depth.dtype).max)
    farthest = depth.amax((1, 2, 3), keepdim=True).clamp_min(1)
    predicted = prediction.coverage * 255, prediction.depth * 255 * (255 / farthest)
    rows = fg_bg, mask, depth / farthest * 255, *predicted
    pixels = torch.stack([row[:columns].float().round().clamp(0, 255).expand(-1, 3, -1, -1) for row in rows])
    return pixels.to(torch.uint8).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2).cpu()
