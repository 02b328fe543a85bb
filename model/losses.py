"""Losses of mask and depth by name, and weighted sums of them such as "bce+dice" or "0.5*l1+0.5*ssim"."""

import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.unet import Prediction

Loss = Callable[[Prediction, Tensor], Tensor]
"""A function of a prediction and its target (N, 1, H, W) to a float32 scalar that is 0 at best."""
_Compare = Callable[[Tensor, Tensor], Tensor]

_TERM = re.compile(r"\s*((?P<weight>\d+(\.\d*)?|\.\d+)\s*\*)?\s*(?P<name>\w+)\s*")
_SIGMA, _RADIUS = 1.5, 5  # Wang et al. 2004: a Gaussian window of 11 x 11 pixels, standard deviation 1.5 pixels
LEAST = _RADIUS + 1
"""height and width in pixels that `ssim` needs at least, and with it losses and metrics"""


def unit_range(stored: Tensor) -> Tensor:
    """Return uint8 or uint16 values as float32, 0..1 of the range of their type."""
    return stored.float() / torch.iinfo(stored.dtype).max


@lru_cache
def _gaussian(size: int, device: torch.device) -> Tensor:
    """Return float32 (size, size): `row @ matrix` is a row of pixels, reflected at its ends, smoothed by a Gaussian."""
    with torch.inference_mode(False):  # what an evaluation makes here, training must be able to use
        taps = torch.exp(-0.5 * (torch.arange(-_RADIUS, _RADIUS + 1, device=device) / _SIGMA) ** 2)
        rows = F.pad(torch.eye(size, device=device), (_RADIUS, _RADIUS), mode="reflect")
        return rows.unfold(1, 2 * _RADIUS + 1, 1) @ (taps / taps.sum())


def window(size: int, device: torch.device) -> Tensor:
    """Return `_gaussian`'s matrix, made once: a function by itself, which compiling can be told not to look into."""
    return _gaussian(size, device)


def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the structural similarity of each image (Wang et al. 2004, eq. 13), float32 (N,), -1..1, 1 where equal.

    prediction, target: float (N, 1, H, W) in 0..1, H and W at least LEAST.
    """
    # Two small matrix products a map, because on a CPU torchmetrics' 11 x 11 convolution takes longer than the rest of
    # a training step. In float32, because the variances below are small differences.
    with torch.autocast(target.device.type, enabled=False):
        rows, columns = (window(size, target.device) for size in target.shape[-2:])
        x, y = prediction.float(), target.float()
        maps = torch.stack([x, y, x * x, y * y, x * y])
        mean_x, mean_y, xx, yy, xy = (rows.T @ maps @ columns).unbind()
    variances = (xx - mean_x**2).clamp_min(0) + (yy - mean_y**2).clamp_min(0)
    structure = (2 * (xy - mean_x * mean_y) + 0.03**2) / (variances + 0.03**2)
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    similarity: Tensor = (luminance * structure).mean((1, 2, 3))
    return similarity


def _ssim_loss(prediction: Tensor, target: Tensor) -> Tensor:
    return 1 - ssim(prediction, target).mean()


def _dice_loss(coverage: Tensor, target: Tensor) -> Tensor:
    """Return 1 - soft Dice of the batch (Milletari et al. 2016); one pixel is added to both sides for empty masks."""
    return 1 - (2 * (coverage * target).sum() + 1) / ((coverage**2).sum() + (target**2).sum() + 1)


def _bce_loss(prediction: Prediction, target: Tensor) -> Tensor:
    assert prediction.mask is not None, "a loss of the mask needs a network that predicts one"
    if not prediction.mask_is_logits:
        raise ValueError("bce needs a model that predicts mask logits; train the 2020 baseline with l1 or ssim.")
    return F.binary_cross_entropy_with_logits(prediction.mask, target)


def _on(field: str, loss: _Compare) -> Loss:
    return lambda prediction, target: loss(getattr(prediction, field), target)


_LOSSES: dict[str, _Compare] = {"l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss, "ssim": _ssim_loss}
DEPTH_LOSSES: Mapping[str, Loss] = {name: _on("depth", loss) for name, loss in _LOSSES.items()}
MASK_LOSSES: Mapping[str, Loss] = {
    **{name: _on("coverage", loss) for name, loss in (_LOSSES | {"dice": _dice_loss}).items()},
    "bce": _bce_loss,
}


def _weighted_sum(losses: Mapping[str, Loss], spec: str) -> Loss:
    """Return the sum of `losses` that `spec` names, such as "bce+dice" or "0.5*l1+0.5*ssim".

    Its targets are uint8 or uint16. Raises ValueError unless `spec` is a sum of these, each with or without a weight
    above 0.
    """
    terms = []
    for term in spec.split("+"):
        found = _TERM.fullmatch(term)
        weight = float(found["weight"] or 1) if found else 0.0
        if not found or not 0 < weight < math.inf or found["name"] not in losses:
            raise ValueError(
                f"loss {spec!r}: cannot read {term!r}. A loss is a sum of {', '.join(losses)}, "
                'each with a weight above 0 if wanted, such as "0.5*l1+0.5*ssim".'
            )
        terms.append((weight, losses[found["name"]]))

    def total(prediction: Prediction, target: Tensor) -> Tensor:
        wanted = unit_range(target)
        return torch.stack([weight * loss(prediction, wanted) for weight, loss in terms]).sum()

    return total


mask_loss, depth_loss = partial(_weighted_sum, MASK_LOSSES), partial(_weighted_sum, DEPTH_LOSSES)
"""Functions of a text such as "0.5*l1+0.5*ssim" to the loss that it names."""


class Objective(nn.Module):
    """A network and what is asked of it: from a batch to its losses."""

    def __init__(self, network: nn.Module, mask: Loss, depth: Loss) -> None:
        super().__init__()
        self.network, self._mask, self._depth = network, mask, depth

    def forward(self, fg_bg: Tensor, bg: Tensor | None, mask: Tensor | None, depth: Tensor | None) -> Tensor:
        """Return the losses of mask and depth, as many as there are targets, float32 (1,) or (2,), on a Batch's images.

        The network must predict what there are targets for.
        """
        prediction = self.network(fg_bg, bg)
        losses = (self._mask, mask), (self._depth, depth)
        return torch.stack([loss(prediction, target) for loss, target in losses if target is not None])
