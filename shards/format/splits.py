"""Which samples are for training, validation and test: decided by their names alone, whatever order they come in."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.schema import identity


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How samples are divided into train, val and test."""

    split_by: Literal["key", "identity"] = "key"
    """key: every sample for itself, so figures and backgrounds recur in all splits (as in 2020). identity: figures and
    backgrounds are divided, and a split holds the samples whose figure and background are both its own; the others
    are in none"""
    val_share: float = 0.1
    """share of the samples (or identities) that is for validation"""
    test_share: float = 0.1
    """share of the samples (or identities) that is for the test"""
    split_seed: int = 0
    """another seed, another division"""

    def __post_init__(self) -> None:
        if min(self.val_share, self.test_share) < 0 or self.val_share + self.test_share >= 1:
            shares = f"val-share {self.val_share} and test-share {self.test_share}"
            raise InputError(f"{shares}: numbers from 0 with a sum under 1 are needed.")


def unit_interval(text: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but `text` and `seed`: 53 bits of their BLAKE2b digest."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, salt=seed.to_bytes(8, "little")).digest()
    return (int.from_bytes(digest, "little") >> 11) / (1 << 53)


def split_numbers(keys: Iterable[str], config: SplitConfig) -> NDArray[np.int8]:
    """For each key 0 (train), 1 (val), 2 (test) or -1 (none), int8 (N,).

    Raises InputError if splitting by identity and a key does not tell its figure and background.
    """
    if config.split_by == "key":
        return _by_rank(keys, config)
    keys = list(keys)
    found = [identity(key) for key in keys]
    if None in found:
        raise InputError(
            f"sample {keys[found.index(None)]!r} does not tell its background and figure "
            "(combined_s1_p2_it3 does), so it cannot be split by identity. Split by key."
        )
    known = [one for one in found if one]
    figures = _of_identities([one.fg for one in known], "fg", config)
    backgrounds = _of_identities([one.bg for one in known], "bg", config)
    return np.where(figures == backgrounds, figures, np.int8(-1))


def _of_identities(names: list[str], kind: str, config: SplitConfig) -> NDArray[np.int8]:
    distinct, member = np.unique(np.array(names), return_inverse=True)
    return _by_rank([f"{kind} {name}" for name in distinct], config)[member]


def _by_rank(names: Iterable[str], config: SplitConfig) -> NDArray[np.int8]:
    """Divides by the rank of each name's hash: shares are exact even where there are few."""
    order = np.argsort(np.fromiter((unit_interval(name, config.split_seed) for name in names), float), kind="stable")
    test, val = round(len(order) * config.test_share), round(len(order) * config.val_share)
    numbers = np.zeros(len(order), dtype=np.int8)
    numbers[order[:test]] = 2
    numbers[order[test : test + val]] = 1
    return numbers
