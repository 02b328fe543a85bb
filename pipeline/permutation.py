"""A keyed permutation of any length, of which any part is had without the rest."""

import hashlib

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]

_ROUNDS = 6


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
