"""Are these the right pixels? A contender's first batch beside Pillow's decoding of the same images."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.race.contenders import BATCH, SHAPES, SIZE
from bench.race.decoding import Sample, pillow
from bench.race.formats import members

BOUND = 8.0
"""levels of 255 that the mean difference of each of the four arrays must stay below; even aliased scaling does"""


class Truth:
    """All samples by Pillow, as small as suffices to find one again; which one a contender hands over, it need not say.

    A thumbnail is 8 x 8 pixels of fg_bg and mask.
    """

    def __init__(self, folders: Path) -> None:
        """Decodes all samples in `folders`: a millisecond each."""
        self._folder, self._members = folders, members(folders)
        with ThreadPoolExecutor(2) as pool:
            thumbnails = pool.map(lambda number: _thumbnail(self._sample(number)), range(len(self._members)))
            self._thumbnails = np.stack(list(thumbnails))

    def difference(self, first: Path) -> float:
        """Mean absolute difference of a contender's first batch in levels of 255, over its four arrays.

        Raises ValueError if they are not four arrays of the right shape and type, are not near to any sample, or if
        samples come twice or in the order in which they are stored.
        """
        with np.load(first) as stored:
            arrays = {name: _as_nhwc(name, stored[name]) for name in SHAPES}
        count = len(arrays["fg_bg"])
        found = [self._nearest({name: arrays[name][i] for name in SHAPES}) for i in range(count)]
        if len(set(found)) < count or (count > 1 and found == sorted(found)):
            raise ValueError(f"not a random order of different samples: {found[:8]}")
        truth = [self._sample(number) for number in found]
        each = {
            name: float(np.mean([np.abs(arrays[name][i].astype(int) - truth[i][name]) for i in range(count)]))
            for name in SHAPES
        }
        if max(each.values()) > BOUND:
            raise ValueError(f"pixels differ from Pillow's by {each} levels in the mean; below {BOUND} was expected")
        return float(np.mean(list(each.values())))

    def _sample(self, number: int) -> Sample:
        paths = self._members[number]
        sample = pillow({name: (self._folder / path).read_bytes() for name, path in paths.items()})
        return {name: image.reshape(SIZE, SIZE, -1) for name, image in sample.items()}

    def _nearest(self, sample: Sample) -> int:
        return int(np.abs(self._thumbnails - _thumbnail(sample)).sum(axis=1).argmin())


def _thumbnail(sample: Sample) -> NDArray[np.float32]:
    both = np.concatenate([sample["fg_bg"], sample["mask"]], axis=2).astype(np.float32)
    thumbnail: NDArray[np.float32] = both.reshape(8, SIZE // 8, 8, SIZE // 8, -1).mean(axis=(1, 3)).ravel()
    return thumbnail


def _as_nhwc(name: str, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (N, SIZE, SIZE, C) from either order of the axes, which nobody is asked to have."""
    channels = SHAPES[name]
    if images.ndim == 3 and channels == 1:
        images = images[..., None]
    if images.ndim == 4 and images.shape[1:] == (channels, SIZE, SIZE):
        images = images.transpose(0, 2, 3, 1)
    if images.dtype != np.uint8 or images.shape[1:] != (SIZE, SIZE, channels) or not 0 < len(images) <= BATCH:
        raise ValueError(
            f"{name}: {images.dtype} {images.shape} where uint8 ({BATCH}, {SIZE}, {SIZE}, {channels}) is due"
        )
    return images
