"""Measures a checkpoint on a split.

    python evaluate.py runs/NAME/checkpoints/best.pt --split test

Prints a table; writes it as evaluation-SPLIT.json, and a picture of the split's first samples, into the run's folder.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import checkpoint
from model.metrics import Metrics
from model.pictures import five_rows
from pipeline.loader import Loader, LoaderConfig
from shards.errors import report_errors
from shards.format.images import save
from shards.format.storage import write_bytes

MEANING = {
    "mask_iou": "intersection over union of the mask, all pixels of the split",
    "mask_dice": "Dice of the mask, all pixels of the split",
    "depth_rmse": "root mean square error of the depth, share of its range",
    "depth_mae": "mean absolute error of the depth, share of its range",
    "depth_abs_rel": "mean of error / true depth",
    "depth_delta_1.25": "share of pixels within a factor of 1.25",
    "depth_ssim": "structural similarity of the depth",
    "depth_iou_at_half_2020": "the 2020 system's depth IoU: both thresholded at half the range",
}


def evaluate(model: nn.Module, loader: Loader, dtype: torch.dtype) -> tuple[dict[str, float], Tensor]:
    """Metrics over the loader's split, of all ranks together; and the picture of its first samples, uint8 (H, W, 3).

    dtype: of autocast, float32 for none. The loader's split must not be shuffled for the picture to stay the same.
    """
    depth = loader.dataset.manifest.depth
    metrics = Metrics(depth_min=depth.near, depth_max=depth.far).to(loader.device)
    picture = torch.empty(0)
    model.eval()
    with torch.inference_mode(), torch.autocast(loader.device.type, dtype, enabled=dtype != torch.float32):
        for batch in loader:
            prediction = model(batch.fg_bg, batch.bg)
            metrics.update(prediction, batch.mask, batch.depth)
            if not len(picture):
                picture = five_rows(batch.fg_bg, batch.mask, batch.depth, prediction)
    return {name: float(value) for name, value in metrics.compute().items()}, picture


def print_table(title: str, metrics: dict[str, float]) -> None:
    table = Table("metric", "value", "meaning", title=title)
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}", MEANING[name])
    Console().print(table)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measures a checkpoint on a split of a data set."""

    checkpoint: tyro.conf.Positional[Path]
    split: str = "test"
    data: str | Path | None = None
    """folder or URL of the data set; what the checkpoint was trained on if not given"""
    batch_size: int = 128
    device: Literal["auto", "cuda", "cpu"] = "auto"


def main(config: EvaluateConfig) -> None:
    device = checkpoint.chosen_device(config.device)
    model, trained = checkpoint.load_model(config.checkpoint, device)
    read = trained["loader"]
    data = config.data or read["data"]
    wanted = LoaderConfig(
        data=data,
        split=config.split,
        size=read["size"],
        batch_size=config.batch_size,
        shuffle=False,
        cache_dir=Path(read["cache_dir"]),
        cache_limit=read["cache_limit"],
    )
    with Loader(wanted, device=device) as loader:
        checkpoint.refuse_other_depth(config.checkpoint, trained, data, loader.dataset.manifest.depth)
        metrics, picture = evaluate(model, loader, torch.float32)
        print_table(f"{config.checkpoint} on {data}, {config.split} ({loader.order.samples:,} samples)", metrics)
    run = config.checkpoint.resolve().parent.parent
    write_bytes(run / f"evaluation-{config.split}.json", (json.dumps(metrics, indent=1) + "\n").encode())
    save(run / f"evaluation-{config.split}.png", Image.fromarray(picture.numpy()))
    print(f"picture: {run / f'evaluation-{config.split}.png'}")


if __name__ == "__main__":
    with report_errors():
        main(tyro.cli(EvaluateConfig, description=__doc__))
