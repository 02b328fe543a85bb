"""Metrics over a whole split, summed pixel by pixel on the device; nothing waits for it until `compute`."""

import torch
from torch import Tensor
from torchmetrics import Metric

from model.losses import ssim, unit_range
from model.unet import Prediction


class Metrics(Metric):
    """Mask and depth metrics of a split: the same whatever the batch size, and summed over ranks by torchmetrics.

    Those of torchmetrics would give a number, and not nan, where a split has nothing to measure.
    """

    full_state_update = False
    mask: Tensor
    far_half: Tensor
    errors: Tensor
    ratios: Tensor

    def __init__(self, *, depth_min: float = 0.0, depth_max: float = 1.0) -> None:
        """depth_min, depth_max: the distances that depth 0 and 1 stand for, which a ratio of depths needs."""
        super().__init__()
        if not 0 <= depth_min < depth_max:
            raise ValueError(f"a depth range is 0 <= min < max, not {depth_min} to {depth_max}.")
        self.depth_min, self.depth_max = depth_min, depth_max
        for name, sums in {"mask": 3, "far_half": 3, "errors": 5, "ratios": 3}.items():
            self.add_state(name, torch.zeros(sums, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Prediction, mask: Tensor, depth: Tensor) -> None:
        """Add a batch. mask, depth: the targets (N, 1, H, W), uint8 0..255 or uint16 0..65535."""
        predicted, true = prediction.depth, unit_range(depth)
        self.mask += _overlap(prediction.coverage, unit_range(mask))
        self.far_half += _overlap(predicted, true)
        self.errors += _errors(predicted, true)
        self.ratios += _ratios(self._distance(predicted), self._distance(true))

    def compute(self) -> dict[str, Tensor]:
        """Return each metric as a float64 scalar; nan where the split has nothing to measure it on.

        mask_iou, mask_dice: at coverage 0.5, of all pixels of the split.
        depth_rmse, depth_mae: in units of the depth range. depth_ssim: mean over images (Wang et al. 2004).
        depth_abs_rel, depth_delta_1.25: Eigen et al. 2014; pixels of true depth 0 have no ratio and are left out.
        depth_iou_at_half_2020: the 2020 system's: IoU of the pixels beyond half the depth range.
        """
        squared, absolute, similarity, pixels, images = self.errors
        relative, within, known = self.ratios
        return {
            "mask_iou": _iou(self.mask),
            "mask_dice": 2 * self.mask[0] / self.mask[1:].sum(),
            "depth_rmse": (squared / pixels).sqrt(),
            "depth_mae": absolute / pixels,
            "depth_abs_rel": relative / known,
            "depth_delta_1.25": within / known,
            "depth_ssim": similarity / images,
            "depth_iou_at_half_2020": _iou(self.far_half),
        }

    def _distance(self, depth: Tensor) -> Tensor:
        return self.depth_min + depth * (self.depth_max - self.depth_min)


def _iou(overlap: Tensor) -> Tensor:
    return overlap[0] / (overlap[1] + overlap[2] - overlap[0])


def _overlap(prediction: Tensor, target: Tensor) -> Tensor:
    """Return how many pixels are above 0.5 in both, in the prediction, and in the target, float64 (3,)."""
    predicted, true = prediction > 0.5, target > 0.5
    return _sums(predicted & true, predicted, true)


def _errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the sums of squared error, absolute error, and SSIM; how many pixels and images; float64 (5,)."""
    error, similarity = prediction - target, ssim(prediction, target)
    ones = torch.ones_like
    return _sums(error.square(), error.abs(), similarity, ones(error), ones(similarity))


def _ratios(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the sum of error / target, the pixels within a factor of 1.25, and all of target > 0, float64 (3,)."""
    known = target > 0
    near = (prediction < 1.25 * target) & (target < 1.25 * prediction)  # no division: a prediction may be 0
    relative = (prediction - target).abs() / target.where(known, 1)
    return _sums(relative.where(known, 0), near & known, known)


def _sums(*parts: Tensor) -> Tensor:
    return torch.stack([part.sum(dtype=torch.float64) for part in parts])
