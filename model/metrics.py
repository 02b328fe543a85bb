"""Metrics over a whole split, summed pixel by pixel on the device; nothing waits for it until `compute`."""

import torch
from torch import Tensor
from torchmetrics import Metric

from model.losses import ssim, unit_range
from model.unet import Prediction

MEANING = {
    "mask_iou": "intersection over union of the mask, all pixels of the split",  # of coverage above 0.5, as is Dice
    "mask_dice": "Dice of the mask, all pixels of the split",
    "depth_rmse": "root mean square error of the depth, share of its range",
    "depth_mae": "mean absolute error of the depth, share of its range",
    "depth_abs_rel": "mean of error / true depth",  # Eigen et al. 2014, like the next; without true depths of 0
    "depth_delta_1.25": "share of pixels within a factor of 1.25",
    "depth_ssim": "structural similarity of the depth",  # mean over images; Wang et al. 2004
    "depth_iou_at_half_2020": "the 2020 system's depth IoU: both thresholded at half the range",
}


class Metrics(Metric):
    """Mask and depth metrics of a split: the same whatever the batch size, and summed over ranks by torchmetrics.

    Those of torchmetrics would give a number, and not nan, where a split has nothing to measure.
    """

    full_state_update = False
    mask_sums: Tensor
    depth_sums: Tensor

    def __init__(self, *, depth_min: float = 0.0, depth_max: float = 1.0) -> None:
        """depth_min, depth_max: the distances that depth 0 and 1 stand for, which a ratio of depths needs."""
        super().__init__()
        if not 0 <= depth_min < depth_max:
            raise ValueError(f"a depth range is 0 <= min < max, not {depth_min} to {depth_max}.")
        self.depth_min, self.depth_max = depth_min, depth_max
        self.add_state("mask_sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("depth_sums", torch.zeros(11, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Prediction, mask: Tensor | None, depth: Tensor | None) -> None:
        """Add a batch. mask, depth: the targets (N, 1, H, W), uint8 0..255 or uint16 0..65535; None if there are none.

        What is not both predicted and known is not measured.
        """
        coverage = prediction.coverage
        if coverage is not None and mask is not None:
            self.mask_sums += _summed(*_overlap(coverage, unit_range(mask)), torch.ones_like(mask))
        if prediction.depth is not None and depth is not None:
            self.depth_sums += _summed(*self._depth_parts(prediction.depth, unit_range(depth)))

    def _depth_parts(self, predicted: Tensor, true: Tensor) -> tuple[Tensor, ...]:
        error, similarity = predicted - true, ssim(predicted, true)
        distance, truth = (self.depth_min + share * (self.depth_max - self.depth_min) for share in (predicted, true))
        known = truth > 0
        within = (distance < 1.25 * truth) & (truth < 1.25 * distance)  # no division: a prediction may be 0
        relative = (distance - truth).abs() / truth.where(known, 1)
        parts = *_overlap(predicted, true), error.square(), error.abs(), similarity
        parts += torch.ones_like(error), torch.ones_like(similarity)
        return *parts, relative.where(known, 0), within & known, known

    def compute(self) -> dict[str, Tensor]:
        """Return those metrics of MEANING that were measured, as float64 scalars.

        One is nan where the split has nothing to measure it on, such as no figure.
        """
        found = dict[str, Tensor]()
        *mask, masked = self.mask_sums
        if masked:
            found |= {"mask_iou": _iou(*mask), "mask_dice": 2 * mask[0] / (mask[1] + mask[2])}
        *far_half, squared, absolute, similarity, pixels, images, relative, within, known = self.depth_sums
        if pixels:
            found |= {
                "depth_rmse": (squared / pixels).sqrt(),
                "depth_mae": absolute / pixels,
                "depth_abs_rel": relative / known,
                "depth_delta_1.25": within / known,
                "depth_ssim": similarity / images,
                "depth_iou_at_half_2020": _iou(*far_half),
            }
        return found


def per_sample(prediction: Prediction, mask: Tensor | None, depth: Tensor | None) -> dict[str, Tensor]:
    """Return errors of each sample, float32 (N,): `error`, then those that it is made of, as far as they are measured.

    error = (1 - mask_iou) + depth_rmse, or the one of them that there is: the worse, the higher. Where there is no
    figure, neither in truth nor in the prediction, mask_iou is 1. The targets are those of `Metrics.update`.
    """
    found = dict[str, Tensor]()
    coverage, whole = prediction.coverage, (1, 2, 3)
    if coverage is not None and mask is not None:
        truth = unit_range(mask)
        mae = (coverage - truth).abs().mean(whole)
        both, predicted, true = (pixels.sum(whole) for pixels in _overlap(coverage, truth))
        iou = torch.where(predicted + true > 0, _iou(both, predicted, true), 1)
        found |= {"mask_iou": iou + 0 * mae, "mask_mae": mae}  # no number where the prediction is none
    if prediction.depth is not None and depth is not None:
        error = prediction.depth - unit_range(depth)
        found |= {"depth_rmse": error.square().mean(whole).sqrt(), "depth_mae": error.abs().mean(whole)}
    parts = [1 - found["mask_iou"]] if "mask_iou" in found else []
    parts += [found["depth_rmse"]] if "depth_rmse" in found else []
    return {"error": torch.stack(parts).sum(0), **found}


def _summed(*parts: Tensor) -> Tensor:
    return torch.stack([part.sum(dtype=torch.float64) for part in parts])


def _iou(both: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
    return both / (predicted + true - both)


def _overlap(prediction: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Return the pixels that are above 0.5 in both, in the prediction, and in the target, bool (N, 1, H, W)."""
    predicted, true = prediction > 0.5, target > 0.5
    return predicted & true, predicted, true
