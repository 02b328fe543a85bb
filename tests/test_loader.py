"""The loader: the same batches from any decoder, bank, number of ranks and place to go on from."""

import logging
import os
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_data import SIZE

from pipeline.batch import Batch
from pipeline.batches import _failing
from pipeline.decode import _blank, make_decoder
from pipeline.loader import Loader, LoaderConfig, _resolved
from shards.errors import InputError
from shards.format.dataset import Dataset
from shards.format.manifest import StoredComponent
from shards.machine import cpu_count

TRAIN = 120
DALI = pytest.param("cpu", marks=pytest.mark.skipif(find_spec("nvidia") is None, reason="needs DALI"))
DECODERS = ["portable", DALI]


def loader(data: Path | str, rank: int = 0, world_size: int = 1, **options: Any) -> Loader:
    """One that takes damage as if it had been stored."""
    small: dict[str, Any] = {"decode": "portable", "size": 32, "batch_size": 16, "num_threads": 2, "check": "never"}
    return Loader(LoaderConfig(data=data, **small | options), rank=rank, world_size=world_size)


def epoch(data: Path | str, **options: Any) -> list[Batch]:
    with loader(data, **options) as opened:
        return list(opened)


def images(batch: Batch) -> tuple[torch.Tensor, ...]:
    """Of the components that there are: fg_bg, bg, mask, depth."""
    return tuple(image for image in batch[:4] if image is not None)


def same(one: list[Batch], other: list[Batch]) -> bool:
    both = [[(batch.index, *images(batch)) for batch in batches] for batches in (one, other)]
    return len(one) == len(other) and all(
        torch.equal(*pair) for batches in zip(*both, strict=True) for pair in zip(*batches, strict=True)
    )


def joined(ranks: list[list[Batch]]) -> list[Batch]:
    """The global batches: the ranks' parts of every step, one after the other."""
    return [Batch(*map(torch.cat, zip(*parts, strict=True))) for parts in zip(*ranks, strict=True)]


def rows(batches: list[Batch]) -> list[int]:
    return [int(row) for batch in batches for row in batch.index]


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize(("size", "expected"), [(32, 32), (0, SIZE)])
def test_a_batch_is_what_it_says(dataset: Path, decode: str, size: int, expected: int) -> None:
    for batch in epoch(dataset, decode=decode, size=size):
        count = len(batch.index)
        assert [tuple(image.shape) for image in images(batch)] == [(count, c, expected, expected) for c in (3, 3, 1, 1)]
        assert {image.dtype for image in images(batch)} == {torch.uint8}
        assert all(image.is_contiguous(memory_format=torch.channels_last) for image in images(batch))
        assert batch.index.dtype == torch.int64


@pytest.mark.parametrize("decode", [DALI])
@pytest.mark.parametrize("batch_size", [16, 256], ids=["small batches", "large ones, which DALI cuts up"])
@pytest.mark.parametrize("size", [0, 32, 64])
@pytest.mark.parametrize("bad", [None, "fg_bg", "depth"])
def test_dali_and_pillow_agree(damaged: Path, decode: str, batch_size: int, size: int, bad: str | None) -> None:
    """Measured: no difference at all, where both use libjpeg-turbo. 2 of 255 are allowed to other versions of it."""
    if bad:
        overwrite(damaged, bad, 7)
    options = {"size": size, "batch_size": batch_size}
    for ours, theirs in zip(epoch(damaged, **options), epoch(damaged, **options, decode=decode), strict=True):
        assert torch.equal(ours.index, theirs.index)
        for one, other in zip(images(ours), images(theirs), strict=True):
            assert (one.int() - other.int()).abs().max() <= 2


def test_two_ranks_together_see_every_sample_once_and_the_batches_of_one(dataset: Path) -> None:
    ranks = joined([epoch(dataset, rank=rank, world_size=2) for rank in (0, 1)])
    assert same(ranks, epoch(dataset))
    assert sorted(rows(ranks)) == sorted(Dataset.open(dataset).split("train"))


