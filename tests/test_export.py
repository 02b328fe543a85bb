"""Images as files again: the bytes as they are, and converting them gives the same shards."""

import io
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from small_data import ONE_WORKER, TREES, built, contents, convert, flip, images

from shards.errors import InputError
from shards.format.dataset import Dataset
from shards.format.depth import ExistingDepthConfig
from shards.format.schema import WORK
from shards.format.splits import SplitConfig
from shards.ingest.index import plan_index
from shards.inspect.export import export


def files(folder: Path) -> dict[str, bytes]:
    """All files but those that say how far the work is."""
    return {name: data for name, data in contents(folder).items() if not name.startswith(f"{WORK}/")}


def same(one: Path, other: Path) -> bool:
    """Whether the shards and the index are equal."""
    found = [{n: d for n, d in contents(root).items() if n.endswith((".tar", ".idx", ".npy"))} for root in (one, other)]
    return found[0] == found[1] != {}


def tar_of(out: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    """A data set in one tar of somebody else's."""
    out.mkdir()
    with tarfile.open(out / "a.tar", "w") as tar:
        for key, parts in samples.items():
            for name, data in parts.items():
                member = tarfile.TarInfo(f"{key}.{name}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    built(plan_index(out, ExistingDepthConfig(), SplitConfig()), out)
    return out


@pytest.mark.parametrize("workers", [1, 2])
def test_the_files_are_those_that_the_data_set_was_made_of(
    dataset: Path, folders: Path, tmp_path: Path, workers: int
) -> None:
    export(Dataset.open(dataset), tmp_path / "out", replace(ONE_WORKER, workers=workers))
    assert files(tmp_path / "out") == files(folders)


def test_converting_them_gives_the_same_shards(dataset: Path, tmp_path: Path) -> None:
    export(Dataset.open(dataset), tmp_path / "out", ONE_WORKER)
    convert([tmp_path / "out"], tmp_path / "again")
    assert same(tmp_path / "again", dataset)


def test_a_background_that_is_not_told_by_its_number_goes_with_its_sample(messy: Path, tmp_path: Path) -> None:
    """One sample has a background of its own, so the number in its key stands for two images."""
    some = next(path for path in sorted((messy / TREES["fg_bg"]).rglob("*.jpg")) if "_s1_" in path.name)
    shutil.copy(messy / TREES["bg"] / "Shelves_2.jpg", messy / TREES["bg"] / some.name)
    dataset = convert([messy], tmp_path / "dataset")
    assert dataset.manifest.components["bg"].shared
    export(Dataset.open(tmp_path / "dataset"), tmp_path / "out", ONE_WORKER)
    again = convert([tmp_path / "out"], tmp_path / "again")
    assert images(again) == images(dataset)
    assert again.manifest.left_out == {}


def test_keys_that_tell_nothing_and_lie_in_folders(dataset: Path, tmp_path: Path) -> None:
    few = list(images(Dataset.open(dataset)).values())[:6]
    tar_of(tmp_path / "tars", {f"my photos/v1.2/{i}": parts for i, parts in enumerate(few)})
    export(Dataset.open(tmp_path / "tars"), tmp_path / "out", ONE_WORKER)
    assert (tmp_path / "out" / "OverlayedMasks" / "0" / "my_photos_v1_2_3.jpg").read_bytes() == few[3]["mask"]
    again = convert([tmp_path / "out"], tmp_path / "again")
    assert images(again) == {f"my_photos_v1_2_{i}": parts for i, parts in enumerate(few)} | images(again)
    assert len(again) == 6


def test_keys_that_would_be_one_file_are_named(dataset: Path, tmp_path: Path) -> None:
    first, second, *_ = images(Dataset.open(dataset)).values()
    tar_of(tmp_path / "tars", {"a/b": first, "a_b": second})
    with pytest.raises(InputError, match="samples 'a/b' and 'a_b' would both be 'a_b' as files"):
        export(Dataset.open(tmp_path / "tars"), tmp_path / "out", ONE_WORKER)
    assert not (tmp_path / "out").exists()


def test_a_killed_export_goes_on_to_the_same_files(dataset: Path, folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(Dataset.open(dataset), out, ONE_WORKER)
    next((out / WORK).glob("shard-000002.tar.*.npz")).unlink()
    done = {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")}
    some = next((out / TREES["mask"]).rglob("*.jpg"))
    some.with_name(f".partial-{some.name}").write_bytes(b"what a kill while this was written leaves")
    for row in range(50, 75):  # the samples of that shard
        key = Dataset.open(dataset).key(row)
        next(out.rglob(f"{TREES['depth']}/*/{key}.jpg")).unlink()
    export(Dataset.open(dataset), out, ONE_WORKER)
    assert files(out) == files(folders)
    again = {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")}
    assert sum(again[path] != done[path] for path in done) == 3 * 25


def test_a_damaged_shard_is_named_and_none_of_it_written(damaged: Path, tmp_path: Path) -> None:
    flip(damaged / "shard-000003.tar", 5000)
    with pytest.raises(InputError, match=r"shard-000003\.tar: damaged"):
        export(Dataset.open(damaged), tmp_path / "out", ONE_WORKER)
    keys = {Dataset.open(damaged).key(row) for row in range(75, 100)}
    assert not keys & {path.stem for path in (tmp_path / "out").rglob("*.jpg")}
    flip(damaged / "shared.tar", 700)
    with pytest.raises(InputError, match=r"shared\.tar: damaged"):
        export(Dataset.open(damaged), tmp_path / "other", ONE_WORKER)


def test_a_folder_that_holds_something_else_is_refused(dataset: Path, messy: Path, tmp_path: Path) -> None:
    for occupied in (dataset, tmp_path):
        before = contents(occupied)
        with pytest.raises(InputError, match="not empty"):
            export(Dataset.open(dataset), occupied, ONE_WORKER)
        assert contents(occupied) == before
    export(Dataset.open(dataset), tmp_path / "out", ONE_WORKER)
    other = convert([messy], tmp_path / "converted", samples_per_shard=50)
    with pytest.raises(InputError, match="holds the beginning of another data set"):
        export(other, tmp_path / "out", ONE_WORKER)
