"""Predict the figure's mask and the scene's depth for images of any size.

    python predict.py runs/NAME/checkpoints/best.pt FG_BG [BG] --out DIR

BG is given to a network that was trained with backgrounds, and to no other.

DIR gets NAME.mask.png (8 bits) and NAME.depth.png (16 bits) of each image NAME, in its size; or the one of the two that
the network was trained on.

Depth is in millimetres where the network was trained on metres, else 0..65535 from near to far.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

# As in train.py: before PyTorch loads OpenMP, whose threads else spin for long where they wait for each other.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import interpolate

from checkpoint import PREDICTED, Device, components_of, load_model, select_device
from pipeline.decode import resize
from ranks import use_cores
from shards.errors import InputError, report_errors, say
from shards.format.depth import DepthRange
from shards.format.images import IMAGE_SUFFIXES, BadImage, converted, read_image, save_image, upright
from shards.format.storage import refuse_url


def predict(model: nn.Module, fg_bg: Tensor, bg: Tensor | None, size: int) -> dict[str, Tensor]:
    """Return mask (the coverage) and depth, as far as predicted, float32 (H, W) in 0..1, of images uint8 (H, W, 3).

    The network sees them at `size` x `size` pixels, as it was trained (0: as they are); its output is scaled back.
    """
    device = next(model.parameters()).device
    images = [resize(image[None], size or None).to(device) for image in (fg_bg, bg) if image is not None]
    with torch.inference_mode():
        prediction = model(*images)
        maps = {"mask": prediction.coverage, "depth": prediction.depth}
        found = {name: one for name, one in maps.items() if one is not None}
        scaled = interpolate(torch.cat([*found.values()], 1), fg_bg.shape[:2], mode="bilinear", antialias=True)
    return dict(zip(found, scaled.clamp(0, 1)[0].cpu(), strict=True))


def pairs(fg_bg: Path, bg: Path | None) -> list[tuple[Path, Path | None]]:
    """Return each image with its background, if any are given. Raises InputError if one of them is not there."""
    if not fg_bg.is_dir():
        return [(fg_bg, bg)]
    images = _images(fg_bg)
    if not images:
        raise InputError(f"{fg_bg}: no .jpg or .png in it.")
    backgrounds = _images(bg) if bg and bg.is_dir() else dict.fromkeys(images, bg)
    lonely = [path.name for stem, path in images.items() if stem not in backgrounds]
    if lonely:
        raise InputError(f"{bg}: no background for {len(lonely)} of {len(images)} images, such as {lonely[0]}.")
    return [(path, backgrounds[stem]) for stem, path in images.items()]


def _images(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES}


def load_image(path: Path) -> Tensor:
    """Return an image as uint8 (H, W, 3), turned as its camera says. Raises InputError if it is none."""
    try:
        return torch.from_numpy(np.array(converted(upright(read_image(path)), "RGB")))
    except BadImage as bad:
        raise InputError(f"{path}: not an image that can be read ({bad.detail}).") from bad


def load_pair(fg_bg: Path, bg: Path | None) -> tuple[Tensor, Tensor | None]:
    """Return both images, if there are two. Raises InputError if they are not of the same size."""
    one, other = load_image(fg_bg), load_image(bg) if bg else None
    if other is not None and one.shape != other.shape:
        size, found = (f"{image.shape[1]}x{image.shape[0]}" for image in (one, other))
        raise InputError(f"{fg_bg} has {size} pixels and its background {bg} {found}; they must show the same view.")
    return one, other


def depth_pixels(depth: Tensor, depth_range: DepthRange) -> NDArray[np.uint16]:
    """Return depth in 0..1, near to far, as 16-bit pixels: millimetres where the range is in metres, else 0..65535."""
    distance = depth_range.near + depth.double() * (depth_range.far - depth_range.near)
    pixels = distance * 1000 if depth_range.unit == "m" else depth.double() * 65535
    return pixels.round().clamp(0, 65535).numpy().astype(np.uint16)


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """A checkpoint and the images to predict for."""

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """best.pt or last.pt of a run"""
    fg_bg: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FG_BG")]
    """image with the figure, or a folder of such"""
    bg: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[BG]", help_behavior_hint="(optional)")] = (
        None
    )
    """image of the same view without the figure; for a folder one for all, or a folder of the same names"""
    out: Path
    """folder to write"""
    device: Device = "auto"
    """auto is CUDA where there is a GPU, else the CPU"""


def main(config: PredictConfig) -> None:
    use_cores()
    refuse_url(config.out)
    todo = pairs(config.fg_bg, config.bg)
    model, trained = load_model(config.checkpoint, select_device(config.device))
    components, depth_range = components_of(trained), DepthRange(**trained["depth"])
    if "bg" in components and not config.bg:
        raise InputError(f"{config.checkpoint}: this network sees the background as well. Name it: FG_BG BG.")
    if config.bg and "bg" not in components:
        raise InputError(f"{config.checkpoint}: this network was trained without backgrounds. Leave {config.bg} out.")
    config.out.mkdir(parents=True, exist_ok=True)
    for fg_bg, bg in track(todo, "images"):
        found = predict(model, *load_pair(fg_bg, bg), trained["loader"]["size"])
        if "mask" in found:
            mask = np.uint8(found["mask"].mul(255).round().numpy())
            save_image(config.out / f"{fg_bg.stem}.mask.png", Image.fromarray(mask))
        if "depth" in found:
            depth = depth_pixels(found["depth"], depth_range)
            save_image(config.out / f"{fg_bg.stem}.depth.png", Image.fromarray(depth))
    written = " and ".join(f"NAME.{name}.png" for name in PREDICTED if name in components)
    say(f"{len(todo)} images: {config.out}/{written}")


if __name__ == "__main__":
    with report_errors():
        main(tyro.cli(PredictConfig, description=__doc__))
