"""The cache: decoded once, the same batches, no more memory than was said."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_loader import loader, overwrite, same

from pipeline.batch import Batch
from pipeline.cache import Images
from pipeline.loader import Loader
from pipeline.memory import on_gpu
from shards.errors import InputError
from shards.format.dataset import Dataset

PARTIAL: dict[str, Any] = {"cache": "host", "cache_mib": 1, "size": 0}
"""1 MiB holds 91 of the 120 samples of 48 px"""


def epochs(opened: Loader, count: int) -> list[Batch]:
    return [batch for _ in range(count) for batch in opened]


@given(
    kinds=st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(1, 5), st.integers(1, 3)), min_size=1),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_images_come_back_as_they_were_put(kinds: dict[str, tuple[int, int]], size: tuple[int, int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    memory = torch.full((Images.bytes_of(kinds, size),), 7, dtype=torch.uint8)
    kept, store = dict[str, torch.Tensor](), Images(kinds, size, memory)
    for name, (count, channels) in kinds.items():
        kept[name] = torch.from_numpy(generator.integers(0, 256, (count, channels, *size), np.uint8))
        store.put(name, np.arange(count), kept[name])
    numbers = {name: generator.integers(0, count, 6) for name, (count, _) in kinds.items()}
    for found in (store.gather(numbers, torch.device("cpu")), store.gather_at_once(numbers)):
        assert list(found) == list(kinds)
        for name, images in found.items():
            assert torch.equal(images, kept[name][torch.from_numpy(numbers[name])])
            assert images.is_contiguous(memory_format=torch.channels_last)


def test_what_pytorch_keeps_free_of_a_gpu_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    mib = 1 << 20
    for name, value in (
        ("mem_get_info", (10 * mib, 80 * mib)),
        ("memory_reserved", 50 * mib),
        ("memory_allocated", 20 * mib),
    ):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda _, value=value: value)
    with pytest.raises(MemoryError, match="cpu has 40 MiB left"):
        on_gpu(41 * mib, torch.device("cpu"))
    assert on_gpu(39 * mib, torch.device("cpu")).nbytes == 39 * mib


@pytest.mark.parametrize("options", [{"cache": "host"}, {"cache": "host", "size": 15}, PARTIAL], ids=str)
def test_batches_are_the_same_with_and_without_it(dataset: Path, options: dict[str, Any]) -> None:
    with loader(dataset, **options) as cached, loader(dataset, size=options.get("size", 32)) as plain:
        assert same(epochs(cached, 3), epochs(plain, 3))


def test_after_the_first_epoch_nothing_is_read_or_decoded(damaged: Path) -> None:
    with loader(damaged) as plain:
        expected = epochs(plain, 3)
    with loader(damaged, cache="host") as cached:
        first, before = epochs(cached, 1), cached.stats
        for tar in damaged.glob("*.tar"):
            tar.write_bytes(bytes(tar.stat().st_size))
        assert same(first + epochs(cached, 2), expected)
        spent = cached.stats.since(before).spent
        assert (spent["read"], spent["decode"], spent["resize"]) == (0, 0, 0)
        assert spent["gather"] > 0


def test_a_part_is_decoded_each_time_only_as_far_as_it_is_not_kept(damaged: Path) -> None:
    with loader(damaged, **PARTIAL) as cached:
        epochs(cached, 1)
        opened = Dataset.open(damaged)
        kept = opened.locate("mask", opened.split("train")[:91])
        for file, offset, size in zip(*kept, strict=True):
            with opened.tar_path(file).open("r+b") as tar:
                tar.seek(offset)
                tar.write(bytes(size))
        epochs(cached, 1)
        assert cached.stats.bad == 0
        overwrite(damaged, "mask", 100)
        epochs(cached, 1)
        assert cached.stats.bad == 1


def test_it_is_filled_from_wherever_a_run_goes_on(dataset: Path) -> None:
    with loader(dataset) as plain:
        epochs(plain, 1)
        batches = iter(plain)
        next(batches)
        state, left = plain.state_dict(), list(batches)
        after = epochs(plain, 1)
    with loader(dataset, cache="host") as resumed:
        resumed.load_state_dict(state)
        assert same(epochs(resumed, 2), left + after)


def test_a_broken_image_costs_one_sample_with_the_same_stand_in(damaged: Path) -> None:
    overwrite(damaged, "fg_bg", 5)
    with loader(damaged) as plain, loader(damaged, cache="host") as cached:
        assert same(epochs(plain, 3), epochs(cached, 3))
        assert cached.stats.bad == plain.stats.bad == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"cache": "host", "size": 65_000},
            r"the cache needs .* MiB on cpu for 120 of 120 samples, but the host has",
        ),
        ({"cache": "host", "size": 4000, "cache_mib": 1}, r"the cache may take 1,048,576 bytes, but one sample takes"),
        ({"cache": "device"}, r"cache=device needs a CUDA device"),
    ],
)
def test_too_big_is_said_at_once_and_what_to_do(dataset: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        loader(dataset, bank_mib=0, **options)


def test_ranks_of_one_machine_share_one_copy(dataset: Path) -> None:
    """Two processes under torchrun: the other's half of the first epoch is not decoded again in the second."""
    ranks = Path(__file__).parent / "cached_ranks.py"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    settings = os.environ | {"PYTHONPATH": str(ranks.parent.parent), "OMP_NUM_THREADS": "1"}
    command = [*launcher, str(ranks), str(dataset)]
    finished = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    said = sorted(line for line in finished.stdout.splitlines() if line.startswith("rank"))
    assert [line.split(": ")[1] for line in said] == ["decoded 60, then 0", "decoded 60, then 0"]
    assert not list(Path(tempfile.gettempdir()).glob("sluice-cache-*"))
