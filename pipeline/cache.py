"""What need not be decoded twice, kept in memory: a split's images, and images that many samples share."""

import logging
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.memory import on_gpu, private, shared
from pipeline.order import Indices
from shards.errors import InputError

log = logging.getLogger(__name__)

Caching = Literal["none", "host", "device"]
Kinds = Mapping[str, tuple[int, int]]
"""by component: how many images, and the bytes of a pixel"""


class Images:
    """Decoded images of several components in one piece of memory, from which one kernel gathers all of a batch.

    The memory is divided into blocks of H * W bytes; an image (H, W, C) takes C of them.
    """

    def __init__(self, kinds: Kinds, size: tuple[int, int], memory: Tensor) -> None:
        """`size`: height and width. `memory`: uint8, as much as `bytes_of` says."""
        self._size, block = size, math.prod(size)
        parts = torch.split(memory, [count * channels * block for count, channels in kinds.values()])
        self._images = {
            name: part.view(count, *size, channels)
            for (name, (count, channels)), part in zip(kinds.items(), parts, strict=True)
        }
        word = torch.int64 if block % 8 == 0 else torch.uint8
        self._blocks = memory.view(word).view(-1, block // word.itemsize)

    @staticmethod
    def bytes_of(kinds: Kinds, size: tuple[int, int]) -> int:
        return math.prod(size) * sum(count * channels for count, channels in kinds.values())

    def gather(self, numbers: Mapping[str, Indices], device: torch.device) -> dict[str, Tensor]:
        """Return the images of these numbers (N,) of the components that are here, uint8 (N, C, H, W) on `device`."""
        here = {name: of for name, of in numbers.items() if name in self._images}
        if self._blocks.is_cuda and here:
            return self.gather_at_once(here)
        return {name: self._gathered(self._images[name], of, device) for name, of in here.items()}

    def _gathered(self, images: Tensor, numbers: Indices, device: torch.device) -> Tensor:
        index = torch.from_numpy(numbers)
        if device.type == "cpu":
            return images.index_select(0, index).permute(0, 3, 1, 2)
        pinned = torch.empty((len(numbers), *images.shape[1:]), dtype=images.dtype, pin_memory=True)
        return torch.index_select(images, 0, index, out=pinned).to(device, non_blocking=True).permute(0, 3, 1, 2)

    def gather_at_once(self, numbers: Mapping[str, Indices]) -> dict[str, Tensor]:
        """Do the same by one call, which on a GPU is one kernel; on the host it would take longer (bench/LOG.md)."""
        where, shapes = list[Indices](), dict[str, tuple[int, ...]]()
        for name, of in numbers.items():
            images = self._images[name]
            first, channels = images.storage_offset() // math.prod(self._size), images.shape[3]
            where.append((first + of[:, None] * channels + np.arange(channels)).ravel())
            shapes[name] = len(of), *images.shape[1:]
        index = torch.from_numpy(np.concatenate(where)).to(self._blocks.device, non_blocking=True)
        parts = torch.split(self._blocks.index_select(0, index).view(torch.uint8), [len(one) for one in where])
        named = zip(shapes.items(), parts, strict=True)
        return {name: part.view(shape).permute(0, 3, 1, 2) for (name, shape), part in named}

    def put(self, name: str, numbers: Indices, images: Tensor) -> None:
        """Keep images, uint8 (N, C, H, W), of one component at these numbers (N,)."""
        kept = self._images[name]
        index = torch.from_numpy(numbers).to(kept.device, non_blocking=True)
        kept.index_copy_(0, index, images.permute(0, 2, 3, 1).to(kept.device))


class Cache:
    """Decoded images of the first `capacity` samples of a split.

    The first epoch fills it, later ones gather from it. On the host all ranks of this machine share one copy (on
    Linux). On a GPU each has its own.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        banks: Kinds,
        size: tuple[int, int],
        samples: int,
        limit: int,
        device: torch.device,
        purpose: str,
    ) -> None:
        """`channels`: bytes of a pixel, by component. `banks`: other images that are to lie beside them.

        `limit`: bytes it may take, 0 for all that the split needs. `purpose`: see `shared`. Raises InputError if there
        is not so much memory.
        """
        one = math.prod(size) * sum(channels.values()) + 1
        self.capacity = min(samples, limit // one) if limit else samples
        if not self.capacity:
            raise InputError(f"the cache may take {limit:,} bytes, but one sample takes {one:,}. Raise --cache-mib.")
        needed = f"{self.capacity * one / (1 << 20):,.0f} MiB on {device} for {self.capacity:,} of {samples:,} samples"
        log.info("the cache takes %s", needed)
        kinds = dict(banks) | {name: (self.capacity, of) for name, of in channels.items()}
        total = Images.bytes_of(kinds, size)
        try:
            if device.type == "cuda":
                self._filled, memory = private(self.capacity), on_gpu(total, device)
            else:
                both = shared(total + self.capacity, purpose)
                self._filled, memory = both[total:], torch.from_numpy(both[:total])
        except MemoryError as lack:
            advice = "Keep a part of them with --cache-mib, or use a smaller --size, or --cache none."
            raise InputError(f"the cache needs {needed}, but {lack}. {advice}") from None
        self.images = Images(kinds, size, memory)

    def kept(self, indices: Indices) -> NDArray[np.bool_]:
        """Tell which of these samples it has, bool (N,)."""
        has: NDArray[np.bool_] = self._filled[np.minimum(indices, self.capacity - 1)] == 1
        return has & (indices < self.capacity)

    def put(self, indices: Indices, images: Mapping[str, Tensor]) -> None:
        """Write the images, uint8 (N, C, H, W), of these samples. They count as kept after `mark`."""
        inside = np.flatnonzero(indices < self.capacity)
        for name, all_of_them in images.items():
            some = all_of_them
            if len(inside) < len(indices):
                some = all_of_them[torch.from_numpy(inside).to(all_of_them.device, non_blocking=True)]
            self.images.put(name, indices[inside], some)

    def mark(self, indices: Indices) -> None:
        """Say that the images of these samples are there: what was begun on a GPU to write them is done."""
        self._filled[indices[indices < self.capacity]] = 1
