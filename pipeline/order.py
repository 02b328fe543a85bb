"""Which samples, in what order, on which rank: arithmetic on a few integers, with no state and no memory.

An epoch is a permutation of the split's samples. The global batch at step t is a slice of it, and each rank takes its
part of the slice. So every rank makes the same number of steps, every sample is seen exactly once an epoch, and
another number of ranks sees the same global batches.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
"""int64 (N,): numbers of samples within their split, or places in the order of an epoch"""

CHUNK = 4096
"""places of the order that are computed together: so many take hardly longer than one batch's"""
_ROUNDS = 6


class Windows:
    """Shards in random order; within each window of so many successive ones, all their samples in random order.

    For shards that are slow to reach: few of them are needed at a time, and it is known which come next. Memory is a
    few integers a shard.
    """

    def __init__(self, counts: NDArray[np.int64], width: int, *, seed: int, shuffle: bool) -> None:
        """`counts`: samples of the split in each shard (S,), its samples numbered shard by shard. `width`: in shards.

        Shards without samples of the split are in no window. Without `shuffle` the samples come as they are numbered,
        and the windows only say what is needed when.
        """
        self._numbers, self._width, self._seed, self._shuffle = np.flatnonzero(counts), width, seed, shuffle
        self._counts = counts[self._numbers]
        self._first = np.cumsum(self._counts) - self._counts
        self._shards = lru_cache(maxsize=2)(self._shards_of)

    def indices(self, epoch: int, positions: Indices) -> Indices:
        """Return which samples of the split stand at these places of the epoch's order, int64 (N,)."""
        if not self._shuffle:
            return positions
        shards, begins = self._shards(epoch)
        mixed = np.empty_like(positions)
        windows = (np.searchsorted(begins, positions, side="right") - 1) // self._width
        for window in np.unique(windows).tolist():
            inside = windows == window
            least, end = begins[window * self._width], begins[min((window + 1) * self._width, len(shards))]
            key = f"{self._seed} {epoch} window {window}"
            mixed[inside] = permuted(positions[inside] - least, int(end - least), key) + least
        at = np.searchsorted(begins, mixed, side="right") - 1
        return self._first[shards[at]] + mixed - begins[at]

    def ahead(self, epoch: int, position: int) -> list[int]:
        """Return the shards that this place's window needs, then those of the next window, be it in the next epoch."""
        shards, begins = self._shards(epoch)
        begin = (int(np.searchsorted(begins, position, side="right")) - 1) // self._width * self._width
        here, after = shards[begin : begin + self._width], shards[begin + self._width : begin + 2 * self._width]
        if not len(after):
            after = self._shards(epoch + 1)[0][: self._width]
        return list(dict.fromkeys(self._numbers[np.concatenate([here, after])].tolist()))

    def _shards_of(self, epoch: int) -> tuple[Indices, Indices]:
        """Return the epoch's shards in order (S,), and where in it each begins and the last one ends (S + 1,)."""
        shards = np.arange(len(self._counts))
        if self._shuffle:
            shards = permuted(shards, len(shards), f"{self._seed} {epoch} shards")
        return shards, np.concatenate([[0], np.cumsum(self._counts[shards])])


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of `samples` samples in global batches of `batch_size`, on `world_size` ranks.

    windows: the order where shards are slow to reach; without it any sample may follow any other.
    """

    samples: int
    batch_size: int
    world_size: int = 1
    seed: int = 0
    shuffle: bool = True
    windows: Windows | None = None

    def __post_init__(self) -> None:
        if min(self.samples, self.batch_size, self.world_size) < 1 or self.smallest < 1:
            raise ValueError(
                f"{self.samples} samples in batches of {self.batch_size} cannot be divided among {self.world_size} "
                "ranks: each needs at least one sample of every batch, of which the last two may be half as large."
            )

    @property
    def steps(self) -> int:
        """Global batches in an epoch."""
        return -(-self.samples // self.batch_size)

    @property
    def largest(self) -> int:
        """Samples in a rank's largest batch."""
        return -(-self.batch_size // self.world_size)

    @property
    def smallest(self) -> int:
        """Samples in a rank's smallest batch."""
        begin, end = self.bounds(self.steps - 1)
        return (end - begin) // self.world_size

    def bounds(self, step: int) -> tuple[int, int]:
        """Return where the global batch of `step` begins and ends in the epoch's order."""
        return self._begin(step), self._begin(step + 1)

    def _begin(self, step: int) -> int:
        """Return where the global batch of `step` begins.

        The last two share what is left, whatever the number of ranks: a rest of a few samples would be a step like any
        other on hardly any data, and of a single sample batch norm can have no statistics.
        """
        if step == self.steps:
            return self.samples
        if 0 < step == self.steps - 1:
            return ((step - 1) * self.batch_size + self.samples + 1) // 2
        return step * self.batch_size

    def positions(self, step: int, rank: int) -> Indices:
        """Return the places in the epoch's order of the samples that `rank` has at `step`, int64 (N,)."""
        begin, end = self.bounds(step)
        return np.arange(*(begin + (end - begin) * r // self.world_size for r in (rank, rank + 1)))

    def indices(self, epoch: int, positions: Indices) -> Indices:
        """Return which samples of the split stand at these successive places of the epoch's order, int64 (N,)."""
        first, last = int(positions[0]) // CHUNK, int(positions[-1]) // CHUNK
        chunks = [_chunk(self, epoch, number) for number in range(first, last + 1)]
        return np.concatenate(chunks)[positions - first * CHUNK]

    def substitute(self, epoch: int, position: int, attempt: int) -> int:
        """Return which sample takes the place of a bad one: any, but the same one whenever it is asked for."""
        return int(permuted(np.array([position]), self.samples, f"{self.seed} {epoch} stand-in {attempt}")[0])


@lru_cache(maxsize=64)
def _chunk(order: Order, epoch: int, number: int) -> Indices:
    """Return the indices at places number * CHUNK and following."""
    positions = np.arange(number * CHUNK, min((number + 1) * CHUNK, order.samples))
    if order.windows:
        return order.windows.indices(epoch, positions)
    return permuted(positions, order.samples, f"{order.seed} {epoch}") if order.shuffle else positions


def permuted(positions: Indices, length: int, key: str) -> Indices:
    """Return the values at `positions` of the permutation of range(length) that `key` chooses, int64 (N,).

    A Feistel network over the smallest power of two that holds `length`, applied until the value is in range (cycle
    walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). Unlike a shuffled array it costs no
    memory and no start-up at any length, and unlike a library's shuffle it never changes with the library's version:
    a run resumed years later sees the order it began with.
    """
    bits = max(2, (length - 1).bit_length())
    keys = np.frombuffer(hashlib.blake2b(key.encode(), digest_size=8 * _ROUNDS).digest(), "<u8")
    values = _feistel(positions.astype(np.uint64), bits, keys)
    while (outside := values >= length).any():
        values[outside] = _feistel(values[outside], bits, keys)
    return values.astype(np.int64)


def _feistel(values: NDArray[np.uint64], bits: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Swap the halves in each round, so an odd number of bits works: after an even number all is in place again.

    A half is mixed by the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
    """
    widths = np.uint64(bits // 2), np.uint64(bits - bits // 2)
    left, right = values >> widths[1], values & ((1 << widths[1]) - 1)
    for i, key in enumerate(keys):
        mixed = right ^ key
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB
        left, right = right, left ^ ((mixed ^ (mixed >> 31)) & ((1 << widths[i % 2]) - 1))
    return (left << widths[1]) | right
