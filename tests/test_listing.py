"""Many files listed: what that takes in memory, here and in a worker; and what counts as the same files."""

import pickle
import tracemalloc
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_data import SAMPLES, TREES, flip

from shards.format.schema import sample_key
from shards.format.splits import DivisionConfig, unit_interval
from shards.ingest.convert import ConvertConfig, ConvertUnit, plan_conversion
from shards.ingest.job import options_of
from shards.sources.listing import Samples
from shards.sources.samples import Found, find_samples

MANY = 8000


@pytest.fixture(scope="module")
def zips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MANY samples of a few bytes, named as in 2020, and 20 backgrounds."""
    root = tmp_path_factory.mktemp("many")
    for name in ("fg_bg", "mask", "depth"):
        with zipfile.ZipFile(root / f"{TREES[name]}.zip", "w") as archive:
            for i in range(MANY):
                archive.writestr(f"{TREES[name]}/{i // 1000}/{sample_key(i % 20, i // 20, 0)}.jpg", f"{name} {i}")
    (root / TREES["bg"]).mkdir()
    for i in range(20):
        (root / TREES["bg"] / f"Shelves_{i}.jpg").write_text(f"bg {i}")
    return root


def find(root: Path, **options: object) -> Found:
    return find_samples([root], ConvertConfig(**options).layout)  # type: ignore[arg-type]  # options of any type


@pytest.fixture(scope="module")
def samples(zips: Path) -> Samples:
    return find(zips).samples


def test_listing_takes_500_bytes_a_sample(zips: Path) -> None:
    find(zips)  # imports and caches are no part of it
    tracemalloc.start()
    try:
        assert len(find(zips).samples) == MANY
        assert tracemalloc.get_traced_memory()[1] < 500 * MANY + 300_000
    finally:
        tracemalloc.stop()


def test_a_worker_is_sent_what_it_needs(samples: Samples) -> None:
    few = samples[100:200]
    assert len(pickle.dumps(few)) < 250 * len(few)
    assert list(few) == list(pickle.loads(pickle.dumps(few))) == list(samples)[100:200]


def test_every_sample_leads_to_its_own_files(zips: Path, samples: Samples) -> None:
    for key, (fg_bg, mask, depth, bg) in samples:
        _, room, figure, _ = key.split("_")
        number = int(figure[1:]) * 20 + int(room[1:])
        tree = f"{TREES['depth']}.zip/{TREES['depth']}"
        assert depth.path == f"{zips}/{tree}/{number // 1000}/{key}.jpg"
        assert bg.path == f"{zips}/{TREES['bg']}/Shelves_{room[1:]}.jpg"
        assert (fg_bg.packed, mask.packed) == (len(f"fg_bg {number}"), len(f"mask {number}"))
    assert len(set(samples.keys.tolist())) == MANY


def fingerprint(folder: Path) -> str:
    return plan_conversion([folder], ConvertConfig()).plan.manifest.made_from


def zipped(folders: Path, out: Path) -> Path:
    out.mkdir()
    for tree in TREES.values():
        with zipfile.ZipFile(out / f"{tree}.zip", "w") as archive:
            for path in sorted((folders / tree).rglob("*.jpg")):
                archive.write(path, path.relative_to(folders))
    return out


def test_other_files_of_the_same_names_make_another_data_set(folders: Path, messy: Path) -> None:
    assert fingerprint(messy) == fingerprint(folders)
    path = next((messy / TREES["fg_bg"]).rglob("*.jpg"))
    path.write_bytes(path.read_bytes() + bytes(1))
    assert fingerprint(messy) != fingerprint(folders)


def test_in_zips_one_bit_makes_another_data_set(messy: Path, tmp_path: Path) -> None:
    before = fingerprint(zipped(messy, tmp_path / "before"))
    assert fingerprint(zipped(messy, tmp_path / "again")) == before
    flip(next((messy / TREES["mask"]).rglob("*.jpg")), 50)
    assert fingerprint(zipped(messy, tmp_path / "after")) != before


def digests(folder: Path) -> list[str]:
    """Of each shard."""
    config = ConvertConfig(division=DivisionConfig(samples_per_shard=10))
    return [unit.made_from for unit in plan_conversion([folder], config).units]


@pytest.mark.parametrize("pack", [False, True])
def test_a_file_that_changes_is_in_the_digests_of_its_samples_shards_alone(
    messy: Path, tmp_path: Path, pack: bool
) -> None:
    def state(name: str) -> list[str]:
        return digests(zipped(messy, tmp_path / name) if pack else messy)

    def changed(before: list[str], after: list[str]) -> int:
        return sum(one != other for one, other in zip(before, after, strict=True))

    before = state("before")
    flip(next((messy / TREES["depth"]).rglob("*.jpg")), 50)
    mask = state("mask")
    assert changed(before, mask) == 1
    flip(messy / TREES["bg"] / "Shelves_3.jpg", 50)
    assert 1 < changed(mask, state("bg")) < len(mask)
    next((messy / TREES["mask"]).rglob("*.jpg")).unlink()
    assert state("fewer")[-1] != mask[-1]


def test_what_is_recognised_in_most_files_is_in_all_digests(messy: Path) -> None:
    """It decides what becomes of the files of any shard."""
    before, samples = digests(messy), find(messy).samples
    for _, (_, mask, *_) in samples[10:]:
        Image.fromarray(np.eye(48, dtype=np.uint8)).save(mask.path, "PNG")
    assert samples[:10].digest() == find(messy).samples[:10].digest()
    assert not set(before) & set(digests(messy))


def test_a_file_that_is_not_there_has_a_state_too(messy: Path) -> None:
    before = find(messy).samples.digest()
    path = next((messy / TREES["mask"]).rglob("*.jpg"))
    path.unlink()
    path.symlink_to("nowhere")
    assert find(messy).samples.digest() != before


def test_units_share_the_samples_among_them(folders: Path) -> None:
    units = [unit for unit in plan_conversion([folders], ConvertConfig()).units if isinstance(unit, ConvertUnit)]
    assert sum(unit.size for unit in units) == SAMPLES
    assert len(np.unique(np.concatenate([unit.entries.keys for unit in units]))) == SAMPLES


def test_the_order_is_that_of_a_hash_whatever_was_listed_first(samples: Samples) -> None:
    keys = [key for key, _ in samples]
    assert keys == sorted(keys, key=lambda key: (unit_interval(key, 0), key))


def test_an_option_that_is_new_does_not_refuse_a_data_set_of_yesterday() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Tomorrow(ConvertConfig):
        new: int = 3

    assert options_of(Tomorrow()) == options_of(ConvertConfig())
    assert options_of(Tomorrow(new=4)) != options_of(ConvertConfig())
    assert options_of(Tomorrow(division=DivisionConfig(split_seed=1))) != options_of(ConvertConfig())
