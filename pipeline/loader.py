"""Loader: the batches of a split, in the plan's order, made ahead on several threads; resumable to the batch."""

import itertools
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from pipeline.batch import Batch
from pipeline.decode import Decode, chosen
from pipeline.make import BatchMaker
from pipeline.plan import Plan
from shards.errors import InputError
from shards.manifest import Dataset

__all__ = ["Loader", "LoaderConfig", "Stats"]


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """What is read, in which order, and how it is decoded."""

    data: Path
    """folder that holds the data set"""
    split: str = "train"
    size: int = 64
    """height and width of the images in a batch, pixels; 0 leaves them as they are stored"""
    batch_size: int = 32
    """samples in a global batch, all ranks together"""
    shuffle: bool = True
    seed: int = 0
    """decides the order of every epoch"""
    decode: Decode = "auto"
    """gpu and cpu are DALI, portable is Pillow; auto is the first of these that the machine has"""
    threads: int = 0
    """threads of this rank that decode, each a batch of its own; 0 is one a core, shared among the ranks here"""
    ahead: int = 2
    """batches a thread decodes ahead of the one that is handed over"""
    bank_mib: int = 1024
    """memory on the device for images that many samples share; if they need more they are decoded for every sample"""
    max_bad: int = 100
    """samples that may fail to decode before the run is stopped"""

    def __post_init__(self) -> None:
        for name, least in (
            ("size", 0),
            ("batch_size", 1),
            ("threads", 0),
            ("ahead", 1),
            ("bank_mib", 0),
            ("max_bad", 0),
        ):
            if getattr(self, name) < least:
                raise InputError(f"{name}={getattr(self, name)}: at least {least} is needed.")


@dataclass
class Stats:
    """What was handed over, and how long the trainer waited for it."""

    batches: int = 0
    samples: int = 0
    waited: float = 0.0
    """seconds spent inside the loader while the trainer had nothing to do"""
    bad: int = 0
    """samples that did not decode and were replaced"""


class Loader:
    """Iterates over the batches of one rank, an epoch an iteration, and knows where it is.

    Iterating again begins the next epoch; after `load_state_dict` it goes on with the batch that would have come next.
    A sample that does not decode is replaced by a stand-in, the same one in every run.
    """

    def __init__(
        self, config: LoaderConfig, *, rank: int = 0, world: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        """Raises InputError if the data set or a file of it is missing, or if the split is too small for `world`."""
        self.config, self.rank, self.device = config, rank, torch.device(device)
        self.dataset = Dataset.open(config.data)
        self.decode = chosen(config.decode, self.device)
        self.plan = _plan(config, len(self.dataset.split(config.split)), world)
        self.stats = Stats()
        threads = config.threads or _cores()
        self._maker = BatchMaker(
            self.dataset,
            config.split,
            self.plan,
            size=config.size or None,
            decode=self.decode,
            decoders=threads,
            device=self.device,
            bank_bytes=config.bank_mib << 20,
            max_bad=config.max_bad,
        )
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="loader")
        self._ahead = threads * config.ahead
        self._epoch = self._step = 0
        self._iteration: object = None
        self._resumed = True

    def __len__(self) -> int:
        """Batches in an epoch, the same on every rank."""
        return self.plan.steps

    def __iter__(self) -> Iterator[Batch]:
        if not self._resumed:
            self._epoch, self._step = self._epoch + 1, 0
        self._resumed, self._iteration = False, object()
        return self._batches(self._epoch, self._step, self._iteration)

    def _batches(self, epoch: int, first: int, iteration: object) -> Iterator[Batch]:
        steps = iter(range(first, len(self)))
        futures = deque(self._submit(epoch, step) for step in itertools.islice(steps, self._ahead))
        try:
            while futures:
                batch = self._waited_for(futures.popleft())
                futures.extend(self._submit(epoch, step) for step in itertools.islice(steps, 1))
                if iteration is not self._iteration:
                    raise RuntimeError("this loader has begun another iteration; it has one place at a time")
                self._step += 1
                yield batch
        finally:
            for future in futures:
                future.cancel()

    def _submit(self, epoch: int, step: int) -> "Future[Batch]":
        return self._pool.submit(self._maker.make, epoch, step, self.rank)

    def _waited_for(self, future: "Future[Batch]") -> Batch:
        begin = time.perf_counter()
        batch = future.result()
        self.stats.waited += time.perf_counter() - begin
        self.stats.batches += 1
        self.stats.samples += len(batch.row)
        self.stats.bad = len(self._maker.bad)
        if self.device.type == "cuda":
            _hand_over(batch)
        return batch

    def weight(self, batch: Batch) -> float:
        """What the mean over the batch handed over last counts in the mean of the ranks' means: 1 but for odd rests."""
        begin, end = self.plan.bounds(self._step - 1)
        return len(batch.row) * self.plan.world / (end - begin)

    @property
    def epoch(self) -> int:
        """The epoch that is under way, or comes first, from 0."""
        return self._epoch

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is, in integers and names: samples handed over count, those decoded ahead do not."""
        seen = self.plan.bounds(self._step - 1)[1] if self._step else 0
        return {"epoch": self._epoch, "seen": seen, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration goes on from there, on any number of ranks, with the same global batches.

        Raises InputError if the state is of other data, another order or other batches.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise InputError(
                    f"the saved place is in {name}={state.get(name)}, but this loader has {name}={value}. "
                    "Go on with the same data, split, seed and batch size, or begin a new run."
                )
        step = len(self) if state["seen"] == self.plan.samples else state["seen"] // self.config.batch_size
        self._epoch, self._step = divmod(state["epoch"] * len(self) + step, len(self))
        self._resumed = True

    def _identity(self) -> dict[str, Any]:
        config = self.config
        return {
            "data": self.dataset.manifest.made_from,
            "split": config.split,
            "samples": self.plan.samples,
            "batch_size": config.batch_size,
            "shuffle": config.shuffle,
            "seed": config.seed,
        }

    def close(self) -> None:
        """Ends the threads. The loader cannot be used afterwards."""
        self._iteration = None
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _hand_over(batch: Batch) -> None:
    """Keeps a batch's memory on CUDA from being used again before what the trainer has begun with it is done."""
    for tensor in batch:
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))


def _plan(config: LoaderConfig, samples: int, world: int) -> Plan:
    try:
        return Plan(
            samples=samples, batch_size=config.batch_size, world=world, seed=config.seed, shuffle=config.shuffle
        )
    except ValueError as error:
        raise InputError(f"{config.data}, split {config.split!r}: {error}") from None


def _cores() -> int:
    """Cores for this rank, where torchrun started several on this machine."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
