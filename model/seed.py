"""SeedNet: the network of 2020, kept as the baseline to measure against."""

from collections.abc import Sequence
from functools import partial
from itertools import starmap

import torch
from torch import Tensor, nn

from model.unet import MEAN, STD, Normalize, Prediction, conv


def _conv(inputs: int, outputs: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(*conv(inputs, outputs, groups=groups), nn.ReLU())


class SeedNet(nn.Module):
    """A network with every layer at full resolution: 3,630,688 parameters, 29.7 GFLOP a sample at 64x64.

    Its mask is no logit: raw outputs were compared with targets in 0..1, so it trains with l1, smooth_l1 or ssim.
    """

    def __init__(self, *, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.shared = _conv(3, 32)
        self.trunk = nn.Sequential(_conv(64, 64, 64), _conv(64, 128))
        last = partial(nn.Conv2d, out_channels=1, kernel_size=3, padding=1, bias=False)
        self.mask_head = nn.Sequential(_conv(128, 128, 128), _conv(128, 256), last(256))
        layers = [(128, 128, 128), (128, 128, 128), (128, 256, 1), (256, 256, 256), (256, 512, 1), (512, 256, 1)]
        layers += [(256, 256, 1), (256, 128, 128)]
        self.depth_head = nn.Sequential(*starmap(_conv, layers), last(128))

    def forward(self, fg_bg: Tensor, bg: Tensor) -> Prediction:
        """Return coverage and depth, (N, 1, H, W), neither held to 0..1, of images uint8 (N, 3, H, W)."""
        features = self.trunk(torch.cat([self.shared(self.normalize(image)) for image in (bg, fg_bg)], 1))
        mask, depth = self.mask_head(features).float(), self.depth_head(features).float()
        return Prediction(mask, depth, mask_is_logits=False)
