"""Measure a checkpoint on a split of a data set.

    python evaluate.py runs/NAME/checkpoints/best.pt --split test

The run's folder gets evaluation-SPLIT.json, and a picture of the split's first samples.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from checkpoint import Device, load_model, refuse_other_data, select_device
from model.metrics import MEANING, Metrics
from model.pictures import rows_of
from pipeline.loader import Loader, LoaderConfig
from shards.errors import masked, report_errors
from shards.format.images import save_image
from shards.format.storage import write_bytes


def evaluate(model: nn.Module, loader: Loader, dtype: torch.dtype) -> tuple[dict[str, float], Tensor]:
    """Return the metrics of the loader's split over all ranks, and a picture of its first samples, uint8 (H, W, 3).

    Measured is what the network predicts and the data set has. dtype: of autocast, float32 for none. The picture shows
    the same samples each time if the loader does not shuffle.
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
                picture = rows_of(batch.fg_bg, batch.mask, batch.depth, prediction)
    return {name: float(value) for name, value in metrics.compute().items()}, picture


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """A checkpoint and the split to measure it on."""

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """best.pt or last.pt of a run"""
    split: str = "test"
    """train, val or test"""
    data: Annotated[
        str | None, tyro.conf.arg(metavar="FOLDER|URL", help_behavior_hint="(default: the one trained on)")
    ] = None
    """data set to measure on"""
    batch_size: int = 128
    """samples in a batch"""
    device: Device = "auto"
    """auto is CUDA where there is a GPU, else the CPU"""


def main(config: EvaluateConfig) -> None:
    device = select_device(config.device)
    model, trained = load_model(config.checkpoint, device)
    data = config.data or trained["loader"]["data"]
    own = {name: value for name, value in trained["loader"].items() if name in ("size", "cache_dir", "cache_limit")}
    wanted = LoaderConfig(data=data, split=config.split, batch_size=config.batch_size, shuffle=False, **own)
    with Loader(wanted, device=device) as loader:
        refuse_other_data(config.checkpoint, trained, data, loader.dataset.manifest)
        metrics, picture = evaluate(model, loader, torch.float32)
    title = f"{config.checkpoint} on {masked(data)}, {config.split} ({loader.order.samples:,} samples)"
    table = Table("metric", "value", "meaning", title=title)
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}", MEANING[name])
    Console().print(table)
    written = config.checkpoint.resolve().parent.parent / f"evaluation-{config.split}"
    write_bytes(written.with_suffix(".json"), (json.dumps(metrics, indent=1) + "\n").encode())
    save_image(written.with_suffix(".png"), Image.fromarray(picture.numpy()))
    print(f"picture: {written}.png")


if __name__ == "__main__":
    with report_errors():
        main(tyro.cli(EvaluateConfig, description=__doc__))
