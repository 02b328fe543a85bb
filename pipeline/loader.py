"""Loader: the batches of a split in their order, made ahead on several threads; resumable to the batch."""

import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.batch import Batch
from pipeline.batches import BatchMaker
from pipeline.config import LoaderConfig as LoaderConfig
from pipeline.decode import Decode, candidates
from pipeline.digests import Digests
from pipeline.downloads import Downloads
from pipeline.order import Order, Windows
from pipeline.reader import Reader, local_tars
from pipeline.stats import Stats as Stats
from pipeline.stats import Stopwatch
from shards.errors import InputError
from shards.format.dataset import Dataset
from shards.format.storage import is_url
from shards.machine import cpu_count

log = logging.getLogger(__name__)


class Loader(AbstractContextManager["Loader"]):
    """Iterates over the batches of one rank, an epoch an iteration, and knows where it is.

    Iterating again begins the next epoch; after `load_state_dict` it goes on with the batch that would have come next.
    `epoch` is the one that is under way, or comes first, from 0. A sample that does not decode is replaced by a
    substitute, the same one in every run.
    """

    def __init__(
        self, config: LoaderConfig, *, rank: int = 0, world_size: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        """Raises InputError if the data set or a file of it is missing, or if the split is too small for the ranks."""
        self.config, self.rank, self.device = config, rank, _resolved(torch.device(device))
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self._threads = config.num_threads or max(1, cpu_count() // ranks_here)
        self.epoch = self._step = 0
        self._needed: list[int] = []
        self._process = os.getpid()
        self._iteration: object = None
        self._resumed = True
        with ExitStack() as closing:
            self._pool = closing.enter_context(ThreadPoolExecutor(self._threads, thread_name_prefix="loader"))
            self._downloads: Downloads | None = None
            if is_url(config.data):
                limit, distrust = config.cache_limit << 20, config.check == "always"
                self._downloads = downloads = Downloads(str(config.data), config.cache_dir, limit, distrust=distrust)
                closing.callback(downloads.close)
                self.dataset = downloads.dataset
                self._reader = Reader(self.dataset, downloads.open, downloads.replace)
            else:
                self.dataset = Dataset.open(Path(config.data))
                self._reader = Reader(self.dataset, local_tars(self.dataset))
            self.order = _order(config, self.dataset, world_size)
            self._shards = np.flatnonzero(_samples_by_shard(self.dataset, config.split)).tolist()
            if self._downloads:
                self._downloads.check_room(2 * config.shuffle_window or len(self._shards))
            tars = [*self._shards, *range(len(self.dataset.manifest.shards), len(self.dataset.tars))]
            self._digests = Digests(self.dataset, [] if self._downloads else tars, config.check, config.cache_dir)
            closing.callback(self._digests.close)
            self._maker = self._chosen_maker()
            self._maker.open_cache()
            self._closing = closing.pop_all()
        self._began, self._done = time.perf_counter(), Stats(num_threads=self._threads)

    def _chosen_maker(self) -> BatchMaker:
        """Return the maker that decodes as is asked for; for `auto` the one that makes the first batches fastest."""
        able = candidates(self.config.decode, self.device)
        if len(able) == 1:
            return self._make_maker(able[0])
        steps, rates = range(min(len(self), self._threads * self.config.prefetch)), dict[BatchMaker, float]()
        for maker in map(self._make_maker, able):
            make = partial(maker.make, 0, rank=self.rank)
            for _ in range(2):  # the second time counts
                begin = time.perf_counter()
                samples = sum(len(batch.index) for batch in self._pool.map(make, steps))
                rates[maker] = samples / (time.perf_counter() - begin)
        best = max(rates, key=rates.__getitem__)
        said = ", ".join(f"{maker.decode} {rate:,.0f}" for maker, rate in rates.items())
        log.info("decode=%s, which made the first batches fastest (samples/s: %s)", best.decode, said)
        best.watch = Stopwatch()  # of what is handed over, these batches are no part
        return best

    def _make_maker(self, decode: Decode) -> BatchMaker:
        config = replace(self.config, decode=decode, num_threads=self._threads)
        return BatchMaker(self.dataset, self._reader, self.order, config, self.device)

    @property
    def decode(self) -> Decode:
        """gpu, cpu or portable: how it decodes."""
        return self._maker.decode

    def __len__(self) -> int:
        """Batches in an epoch, the same on every rank."""
        return self.order.steps

    def __iter__(self) -> Iterator[Batch]:
        self._refuse_fork()
        if not self._resumed:
            self.epoch, self._step = self.epoch + 1, 0
        self._resumed, self._iteration = False, object()
        return self._iterate(self.epoch, self._step, self._iteration)

    def _iterate(self, epoch: int, first: int, iteration: object) -> Iterator[Batch]:
        self._request_shards()
        self._digests.begin()
        begun = (self._pool.submit(self._maker.make, epoch, step, self.rank) for step in range(first, len(self)))
        futures = deque(itertools.islice(begun, self._threads * self.config.prefetch))
        try:
            while futures:
                self._refuse_fork()
                if iteration is not self._iteration:
                    raise RuntimeError("this loader has begun another iteration; it has one place at a time")
                batch = self._waited_for(futures.popleft(), self._step + 1 == len(self))
                self._step += 1
                if futures:
                    self._request_shards()
                futures.extend(itertools.islice(begun, 1))
                yield batch
        finally:
            for future in futures:
                future.cancel()

    def _refuse_fork(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(
                "this loader belongs to another process, whose threads a fork does not copy. Make a loader in the "
                "process that uses it; it needs no workers beside its own threads."
            )

    def _waited_for(self, future: Future[Batch], last: bool) -> Batch:
        begin = time.perf_counter()
        batch = future.result()
        self._digests.refuse_wrong(wait=last)
        self._done.waited += time.perf_counter() - begin
        self._done.batches += 1
        self._done.samples += len(batch.index)
        return _handed_over(batch)

    def _request_shards(self) -> None:
        """Have those shards downloaded that the batches from here on need."""
        if self._downloads:
            windows = self.order.windows
            needed = windows.ahead(self.epoch, self.order.bounds(self._step)[0]) if windows else self._shards
            if needed != self._needed:
                self._downloads.prefetch(needed)
                self._reader.keep(needed)
                self._needed = needed

    def finish_check(self) -> None:
        """Wait until the shards that this rank compares with their digests are compared.

        To be called on all ranks before what was learned of the batches is kept. Raises InputError if one is damaged.
        """
        self._digests.refuse_wrong(wait=True)

    def samples(self, rows: Sequence[int]) -> Batch:
        """Return the samples in these rows of the data set, all of its split, as `Batch.index` names them.

        On any rank it is the whole batch. The loader stays where it is. A sample that does not decode is replaced.
        """
        self._refuse_fork()
        parts = np.split(np.asarray(rows), range(self.order.largest, len(rows), self.order.largest))
        made = [_handed_over(self._pool.submit(self._maker.samples, part).result()) for part in parts]
        if len(made) == 1:
            return made[0]
        joined = (None if column[0] is None else torch.cat(column) for column in zip(*made, strict=True))
        return Batch(*joined)  # type: ignore[arg-type]  # fg_bg and index are never None

    @property
    def stats(self) -> Stats:
        """What was done since the loader was made."""
        seconds, spent = time.perf_counter() - self._began, self._maker.watch.spent.copy()
        return replace(self._done, bad=len(self._maker.bad), seconds=seconds, spent=spent)

    def weight(self, batch: Batch) -> float:
        """Return what the mean over the last batch counts in the mean of the ranks' means: 1 but for odd rests."""
        begin, end = self.order.bounds(self._step - 1)
        return len(batch.index) * self.order.world_size / (end - begin)

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader is, in integers and names: samples handed over count, those made ahead do not."""
        seen = self.order.bounds(self._step - 1)[1] if self._step else 0
        return {"epoch": self.epoch, "seen": seen, "decode": self.decode, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have the next iteration go on from there, on any number of ranks, with the same global batches.

        With decode=auto it also goes on with the decoder of then, so that the pixels are the same, if it is to be had.
        Raises InputError if the state is of other data, another order or other batches.
        """
        for name, value in self._identity().items():
            saved = state.get(name) if isinstance(state, dict) else None
            if type(saved) is not type(value) or saved != value:
                raise InputError(
                    f"the saved place is in {name}={saved!s:.80}, but this loader has {name}={value}. "
                    "Go on with the same data, split, seed and batch size, or begin a new run."
                )
        epoch, seen, then = state.get("epoch"), state.get("seen"), state.get("decode", self.decode)
        if type(epoch) is not int or type(seen) is not int or epoch < 0 or not 0 <= seen <= self.order.samples:
            raise InputError(f"the saved place is epoch={epoch!s:.80}, seen={seen!s:.80}: none. Begin a new run.")
        self.epoch, self._step = divmod(epoch * len(self) - (-seen // self.config.batch_size), len(self))
        self._resumed = True
        if isinstance(then, str) and then != self.decode and then in candidates(self.config.decode, self.device):
            self._maker = self._make_maker(then)
            self._maker.open_cache()

    def _identity(self) -> dict[str, Any]:
        named = ("split", "batch_size", "shuffle", "seed", "shuffle_window")
        of_config = {name: getattr(self.config, name) for name in named}
        return {"data": self.dataset.manifest.made_from, **of_config, "samples": self.order.samples}

    def close(self) -> None:
        """End the threads, and the downloads. The loader cannot be used afterwards."""
        self._iteration = None
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._closing.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def _handed_over(batch: Batch) -> Batch:
    """Return it as it is; its memory on CUDA will not be used again before the trainer is done with it."""
    for tensor in batch:
        if tensor is not None and tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return batch


def _resolved(device: torch.device) -> torch.device:
    """Give a CUDA device its number: "cuda" is another device than the tensors that are made on it, on "cuda:0"."""
    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device


def _samples_by_shard(dataset: Dataset, split: str) -> NDArray[np.int64]:
    """Return how many samples of the split are in each shard (S,)."""
    rows = dataset.split(split)
    ends = np.searchsorted(rows, dataset.first_row.astype(rows.dtype))  # of another type, all rows would be copied
    return np.diff(ends)


def _order(config: LoaderConfig, dataset: Dataset, world_size: int) -> Order:
    samples, windows = len(dataset.split(config.split)), None
    mixing: dict[str, Any] = {"seed": config.seed, "shuffle": config.shuffle}
    if config.shuffle_window:
        windows = Windows(_samples_by_shard(dataset, config.split), config.shuffle_window, **mixing)
    try:
        return Order(samples=samples, batch_size=config.batch_size, world_size=world_size, windows=windows, **mixing)
    except ValueError as error:
        raise InputError(f"{config.data}, split {config.split!r}: {error}") from None
