"""One batch: which samples, their bytes, their pixels; and what to do when one of them does not decode."""

import itertools
import logging
import math
import queue
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.bank import Bank
from pipeline.batch import Batch
from pipeline.cache import Cache
from pipeline.config import LoaderConfig
from pipeline.decode import Decode, ImageDecoder, make_decoder, resize
from pipeline.order import Order
from pipeline.reader import Encoded, Reader
from pipeline.stats import Stopwatch
from shards.errors import InputError
from shards.format.dataset import Dataset

log = logging.getLogger(__name__)

Indices = NDArray[np.int64]
"""numbers of samples within their split"""


class BatchMaker:
    """Makes the batch of any step, in any order, on as many threads at once as it has decoders."""

    def __init__(
        self,
        dataset: Dataset,
        reader: Reader,
        order: Order,
        config: LoaderConfig,
        *,
        decode: Decode,
        decoders: int,
        device: torch.device,
    ) -> None:
        self._dataset, self._order, self._config, self._device = dataset, order, config, device
        self._rows, self._reader = dataset.split(config.split), reader
        self._decode, self.watch = decode, Stopwatch()
        self.bad: set[int] = set()
        components = dataset.manifest.components
        self._deep = {name for name in components if components[name].bits == 16}
        self._inverted = {"depth"} if dataset.manifest.depth.near_is_bright else set()
        self._banks = {name: self._bank(name) for name in self._shared_within(config.bank_mib << 20)}
        channels = {name: components[name].channels for name in components if name not in self._banks}
        self._decoders: queue.SimpleQueue[tuple[ImageDecoder, torch.cuda.Stream | None]] = queue.SimpleQueue()
        for _ in range(decoders):
            decoder = make_decoder(decode, channels, order.largest, device, config.hw_decoder_load, self._deep)
            self._decoders.put((decoder, _stream(device)))
        self._cache = self._make_cache(channels) if config.cache != "none" else None

    def make(self, epoch: int, step: int, rank: int) -> Batch:
        """The batch of `rank` at `step`. Raises InputError if more than `max_bad` samples have failed to decode."""
        positions = self._order.positions(step, rank)
        indices = self._order.indices(epoch, positions)
        with self._decoder() as decoder:
            while True:
                self._replace_bad(indices, epoch, positions)
                try:
                    return self._batch(decoder, indices)
                except ValueError as error:
                    self._find_bad(decoder, indices, error)

    def _batch(self, decoder: ImageDecoder, indices: Indices) -> Batch:
        images, rows = self._images(decoder, indices), self._rows[indices].astype(np.int64)
        with self.watch.timed("gather"):
            for name, bank in self._banks.items():
                images[name] = bank.gather(self._dataset.shared_number(name, rows))
        images |= {name: _as_values(images[name]) for name in self._deep}
        return Batch(**images, index=torch.from_numpy(rows))

    def _images(self, decoder: ImageDecoder, indices: Indices) -> dict[str, Tensor]:
        """Images of all components that no bank has, as bytes, from the cache as far as it has them.

        Raises ValueError if one does not decode.
        """
        decoded = partial(self._decoded, decoder)
        if self._cache is None:
            return decoded(indices)
        return self._cache.get_or_decode(indices, decoded, self._device, self.watch)

    def _decoded(self, decoder: ImageDecoder, indices: Indices) -> dict[str, Tensor]:
        rows = self._rows[indices]
        names = [name for name in self._dataset.manifest.components if name not in self._banks]
        with self.watch.timed("read"):
            encoded = self._reader.read({name: self._dataset.locate(name, rows) for name in names})
        return self._finished(decoder, encoded)

    def _finished(self, decoder: ImageDecoder, encoded: dict[str, Encoded]) -> dict[str, Tensor]:
        with self.watch.timed("decode"):
            images = decoder.decode(encoded)
            _refuse_other_sizes(images, self._dataset.manifest.image_size)
        with self.watch.timed("resize"):
            images = {name: resize(image, self._config.size or None) for name, image in images.items()}
            images |= {name: _as_bytes(images[name]) for name in self._deep & images.keys()}
            images |= {name: ~images[name] for name in self._inverted & images.keys()}
        with self.watch.timed("transfer"):
            return {name: image.to(self._device, non_blocking=True) for name, image in images.items()}

    def _replace_bad(self, indices: Indices, epoch: int, positions: NDArray[np.int64]) -> None:
        """Puts substitutes, in place, where `indices` holds samples known to be bad."""
        if not self.bad:
            return
        for i, position in enumerate(positions.tolist()):
            attempts = itertools.count()
            while int(indices[i]) in self.bad:
                indices[i] = self._order.substitute(epoch, position, next(attempts))

    def _find_bad(self, decoder: ImageDecoder, indices: Indices, error: ValueError) -> None:
        """Decodes the samples of a batch one by one, and remembers those that fail."""
        found = {int(index) for index in indices if not self._decodes(decoder, np.array([index]))}
        if not found:
            raise error
        for index in found - self.bad:
            log.warning("sample %s does not decode; another takes its place", self._name(index))
        self._remember(found)

    def _decodes(self, decoder: ImageDecoder, indices: Indices) -> bool:
        try:
            self._images(decoder, indices)
        except ValueError:
            return False
        return True

    def _remember(self, bad: set[int]) -> None:
        self.bad |= bad
        if len(self.bad) > min(self._config.max_bad, len(self._rows) // 2):
            names = ", ".join(self._name(index) for index in sorted(self.bad)[:20])
            raise InputError(
                f"{len(self.bad)} samples do not decode (max_bad is {self._config.max_bad}): {names}. "
                "List all with `python -m shards verify`."
            )

    def _name(self, index: int) -> str:
        row = self._rows[index]
        shard = self._dataset.tars[int(self._dataset.shard_of(np.array([row]))[0])].name
        return f"{self._dataset.key(int(row))} in {shard}"

    @property
    def _size(self) -> tuple[int, int]:
        """Height and width of the images in a batch."""
        size = self._config.size
        return (size, size) if size else self._dataset.manifest.image_size

    def _shared_within(self, limit: int) -> list[str]:
        """The shared components whose distinct images, together, take no more than `limit` bytes."""
        fitting = []
        for name, component in self._dataset.manifest.components.items():
            limit -= component.shared * component.channels * math.prod(self._size)
            if component.shared and limit >= 0:
                fitting.append(name)
        return fitting

    def _bank(self, name: str) -> Bank:
        component, chunk = self._dataset.manifest.components[name], 64
        decoder = make_decoder(
            self._decode, {name: component.channels}, chunk, self._device, self._config.hw_decoder_load
        )
        encoded = self._reader.read({name: self._dataset.locate_shared(name, np.arange(component.shared))})[name]
        bank = Bank(encoded, lambda images: self._finished(decoder, {name: images})[name], chunk)
        if bank.bad:
            have_it = np.isin(self._dataset.shared_number(name, self._rows), list(bank.bad))
            self._remember(set(np.flatnonzero(have_it).tolist()))
        return bank

    def _make_cache(self, channels: dict[str, int]) -> Cache:
        config, data = self._config, self._dataset.manifest.made_from
        if config.cache == "device" and self._device.type != "cuda":
            raise InputError("cache=device needs a CUDA device, and there is none. Use cache=host.")
        return Cache(
            {name: (*self._size, count * (2 if name in self._deep else 1)) for name, count in channels.items()},
            len(self._rows),
            config.cache_mib << 20,
            self._device if config.cache == "device" else torch.device("cpu"),
            f"{data} {config.split} {self._size} {self._decode} {list(channels)} {config.cache_mib}",
        )

    @contextmanager
    def _decoder(self) -> Iterator[ImageDecoder]:
        """A decoder for one thread. On CUDA it has a stream of its own, and what was made is finished at the end.

        On the stream that trains, a batch would wait for all steps begun before it, and they for it.
        """
        decoder, stream = self._decoders.get()
        try:
            with torch.cuda.stream(stream) if stream else nullcontext():
                yield decoder
            if stream:
                with self.watch.timed("transfer"):
                    stream.synchronize()
        finally:
            self._decoders.put((decoder, stream))


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    """A stream for one thread's work on CUDA, which begins when what was begun before, such as the banks, is done."""
    if device.type != "cuda":
        return None
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # stub lacks it
    stream.wait_stream(torch.cuda.current_stream(device))
    return stream


def _as_bytes(images: Tensor) -> Tensor:
    """uint16 (N, 1, H, W) to uint8 (N, 2, H, W), a value's two bytes as channels: PyTorch does not gather uint16.

    To invert the bytes is to invert the value.
    """
    return images.squeeze(1).unsqueeze(3).view(torch.uint8).permute(0, 3, 1, 2)


def _as_values(images: Tensor) -> Tensor:
    """uint8 (N, 2, H, W) back to uint16 (N, 1, H, W)."""
    return images.permute(0, 2, 3, 1).contiguous().view(torch.uint16).permute(0, 3, 1, 2)


def _refuse_other_sizes(images: dict[str, Tensor], size: tuple[int, int]) -> None:
    for name, image in images.items():
        if tuple(image.shape[1:3]) != size:
            raise ValueError(f"{name}: {image.shape[2]}x{image.shape[1]} pixels, not the data set's size")
