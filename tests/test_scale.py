"""The figures about many samples: the epochs that are simulated on paper, and the index that is generated."""

import gc
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.many import BEGIN, END, generate, index_bytes, write
from bench.scale import Cluster, Epoch, best, shards_of, simulate
from shards.errors import InputError
from shards.format.dataset import Dataset
from shards.format.manifest import SPLITS

CLUSTER = Cluster(samples=40_000, machines=3, ranks_per_machine=2, rate=1000, latency=0.02, bandwidth=3e8)
BYTES = CLUSTER.samples * CLUSTER.sample_bytes
EPOCH = CLUSTER.samples / CLUSTER.demand


def epochs(cluster: Cluster, per_shard: int = 500, count: int = 2) -> list[Epoch]:
    found = simulate(cluster, shards_of(cluster.samples, per_shard), count)
    assert found
    return found


@given(st.integers(1, 60), st.integers(0, 20), st.integers(1, 9))
def test_nobody_waits_for_a_store_without_limits(shards: int, window: int, connections: int) -> None:
    cluster = replace(CLUSTER, latency=0, bandwidth=math.inf, window=window, connections=connections)
    for epoch in epochs(cluster, CLUSTER.samples // shards):
        assert epoch.waited == epoch.first == 0
        assert epoch.seconds == pytest.approx(EPOCH)


@given(st.integers(100, 5000), st.integers(0, 20), st.integers(1, 9))
def test_every_machine_reads_everything_once_and_again_only_without_room(
    per_shard: int, window: int, connections: int
) -> None:
    cluster = replace(CLUSTER, window=window, connections=connections)
    first, later = epochs(cluster, per_shard)
    assert first.bytes == CLUSTER.machines * BYTES
    assert first.requests == CLUSTER.machines * math.ceil(CLUSTER.samples / per_shard)
    assert later.bytes == later.requests == later.waited == 0


@pytest.mark.parametrize("room", [0.1, 0.5, 0.9])
def test_of_what_there_is_no_room_for_some_is_read_again(room: float) -> None:
    cluster = replace(CLUSTER, downloads_mib=math.ceil(room * BYTES / 2**20), window=4)
    first, *later = epochs(cluster, count=4)
    assert first.bytes == CLUSTER.machines * BYTES
    for epoch in later:
        assert (1 - room) * BYTES * 0.9 < epoch.bytes / CLUSTER.machines <= BYTES


def test_two_windows_must_find_room() -> None:
    counts, two = shards_of(CLUSTER.samples, 500), 2 * CLUSTER.window * 500 * CLUSTER.sample_bytes
    assert simulate(replace(CLUSTER, downloads_mib=math.ceil(two / 2**20)), counts)
    assert not simulate(replace(CLUSTER, downloads_mib=two // 2**20), counts)


def test_the_less_bandwidth_the_more_of_the_time_training_waits() -> None:
    waiting = [epochs(replace(CLUSTER, bandwidth=bandwidth))[0].waiting for bandwidth in np.geomspace(1e10, 1e6, 13)]
    assert waiting == sorted(waiting)
    assert waiting[0] < 0.05
    assert waiting[-1] > 0.95


@pytest.mark.parametrize("connections", [1, 4, 50])
def test_bandwidth_below_demand_decides_how_long_an_epoch_takes(connections: int) -> None:
    demand = CLUSTER.demand * CLUSTER.sample_bytes
    cluster = replace(CLUSTER, bandwidth=demand / 5, latency=0, connections=connections, window=4)
    (only,) = epochs(cluster, count=1)
    last_window = EPOCH * 4 / 80
    assert only.seconds == pytest.approx(BYTES / cluster.bandwidth + last_window, rel=0.01)


def test_with_bandwidth_to_spare_only_the_first_batch_is_waited_for() -> None:
    cluster = replace(CLUSTER, bandwidth=2 * CLUSTER.demand * CLUSTER.sample_bytes, latency=0)
    (only,) = epochs(cluster, count=1)
    assert only.waited == pytest.approx(only.first)
    assert only.first == pytest.approx(16 * 500 * CLUSTER.sample_bytes / cluster.bandwidth)


def test_a_connection_pays_the_latency_for_every_shard() -> None:
    cluster = replace(CLUSTER, bandwidth=math.inf, latency=0.5, connections=1, window=4, rate=1e9)
    (only,) = epochs(cluster, count=1)
    assert only.first == pytest.approx(4 * 0.5)
    assert only.seconds == pytest.approx(80 * 0.5, rel=0.01)
    assert only.peak == 2 * CLUSTER.machines


def test_the_best_size_is_fast_and_mixes_well() -> None:
    fast, equal, slow = ([lasting(s)] for s in (100.0, 100.5, 150.0))
    assert best({100: slow, 1000: fast, 3000: equal, 10_000: slow, 30_000: None}) == 3000
    assert best({100: None}) is None


def lasting(seconds: float) -> Epoch:
    return Epoch(seconds=seconds, waited=0, first=0, requests=0, peak=0, bytes=0)


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"rate": 0}, {"latency": -1}, {"shards_of": ()}, {"bandwidth": 0}])
def test_a_cluster_that_cannot_be_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong)).replace("_", "[-_]")):
        replace(CLUSTER, **wrong)  # type: ignore[arg-type]


def test_a_generated_data_set_leads_to_real_images(dataset: Path, tmp_path: Path) -> None:
    source = Dataset.open(dataset)
    many = generate(source, tmp_path / "many", 2_000, 50)
    assert len(many) == 2_000
    assert len(many.manifest.shards) == 40
    rows = np.sort(np.concatenate([many.split(name) for name in SPLITS]))
    assert rows.tolist() == list(range(2_000))
    assert len({many.key(row) for row in rows}) == 2_000
    for component in many.manifest.components:
        for file, offset, _ in zip(*many.locate(component, rows[::37]), strict=True):
            with many.tar_path(file).open("rb") as tar:
                tar.seek(offset)
                assert tar.read(3) in (b"\xff\xd8\xff", b"\x89PN")


def test_a_sample_takes_few_bytes_and_no_object(dataset: Path, tmp_path: Path) -> None:
    source = Dataset.open(dataset)
    roots = [tmp_path / str(samples) for samples in (10_000, 200_000)]
    for root in roots:
        sizes = index_bytes(generate(source, root, samples := int(root.name), samples // 10))
        assert (sum(sizes.values()) - sizes["keys"]) / samples < 40
    grown = [grown_by_opening(root) for root in roots * 2][2:]
    assert abs(grown[0] - grown[1]) < 50


def grown_by_opening(root: Path) -> int:
    """Blocks that Python has allocated while a data set and its splits are open."""
    gc.collect()
    before = sys.getallocatedblocks()
    dataset = Dataset.open(root)
    splits = [dataset.split(name) for name in SPLITS]
    gc.collect()
    grown = sys.getallocatedblocks() - before
    assert splits
    return grown


def test_the_section_of_the_results_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    write(path, f"{BEGIN}old{END}")
    path.write_text(path.read_text() + "\nof others\n")
    for _ in range(2):
        write(path, f"{BEGIN}new{END}")
        assert path.read_text() == f"# Results\n\n{BEGIN}new{END}\n\nof others\n"
