"""What the loader did, what it spent its time on, and how long the trainer waited for it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, Literal, get_args

Stage = Literal["read", "decode", "resize", "gather", "transfer"]
"""reading the tars (or waiting for a remote shard), decoding to pixels, resizing to the batch's size, gathering from
bank and cache, copying to the device; on CUDA the last includes all that was begun there"""


@dataclass(kw_only=True)
class Stats:
    """What one rank's loader did since it was made, or since some moment."""

    num_threads: int
    batches: int = 0
    samples: int = 0
    waited: float = 0.0
    """seconds spent inside the loader while the trainer had nothing to do"""
    bad: int = 0
    """samples that did not decode and were replaced"""
    seconds: float = 0.0
    spent: dict[Stage, float] = field(default_factory=dict)
    """seconds in each stage, of all threads together"""

    def since(self, earlier: "Stats") -> "Stats":
        """Return what was done after `earlier`."""
        counts = ("batches", "samples", "waited", "bad", "seconds")
        done: dict[str, Any] = {name: getattr(self, name) - getattr(earlier, name) for name in counts}
        spent = {stage: seconds - earlier.spent[stage] for stage, seconds in self.spent.items()}
        return replace(self, spent=spent, **done)

    @property
    def samples_per_second(self) -> float:
        return self.samples / self.seconds

    @property
    def waiting_share(self) -> float:
        """Share of the time that the trainer waited."""
        return self.waited / self.seconds

    @property
    def busy(self) -> dict[Stage, float]:
        """Share of the threads' time that each stage took."""
        return {stage: seconds / (self.seconds * self.num_threads) for stage, seconds in self.spent.items()}

    def __str__(self) -> str:
        """Say whether the data kept up, and which stage took longest: the one to look at if they did not."""
        verdict = "data kept up" if self.waiting_share < 0.05 else "training waited for data"
        limit, busy = max(self.busy.items(), key=lambda item: item[1])
        return f"{verdict}: {self.waiting_share:.1%} of the time waited; the limit is {limit} ({busy:.0%} busy)"


class Stopwatch:
    """Add up the seconds that several threads spend in each stage, in `spent`."""

    def __init__(self) -> None:
        self.spent: dict[Stage, float] = dict.fromkeys(get_args(Stage), 0.0)
        self._lock = Lock()

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Count the seconds in which the context is entered as spent in `stage`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begin
            with self._lock:
                self.spent[stage] += seconds
