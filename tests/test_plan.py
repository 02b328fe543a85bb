"""The plan: every sample once an epoch, whatever the ranks, batches and length; and an order that never changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.permutation import permuted
from pipeline.plan import Plan


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    samples, batch_size = draw(st.integers(1, 300)), draw(st.integers(1, 40))
    world = draw(st.integers(1, min(samples, batch_size)))
    return Plan(samples=samples, batch_size=batch_size, world=world, seed=draw(st.integers(0, 9)))


def order(length: int, text: str) -> list[int]:
    return [int(value) for value in permuted(np.arange(length), length, text)]


def of_step(plan: Plan, step: int) -> list[int]:
    return [int(place) for rank in range(plan.world) for place in plan.positions(step, rank)]


@given(plans(), st.integers(0, 5))
def test_every_sample_is_seen_once_an_epoch(plan: Plan, epoch: int) -> None:
    steps = [of_step(plan, step) for step in range(plan.steps)]
    seen = np.concatenate([plan.members(epoch, np.array(step)) for step in steps])
    assert sorted(seen) == list(range(plan.samples))


@given(plans())
def test_every_rank_has_samples_at_every_step_and_never_too_many(plan: Plan) -> None:
    sizes = [len(plan.positions(step, rank)) for step in range(plan.steps) for rank in range(plan.world)]
    assert min(sizes) >= 1
    assert max(sizes) <= plan.largest


@given(plans())
def test_ranks_differ_by_one_sample_at_most(plan: Plan) -> None:
    for step in range(plan.steps):
        sizes = [len(plan.positions(step, rank)) for rank in range(plan.world)]
        assert max(sizes) - min(sizes) <= 1


@given(plans())
def test_all_ranks_together_see_the_batches_of_one(plan: Plan) -> None:
    one = Plan(samples=plan.samples, batch_size=plan.batch_size)
    last = plan.steps - 1
    assert [of_step(plan, step) for step in range(last)] == [of_step(one, step) for step in range(last)]
    assert of_step(plan, last) == [place for step in range(last, one.steps) for place in of_step(one, step)]
    assert one.steps - plan.steps == (0 < plan.samples % plan.batch_size < plan.world and last >= 0)


def test_a_rest_too_small_for_the_ranks_joins_the_last_full_batch() -> None:
    plan = Plan(samples=101, batch_size=25, world=2)
    assert [len(of_step(plan, step)) for step in range(plan.steps)] == [25, 25, 25, 26]


@pytest.mark.parametrize(("samples", "batch_size", "world"), [(3, 8, 4), (8, 3, 4), (0, 4, 1), (4, 0, 1), (4, 4, 0)])
def test_a_plan_that_leaves_a_rank_without_samples_is_refused(samples: int, batch_size: int, world: int) -> None:
    with pytest.raises(ValueError, match=r"divided among"):
        Plan(samples=samples, batch_size=batch_size, world=world)


@given(st.integers(1, 3000), st.text(max_size=9))
def test_an_order_holds_every_number_once(length: int, text: str) -> None:
    assert sorted(order(length, text)) == list(range(length))


@given(st.integers(1, 10**12), st.data())
def test_any_part_of_an_order_is_had_without_the_rest(length: int, data: st.DataObject) -> None:
    places = np.array(data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=20)))
    values = permuted(places, length, "some")
    assert [int(permuted(places[i : i + 1], length, "some")[0]) for i in range(len(places))] == values.tolist()
    assert len(set(values.tolist())) == len(set(places.tolist()))
    assert (values >= 0).all()
    assert (values < length).all()


def test_the_order_is_that_of_every_earlier_version() -> None:
    assert order(10, "0 0") == [0, 9, 7, 1, 2, 3, 8, 4, 6, 5]
    plan = Plan(samples=400_000, batch_size=64, seed=7)
    assert plan.members(3, plan.positions(1000, 0)[:4]).tolist() == [334634, 161761, 54220, 389634]
    assert [plan.substitute(0, 5, attempt) for attempt in range(3)] == [25364, 314708, 263223]


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    orders = {
        tuple(Plan(samples=50, batch_size=5, seed=seed).members(epoch, np.arange(50)))
        for seed in range(20)
        for epoch in range(20)
    }
    assert len(orders) == 400


def test_without_shuffling_samples_come_as_they_are() -> None:
    plan = Plan(samples=20, batch_size=5, shuffle=False)
    assert plan.members(3, plan.positions(1, 0)).tolist() == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("length", [13, 32, 45])
def test_every_sample_comes_at_every_place_equally_often(length: int) -> None:
    """Chi-square over the table of place and value: (length - 1)^2 degrees of freedom, at most 4 deviations above."""
    orders, counts = 60 * length, np.zeros((length, length))
    for epoch in range(orders):
        counts[np.arange(length), order(length, f"0 {epoch}")] += 1
    freedom = (length - 1) ** 2
    chi_square = ((counts - orders / length) ** 2 / (orders / length)).sum()
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def test_neighbours_in_one_epoch_are_not_neighbours_in_the_next() -> None:
    places = [np.argsort(order(1000, f"0 {epoch}")) for epoch in range(20)]
    apart = np.concatenate([np.abs(np.diff(place)) for place in places])
    assert apart.mean() == pytest.approx(1000 / 3, rel=0.03)


@given(plans(), st.integers(0, 9), st.integers(0, 9))
def test_a_stand_in_is_a_sample_and_always_the_same(plan: Plan, epoch: int, attempt: int) -> None:
    substitute = plan.substitute(epoch, 0, attempt)
    assert 0 <= substitute < plan.samples
    assert substitute == Plan(samples=plan.samples, batch_size=1, seed=plan.seed).substitute(epoch, 0, attempt)
