"""A batch, the seam between pipeline and model."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """N samples of H x W pixels on one device, channels_last, as they were stored: integers until the model.

    bg, mask and depth are None where the data set has none. Depth alone is normalised: where the near is stored bright,
    it is inverted on its way here, and nowhere else.
    """

    fg_bg: Tensor
    """uint8 (N, 3, H, W), 0..255: the background with the figure in it, RGB"""
    bg: Tensor | None
    """uint8 (N, 3, H, W), 0..255: the background alone, RGB"""
    mask: Tensor | None
    """uint8 (N, 1, H, W), 0..255: how much of the pixel the figure covers"""
    depth: Tensor | None
    """uint8 or uint16 (N, 1, H, W), as many bits as are stored: 0 at the near end of the data set's depth range
    (manifest.json, `depth`), the greatest value, 255 or 65535, at the far end"""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    """int64 (N,) on the host: the samples' rows in the data set's index"""
