"""Splits: disjoint, of the shares asked for, by names alone; by identity nothing recurs between them."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import InputError
from shards.format.schema import identity, sample_key
from shards.format.splits import SplitConfig, split_numbers, unit_interval

KEYS = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=60, unique=True)
SHARES = st.tuples(st.floats(0, 0.45), st.floats(0, 0.45))


def config(shares: tuple[float, float], seed: int = 0, **options: str) -> SplitConfig:
    return SplitConfig(val_share=shares[0], test_share=shares[1], split_seed=seed, **options)  # type: ignore[arg-type]


def grid(backgrounds: int, figures: int, rounds: int = 3) -> list[str]:
    return [sample_key(b, f, r) for b in range(backgrounds) for f in range(figures) for r in range(rounds)]


@given(KEYS, SHARES)
def test_shares_are_exact(keys: list[str], shares: tuple[float, float]) -> None:
    numbers = split_numbers(keys, config(shares)).tolist()
    assert numbers.count(1) == round(len(keys) * shares[0])
    assert numbers.count(2) == round(len(keys) * shares[1])
    assert numbers.count(0) == len(keys) - numbers.count(1) - numbers.count(2)


@given(KEYS, SHARES, st.randoms())
def test_a_split_does_not_depend_on_the_order_of_the_samples(
    keys: list[str], shares: tuple[float, float], random: Random
) -> None:
    shuffled = random.sample(keys, len(keys))
    found = [dict(zip(some, split_numbers(some, config(shares)), strict=True)) for some in (keys, shuffled)]
    assert found[0] == found[1]


def test_another_seed_is_another_division() -> None:
    keys = grid(10, 10)
    assert len({split_numbers(keys, config((0.2, 0.2), seed)).tobytes() for seed in range(10)}) == 10


def test_the_division_is_that_of_every_earlier_version() -> None:
    assert unit_interval("combined_s1_p2_it3", 0) == 0.7628831512865041
    assert split_numbers(grid(2, 5, 1), config((0.2, 0.2))).tolist() == [0, 1, 2, 0, 0, 0, 0, 0, 2, 1]


@given(st.integers(3, 12), st.integers(3, 12), st.integers(0, 99))
def test_by_identity_no_figure_and_no_background_is_in_two_splits(backgrounds: int, figures: int, seed: int) -> None:
    keys = grid(backgrounds, figures)
    numbers = split_numbers(keys, config((0.3, 0.3), seed, split_by="identity"))
    for kind in ("fg", "bg"):
        of_split = [{getattr(identity(keys[row]), kind) for row in np.flatnonzero(numbers == i)} for i in range(3)]
        assert all(of_split)
        assert sum(map(len, of_split)) == len(set.union(*of_split))


def test_by_identity_names_that_tell_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"'sofa' does not tell its background and figure"):
        split_numbers([sample_key(1, 2, 3), "sofa"], SplitConfig(split_by="identity"))


@pytest.mark.parametrize("shares", [(0.5, 0.5), (-0.1, 0.1), (0.1, -0.1)])
def test_shares_that_leave_nothing_to_train_on_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(InputError, match=r"a sum under 1|a number from 0 to 1"):
        config(shares)
