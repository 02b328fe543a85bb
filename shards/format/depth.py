"""Depth: float32 (H, W) in the unit of a DepthRange wherever it comes from, and how it becomes a stored image.

Measured: the background's depth is known, and the figure stands on its floor. From a teacher: shards.ingest.teacher predicts
it from the finished image. Existing: files that `convert` takes as they are; their range is said on the command line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.errors import InputError
from shards.format.images import BadImage
from shards.format.manifest import DepthRange

METRES = DepthRange.metres(0.0, 10.0)
"""Indoor scenes: NYU Depth v2 ends at 10 m, and one of 256 steps is 39 mm"""

DepthFormat = Literal["jpg", "png", "png16"]
STORED: dict[DepthFormat, tuple[str, int]] = {"jpg": ("jpg", 8), "png": ("png", 8), "png16": ("png", 16)}
"""extension and bits of a value"""

Device = Literal["auto", "cuda", "cpu"]
"""that a depth model runs on; auto is cuda where there is one"""


@dataclass(frozen=True, kw_only=True)
class ExistingConfig:
    """What depth images mean that are there already."""

    depth_metres: tuple[float, float] | None = None
    """metres that black and white stand for in the depth images; without it depth counts as relative"""
    near_is_bright: bool = False
    """relative depth is brighter where it is nearer, as Depth Anything predicts it; else where it is farther"""

    def __post_init__(self) -> None:
        if self.depth_metres and self.near_is_bright:
            raise InputError(
                "near-is-bright is for relative depth. For metres, give those of black first: depth-metres 10 0."
            )

    @property
    def depth_range(self) -> DepthRange:
        if self.depth_metres:
            return DepthRange.metres(*self.depth_metres)
        return DepthRange.relative(near_is_bright=self.near_is_bright)


class DepthModel(Protocol):
    """What depth is predicted by."""

    @property
    def depth_range(self) -> DepthRange:
        """What its depth is to be stored as; it may predict values beyond."""

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Depth (H, W) in the unit of `depth_range`, of each RGB image (H, W, 3)."""


def load_millimetres(path: Path) -> Image.Image:
    """A depth map stored as a 16-bit PNG in millimetres. Raises BadImage if there is none or it is anything else."""
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode not in ("I;16", "I;16B", "I"):
                raise BadImage("bad-depth", f"{path}: mode {image.mode}; it must be a 16-bit grey PNG in millimetres")
            return Image.fromarray(np.asarray(image).astype(np.int32))
    except (OSError, SyntaxError) as error:
        raise BadImage("bad-depth", f"{path} cannot be read ({error})") from error


def depth_image(depth: NDArray[np.float32], depth_range: DepthRange, bits: int = 8) -> Image.Image:
    """Depth (H, W) as a grey image of 8 or 16 bits: `depth_range.black` is 0, `depth_range.white` the greatest value.

    What is beyond is cut off.
    """
    share = np.clip((depth - depth_range.black) / (depth_range.white - depth_range.black), 0, 1)
    return Image.fromarray(np.uint8(share * 255 + 0.5) if bits == 8 else np.uint16(share * 65535 + 0.5))
