"""SeedNet: the network of 2020, kept as the baseline to measure against."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.unet import MEAN, STD, Normalize, Prediction


def conv(inputs: int, outputs: int, *, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class SeedNet(nn.Module):
    """A network with every layer at full resolution: 3,630,688 parameters, 29.7 GFLOP a sample at 64x64.

    Its mask is no logit: raw outputs were compared with targets in 0..1, so it trains with l1, smooth_l1 or ssim.
    """

    def __init__(self, *, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.shared = conv(3, 32)
        self.trunk = nn.Sequential(conv(64, 64, groups=64), conv(64, 128))
        self.mask_head = nn.Sequential(
            conv(128, 128, groups=128), conv(128, 256), nn.Conv2d(256, 1, 3, padding=1, bias=False)
        )
        self.depth_head = nn.Sequential(
            conv(128, 128, groups=128),
            conv(128, 128, groups=128),
            conv(128, 256),
            conv(256, 256, groups=256),
            conv(256, 512),
            conv(512, 256),
            conv(256, 256),
            conv(256, 128, groups=128),
            nn.Conv2d(128, 1, 3, padding=1, bias=False),
        )

    def forward(self, fg_bg: Tensor, bg: Tensor) -> Prediction:
        """Return coverage and depth, (N, 1, H, W), neither held to 0..1, of images uint8 (N, 3, H, W)."""
        features = self.trunk(torch.cat([self.shared(self.normalize(image)) for image in (bg, fg_bg)], 1))
        mask, depth = self.mask_head(features).float(), self.depth_head(features).float()
        return Prediction(mask, depth, mask_is_logits=False)