def test_weights_make_the_mean_of_the_ranks_the_mean_of_the_samples(dataset: Path) -> None:
    with loader(dataset, 0, 2, batch_size=17) as first, loader(dataset, 1, 2, batch_size=17) as second:
        for parts in zip(first, second, strict=True):
            weights = first.weight(parts[0]), second.weight(parts[1])
            means = [part.index.double().mean() * weight for part, weight in zip(parts, weights, strict=True)]
            assert sum(means) / 2 == pytest.approx(torch.cat([part.index for part in parts]).double().mean())


def test_epochs_differ_in_order_and_seeds_too(dataset: Path) -> None:
    with loader(dataset) as opened:
        first, second = rows(list(opened)), rows(list(opened))
    assert sorted(first) == sorted(second)
    assert len({tuple(first), tuple(second), tuple(rows(epoch(dataset, seed=1)))}) == 3
    assert rows(epoch(dataset)) == first
    assert rows(epoch(dataset, shuffle=False)) == sorted(first)


@pytest.mark.parametrize("options", [{"bank_mib": 0}, {"num_threads": 1}, {"num_threads": 3, "prefetch": 1}], ids=str)
def test_bank_and_threads_do_not_change_a_batch(dataset: Path, options: dict[str, int]) -> None:
    assert same(epoch(dataset, **options), epoch(dataset))


@pytest.mark.parametrize("done", [0, 3, 8])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_resumed_loader_yields_the_batches_that_were_left(dataset: Path, done: int, world_size: int) -> None:
    with loader(dataset) as opened:
        list(opened)
        batches = iter(opened)
        for _ in range(done):
            next(batches)
        state = opened.state_dict()
        left = list(batches) or list(opened)
    ranks = []
    for rank in range(world_size):
        with loader(dataset, rank, world_size) as resumed:
            resumed.load_state_dict(state)
            ranks.append(list(resumed))
    assert same(joined(ranks), left)


@pytest.mark.parametrize("options", [{"seed": 1}, {"batch_size": 8}, {"split": "val"}, {"shuffle": False}], ids=str)
def test_the_place_in_another_run_is_refused(dataset: Path, options: dict[str, Any]) -> None:
    with loader(dataset) as opened, loader(dataset, **options) as other:
        with pytest.raises(InputError, match=rf"{next(iter(options))}=.*Go on with the same data"):
            other.load_state_dict(opened.state_dict())
        with pytest.raises(InputError, match=r"data=another"):
            opened.load_state_dict(opened.state_dict() | {"data": "another"})


def overwrite(data: Path, component: str, row: int) -> None:
    """Puts zeros in the place of an image, so that it is none."""
    opened = Dataset.open(data)
    place = opened.locate(component, opened.split("train")[row : row + 1])
    with opened.tar_path(int(place.file[0])).open("r+b") as tar:
        tar.seek(int(place.offset[0]))
        tar.write(bytes(int(place.size[0])))


def test_a_broken_image_costs_one_sample_and_always_the_same_stands_in(dataset: Path, damaged: Path) -> None:
    overwrite(damaged, "depth", 7)
    broken, whole = int(Dataset.open(damaged).split("train")[7]), rows(epoch(dataset))
    runs = []
    for options in ({"num_threads": 1}, {"num_threads": 3}, {"decode": "auto"}, {"bank_mib": 0}):
        with loader(damaged, **options) as opened:
            runs.append(list(opened))
            assert (opened.stats.bad, opened.stats.samples) == (1, TRAIN)
    assert all(same(run, runs[0]) for run in runs)
    changed = [(old, new) for old, new in zip(whole, rows(runs[0]), strict=True) if old != new]
    assert len(changed) == 1
    assert changed[0][0] == broken


def test_a_broken_shared_image_is_treated_alike_with_and_without_a_bank(damaged: Path) -> None:
    overwrite(damaged, "bg", 0)
    banked, unbanked = epoch(damaged), epoch(damaged, bank_mib=0)
    assert same(banked, unbanked)
    opened = Dataset.open(damaged)
    train = opened.split("train")
    number = opened.shared_number("bg", train[:1])
    assert not set(rows(banked)) & set(train[opened.shared_number("bg", train) == number])


