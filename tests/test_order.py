"""The order: every sample once an epoch, whatever the ranks, batches, length and windows; and it never changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.order import CHUNK, Order, Windows, permuted

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)
WIDTHS, EPOCHS = st.integers(1, 14), st.integers(0, 5)


@st.composite
def orders(draw: st.DrawFn) -> Order:
    samples, batch_size = draw(st.integers(1, 300)), draw(st.integers(1, 40))
    smallest = Order(samples=samples, batch_size=batch_size).smallest
    world_size = draw(st.integers(1, smallest))
    return Order(samples=samples, batch_size=batch_size, world_size=world_size, seed=draw(st.integers(0, 9)))


def permutation(length: int, text: str) -> list[int]:
    return [int(value) for value in permuted(np.arange(length), length, text)]


def of_step(order: Order, step: int) -> list[int]:
    return [int(place) for rank in range(order.world_size) for place in order.positions(step, rank)]


@given(orders(), st.integers(0, 5))
def test_every_sample_is_seen_once_an_epoch(order: Order, epoch: int) -> None:
    steps = [of_step(order, step) for step in range(order.steps)]
    seen = np.concatenate([order.indices(epoch, np.array(step)) for step in steps])
    assert sorted(seen) == list(range(order.samples))


@given(orders())
def test_every_rank_has_samples_at_every_step_and_never_too_many(order: Order) -> None:
    sizes = [len(order.positions(step, rank)) for step in range(order.steps) for rank in range(order.world_size)]
    assert min(sizes) == order.smallest >= 1
    assert max(sizes) <= order.largest


@given(orders())
def test_ranks_differ_by_one_sample_at_most(order: Order) -> None:
    for step in range(order.steps):
        sizes = [len(order.positions(step, rank)) for rank in range(order.world_size)]
        assert max(sizes) - min(sizes) <= 1


@given(orders())
def test_all_ranks_together_see_the_batches_of_one(order: Order) -> None:
    one = Order(samples=order.samples, batch_size=order.batch_size)
    assert order.steps == one.steps
    assert all(of_step(order, step) == of_step(one, step) for step in range(one.steps))


@given(orders())
def test_no_batch_is_larger_than_asked_for_and_none_smaller_than_half(order: Order) -> None:
    sizes = [len(of_step(order, step)) for step in range(order.steps)]
    assert set(sizes[:-2]) <= {order.batch_size}
    assert max(sizes) <= order.batch_size
    assert order.steps == 1 or min(sizes) >= order.batch_size // 2


@pytest.mark.parametrize(
    ("samples", "sizes"), [(100, [25, 25, 25, 25]), (101, [25, 25, 25, 13, 13]), (26, [13, 13]), (7, [7])]
)
def test_the_last_two_batches_share_what_is_left(samples: int, sizes: list[int]) -> None:
    order = Order(samples=samples, batch_size=25)
    assert [len(of_step(order, step)) for step in range(order.steps)] == sizes


@pytest.mark.parametrize(
    ("samples", "batch_size", "world_size"), [(3, 8, 4), (8, 3, 4), (9, 4, 3), (0, 4, 1), (4, 0, 1), (4, 4, 0)]
)
def test_an_order_that_leaves_a_rank_without_samples_is_refused(samples: int, batch_size: int, world_size: int) -> None:
    with pytest.raises(ValueError, match=r"divided among"):
        Order(samples=samples, batch_size=batch_size, world_size=world_size)


@given(st.integers(1, 3000), st.text(max_size=9))
def test_an_order_holds_every_number_once(length: int, text: str) -> None:
    assert sorted(permutation(length, text)) == list(range(length))


@given(st.integers(1, 10**12), st.data())
def test_any_part_of_an_order_is_had_without_the_rest(length: int, data: st.DataObject) -> None:
    places = np.array(data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=20)))
    values = permuted(places, length, "some")
    assert [int(permuted(places[i : i + 1], length, "some")[0]) for i in range(len(places))] == values.tolist()
    assert len(set(values.tolist())) == len(set(places.tolist()))
    assert (values >= 0).all()
    assert (values < length).all()


def test_the_order_is_that_of_every_earlier_version() -> None:
    assert permutation(10, "0 0") == [0, 9, 7, 1, 2, 3, 8, 4, 6, 5]
    order = Order(samples=400_000, batch_size=64, seed=7)
    assert order.indices(3, order.positions(1000, 0)[:4]).tolist() == [334634, 161761, 54220, 389634]
    assert [order.substitute(0, 5, attempt) for attempt in range(3)] == [25364, 314708, 263223]


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    orders = {
        tuple(Order(samples=50, batch_size=5, seed=seed).indices(epoch, np.arange(50)))
        for seed in range(20)
        for epoch in range(20)
    }
    assert len(orders) == 400


def test_without_shuffling_samples_come_as_they_are() -> None:
    order = Order(samples=20, batch_size=5, shuffle=False)
    assert order.indices(3, order.positions(1, 0)).tolist() == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("length", [13, 32, 45])
def test_every_sample_comes_at_every_place_equally_often(length: int) -> None:
    """Chi-square over the table of place and value: (length - 1)^2 degrees of freedom, at most 4 deviations above."""
    orders, counts = 60 * length, np.zeros((length, length))
    for epoch in range(orders):
        counts[np.arange(length), permutation(length, f"0 {epoch}")] += 1
    freedom = (length - 1) ** 2
    chi_square = ((counts - orders / length) ** 2 / (orders / length)).sum()
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def test_neighbours_in_one_epoch_are_not_neighbours_in_the_next() -> None:
    places = [np.argsort(permutation(1000, f"0 {epoch}")) for epoch in range(20)]
    apart = np.concatenate([np.abs(np.diff(place)) for place in places])
    assert apart.mean() == pytest.approx(1000 / 3, rel=0.03)


@given(orders(), st.integers(0, 9), st.integers(0, 9))
def test_a_substitute_is_a_sample_and_always_the_same(order: Order, epoch: int, attempt: int) -> None:
    substitute = order.substitute(epoch, 0, attempt)
    assert 0 <= substitute < order.samples
    assert substitute == Order(samples=order.samples, batch_size=1, seed=order.seed).substitute(epoch, 0, attempt)


def windows(counts: list[int], width: int, seed: int = 0, shuffle: bool = True) -> Windows:
    return Windows(np.array(counts), width, seed=seed, shuffle=shuffle)


def windowed(of: Windows, counts: list[int], epoch: int) -> list[int]:
    return [int(index) for index in of.indices(epoch, np.arange(sum(counts)))]


def shard_of(counts: list[int], index: int) -> int:
    return int(np.searchsorted(np.cumsum(counts), index, side="right"))


@given(COUNTS, WIDTHS, EPOCHS)
def test_every_sample_of_the_windows_is_seen_once_an_epoch(counts: list[int], width: int, epoch: int) -> None:
    assert sorted(windowed(windows(counts, width), counts, epoch)) == list(range(sum(counts)))


@given(COUNTS, WIDTHS, EPOCHS, st.booleans())
def test_what_comes_next_is_always_announced(counts: list[int], width: int, epoch: int, shuffle: bool) -> None:
    of = windows(counts, width, shuffle=shuffle)
    indices = windowed(of, counts, epoch) + windowed(of, counts, epoch + 1)
    announced = set(of.ahead(epoch, 0))
    for position in range(sum(counts)):
        assert shard_of(counts, indices[position]) in announced
        now = of.ahead(epoch, position)
        assert shard_of(counts, indices[position]) in now[:width]
        assert len(now) <= 2 * width
        announced |= set(now)


@given(COUNTS, WIDTHS, EPOCHS, st.data())
def test_any_part_of_the_windows_is_had_without_the_rest(
    counts: list[int], width: int, epoch: int, data: st.DataObject
) -> None:
    of, whole = windows(counts, width), windowed(windows(counts, width), counts, epoch)
    begin, end = sorted(data.draw(st.tuples(*2 * [st.integers(0, sum(counts))])))
    assert of.indices(epoch, np.arange(begin, end)).tolist() == whole[begin:end]


def test_few_shards_are_needed_at_a_time_and_their_samples_are_mixed() -> None:
    counts = [100] * 20
    indices = np.array(windowed(windows(counts, 4), counts, 0))
    for window in indices.reshape(5, 400):
        assert len(np.unique(window // 100)) == 4
        assert np.abs(np.diff(window.argsort())).mean() == pytest.approx(400 / 3, rel=0.15)


def test_seeds_and_epochs_have_windows_of_their_own_and_unshuffled_there_is_one() -> None:
    counts = [5, 6, 7]
    orders = {tuple(windowed(windows(counts, 2, seed), counts, epoch)) for seed in range(9) for epoch in range(9)}
    assert len(orders) == 81
    assert windowed(windows(counts, 2, shuffle=False), counts, 3) == list(range(18))


def test_an_order_with_windows_takes_its_batches_from_them() -> None:
    counts = [900] * 12
    of = windows(counts, 2)
    order = Order(samples=10_800, batch_size=50, world_size=2, windows=of)
    whole, across = windowed(of, counts, 1), CHUNK // 50
    for step in (0, across, order.steps - 1):
        got = [int(i) for rank in (0, 1) for i in order.indices(1, order.positions(step, rank))]
        assert got == whole[slice(*order.bounds(step))]


def test_the_order_in_windows_is_that_of_every_earlier_version() -> None:
    assert windowed(windows([3, 4, 3], 2), [3, 4, 3], 0) == [2, 1, 5, 0, 3, 6, 4, 8, 7, 9]
