"""Where depth comes from. Measured: the background's depth is known, and the figure stands on its floor."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.images import BadImage
from shards.manifest import DepthRange

__all__ = ["METRES", "depth_image", "figure_depth", "load_millimetres", "with_figure"]

HALF = 128
"""alpha from which a pixel belongs to the figure rather than to what is behind it"""

METRES = DepthRange.metres(0.0, 10.0)
"""Indoor scenes: NYU Depth v2 ends at 10 m, and one of 256 steps is 39 mm"""


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


def figure_depth(depth: NDArray[np.float32], alpha: NDArray[np.uint8]) -> float:
    """Metres to a figure that covers `alpha` (H, W): the median of `depth` (H, W) under its lowest visible row.

    That is the floor, even where a table leg or a hole in the measurement is in the way.
    """
    visible = alpha >= min(HALF, alpha.max())
    feet = np.flatnonzero(visible.any(axis=1))[-1]
    return float(np.median(depth[feet][visible[feet]]))


def with_figure(depth: NDArray[np.float32], alpha: NDArray[np.uint8], metres: float) -> NDArray[np.float32]:
    """`depth` (H, W) with the figure in it: wherever `alpha` covers half a pixel or more, it is at `metres`.

    A pixel has one depth. Blending it as colours are blended would invent surfaces between figure and wall.
    """
    return np.where(alpha >= HALF, np.float32(metres), depth)


def depth_image(metres: NDArray[np.float32], depth_range: DepthRange) -> Image.Image:
    """Depth (H, W) as a grey image: `depth_range.black` is 0, `depth_range.white` is 255, what is beyond is cut off."""
    share = (metres - depth_range.black) / (depth_range.white - depth_range.black)
    return Image.fromarray(np.uint8(np.clip(share, 0, 1) * 255 + 0.5))