@pytest.mark.parametrize("decode", DECODERS)
def test_samples_are_those_asked_for_on_any_rank_and_the_loader_stays_where_it_is(damaged: Path, decode: str) -> None:
    overwrite(damaged, "depth", 7)
    split, whole = Dataset.open(damaged).split("train").tolist(), epoch(damaged, shuffle=False, cache="host")
    wanted = [split[i] for i in (40, 7, 3, 119, *range(60, 90))]  # more than a batch, and 7 is none
    both: dict[str, Any] = {"decode": decode, "cache": "host", "shuffle": False}
    with loader(damaged, 0, 2, **both) as first, loader(damaged, 1, 2, **both) as second:
        next(batches := iter(first))
        before = first.state_dict()
        found = [one.samples(wanted) for one in (first, first, second)]
        assert first.state_dict() == before
        assert first.stats.batches == 1
        rest = [*batches]
    assert same([found[0]], [found[1]])
    assert same([found[0]], [found[2]])
    assert rows([found[0]])[:1] + rows([found[0]])[2:] == wanted[:1] + wanted[2:]
    assert rows([found[0]])[1] in set(split) - {wanted[1]}
    assert len(rest) == len(whole) - 1
    at = {row: image for batch in whole for row, image in zip(rows([batch]), batch.fg_bg, strict=True)}
    for row, image in zip(rows([found[0]]), found[0].fg_bg, strict=True):
        assert (image.int() - at[row].int()).abs().max() <= 2


@pytest.mark.parametrize("decode", DECODERS)
def test_too_many_broken_images_stop_the_run_and_are_named(damaged: Path, decode: str) -> None:
    for row in (3, 4, 5):
        overwrite(damaged, "mask", row)
    opened = Dataset.open(damaged)
    with pytest.raises(
        InputError, match=r"samples do not decode \(max_bad is 2\): .*combined_s.* in shard-0"
    ) as raised:
        epoch(damaged, decode=decode, max_bad=2, num_threads=1)
    assert all(opened.key(int(opened.split("train")[row])) in str(raised.value) for row in (3, 4, 5))


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=5))))
def test_bad_images_fail_beside_others_once_only(case: tuple[int, set[int]]) -> None:
    """DALI is at risk where they do."""
    count, bad = case
    attempts = []

    def attempt(numbers: NDArray[np.int64]) -> None:
        attempts.append(len(numbers))
        if bad & set(numbers.tolist()):
            raise ValueError("does not decode")

    assert _failing(np.arange(count), attempt) == sorted(bad)
    assert attempts == [count] + [1] * (count if bad else 0)


@pytest.mark.parametrize("decode", DECODERS)
def test_a_shard_that_is_cut_short_later_ends_the_run_with_a_word(damaged: Path, decode: str) -> None:
    with loader(damaged, decode=decode, num_threads=1) as opened:
        for tar in damaged.glob("shard-*.tar"):
            os.truncate(tar, 1024)
        with pytest.raises(InputError, match=r"shard-0.*cannot be read \(it has become shorter\)"):
            list(opened)


