"""DualUNet: one encoder and decoder over the pair of images, a mask head and a depth head."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN = (0.455, 0.378, 0.323)
"""RGB mean of the 2020 data set, 0..1"""
STD = (0.239, 0.230, 0.225)
"""RGB standard deviation of the 2020 data set, 0..1"""

PAIR = 9
"""channels of both images and of how far they differ"""
HEAD_WIDTH = 16
"""channels at full resolution, where each one costs the most"""


class Prediction(NamedTuple):
    """What a model says about N pairs of images, float32 whatever precision it computed in."""

    mask: Tensor
    """(N, 1, H, W): logits, or the coverage itself where `mask_is_logits` is False"""
    depth: Tensor
    """(N, 1, H, W): 0..1 over the data set's depth range"""
    mask_is_logits: bool = True
    """False for the 2020 baseline, whose raw output was compared with targets in 0..1"""

    @property
    def coverage(self) -> Tensor:
        """float32 (N, 1, H, W): how much of each pixel the figure covers; 0..1 where the mask is logits."""
        return self.mask.sigmoid() if self.mask_is_logits else self.mask


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The size of a DualUNet."""

    width: int = 32
    """channels at half resolution; doubled at each further halving"""
    levels: int = 4
    """resolutions from 1/2 down to 1/2^levels"""
    blocks: int = 1
    """residual blocks at each level of the encoder; the decoder has one"""

    def __post_init__(self) -> None:
        if min(self.width, self.levels, self.blocks) < 1:
            raise ValueError(f"width, levels and blocks of a DualUNet are at least 1, not {self}.")


class Normalize(nn.Module):
    """uint8 (N, 3, H, W) to float32 of zero mean and unit variance, by the statistics of the data set."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean and std are 3 numbers each, in units of 0..1, std above 0; got {mean} and {std}.")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, image: Tensor) -> Tensor:
        return (image / 255 - self.mean[:, None, None]) / self.std[:, None, None]


def conv(inputs: int, outputs: int, size: int = 3, *, stride: int = 1) -> nn.Sequential:
    """Convolution and batch norm; halves the resolution where size and stride are 2."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride=stride, padding=(size - stride + 1) // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Residual(nn.Module):
    """Two 3x3 convolutions and a way past them (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv(width, width)
        self.second = conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class Up(nn.Module):
    """Twice the resolution, and the encoder's features of that resolution added."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.narrow = conv(inputs, outputs, 1)
        self.block = Residual(outputs)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        x: Tensor = self.block(F.relu(F.interpolate(self.narrow(coarse), scale_factor=2.0) + skip))
        return x


class Encoder(nn.Module):
    """(N, C, H, W) to features at 1/2, 1/4, ... of the resolution, the finest first."""

    def __init__(self, inputs: int, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(conv(before, width, 2, stride=2), nn.ReLU(), *(Residual(width) for _ in range(blocks)))
            for before, width in zip([inputs, *widths[:-1]], widths, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """The encoder's features to the finest of its resolutions, with all of the context."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        coarse_to_fine = list(widths)[::-1]
        self.ups = nn.ModuleList(Up(coarse, fine) for coarse, fine in itertools.pairwise(coarse_to_fine))

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        for up, skip in zip(self.ups, features[-2::-1], strict=True):
            x = up(x, skip)
        return x


class Head(nn.Module):
    """Decoded features at half resolution, and the details of the input pair, to one value a pixel."""

    def __init__(self, inputs: int, details: int, *, blocks: int) -> None:
        super().__init__()
        self.coarse = conv(inputs, HEAD_WIDTH, 1)
        self.details = conv(details, HEAD_WIDTH)
        self.blocks = nn.Sequential(*(Residual(HEAD_WIDTH) for _ in range(blocks)))
        self.out = nn.Conv2d(HEAD_WIDTH, 1, 3, padding=1)

    def forward(self, coarse: Tensor, pair: Tensor) -> Tensor:
        x = F.relu(F.interpolate(self.coarse(coarse), scale_factor=2.0) + self.details(pair))
        value: Tensor = self.out(self.blocks(x))
        return value


class DualUNet(nn.Module):
    """(background, background + figure) to (mask, depth), for images of any size.

    mean, std: of the RGB images, in units of 0..1; they travel with the weights.
    """

    def __init__(
        self, config: UNetConfig | None = None, *, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
    ) -> None:
        super().__init__()
        self.config = config or UNetConfig()
        widths = [self.config.width * 2**level for level in range(self.config.levels)]
        self.normalize = Normalize(mean, std)
        self.encoder = Encoder(PAIR, widths, self.config.blocks)
        self.decoder = Decoder(widths)
        # 93 % of the wrong mask pixels lie within one pixel of the true edge: the mask gets a block at full resolution.
        self.mask_head = Head(widths[0], PAIR, blocks=1)
        self.depth_head = Head(widths[0], PAIR, blocks=0)

    def forward(self, fg_bg: Tensor, bg: Tensor) -> Prediction:
        """uint8 (N, 3, H, W) twice to mask logits and depth, (N, 1, H, W)."""
        height, width = fg_bg.shape[-2:]
        pair = self.pair(fg_bg, bg)
        shared = self.decoder(self.encoder(pair))
        mask = self.mask_head(shared, pair)[..., :height, :width]
        depth = self.depth_head(shared, pair)[..., :height, :width]
        return Prediction(mask=mask.float(), depth=depth.float().sigmoid())

    def pair(self, fg_bg: Tensor, bg: Tensor) -> Tensor:
        """Both images and how far they differ, (N, 9, H', W'): H' and W' are whole numbers of the coarsest pixels."""
        seen, empty = self.normalize(fg_bg), self.normalize(bg)
        multiple = 2**self.config.levels
        bottom, right = -fg_bg.shape[-2] % multiple, -fg_bg.shape[-1] % multiple
        return F.pad(torch.cat([seen, empty, (seen - empty).abs()], 1), (0, right, 0, bottom), mode="replicate")
