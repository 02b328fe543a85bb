"""How samples are divided into shards, and by their keys alone into train, val and test."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.fields import Checked, Count, Seed, Share
from shards.format.schema import identity

SPLITS = ("train", "val", "test")
COUNTED = 4_000
"""Samples whose pixels are counted for the statistics, at most: the mean of 4,000 is within 0.003 of that of all."""


@dataclass(frozen=True, kw_only=True)
class SplitConfig(Checked):
    """How samples are divided into train, val and test."""

    split_by: Literal["key", "identity"] = "key"
    """key: each sample for itself, figures recur in all splits. identity: no figure or background is in two splits"""
    val_share: Share = 0.1
    """share of the samples (or identities) that is for validation"""
    test_share: Share = 0.1
    """share of the samples (or identities) that is for the test"""
    split_seed: Seed = 0
    """another seed, another division"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_share + self.test_share >= 1:
            shares = f"val-share {self.val_share} and test-share {self.test_share}"
            raise InputError(f"{shares}: numbers from 0 with a sum under 1 are needed.")


@dataclass(frozen=True, kw_only=True)
class DivisionConfig(SplitConfig):
    """How samples are divided into shards, and into train, val and test."""

    samples_per_shard: Count = 1000
    """about 25 MB a shard at 160 px: one request to an object store, and fine enough to spread over ranks"""


def counted_samples(begin: int, size: int, total: int, at_most: int) -> range:
    """Choose the samples whose pixels are counted: `at_most` spread evenly over `total`.

    Returns the numbers, from 0 to `size`, of those among the `size` samples that begin at `begin`.
    """
    every = -(-total // at_most)
    return range(-begin % every, size, every)


def unit_interval(text: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on nothing but `text` and `seed`: 53 bits of their BLAKE2b digest."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, salt=seed.to_bytes(8, "little")).digest()
    return (int.from_bytes(digest, "little") >> 11) / (1 << 53)


def split_numbers(keys: Iterable[str], config: SplitConfig) -> NDArray[np.int8]:
    """Divide the samples: for each key its number in SPLITS, or -1 for none, int8 (N,).

    Raises InputError if splitting by identity and a key does not tell its figure and background.
    """
    if config.split_by == "key":
        return _by_rank(keys, config)
    found = {key: identity(key) for key in keys}
    known = [one for one in found.values() if one]
    if len(known) < len(found):
        unknown = next(key for key, one in found.items() if one is None)
        raise InputError(
            f"sample {unknown!r} does not tell its background and figure "
            "(combined_s1_p2_it3 does), so it cannot be split by identity. Split by key."
        )
    figures = _by_name([f"fg {one.fg}" for one in known], config)
    backgrounds = _by_name([f"bg {one.bg}" for one in known], config)
    return np.where(figures == backgrounds, figures, np.int8(-1))


def _by_name(names: list[str], config: SplitConfig) -> NDArray[np.int8]:
    distinct, number = np.unique(np.array(names), return_inverse=True)
    return _by_rank(distinct.tolist(), config)[number]


def _by_rank(names: Iterable[str], config: SplitConfig) -> NDArray[np.int8]:
    """Divide by the rank of each name's hash: shares are exact even where there are few."""
    order = np.argsort(np.fromiter((unit_interval(name, config.split_seed) for name in names), float), kind="stable")
    test, val = round(len(order) * config.test_share), round(len(order) * config.val_share)
    numbers = np.zeros(len(order), dtype=np.int8)
    numbers[order[:test]] = 2
    numbers[order[test : test + val]] = 1
    return numbers
