"""Which shard size for a cluster that reads from an object store or a network: an epoch, simulated on paper.

    python -m bench.scale --samples 400000 --machines 4 --rate 500 --bandwidth 1.25e9

The order and the shards that are fetched ahead are the loader's own (pipeline.order); only time is simulated. What is
assumed:

- All machines are alike and in step. Each fetches every shard once an epoch, whole, because every global batch is
  divided among all ranks; the ranks of a machine share its folder of downloads.
- A machine fetches so many shards at once, in the order in which they are needed: those of this window, then those of
  the next. A request costs the latency, then its bytes; transfers share the machine's bandwidth evenly. One connection
  can fill the line (if yours cannot, give connections times what one carries), and the store has no limits of its own.
- A window is begun when all its shards are there, since its samples are mixed. Batches made ahead are not counted.
- Downloads are kept while there is room. Those used longest ago give way; at the beginning there are none.
- The index, 55 bytes a sample, is there already.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pipeline.order import Windows
from pipeline.remote import THREADS
from shards.errors import InputError, report_errors
from shards.format.schema import COMPONENTS

NOTE = """\
Waiting: share of the time in which training waits for data, the first batch included. Reads: requests to the store, by
all machines, in a second: on average over the first epoch, and the most. Mixed: samples of a window, which are shuffled
together; two windows lie on the disk of each machine. Later epochs are as the second.
Assumed: machines alike and in step, each fetching every shard, whole and ahead of its use, in the loader's own order;
transfers of a machine share its bandwidth; a window begins when all its shards are there; nothing is there at first;
one connection can fill the line, and the store has no limits."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A data set on a network, and who reads it."""

    samples: int = 400_000
    """in the split that is read"""
    sample_bytes: int = 25_000
    """all images of a sample; `python -m shards show` tells it"""
    shards_of: tuple[int, ...] = (100, 300, 1_000, 3_000, 10_000)
    """samples in a shard: the sizes to compare"""
    machines: int = 4
    """each with a disk of its own for downloads"""
    ranks_per_machine: int = 8
    """GPUs, as a rule"""
    rate: float = 500.0
    """samples a second that one rank trains on when it never waits"""
    window: int = 16
    """shards whose samples are mixed, as the loader's; 0 is all"""
    bandwidth: float = 1.25e9
    """bytes a second that reach one machine: 1.25e9 is 10 Gbit/s"""
    latency: float = 0.05
    """seconds from a request to its first byte"""
    connections: int = THREADS
    """shards that a machine fetches at once. A rank's loader has 4 threads for it, but all ranks begin with the same
    shards and wait for each other, so those of a machine have little more"""
    downloads_mib: int = 16_384
    """room for shards on the disk of a machine, as the loader's"""

    def __post_init__(self) -> None:
        least = {"latency": 0.0, "window": 0}
        for name in ("samples", "sample_bytes", "machines", "ranks_per_machine", "connections", "downloads_mib"):
            least[name] = 1
        for name, value in least.items():
            if not getattr(self, name) >= value:
                raise InputError(f"{name}={getattr(self, name)}: at least {value:g} is needed.")
        if not (self.rate > 0 and self.bandwidth > 0 and self.shards_of and min(self.shards_of) > 0):
            raise InputError("rate, bandwidth and shards-of: numbers above 0 are needed.")

    @property
    def demand(self) -> float:
        """Samples a second of all ranks."""
        return self.machines * self.ranks_per_machine * self.rate


class Epoch(NamedTuple):
    """What one epoch takes: seconds in all, in which training waits, and until the first batch; and from the store, by
    all machines, requests, the most of them within a second, and bytes."""

    seconds: float
    waited: float
    first: float
    requests: int
    peak: int
    bytes: int

    @property
    def waiting(self) -> float:
        """Share of the time."""
        return self.waited / self.seconds


