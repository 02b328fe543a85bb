"""An order for shards that are slow to reach: few of them are needed at a time, and it is known which come next."""

import numpy as np
from numpy.typing import NDArray

from pipeline.permutation import Positions, permuted


class Windows:
    """Shards in random order; within each window of so many successive ones, all their samples in random order.

    Like the order of the whole it is arithmetic: its memory is a few integers a shard.
    """

    def __init__(self, counts: NDArray[np.int64], width: int, *, seed: int, shuffle: bool) -> None:
        """`counts`: samples of the split in each shard (S,), its samples numbered shard by shard. `width`: in shards.

        Shards without samples of the split are in no window. Without `shuffle` the samples come as they are numbered,
        and the windows only say what is needed when.
        """
        self._numbers, self._width, self._seed, self._shuffle = np.flatnonzero(counts), width, seed, shuffle
        self._counts = counts[self._numbers]
        self._first = np.cumsum(self._counts) - self._counts
        self._last_order: tuple[int, Positions, Positions] | None = None

    def members(self, epoch: int, positions: Positions) -> Positions:
        """Which samples of the split stand at these places of the epoch's order, int64 (N,)."""
        if not self._shuffle:
            return positions
        shards, begins = self._order(epoch)
        mixed = np.empty_like(positions)
        windows = self._windows(begins, positions)
        for window in np.unique(windows).tolist():
            inside = windows == window
            least, end = begins[window * self._width], begins[min((window + 1) * self._width, len(shards))]
            order = f"{self._seed} {epoch} window {window}"
            mixed[inside] = permuted(positions[inside] - least, int(end - least), order) + least
        at = np.searchsorted(begins, mixed, side="right") - 1
        return self._first[shards[at]] + mixed - begins[at]

    def ahead(self, epoch: int, position: int) -> list[int]:
        """The shards that this place's window needs, then those of the window after it, be it in the next epoch."""
        shards, begins = self._order(epoch)
        begin = int(self._windows(begins, np.array([position]))[0]) * self._width
        here, after = shards[begin : begin + self._width], shards[begin + self._width : begin + 2 * self._width]
        if not len(after):
            after = self._order(epoch + 1)[0][: self._width]
        return list(dict.fromkeys(self._numbers[np.concatenate([here, after])].tolist()))

    def _windows(self, begins: Positions, positions: Positions) -> Positions:
        return np.searchsorted(begins[: -1 : self._width], positions, side="right") - 1

    def _order(self, epoch: int) -> tuple[Positions, Positions]:
        """The epoch's shards in order (S,), and the place at which each begins and the last one ends (S + 1,)."""
        known = self._last_order
        if not known or known[0] != epoch:
            shards = np.arange(len(self._counts))
            if self._shuffle:
                shards = permuted(shards, len(shards), f"{self._seed} {epoch} shards")
            known = self._last_order = epoch, shards, np.concatenate([[0], np.cumsum(self._counts[shards])])
        return known[1:]