@pytest.mark.skipif(find_spec("nvidia") is None, reason="needs DALI")
def test_auto_measures_each_decoder_once_and_keeps_the_fastest(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Stands in for a machine with a GPU, where there are two to choose from."""
    made = []

    def count(decode: str, *arguments: Any) -> Any:
        made.append(decode)
        return make_decoder(decode, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("pipeline.loader.candidates", lambda *_: ["portable", "cpu"])
    monkeypatch.setattr("pipeline.batches.make_decoder", count)
    with caplog.at_level(logging.INFO, "pipeline"), loader(dataset, decode="auto", cache="host") as opened:
        assert made.count("portable") == made.count("cpu") == 2 + 1, "two threads, and the bank"
        assert f"decode={opened.decode}, which made the first batches fastest" in caplog.text
        assert not any(opened.stats.spent.values())
        list(opened)
        before = opened.stats
        list(opened)
        assert opened.stats.since(before).spent["decode"] == 0, "the cache was empty before the first epoch"


@pytest.mark.parametrize(
    ("given", "found"), [("cuda", "cuda:3"), ("cuda:0", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu")]
)
def test_a_cuda_device_without_a_number_is_the_current_one(
    given: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would not equal that of its tensors, and DALI would take the first GPU on every rank."""
    monkeypatch.setattr("torch.cuda.current_device", lambda: 3)
    assert _resolved(torch.device(given)) == torch.device(found)


@pytest.mark.skipif(find_spec("nvidia") is None, reason="needs DALI")
@pytest.mark.parametrize("count", [5, 300])
def test_the_batch_that_warms_a_decoder_up_is_a_full_one_of_the_right_images(count: int) -> None:
    components = {
        "fg_bg": StoredComponent(extension="jpg", channels=3),
        "mask": StoredComponent(extension="png", channels=1),
        "depth": StoredComponent(extension="png", channels=1, bits=16),
    }
    images = make_decoder("cpu", components, count, (24, 40), torch.device("cpu"), 0.9).decode(
        _blank(components, count, (24, 40))
    )
    assert {name: tuple(image.shape) for name, image in images.items()} == {
        "fg_bg": (count, 24, 40, 3),
        "mask": (count, 24, 40, 1),
        "depth": (count, 24, 40, 1),
    }
    assert not any(image.any() for image in images.values())


@pytest.mark.parametrize("name", ["shard-000002.tar", "shared.tar"])
@pytest.mark.parametrize("size", [None, 0, 512])
def test_a_shard_missing_or_cut_short_is_found_at_the_start(damaged: Path, name: str, size: int | None) -> None:
    if size is None:
        (damaged / name).unlink()
    else:
        (damaged / name).write_bytes((damaged / name).read_bytes()[:size])
    with pytest.raises(InputError, match=rf"{name}: {size or 0} bytes where the manifest says"):
        loader(damaged)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"split": "tset"}, "no samples in split 'tset'"), ({"batch_size": 0}, "batch-size is 0, where a number from 1"),
     ({"world_size": 17}, "cannot be divided among 17 ranks"), ({"decode": "gpu"}, "decode=gpu needs")],
)  # fmt: skip
def test_what_cannot_be_loaded_is_told_at_once(dataset: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        loader(dataset, **options)


@pytest.fixture
def opened(dataset: Path) -> Iterator[Loader]:
    with loader(dataset) as opened:
        yield opened


def test_an_iteration_left_early_does_not_spoil_the_next(opened: Loader, dataset: Path) -> None:
    for _ in opened:
        break
    with loader(dataset) as other:
        list(other)
        assert same(list(opened), list(other))


def test_an_iterator_that_was_overtaken_says_so(opened: Loader) -> None:
    stale = iter(opened)
    next(stale)
    iter(opened)
    with pytest.raises(RuntimeError, match="has begun another iteration"):
        next(stale)


def test_closing_ends_every_thread(dataset: Path) -> None:
    before = set(threading.enumerate())
    opened = loader(dataset, num_threads=3)
    next(iter(opened))
    assert set(threading.enumerate()) > before
    opened.close()
    assert set(threading.enumerate()) == before


def test_ranks_of_one_machine_divide_its_cores(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for ranks in (1, 2, 1000):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        with loader(dataset, num_threads=0) as opened:
            assert opened.stats.num_threads == max(1, cpu_count() // ranks)


def test_stats_count_what_was_handed_over(opened: Loader) -> None:
    assert len(opened) == 8
    batches = iter(opened)
    next(batches)
    assert (opened.stats.batches, opened.stats.samples, opened.stats.bad) == (1, 16, 0)
    assert len(list(batches)) == 7
    assert opened.stats.samples == TRAIN
    assert opened.stats.waited > 0
