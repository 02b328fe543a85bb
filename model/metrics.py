"""Metrics over a whole split, summed pixel by pixel on the device; nothing waits for it until `compute`."""

import torch
from torch import Tensor
from torchmetrics import Metric

from model.losses import share, ssim
from model.unet import Prediction

SUMS = (
    "mask_both",
    "mask_predicted",
    "mask_true",
    "half_both",
    "half_predicted",
    "half_true",
    "squared",
    "absolute",
    "pixels",
    "relative",
    "within",
    "ratios",
    "ssim",
    "images",
)


class Metrics(Metric):
    """Mask and depth metrics of a split: the same whatever the batch size, and summed over ranks by torchmetrics.

    depth_min, depth_max: what depth 0 and 1 stand for, such as metres; a ratio of depths needs them.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, *, depth_min: float = 0.0, depth_max: float = 1.0) -> None:
        super().__init__()
        if not 0 <= depth_min < depth_max:
            raise ValueError(f"a depth range is 0 <= min < max, not {depth_min} to {depth_max}.")
        self.depth_min, self.depth_max = depth_min, depth_max
        self.add_state("sums", torch.zeros(len(SUMS), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Prediction, mask: Tensor, depth: Tensor) -> None:
        """mask, depth: (N, 1, H, W), the targets, uint8 0..255 or uint16 0..65535."""
        true_depth = share(depth)
        measured = {
            **overlap(prediction.coverage, share(mask), "mask"),
            **overlap(prediction.depth, true_depth, "half"),
            **errors(prediction.depth, true_depth),
            **ratios(self.distance(prediction.depth), self.distance(true_depth)),
        }
        self.sums += torch.stack([measured[name].double() for name in SUMS])

    def compute(self) -> dict[str, Tensor]:
        """Each metric as a float64 scalar; nan where the split has nothing to measure it on.

        mask_iou, mask_dice: at coverage 0.5, of all pixels of the split.
        depth_rmse, depth_mae: in units of the depth range. depth_ssim: mean over images (Wang et al. 2004).
        depth_abs_rel, depth_delta_1.25: Eigen et al. 2014; pixels of true depth 0 have no ratio and are left out.
        depth_iou_at_half_2020: the 2020 system's: IoU of the pixels beyond half the depth range.
        """
        s = dict(zip(SUMS, self.sums, strict=True))
        return {
            "mask_iou": iou(s["mask_both"], s["mask_predicted"], s["mask_true"]),
            "mask_dice": 2 * s["mask_both"] / (s["mask_predicted"] + s["mask_true"]),
            "depth_rmse": (s["squared"] / s["pixels"]).sqrt(),
            "depth_mae": s["absolute"] / s["pixels"],
            "depth_abs_rel": s["relative"] / s["ratios"],
            "depth_delta_1.25": s["within"] / s["ratios"],
            "depth_ssim": s["ssim"] / s["images"],
            "depth_iou_at_half_2020": iou(s["half_both"], s["half_predicted"], s["half_true"]),
        }

    def distance(self, depth: Tensor) -> Tensor:
        return self.depth_min + depth * (self.depth_max - self.depth_min)


def iou(both: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
    return both / (predicted + true - both)


def overlap(prediction: Tensor, target: Tensor, name: str) -> dict[str, Tensor]:
    """Counts of pixels above 0.5: in both, in the prediction, in the target."""
    predicted, true = prediction > 0.5, target > 0.5
    return {
        f"{name}_both": (predicted & true).sum(),
        f"{name}_predicted": predicted.sum(),
        f"{name}_true": true.sum(),
    }


def errors(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    error = prediction - target
    return {
        "squared": error.square().sum(),
        "absolute": error.abs().sum(),
        "pixels": torch.ones_like(target).sum(),
        "ssim": ssim(prediction, target).sum(),
        "images": torch.ones_like(target[:, 0, 0, 0]).sum(),
    }


def ratios(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    """max(prediction / target, target / prediction) < 1.25 is asked without dividing: a prediction may be 0."""
    known = target > 0
    near = (prediction < 1.25 * target) & (target < 1.25 * prediction)
    relative = (prediction - target).abs() / target.where(known, 1)
    return {
        "relative": relative.where(known, 0).sum(),
        "within": (near & known).sum(),
        "ratios": known.sum(),
    }
