"""Depth: float32 (H, W) in the unit of a DepthRange wherever it comes from, and how it becomes a stored image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.errors import InputError
from shards.format.fields import Bounds, Checked
from shards.format.images import BadImage, read_image

DepthFormat = Literal["jpg", "png", "png16"]
Metres = Annotated[float, Bounds(0, 10**6)]
STORED: dict[DepthFormat, tuple[str, int]] = {"jpg": ("jpg", 8), "png": ("png", 8), "png16": ("png", 16)}
"""Extension and bits of a value."""


@dataclass(frozen=True, kw_only=True)
class DepthRange(Checked):
    """What the least and the greatest value of a depth image mean, `black` and `white`; the others lie evenly between.

    Where near is bright, `black` is the greater. The loader hands over depth that begins at `near`, however stored.
    unit: "m" for metres along the optical axis, or "relative" where only the order is known (then 0 and 1).
    """

    black: Metres = 0.0
    white: Metres = 1.0
    unit: Literal["m", "relative"] = "relative"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.near == self.far:
            raise InputError(
                f"depth from {self.black} (black) to {self.white} (white): two different numbers from 0 are needed."
            )

    @classmethod
    def metres(cls, black: float, white: float) -> "DepthRange":
        return cls(black=black, white=white, unit="m")

    @classmethod
    def relative(cls, *, near_is_bright: bool) -> "DepthRange":
        return cls(black=1.0, white=0.0) if near_is_bright else cls()

    @property
    def near(self) -> float:
        return min(self.black, self.white)

    @property
    def far(self) -> float:
        return max(self.black, self.white)

    @property
    def near_is_bright(self) -> bool:
        return self.black > self.white

    @property
    def scale(self) -> tuple[str, float, float]:
        """Equal where a value that the loader hands over means the same: in metres, whichever end is bright.

        Relative depth that is bright where it is near is the inverse of depth as a rule, with other steps.
        """
        return (self.unit, self.near, self.far) if self.unit == "m" else (self.unit, self.black, self.white)

    def __str__(self) -> str:
        if self.unit == "m":
            return f"{self.black:g} m (black) to {self.white:g} m (white)"
        return f"relative, {'near' if self.near_is_bright else 'far'} is bright"


METRES = DepthRange.metres(0.0, 10.0)
"""Indoor scenes: NYU Depth v2 ends at 10 m, and one of 256 steps is 39 mm."""


@dataclass(frozen=True, kw_only=True)
class ExistingDepthConfig(Checked):
    """What depth images mean that are there already."""

    depth_metres: tuple[Metres, Metres] | None = None
    """metres that black and white stand for in the depth images; without it depth counts as relative"""
    near_is_bright: bool = False
    """relative depth is brighter where it is nearer, as Depth Anything predicts it; else where it is farther"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth_metres and self.near_is_bright:
            raise InputError(
                "near-is-bright is for relative depth. For metres, give those of black first: depth-metres 10 0."
            )
        self.depth_range  # noqa: B018 - says what is wrong with it

    @property
    def depth_range(self) -> DepthRange:
        if self.depth_metres:
            return DepthRange.metres(*self.depth_metres)
        return DepthRange.relative(near_is_bright=self.near_is_bright)


def load_millimetres(path: Path) -> Image.Image:
    """Load a depth map that is a 16-bit PNG in millimetres. Raises BadImage if there is none or it is anything else."""
    try:
        image = read_image(path)
    except BadImage as bad:
        raise BadImage("bad-depth", f"{path} cannot be read ({bad.detail})") from bad
    if image.mode not in ("I;16", "I;16B", "I"):
        raise BadImage("bad-depth", f"{path}: mode {image.mode}; it must be a 16-bit grey PNG in millimetres")
    return Image.fromarray(np.asarray(image).astype(np.int32))


def depth_image(depth: NDArray[np.float32], depth_range: DepthRange, bits: int = 8) -> Image.Image:
    """Draw depth (H, W) in grey of 8 or 16 bits: `depth_range.black` is 0, `depth_range.white` the greatest value.

    Values beyond the range are cut off.
    """
    share = np.clip((depth - depth_range.black) / (depth_range.white - depth_range.black), 0, 1)
    return Image.fromarray(np.uint8(share * 255 + 0.5) if bits == 8 else np.uint16(share * 65535 + 0.5))
