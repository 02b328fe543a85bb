"""One batch: which samples, their bytes, their pixels; and what to do when one of them does not decode."""

import itertools
import logging
import queue
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.bank import Bank
from pipeline.batch import Batch
from pipeline.decode import Decode, Decoder, make_decoder, resized
from pipeline.plan import Plan
from pipeline.reader import Reader
from shards.errors import InputError
from shards.manifest import Dataset

__all__ = ["BatchMaker"]

log = logging.getLogger(__name__)

Rows = NDArray[np.int64]


class BatchMaker:
    """Makes the batch of any step, in any order, on as many threads at once as it has decoders."""

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        plan: Plan,
        *,
        size: int | None,
        decode: Decode,
        decoders: int,
        device: torch.device,
        bank_bytes: int,
        max_bad: int,
    ) -> None:
        """`size`: height and width of the images, None as stored. `bank_bytes`: what shared images may occupy."""
        self._dataset, self._plan, self._max_bad = dataset, plan, max_bad
        self._size, self._decode, self._device = size, decode, device
        self._rows = dataset.split(split)
        self._reader = Reader(dataset)
        self.bad: set[int] = set()
        self._banks = {name: self._bank(name) for name in self._shared_within(bank_bytes)}
        channels = {name: c.channels for name, c in dataset.manifest.components.items() if name not in self._banks}
        self._decoders: queue.SimpleQueue[tuple[Decoder, torch.cuda.Stream | None]] = queue.SimpleQueue()
        for _ in range(decoders):
            self._decoders.put((make_decoder(decode, channels, plan.largest, device), _stream(device)))

    def make(self, epoch: int, step: int, rank: int) -> Batch:
        """The batch of `rank` at `step`. Raises InputError if more than `max_bad` samples have failed to decode."""
        positions = self._plan.positions(step, rank)
        rows = self._rows[self._plan.members(epoch, positions)].astype(np.int64)
        with self._decoder() as decoder:
            while True:
                self._replace_bad(rows, epoch, positions)
                try:
                    return self._batch(decoder, rows)
                except ValueError as error:
                    self._find_bad(decoder, rows, error)

    def _batch(self, decoder: Decoder, rows: Rows) -> Batch:
        images = self._images(decoder, rows)
        for name, bank in self._banks.items():
            images[name] = bank.gather(self._dataset.shared_number(name, rows))
        return Batch(**images, row=torch.from_numpy(rows.copy()))

    def _images(self, decoder: Decoder, rows: Rows) -> dict[str, Tensor]:
        names = [name for name in self._dataset.manifest.components if name not in self._banks]
        encoded = {name: self._reader.read(self._dataset.locate(name, rows)) for name in names}
        return {name: self._finished(images) for name, images in decoder.decode(encoded).items()}

    def _finished(self, images: Tensor) -> Tensor:
        return resized(self._of_stored_size(images), self._size).to(self._device, non_blocking=True)

    def _of_stored_size(self, images: Tensor) -> Tensor:
        if tuple(images.shape[1:3]) != self._dataset.manifest.image_size:
            raise ValueError(f"images of {images.shape[2]}x{images.shape[1]} pixels, not of the data set's size")
        return images

    def _replace_bad(self, rows: Rows, epoch: int, positions: NDArray[np.int64]) -> None:
        """Puts stand-ins, in place, where `rows` holds samples known to be bad."""
        if not self.bad:
            return
        for i, position in enumerate(positions.tolist()):
            attempts = itertools.count()
            while int(rows[i]) in self.bad:
                rows[i] = self._rows[self._plan.stand_in(epoch, position, next(attempts))]

    def _find_bad(self, decoder: Decoder, rows: Rows, error: ValueError) -> None:
        """Decodes the samples of a batch one by one, and remembers those that fail."""
        found = {int(row) for row in rows if not self._decodes(decoder, np.array([row]))}
        if not found:
            raise error
        for row in found - self.bad:
            log.warning("sample %s does not decode; another takes its place", self._name(row))
        self._remember(found)

    def _decodes(self, decoder: Decoder, rows: Rows) -> bool:
        try:
            self._images(decoder, rows)
        except ValueError:
            return False
        return True

    def _remember(self, bad: set[int]) -> None:
        self.bad |= bad
        if len(self.bad) > min(self._max_bad, len(self._rows) // 2):
            names = ", ".join(self._name(row) for row in sorted(self.bad)[:20])
            raise InputError(
                f"{len(self.bad)} samples do not decode (max_bad is {self._max_bad}): {names}. "
                "List all with `python -m shards verify`."
            )

    def _name(self, row: int) -> str:
        shard = self._dataset.files[int(self._dataset.shard_of(np.array([row]))[0])].name
        return f"{self._dataset.key(row)} in {shard}"

    def _shared_within(self, limit: int) -> list[str]:
        """The shared components whose distinct images, together, take no more than `limit` bytes."""
        height, width = (self._size, self._size) if self._size else self._dataset.manifest.image_size
        fitting = []
        for name, component in self._dataset.manifest.components.items():
            limit -= component.shared * component.channels * height * width
            if component.shared and limit >= 0:
                fitting.append(name)
        return fitting

    def _bank(self, name: str) -> Bank:
        component, chunk = self._dataset.manifest.components[name], 64
        decoder = make_decoder(self._decode, {name: component.channels}, chunk, self._device)
        encoded = self._reader.read(self._dataset.locate_shared(name, np.arange(component.shared)))
        bank = Bank(encoded, lambda images: self._finished(decoder.decode({name: images})[name]), chunk)
        if bank.bad:
            have_it = np.isin(self._dataset.shared_number(name, self._rows), list(bank.bad))
            self._remember({int(row) for row in self._rows[have_it]})
        return bank

    @contextmanager
    def _decoder(self) -> Iterator[Decoder]:
        """A decoder for one thread. On CUDA it has a stream of its own, and what was made is finished at the end.

        On the stream that trains, a batch would wait for all steps begun before it, and they for it.
        """
        decoder, stream = self._decoders.get()
        try:
            with torch.cuda.stream(stream) if stream else nullcontext():
                yield decoder
            if stream:
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
