"""A check of pixels: a contender's first batch beside Pillow's decoding of the same images."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.race.formats import BATCH, SHAPES, SIZE, members, pillow, read

BOUND = 8.0
"""Levels of 255 that the mean difference of each of the four arrays must stay below; even aliased scaling does."""
Images = NDArray[np.uint8]


class Truth:
    """All samples by Pillow, uint8 (N, 64, 64, C) by name. A contender need not say which of them it hands over."""

    def __init__(self, folder: Path) -> None:
        """Decode all samples in the folders of 2020: a millisecond each."""
        samples = [pillow(read(folder, paths)) for paths in members(folder)]
        self.arrays = {name: _as_nhwc(name, np.stack([sample[name] for sample in samples])) for name in SHAPES}
        self._thumbnails = _thumbnails(self.arrays)

    def difference(self, first: Path) -> float:
        """Return the mean absolute difference of a contender's first batch in levels of 255, over its four arrays.

        Raises ValueError if they are not four arrays of the right shape and type, are not near to any sample, or if
        samples come twice or in the order in which they are stored.
        """
        with np.load(first) as stored:
            arrays = {name: _as_nhwc(name, stored[name]) for name in SHAPES}
        if not 0 < len(arrays["fg_bg"]) <= BATCH:
            raise ValueError(f"{len(arrays['fg_bg'])} samples where at most {BATCH} are due")
        found = [int(np.abs(self._thumbnails - one).sum(axis=1).argmin()) for one in _thumbnails(arrays)]
        if len(set(found)) < len(found) or (len(found) > 1 and found == sorted(found)):
            raise ValueError(f"not a random order of different samples: {found[:8]}")
        means = {name: float(np.abs(self.arrays[name][found] - arrays[name].astype(int)).mean()) for name in SHAPES}
        if max(means.values()) > BOUND:
            raise ValueError(f"pixels differ from Pillow's by {means} levels in the mean; below {BOUND} was expected")
        return float(np.mean(list(means.values())))


def _thumbnails(arrays: dict[str, Images]) -> NDArray[np.float32]:
    """Return 8 x 8 pixels of fg_bg and mask, which suffices to find a sample again, float32 (N, 256)."""
    both = np.concatenate([arrays["fg_bg"], arrays["mask"]], axis=3)
    cells = both.reshape(len(both), 8, SIZE // 8, 8, SIZE // 8, 4).mean(axis=(2, 4), dtype=np.float32)
    thumbnails: NDArray[np.float32] = cells.reshape(len(both), -1)
    return thumbnails


def _as_nhwc(name: str, images: Images) -> Images:
    """Return images as (N, 64, 64, C), whichever order their axes have. Raises ValueError for other shapes."""
    wanted = (SIZE, SIZE, SHAPES[name])
    if images.ndim == 4 and images.shape[1:] == (SHAPES[name], SIZE, SIZE):
        images = images.transpose(0, 2, 3, 1)
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.shape[1:] != wanted:
        raise ValueError(f"{name}: {images.dtype} {images.shape} where uint8 (N, {SIZE}, {SIZE}, {wanted[2]}) is due")
    return images
