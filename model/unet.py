"""DualUNet: one encoder and decoder over the pair of images, or one image, a mask head and a depth head, or one."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# RGB mean and standard deviation of the 2020 data set, in units of 0..1.
MEAN = (0.455, 0.378, 0.323)
STD = (0.239, 0.230, 0.225)

_HEAD_WIDTH = 16  # channels at full resolution, where each one costs the most


class Prediction(NamedTuple):
    """A model's output for N samples, float32 whatever precision it was computed in; None for what it has no head."""

    mask: Tensor | None
    """(N, 1, H, W): logits, or the coverage itself where `mask_is_logits` is False"""
    depth: Tensor | None
    """(N, 1, H, W): 0..1 over the data set's depth range"""
    mask_is_logits: bool = True
    """False for the 2020 baseline, whose raw output was compared with targets in 0..1"""

    @property
    def coverage(self) -> Tensor | None:
        """The share of each pixel that the figure covers, float32 (N, 1, H, W); 0..1 where the mask is logits."""
        return self.mask.sigmoid() if self.mask is not None and self.mask_is_logits else self.mask


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
        if self.levels > 16 or self.blocks > 100 or self.width << self.levels > 2**15:
            raise ValueError(f"a DualUNet of {self} is too large: at most 100 blocks, and width * 2^levels 32,768.")


class Normalize(nn.Module):
    """Normalisation of uint8 (N, 3, H, W) to float32 of zero mean and unit variance by a data set's statistics."""

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


def conv(inputs: int, outputs: int, size: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution and batch norm, which halve the resolution where size and stride are 2."""
    padding = (size - stride + 1) // 2
    kernels = nn.Conv2d(inputs, outputs, size, stride=stride, padding=padding, groups=groups, bias=False)
    return nn.Sequential(kernels, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut past them (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = conv(width, width), conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class Up(nn.Module):
    """Upsampling by 2 and the addition of the encoder's features of that resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.narrow, self.block = conv(inputs, outputs, 1), Residual(outputs)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        x: Tensor = self.block(F.relu(F.interpolate(self.narrow(coarse), scale_factor=2.0) + skip))
        return x


class Encoder(nn.Module):
    """Features of (N, C, H, W) at 1/2, 1/4, ... of its resolution, the finest first."""

    def __init__(self, inputs: int, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(conv(before, width, 2, stride=2), nn.ReLU(), *(Residual(width) for _ in range(blocks)))
            for before, width in zip([inputs, *widths[:-1]], widths, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(itertools.accumulate(self.levels, lambda finer, level: level(finer), initial=x))[1:]


class Decoder(nn.Module):
    """Features of all of the encoder's resolutions, brought together at the finest of them."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.ups = nn.ModuleList(Up(coarse, fine) for coarse, fine in itertools.pairwise(widths[::-1]))

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        for up, skip in zip(self.ups, features[-2::-1], strict=True):
            x = up(x, skip)
        return x


class Head(nn.Module):
    """One value a pixel, from decoded features at half resolution and the details of what the network sees."""

    def __init__(self, inputs: int, seen: int, *, blocks: int) -> None:
        """seen: channels of what the network sees."""
        super().__init__()
        self.coarse, self.details = conv(inputs, _HEAD_WIDTH, 1), conv(seen, _HEAD_WIDTH)
        self.blocks = nn.Sequential(*(Residual(_HEAD_WIDTH) for _ in range(blocks)))
        self.out = nn.Conv2d(_HEAD_WIDTH, 1, 3, padding=1)

    def forward(self, coarse: Tensor, seen: Tensor) -> Tensor:
        x = F.relu(F.interpolate(self.coarse(coarse), scale_factor=2.0) + self.details(seen))
        value: Tensor = self.out(self.blocks(x))
        return value


class DualUNet(nn.Module):
    """The network from a pair of images of any size, with and without the figure, to mask and depth.

    It may also do without the second image, and with one of the two heads.
    """

    def __init__(
        self,
        config: UNetConfig | None = None,
        *,
        background: bool = True,
        mask: bool = True,
        depth: bool = True,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        """background: whether it sees the image without the figure. mask, depth: which heads it has, at least one.

        mean, std: of the RGB images, in units of 0..1; they travel with the weights.
        """
        super().__init__()
        if not (mask or depth):
            raise ValueError("a DualUNet predicts mask, depth or both.")
        self.config, self._background = config or UNetConfig(), background
        widths = [self.config.width * 2**level for level in range(self.config.levels)]
        seen = 9 if background else 3  # channels: both images and how far they differ, or the one
        self.normalize = Normalize(mean, std)
        self.encoder = Encoder(seen, widths, self.config.blocks)
        self.decoder = Decoder(widths)
        # 93 % of the wrong mask pixels lie within one pixel of the true edge: the mask gets a block at full resolution.
        self.mask_head = Head(widths[0], seen, blocks=1) if mask else None
        self.depth_head = Head(widths[0], seen, blocks=0) if depth else None

    def forward(self, fg_bg: Tensor, bg: Tensor | None = None) -> Prediction:
        """Return mask logits and depth, (N, 1, H, W), of images uint8 (N, 3, H, W); `bg` only if it sees that."""
        seen = self.normalize(fg_bg)
        if self._background:
            empty = self.normalize(bg)
            seen = torch.cat([seen, empty, (seen - empty).abs()], 1)
        height, width = fg_bg.shape[-2:]
        multiple = 2**self.config.levels  # whole pixels of the coarsest level
        right, below = -width % multiple, -height % multiple
        if right or below:
            seen = F.pad(seen, (0, right, 0, below), mode="replicate")
        shared = self.decoder(self.encoder(seen))
        mask, depth = (
            head(shared, seen)[..., :height, :width].float() if head else None
            for head in (self.mask_head, self.depth_head)
        )
        return Prediction(mask=mask, depth=None if depth is None else depth.sigmoid())