def shards_of(samples: int, per_shard: int) -> NDArray[np.int64]:
    """Samples in each shard; the last has the rest."""
    counts = np.full(-(-samples // per_shard), per_shard)
    counts[-1] = samples - per_shard * (len(counts) - 1)
    return counts


def simulate(cluster: Cluster, counts: NDArray[np.int64], epochs: int = 2) -> list[Epoch] | None:
    """Epochs from the first on, of shards with so many samples (S,); None if two windows exceed the downloads' room."""
    width = min(cluster.window or len(counts), len(counts))
    windows = Windows(counts, width, seed=0, shuffle=True)
    machine, sizes = _Machine(cluster, (counts * cluster.sample_bytes).tolist()), counts * cluster.sample_bytes
    found = []
    for epoch in range(epochs):
        began, waits, fetched, position = machine.now, [], dict[int, float](), 0
        for number in range(0, len(counts), width):
            wanted = windows.ahead(epoch, position)
            needed = wanted[: min(width, len(counts) - number)]
            if sizes[wanted].sum() > cluster.downloads_mib << 20:
                return None
            waits.append(machine.wait_for(needed, wanted))
            fetched |= {shard: machine.asked.pop(shard) for shard in needed if shard in machine.asked}
            samples = int(counts[needed].sum())
            machine.run(machine.now + samples / cluster.demand)
            position += samples
        peak = np.unique(np.floor([*fetched.values()]), return_counts=True)[1].max(initial=0)
        totals = [cluster.machines * int(one) for one in (len(fetched), peak, sizes[[*fetched]].sum())]
        found.append(Epoch(machine.now - began, sum(waits), waits[0], *totals))
    return found


class _Machine:
    """The downloads of one machine. `now` in seconds; `asked`: when, for the shards fetched and not yet needed."""

    def __init__(self, cluster: Cluster, sizes: list[int]) -> None:
        self.now, self.asked = 0.0, dict[int, float]()
        self._cluster, self._sizes, self._room = cluster, sizes, cluster.downloads_mib << 20
        self._wanted, self._queue = set[int](), deque[int]()
        self._coming: dict[int, tuple[float, float]] = {}
        """time of the first byte, and bytes left after now"""
        self._there: dict[int, None] = {}
        """used longest ago first"""

    def wait_for(self, needed: list[int], wanted: list[int]) -> float:
        """From now on fetches the `wanted` in this order; on to when all `needed` are there. Returns the seconds."""
        began, self._wanted = self.now, set(wanted)
        for shard in reversed(wanted):
            if shard in self._there:
                self._there[shard] = self._there.pop(shard)
        self._queue = deque(shard for shard in wanted if shard not in self._there and shard not in self._coming)
        missing = set(needed) - self._there.keys()
        while missing:
            missing -= self._on(math.inf)
        return self.now - began

    def run(self, until: float) -> None:
        while self.now < until:
            self._on(until)

    def _on(self, latest: float) -> set[int]:
        """On to when something begins or ends to come, but not beyond `latest`. Returns what has come."""
        while self._queue and len(self._coming) < self._cluster.connections:
            self._ask(self._queue.popleft())
        flowing = {shard: left for shard, (first, left) in self._coming.items() if first <= self.now}
        share = self._cluster.bandwidth / max(1, len(flowing))
        ends = {shard: self.now + left / share for shard, left in flowing.items()}
        begins = (first for first, _ in self._coming.values() if first > self.now)
        then = min([*ends.values(), *begins, latest])
        come = {shard for shard, end in ends.items() if end <= then}
        for shard, left in flowing.items():
            if shard in come:
                del self._coming[shard]
                self._there[shard] = None
            else:
                self._coming[shard] = self.now, left - (then - self.now) * share
        self.now = then
        return come

    def _ask(self, shard: int) -> None:
        while self._room < self._sizes[shard]:
            oldest = next(other for other in self._there if other not in self._wanted)
            del self._there[oldest]
            self._room += self._sizes[oldest]
        self._room -= self._sizes[shard]
        self.asked[shard] = self.now
        self._coming[shard] = self.now + self._cluster.latency, self._sizes[shard]


def best(found: dict[int, list[Epoch] | None]) -> int | None:
    """The size whose epochs take the shortest time; of those within 1 %, the largest, which mixes the most samples."""
    seconds = {size: sum(epoch.seconds for epoch in epochs) for size, epochs in found.items() if epochs}
    return max((size for size in seconds if seconds[size] <= 1.01 * min(seconds.values())), default=None)


def table(cluster: Cluster, found: dict[int, list[Epoch] | None]) -> Table:
    """A row for each size, the best one marked."""
    title = f"{cluster.samples:,} samples of {cluster.sample_bytes:,} bytes, {cluster.machines} machines x "
    title += f"{cluster.ranks_per_machine} ranks, {cluster.demand:,.0f} samples/s, windows of {cluster.window or 'all'}"
    shown = Table("shard of", "MB", "shards", "mixed", "first batch, s", title=title)
    for name in (
        "waiting, 1st epoch",
        "2nd epoch",
        "reads/s",
        "peak",
        "GB read, 1st epoch",
        "2nd epoch",
        "two windows, GB",
    ):
        shown.add_column(name)
    for size, epochs in found.items():
        shown.add_row(*_cells(cluster, size, epochs), style="bold green" if size == best(found) else None)
    return shown


def _cells(cluster: Cluster, size: int, epochs: list[Epoch] | None) -> list[str]:
    shard, shards = size * cluster.sample_bytes, -(-cluster.samples // size)
    mixed = min((cluster.window or shards) * size, cluster.samples)
    disk = f"{min(2 * mixed, cluster.samples) * cluster.sample_bytes / 1e9:,.2f}"
    cells = [f"{size:,}", f"{shard / 1e6:,.1f}", f"{shards:,}", f"{mixed:,}"]
    if not epochs:
        return [*cells, *["no room"] * 7, disk]
    first, later = epochs
    cells += [f"{first.first:.2f}", f"{first.waiting:.1%}", f"{later.waiting:.1%}"]
    cells += [f"{first.requests / first.seconds:,.1f}", f"{first.peak:,}"]
    return [*cells, f"{first.bytes / 1e9:,.1f}", f"{later.bytes / 1e9:,.1f}", disk]


def main(cluster: Cluster) -> None:
    found = {size: simulate(cluster, shards_of(cluster.samples, size)) for size in cluster.shards_of}
    console = Console(width=140, highlight=False)
    console.print(table(cluster, found))
    choice, images = best(found), cluster.demand * len(COMPONENTS)
    console.print(
        f"Choose --samples-per-shard {choice}: the shortest epochs; of those within 1 %, the most mixed."
        if choice
        else "No room: two windows exceed --downloads-mib."
    )
    console.print(
        f"For comparison, single images read at random: {images:,.0f} reads/s, {images * cluster.latency:,.0f} of them "
        f"under way at any time, {cluster.samples * len(COMPONENTS):,} an epoch.",
        NOTE,
        sep="\n",
    )


if __name__ == "__main__":
    with report_errors():
        main(tyro.cli(Cluster, description=__doc__))
