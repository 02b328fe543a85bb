"""What need not be decoded twice, kept in memory: a split's images, and images that many samples share."""

import logging
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.memory import on_gpu, private, shared
from pipeline.order import Indices
from pipeline.reader import Encoded
from pipeline.stats import Stopwatch
from shards.errors import InputError

log = logging.getLogger(__name__)

Caching = Literal["none", "host", "device"]


class Cache:
    """Decoded images of the first `capacity` samples of a split, uint8 (capacity, H, W, C) a component.

    The first epoch fills it, later ones gather from it. On the host all ranks of this machine share one copy (on
    Linux). On a GPU each has its own.
    """

    def __init__(
        self, shapes: dict[str, tuple[int, int, int]], samples: int, limit: int, device: torch.device, purpose: str
    ) -> None:
        """`shapes`: (H, W, C). `limit`: bytes it may take, 0 for all that the split needs. `purpose`: see `shared`.

        Raises InputError if there is not so much memory.
        """
        one = sum(math.prod(shape) for shape in shapes.values()) + 1
        self.capacity = min(samples, limit // one) if limit else samples
        if not self.capacity:
            raise InputError(f"the cache may take {limit:,} bytes, but one sample takes {one:,}. Raise --cache-mib.")
        needed = f"{self.capacity * one / (1 << 20):,.0f} MiB on {device} for {self.capacity:,} of {samples:,} samples"
        log.info("the cache takes %s", needed)
        sizes = [self.capacity * math.prod(shape) for shape in shapes.values()]
        try:
            if device.type == "cuda":
                self._filled, images = private(self.capacity), on_gpu(sum(sizes), device)
            else:
                memory = shared(self.capacity + sum(sizes), purpose)
                self._filled, images = memory[: self.capacity], torch.from_numpy(memory[self.capacity :])
        except MemoryError as lack:
            advice = "Keep a part of them with --cache-mib, or use a smaller --size, or --cache none."
            raise InputError(f"the cache needs {needed}, but {lack}. {advice}") from None
        parts = zip(shapes.items(), torch.split(images, sizes), strict=True)
        self._images = {name: part.view(self.capacity, *shape) for (name, shape), part in parts}

    def get_or_decode(
        self, indices: Indices, decode: Callable[[Indices], dict[str, Tensor]], device: torch.device, watch: Stopwatch
    ) -> dict[str, Tensor]:
        """Return the images of these samples, uint8 (N, C, H, W) on `device`; `decode` makes those not kept yet."""
        inside = indices < self.capacity
        kept: NDArray[np.bool_] = inside & (self._filled[np.where(inside, indices, 0)] == 1)
        if kept.all():
            with watch.timed("gather"):
                return {name: gathered(images, indices, device) for name, images in self._images.items()}
        fresh = decode(indices[~kept])
        with watch.timed("gather"):
            self._keep(indices[~kept], fresh)
            if not kept.any():
                return fresh
            order = np.argsort(np.concatenate([np.flatnonzero(kept), np.flatnonzero(~kept)]))
            for name, images in fresh.items():
                both = torch.cat([gathered(self._images[name], indices[kept], images.device), images])
                fresh[name] = gathered(both.permute(0, 2, 3, 1), order, images.device)
            return fresh

    def _keep(self, indices: Indices, images: dict[str, Tensor]) -> None:
        inside = np.flatnonzero(indices < self.capacity)
        for name, kept in self._images.items():
            fresh = gathered(images[name].permute(0, 2, 3, 1), inside, images[name].device).permute(0, 2, 3, 1)
            kept.index_copy_(0, torch.from_numpy(indices[inside]).to(kept.device), fresh.to(kept.device))
            if kept.is_cuda:  # another thread's stream must not read what is still being written
                torch.cuda.current_stream(kept.device).synchronize()
        self._filled[indices[inside]] = 1


def make_bank(encoded: Encoded, decode: Callable[[Encoded], Tensor], chunk: int) -> tuple[Tensor, list[int]]:
    """Return the distinct images of a shared component, uint8 (K, H, W, C), and the numbers of those not decodable.

    `decode` turns up to `chunk` images into uint8 (N, C, H, W); it raises ValueError if one does not decode.
    """
    parts = [_decoded(encoded[i : i + chunk], decode) for i in range(0, len(encoded), chunk)]
    flat = [image for part in parts for image in part]
    good = next((image for image in flat if image is not None), None)
    if good is None:
        raise InputError(f"none of {len(flat)} shared images decodes. Check with `python -m shards verify`.")
    images = torch.stack([good if image is None else image for image in flat])
    return images.permute(0, 2, 3, 1).contiguous(), [i for i, image in enumerate(flat) if image is None]


def _decoded(encoded: Encoded, decode: Callable[[Encoded], Tensor]) -> list[Tensor | None]:
    """Decode together, and one by one only if that fails."""
    try:
        return list(decode(encoded))
    except ValueError:
        return [None] if len(encoded) == 1 else [one for image in encoded for one in _decoded([image], decode)]


def gathered(images: Tensor, numbers: NDArray[np.int64], device: torch.device) -> Tensor:
    """Return images (K, H, W, C) of these numbers (N,), as (N, C, H, W) on `device`: one copy, or one kernel."""
    index = torch.from_numpy(numbers).to(images.device, non_blocking=True)
    if images.device == device:
        return images.index_select(0, index).permute(0, 3, 1, 2)
    found = torch.empty((len(numbers), *images.shape[1:]), dtype=images.dtype, pin_memory=True)
    return torch.index_select(images, 0, index, out=found).to(device, non_blocking=True).permute(0, 3, 1, 2)
