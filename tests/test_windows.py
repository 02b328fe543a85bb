"""Windows of shards: still every sample once an epoch, but from few shards at a time, and known ahead."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import CHUNK, Plan
from pipeline.windows import Windows

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)
WIDTHS, EPOCHS = st.integers(1, 14), st.integers(0, 5)


def windows(counts: list[int], width: int, seed: int = 0, shuffle: bool = True) -> Windows:
    return Windows(np.array(counts), width, seed=seed, shuffle=shuffle)


def order(of: Windows, counts: list[int], epoch: int) -> list[int]:
    return [int(member) for member in of.members(epoch, np.arange(sum(counts)))]


def shard_of(counts: list[int], member: int) -> int:
    return int(np.searchsorted(np.cumsum(counts), member, side="right"))


@given(COUNTS, WIDTHS, EPOCHS)
def test_every_sample_is_seen_once_an_epoch(counts: list[int], width: int, epoch: int) -> None:
    assert sorted(order(windows(counts, width), counts, epoch)) == list(range(sum(counts)))


@given(COUNTS, WIDTHS, EPOCHS, st.booleans())
def test_what_comes_next_is_always_announced(counts: list[int], width: int, epoch: int, shuffle: bool) -> None:
    of = windows(counts, width, shuffle=shuffle)
    members = order(of, counts, epoch) + order(of, counts, epoch + 1)
    announced = set(of.ahead(epoch, 0))
    for position in range(sum(counts)):
        assert shard_of(counts, members[position]) in announced
        now = of.ahead(epoch, position)
        assert shard_of(counts, members[position]) in now[:width]
        assert len(now) <= 2 * width
        announced |= set(now)


@given(COUNTS, WIDTHS, EPOCHS, st.data())
def test_any_part_of_the_order_is_had_without_the_rest(
    counts: list[int], width: int, epoch: int, data: st.DataObject
) -> None:
    of, whole = windows(counts, width), order(windows(counts, width), counts, epoch)
    begin, end = sorted(data.draw(st.tuples(*2 * [st.integers(0, sum(counts))])))
    assert of.members(epoch, np.arange(begin, end)).tolist() == whole[begin:end]


def test_few_shards_are_needed_at_a_time_and_their_samples_are_mixed() -> None:
    counts = [100] * 20
    members = np.array(order(windows(counts, 4), counts, 0))
    for window in members.reshape(5, 400):
        assert len(np.unique(window // 100)) == 4
        assert np.abs(np.diff(window.argsort())).mean() == pytest.approx(400 / 3, rel=0.15)


def test_seeds_and_epochs_have_orders_of_their_own_and_unshuffled_there_is_one() -> None:
    counts = [5, 6, 7]
    orders = {tuple(order(windows(counts, 2, seed), counts, epoch)) for seed in range(9) for epoch in range(9)}
    assert len(orders) == 81
    assert order(windows(counts, 2, shuffle=False), counts, 3) == list(range(18))


def test_a_plan_with_windows_takes_its_batches_from_them() -> None:
    counts = [900] * 12
    of = windows(counts, 2)
    plan = Plan(samples=10_800, batch_size=50, world=2, windows=of)
    whole, across = order(of, counts, 1), CHUNK // 50
    for step in (0, across, plan.steps - 1):
        got = [int(m) for rank in (0, 1) for m in plan.members(1, plan.positions(step, rank))]
        assert got == whole[slice(*plan.bounds(step))]


def test_the_order_is_that_of_every_earlier_version() -> None:
    assert order(windows([3, 4, 3], 2), [3, 4, 3], 0) == [2, 1, 5, 0, 3, 6, 4, 8, 7, 9]
