"""What the loader did, what it spent its time on, and how long the trainer waited for it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Literal, get_args

Stage = Literal["read", "decode", "resize", "gather", "transfer"]
"""reading the tars (or waiting for a remote shard), decoding to pixels, resizing to the batch's size, gathering from
bank and cache, copying to the device; on CUDA the last includes all that was begun there"""

KEEPS_UP = 0.05
"""share of the time waited, below which the data keep up"""


@dataclass(frozen=True, kw_only=True)
class Stats:
    """What one rank's loader did since it was made, or since some moment."""

    batches: int
    samples: int
    waited: float
    """seconds spent inside the loader while the trainer had nothing to do"""
    bad: int
    """samples that did not decode and were replaced"""
    seconds: float
    num_threads: int
    spent: dict[Stage, float]
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

    @property
    def limit(self) -> Stage:
        """The stage that took longest: the one to look at if the data do not keep up."""
        return max(self.spent, key=lambda stage: self.spent[stage])

    def __str__(self) -> str:
        verdict = "data kept up" if self.waiting_share < KEEPS_UP else "training waited for data"
        busy = self.busy[self.limit]
        return f"{verdict}: {self.waiting_share:.1%} of the time waited; the limit is {self.limit} ({busy:.0%} busy)"


class Stopwatch:
    """Add up the seconds that several threads spend in each stage."""

    def __init__(self) -> None:
        self._spent: dict[Stage, float] = dict.fromkeys(get_args(Stage), 0.0)
        self._lock = Lock()

    @property
    def spent(self) -> dict[Stage, float]:
        """Seconds by stage."""
        with self._lock:
            return dict(self._spent)

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Count the seconds in which the context is entered as spent in `stage`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begin
            with self._lock:
                self._spent[stage] += seconds
