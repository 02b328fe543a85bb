"""One batch: which samples, their bytes, their pixels; and what to do when one of them does not decode."""

import itertools
import logging
import math
import queue
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor

from pipeline.batch import Batch
from pipeline.cache import Cache, Images
from pipeline.config import LoaderConfig
from pipeline.decode import Decode, ImageDecoder, make_decoder, resize
from pipeline.headers import Headers
from pipeline.memory import wait_for
from pipeline.order import Indices, Order
from pipeline.reader import Encoded, Reader
from pipeline.stats import Stopwatch
from shards.errors import InputError
from shards.format.dataset import Dataset
from shards.format.manifest import StoredComponent

log = logging.getLogger(__name__)

_CHUNK = 64
"""images of a bank that are decoded together"""


class BatchMaker:
    """Makes the batch of any step, in any order, on `config.num_threads` threads at once.

    The loader has chosen before: `num_threads` is not 0, and `decode` is not auto.
    """

    def __init__(
        self, dataset: Dataset, reader: Reader, order: Order, config: LoaderConfig, device: torch.device
    ) -> None:
        self._dataset, self._reader, self._order, self._config, self._device = dataset, reader, order, config, device
        self._rows, self.watch, self.bad = dataset.split(config.split), Stopwatch(), set[int]()
        self._size = (config.size, config.size) if config.size else dataset.manifest.image_size
        components, room = dataset.manifest.components, config.bank_mib << 20
        self._bytes = {name: component.channels * component.bits // 8 for name, component in components.items()}
        self._deep = {name for name, component in components.items() if component.bits == 16}
        self._inverted = {"depth"} if dataset.manifest.depth.near_is_bright else set()
        self._banks = dict[str, tuple[int, int]]()
        for name, component in components.items():
            room -= component.shared * self._bytes[name] * math.prod(self._size)
            if component.shared and room >= 0:
                self._banks[name] = component.shared, self._bytes[name]
        memory = torch.empty(Images.bytes_of(self._banks, self._size), dtype=torch.uint8, device=device)
        self._headers = Headers(components, dataset.manifest.image_size)
        self._stores = [Images(self._banks, self._size, memory)]
        self._cache: Cache | None = None
        for name in self._banks:
            self._fill_bank(name, components[name])
        self._components = {name: component for name, component in components.items() if name not in self._banks}
        self._decoders: queue.SimpleQueue[tuple[ImageDecoder, torch.cuda.Stream | None]] = queue.SimpleQueue()
        for _ in range(config.num_threads):
            stream = None
            if device.type == "cuda":  # it begins when what was begun before, such as banks, is done
                stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # stub lacks it
                stream.wait_stream(torch.cuda.current_stream(device))
            self._decoders.put((self._make_decoder(self._components, order.largest), stream))

    @property
    def decode(self) -> Decode:
        return self._config.decode

    def open_cache(self) -> None:
        """Keep from now on what is decoded, as far as the configuration wants it.

        Raises InputError if there is no memory for that.
        """
        config, data = self._config, self._dataset.manifest.made_from
        if config.cache == "none":
            return
        if config.cache == "device" and self._device.type != "cuda":
            raise InputError("cache=device needs a CUDA device, and there is none. Use cache=host.")
        on_device = config.cache == "device"
        self._cache = Cache(
            {name: self._bytes[name] for name in self._components},
            self._banks if on_device else {},
            self._size,
            len(self._rows),
            config.cache_mib << 20,
            self._device if on_device else torch.device("cpu"),
            f"{data} {config.split} {self._size} {config.decode} {list(self._components)} {config.cache_mib}",
        )
        self._stores.append(self._cache.images)
        if on_device:
            numbers = {name: np.arange(count) for name, (count, _) in self._banks.items()}
            for name, images in self._stores.pop(0).gather(numbers, self._device).items():
                self._cache.images.put(name, numbers[name], images)
            torch.cuda.current_stream(self._device).synchronize()

    def make(self, epoch: int, step: int, rank: int) -> Batch:
        """Return the batch of `rank` at `step`.

        Raises InputError if more than `max_bad` samples have failed to decode.
        """
        positions = self._order.positions(step, rank)
        return self._made(self._order.indices(epoch, positions), epoch, positions)

    def samples(self, rows: Indices) -> Batch:
        """Return the samples in these rows of the data set, all of the split; see `make`."""
        indices = np.searchsorted(self._rows, rows.astype(self._rows.dtype))
        return self._made(indices.copy(), 0, indices)

    def _made(self, indices: Indices, epoch: int, positions: Indices) -> Batch:
        with self._decoder() as decoder:
            batch = None
            while batch is None:
                self._replace_bad(indices, epoch, positions)
                renewals = self._reader.renewals
                try:
                    batch = self._batch(decoder, indices)
                except ValueError as error:
                    self._find_bad(decoder, indices, renewals, error)
        if self._cache:
            self._cache.mark(indices)
        return batch

    def _batch(self, decoder: ImageDecoder, indices: Indices) -> Batch:
        images = self._images(decoder, indices)
        images |= {name: _as_values(images[name]) for name in self._deep}
        others = images.get("bg"), images.get("mask"), images.get("depth")
        return Batch(images["fg_bg"], *others, index=torch.from_numpy(self._rows[indices].astype(np.int64)))

    def _images(self, decoder: ImageDecoder, indices: Indices) -> dict[str, Tensor]:
        """Return images of all components, as bytes, from bank and cache as far as they have them.

        Raises ValueError if one does not decode.
        """
        with self.watch.timed("gather"):
            rows = self._rows[indices]
            numbers = {name: self._dataset.shared_number(name, rows) for name in self._banks}
            missing = np.flatnonzero(~self._cache.kept(indices)) if self._cache else np.arange(len(indices))
            if len(missing) < len(indices):
                some = indices.copy()
                some[missing] = 0  # any other image holds the place of one that is not kept yet
                numbers |= dict.fromkeys(self._components, some)
            images = dict[str, Tensor]()
            for store in self._stores:
                images |= store.gather(numbers, self._device)
        if not len(missing):
            return images
        fresh = self._decoded(decoder, indices[missing])
        with self.watch.timed("gather"):
            if self._cache:
                self._cache.put(indices[missing], fresh)
            if len(missing) == len(indices):
                return images | fresh
            places = torch.from_numpy(missing).to(self._device, non_blocking=True)
            for name, decoded in fresh.items():
                images[name].permute(0, 2, 3, 1).index_copy_(0, places, decoded.permute(0, 2, 3, 1))
            return images

    def _decoded(self, decoder: ImageDecoder, indices: Indices) -> dict[str, Tensor]:
        rows = self._rows[indices]
        with self.watch.timed("read"):
            encoded = self._reader.read({name: self._dataset.locate(name, rows) for name in self._components})
        return self._finished(decoder, encoded)

    def _finished(self, decoder: ImageDecoder, encoded: Encoded) -> dict[str, Tensor]:
        stored = self._dataset.manifest.image_size
        with self.watch.timed("decode"):
            self._headers.check(encoded)
            images = decoder.decode(encoded)
            for name, image in images.items():
                if tuple(image.shape[1:3]) != stored:  # turned, as its EXIF says
                    raise ValueError(f"{name}: {image.shape[2]}x{image.shape[1]} pixels, not the data set's size")
        with self.watch.timed("resize"):
            images = {name: resize(image, self._config.size or None) for name, image in images.items()}
            images |= {name: _as_bytes(images[name]) for name in self._deep & images.keys()}
            images |= {name: ~images[name] for name in self._inverted & images.keys()}
        with self.watch.timed("transfer"):
            return {name: image.to(self._device, non_blocking=True) for name, image in images.items()}

    def _replace_bad(self, indices: Indices, epoch: int, positions: Indices) -> None:
        """Put substitutes, in place, where `indices` holds samples known to be bad."""
        if not self.bad:
            return
        for i, position in enumerate(positions.tolist()):
            attempts = itertools.count()
            while int(indices[i]) in self.bad:
                indices[i] = self._order.substitute(epoch, position, next(attempts))

    def _find_bad(self, decoder: ImageDecoder, indices: Indices, renewals: int, error: ValueError) -> None:
        """Find the samples of a batch that do not decode, and remember them.

        Not if a tar was renewed since there were `renewals`: what was read before may decode now.
        """
        found = set(_failing_alone(indices, lambda some: self._images(decoder, some)))
        places = (self._dataset.locate(name, self._rows[sorted(found)]) for name in self._components)
        self._reader.renew({number for place in places for number in place.file.tolist()})
        if self._reader.renewals > renewals:
            return
        if not found:
            raise error
        for index in found - self.bad:
            log.warning("sample %s does not decode; another takes its place", self._name(index))
        self._remember(found)

    def _remember(self, bad: set[int]) -> None:
        self.bad |= bad
        if len(self.bad) > min(self._config.max_bad, len(self._rows) // 2):
            names = ", ".join(self._name(index) for index in sorted(self.bad)[:20])
            raise InputError(
                f"{len(self.bad)} samples do not decode (max_bad is {self._config.max_bad}): {names}. "
                "List all with `python -m shards verify`."
            )

    def _name(self, index: int) -> str:
        row = int(self._rows[index])
        shard = self._dataset.tars[int(self._dataset.shard_of(np.array([row]))[0])].name
        return f"{self._dataset.key(row)} in {shard}"

    def _fill_bank(self, name: str, component: StoredComponent) -> None:
        decoder, bad = self._make_decoder({name: component}, _CHUNK), list[int]()
        encoded = self._reader.read({name: self._dataset.locate_shared(name, np.arange(component.shared))})

        def keep(numbers: Indices) -> None:
            self._stores[0].put(name, numbers, self._finished(decoder, encoded.part(numbers))[name])

        for first in range(0, component.shared, _CHUNK):
            bad += _failing(np.arange(first, min(first + _CHUNK, component.shared)), keep)
        renewals = self._reader.renewals
        self._reader.renew(set(self._dataset.locate_shared(name, np.array(bad, np.int64)).file.tolist()))
        if self._reader.renewals > renewals:
            self._fill_bank(name, component)
        elif len(bad) == component.shared:
            raise InputError(f"none of {len(bad)} shared images decodes. Check with `python -m shards verify`.")
        elif bad:
            have_it = np.isin(self._dataset.shared_number(name, self._rows), bad)
            self._remember(set(np.flatnonzero(have_it).tolist()))

    def _make_decoder(self, components: Mapping[str, StoredComponent], batch_size: int) -> ImageDecoder:
        config, stored = self._config, self._dataset.manifest.image_size
        return make_decoder(config.decode, components, batch_size, stored, self._device, config.hw_decoder_load)

    @contextmanager
    def _decoder(self) -> Iterator[ImageDecoder]:
        """Yield a decoder for one thread. On CUDA it has a stream of its own, and what was made is finished at the end.

        On the stream that trains, a batch would wait for all steps begun before it, and they for it.
        """
        decoder, stream = self._decoders.get()
        try:
            with torch.cuda.stream(stream) if stream else nullcontext():
                yield decoder
            if stream:
                with self.watch.timed("transfer"):
                    wait_for(stream)
        finally:
            self._decoders.put((decoder, stream))


def _failing(numbers: Indices, attempt: Callable[[Indices], object]) -> list[int]:
    """Return those of `numbers` for which `attempt` raises ValueError, which is none if it does all of them at once."""
    try:
        attempt(numbers)
    except ValueError:
        return _failing_alone(numbers, attempt)
    return []


def _failing_alone(numbers: Indices, attempt: Callable[[Indices], object]) -> list[int]:
    """Return the same by attempting one after the other.

    Not by halving: DALI is at risk where an image fails beside others that its threads still decode (bench/LOG.md).
    """
    failing = list[int]()
    for number in numbers:
        try:
            attempt(np.array([number]))
        except ValueError:
            failing.append(int(number))
    return failing


def _as_bytes(images: Tensor) -> Tensor:
    """Return uint16 (N, 1, H, W) as uint8 (N, 2, H, W), a value's two bytes as channels: PyTorch gathers no uint16.

    To invert the bytes is to invert the value.
    """
    return images.squeeze(1).unsqueeze(3).view(torch.uint8).permute(0, 3, 1, 2)


def _as_values(images: Tensor) -> Tensor:
    """Return uint8 (N, 2, H, W) as uint16 (N, 1, H, W) again."""
    return images.permute(0, 2, 3, 1).contiguous().view(torch.uint16).permute(0, 3, 1, 2)
