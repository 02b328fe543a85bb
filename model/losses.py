"""Losses by name, for the mask and for the depth, and weighted sums of them: "bce+dice", "0.5*l1+0.5*ssim"."""

import re
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from model.unet import Prediction

Loss = Callable[[Prediction, Tensor], Tensor]
"""(prediction, uint8 or uint16 target (N, 1, H, W)) to a float32 scalar that is 0 at best."""
Term = Callable[[Tensor, Tensor], Tensor]

TERM = re.compile(r"\s*((?P<weight>\d+(\.\d*)?|\.\d+)\s*\*)?\s*(?P<name>\w+)\s*")

SIGMA = 1.5
REACH = 5
"""Wang et al. 2004 use a Gaussian window of 11 x 11 pixels and 1.5 pixels standard deviation."""


def share(stored: Tensor) -> Tensor:
    """uint8 or uint16 to float32 in 0..1 of the type's range."""
    return stored.float() / torch.iinfo(stored.dtype).max


def window(size: int, device: torch.device) -> Tensor:
    """float32 (size, size): `line @ window` is the line of pixels, reflected at its ends, smoothed by a Gaussian."""
    taps = torch.exp(-0.5 * (torch.arange(-REACH, REACH + 1, device=device) / SIGMA) ** 2)
    lines = F.pad(torch.eye(size, device=device), (REACH, REACH), mode="reflect")
    return lines.unfold(1, 2 * REACH + 1, 1) @ (taps / taps.sum())


def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of each image, float32 (N,), -1..1 and 1 where equal (Wang et al. 2004, eq. 13).

    prediction, target: float (N, 1, H, W) in 0..1, H and W at least 6.
    """
    # Two small matrix products a map: 6 ms for 32 images of 64 x 64 and their gradient on one core, where torchmetrics'
    # 11 x 11 convolution takes 471 ms, longer than the rest of a training step. Half precision would not do for them,
    # because the variances below are small differences.
    with torch.autocast(target.device.type, enabled=False):
        rows, columns = (window(size, target.device) for size in target.shape[-2:])
        x, y = prediction.float(), target.float()
        maps = torch.stack([x, y, x * x, y * y, x * y])
        mean_x, mean_y, xx, yy, xy = (rows.T @ maps @ columns).unbind()
    variances = (xx - mean_x**2).clamp_min(0) + (yy - mean_y**2).clamp_min(0)
    structure = (2 * (xy - mean_x * mean_y) + 0.03**2) / (variances + 0.03**2)
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return (luminance * structure).mean((1, 2, 3))


def ssim_loss(prediction: Tensor, target: Tensor) -> Tensor:
    return 1 - ssim(prediction, target).mean()


def dice_loss(coverage: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice of the whole batch (Milletari et al. 2016); one pixel is added to both sides for empty masks."""
    return 1 - (2 * (coverage * target).sum() + 1) / ((coverage**2).sum() + (target**2).sum() + 1)


VALUE_LOSSES: Mapping[str, Term] = {"l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss, "ssim": ssim_loss}


def on_coverage(term: Term) -> Loss:
    return lambda prediction, target: term(prediction.coverage, target)


def on_depth(term: Term) -> Loss:
    return lambda prediction, target: term(prediction.depth, target)


def bce_loss(prediction: Prediction, target: Tensor) -> Tensor:
    if not prediction.mask_is_logits:
        raise ValueError("bce needs a model that predicts mask logits; train the 2020 baseline with l1 or ssim.")
    return F.binary_cross_entropy_with_logits(prediction.mask, target)


MASK_LOSSES: Mapping[str, Loss] = {
    **{name: on_coverage(term) for name, term in VALUE_LOSSES.items()},
    "dice": on_coverage(dice_loss),
    "bce": bce_loss,
}
DEPTH_LOSSES: Mapping[str, Loss] = {name: on_depth(term) for name, term in VALUE_LOSSES.items()}


def mask_loss(spec: str) -> Loss:
    """The loss that `spec` names, such as "bce+dice" or "0.5*l1+0.5*ssim", of l1, smooth_l1, ssim, bce and dice.

    ValueError where `spec` is not a sum of those, each with or without a weight above 0.
    """
    return weighted_sum(spec, MASK_LOSSES)


def depth_loss(spec: str) -> Loss:
    """As `mask_loss`, of l1, smooth_l1 and ssim."""
    return weighted_sum(spec, DEPTH_LOSSES)


def weighted_sum(spec: str, losses: Mapping[str, Loss]) -> Loss:
    terms = [parse_term(term, spec, losses) for term in spec.split("+")]

    def total(prediction: Prediction, target: Tensor) -> Tensor:
        wanted = share(target)
        return torch.stack([weight * loss(prediction, wanted) for weight, loss in terms]).sum()

    return total


def parse_term(term: str, spec: str, losses: Mapping[str, Loss]) -> tuple[float, Loss]:
    found = TERM.fullmatch(term)
    weight = float(found["weight"] or 1) if found else 0.0
    if not found or not weight or found["name"] not in losses:
        raise ValueError(
            f"loss {spec!r}: cannot read {term!r}. A loss is a sum of {', '.join(losses)}, "
            'each with a weight above 0 if wanted, such as "0.5*l1+0.5*ssim".'
        )
    return weight, losses[found["name"]]
