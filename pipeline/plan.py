"""Which samples, in what order, on which rank: arithmetic on a few integers, with no state and no memory.

An epoch is a permutation of the split's samples. The global batch at step t is a slice of it, and each rank takes its
part of the slice. So every rank makes the same number of steps, every sample is seen exactly once an epoch, and
another number of ranks sees the same global batches.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Plan", "permuted"]

Positions = NDArray[np.int64]

_ROUNDS = 6


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The order of `samples` samples in global batches of `batch_size`, on `world` ranks."""

    samples: int
    batch_size: int
    world: int = 1
    seed: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.world <= min(self.samples, self.batch_size):
            raise ValueError(
                f"{self.samples} samples in batches of {self.batch_size} cannot be divided among {self.world} ranks: "
                "each needs at least one sample of every batch."
            )

    @property
    def steps(self) -> int:
        """Global batches in an epoch. A rest too small to give each rank a sample joins the last full batch."""
        full, rest = divmod(self.samples, self.batch_size)
        return full + (rest >= self.world)

    @property
    def largest(self) -> int:
        """Samples in a rank's largest batch."""
        return -(-(self.batch_size + self.world - 1) // self.world)

    def bounds(self, step: int) -> tuple[int, int]:
        """Where the global batch of `step` begins and ends in the epoch's order."""
        begin = step * self.batch_size
        return begin, self.samples if step == self.steps - 1 else begin + self.batch_size

    def positions(self, step: int, rank: int) -> Positions:
        """Places in the epoch's order of the samples that `rank` has at `step`, int64 (N,)."""
        begin, end = self.bounds(step)
        share = [begin + (end - begin) * r // self.world for r in (rank, rank + 1)]
        return np.arange(*share)

    def members(self, epoch: int, positions: Positions) -> Positions:
        """Which samples of the split stand at these places of the epoch's order, int64 (N,)."""
        return permuted(positions, self.samples, f"{self.seed} {epoch}") if self.shuffle else positions.copy()

    def stand_in(self, epoch: int, position: int, attempt: int) -> int:
        """Which sample takes the place of a bad one: anyone, but the same one whenever it is asked for."""
        order = f"{self.seed} {epoch} stand-in {attempt}"
        return int(permuted(np.array([position]), self.samples, order)[0])


def permuted(positions: Positions, length: int, order: str) -> Positions:
    """The values at `positions` of a permutation of range(length) that is chosen by the text `order`, int64 (N,).

    A Feistel network over the smallest power of two that holds `length`, applied until the value is in range (cycle
    walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). Unlike a shuffled array it costs no
    memory and no start-up at any length, and unlike a library's shuffle it never changes with the library's version:
    a run resumed years later sees the order it began with.
    """
    bits = max(2, (length - 1).bit_length())
    keys = np.frombuffer(hashlib.blake2b(order.encode(), digest_size=8 * _ROUNDS).digest(), "<u8")
    values = _feistel(positions.astype(np.uint64), bits, keys)
    while (outside := values >= length).any():
        values[outside] = _feistel(values[outside], bits, keys)
    return values.astype(np.int64)


def _feistel(values: NDArray[np.uint64], bits: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Swaps the halves in each round, so an odd number of bits works: after an even number all is in place again."""
    widths = (np.uint64(bits // 2), np.uint64(bits - bits // 2))
    left, right = values >> widths[1], values & _ones(widths[1])
    for i, key in enumerate(keys):
        left, right = right, left ^ (_mixed(right ^ key) & _ones(widths[i % 2]))
    return (left << widths[1]) | right


def _ones(width: np.uint64) -> np.uint64:
    return (np.uint64(1) << width) - np.uint64(1)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
