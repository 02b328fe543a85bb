"""Which samples, in what order, on which rank: arithmetic on a few integers, with no state and no memory.

An epoch is a permutation of the split's samples. The global batch at step t is a slice of it, and each rank takes its
part of the slice. So every rank makes the same number of steps, every sample is seen exactly once an epoch, and
another number of ranks sees the same global batches.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipeline.permutation import Positions, permuted
from pipeline.windows import Windows

CHUNK = 4096
"""places of the order that are computed together: 64 alone take 0.25 ms, these 0.35 ms"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The order of `samples` samples in global batches of `batch_size`, on `world` ranks.

    windows: the order where shards are slow to reach; without it any sample may follow any other.
    """

    samples: int
    batch_size: int
    world: int = 1
    seed: int = 0
    shuffle: bool = True
    windows: Windows | None = None

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
        """Which samples of the split stand at these successive places of the epoch's order, int64 (N,)."""
        first, last = int(positions[0]) // CHUNK, int(positions[-1]) // CHUNK
        chunks = [_chunk(self, epoch, number) for number in range(first, last + 1)]
        return np.concatenate(chunks)[positions - first * CHUNK]

    def substitute(self, epoch: int, position: int, attempt: int) -> int:
        """Which sample takes the place of a bad one: anyone, but the same one whenever it is asked for."""
        order = f"{self.seed} {epoch} stand-in {attempt}"
        return int(permuted(np.array([position]), self.samples, order)[0])


@lru_cache(maxsize=64)
def _chunk(plan: Plan, epoch: int, number: int) -> Positions:
    """The members at places number * CHUNK and following."""
    positions = np.arange(number * CHUNK, min((number + 1) * CHUNK, plan.samples))
    if plan.windows:
        return plan.windows.members(epoch, positions)
    return permuted(positions, plan.samples, f"{plan.seed} {epoch}") if plan.shuffle else positions
