"""Conversion: the same data set from folders and zips of every form, and nothing but an empty result stops it."""

import csv
import hashlib
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_data import ONE_WORKER, SAMPLES, TREES, contents, convert, flip, images, said

from shards.errors import InputError
from shards.format.dataset import Dataset
from shards.format.storage import LocalFolder
from shards.format.tar import ShardWriter
from shards.format.tar import _header as tar_header
from shards.ingest.convert import ConvertConfig, plan_conversion
from shards.inspect.verify import verify
from shards.sources.listing import NoSampleError


def last_parts(path: Path, count: int) -> str:
    return "/".join(path.parts[-count:])


def zips(folders: Path, out: Path, parts: int, volumes: int, method: int) -> list[Path]:
    """Every tree as `volumes` zips, members named by the last `parts` of their path."""
    out.mkdir()
    for tree in TREES.values():
        files = sorted((folders / tree).rglob("*.jpg"))
        for volume in range(volumes):
            with zipfile.ZipFile(out / f"{tree}{volume or ''}.zip", "w", method) as archive:
                for path in files[volume::volumes]:
                    archive.write(path, last_parts(path, min(parts, len(path.relative_to(folders).parts))))
    return sorted(out.iterdir())


def samples_of(folders: Path) -> list[str]:
    return sorted(path.stem for path in (folders / TREES["fg_bg"]).rglob("*.jpg"))


def image_of(folders: Path, name: str, key: str) -> Path:
    return folders / TREES[name] / key.rpartition("_it")[2] / f"{key}.jpg"


def left_out(out: Path) -> list[dict[str, str]]:
    with (out / "left-out.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def same(one: Path, other: Path) -> bool:
    """Equal in all files but the manifest, and in that but for what tells the sources."""
    files = [{name: data for name, data in contents(root).items() if name != "manifest.json"} for root in (one, other)]
    return files[0] == files[1] and said(one) == said(other)


def test_a_data_set_holds_the_bytes_of_the_files(folders: Path, dataset: Path) -> None:
    found = images(Dataset.open(dataset))
    assert sorted(found) == samples_of(folders)
    assert len(found) == SAMPLES
    for key, parts in found.items():
        background = folders / TREES["bg"] / f"Shelves_{key.split('_')[1][1:]}.jpg"
        own = {name: image_of(folders, name, key).read_bytes() for name in ("fg_bg", "mask", "depth")}
        assert parts == own | {"bg": background.read_bytes()}


@pytest.mark.parametrize(
    ("parts", "volumes", "method"),
    [(3, 1, zipfile.ZIP_DEFLATED), (2, 1, zipfile.ZIP_STORED), (2, 3, zipfile.ZIP_STORED)],
)
def test_zips_give_the_bytes_that_folders_give(
    folders: Path, dataset: Path, tmp_path: Path, parts: int, volumes: int, method: int
) -> None:
    convert(zips(folders, tmp_path / "zips", parts, volumes, method), tmp_path / "out")
    assert same(tmp_path / "out", dataset)


def test_a_folder_of_zips_and_other_workers_give_the_same(folders: Path, dataset: Path, tmp_path: Path) -> None:
    zips(folders, tmp_path / "zips", 3, 2, zipfile.ZIP_DEFLATED)
    convert([tmp_path / "zips"], tmp_path / "out", workers=3)
    assert same(tmp_path / "out", dataset)


def test_no_zip_is_left_open(folders: Path, tmp_path: Path) -> None:
    sources = zips(folders, tmp_path / "zips", 3, 1, zipfile.ZIP_STORED)
    command = [sys.executable, "-W", "always::ResourceWarning", "-m", "shards", "convert", *sources, tmp_path / "out"]
    finished = subprocess.run([*map(str, command), "--workers", "1"], check=True, capture_output=True, text=True)
    assert "ResourceWarning" not in finished.stderr


def test_components_may_lie_anywhere(folders: Path, dataset: Path, tmp_path: Path) -> None:
    other = {"fg_bg": "a/pasted", "mask": "a/alpha", "depth": "b", "bg": "b rooms"}
    for name, folder in other.items():
        shutil.copytree(folders / TREES[name], tmp_path / "in" / folder)
    globs = tuple(f"{name}={folder}/**/*.jpg" for name, folder in other.items())
    convert([tmp_path / "in"], tmp_path / "out", globs)
    assert same(tmp_path / "out", dataset)


def test_what_is_no_sample_is_listed_and_the_rest_converted(messy: Path, tmp_path: Path) -> None:
    first, second, third, *others = samples_of(messy)
    (messy / "Thumbs.db").write_bytes(b"x")
    (messy / TREES["mask"] / "0" / ".DS_Store").write_bytes(b"x")
    image_of(messy, "mask", first).unlink()
    for name in ("fg_bg", "mask", "depth"):
        image_of(messy, name, third).rename(messy / TREES[name] / f"{'x' * 91}{third}.jpg")
    dataset = convert([messy], tmp_path / "out")
    assert sorted(images(dataset)) == [second, *others]
    assert dataset.manifest.left_out == {"bad-name": 1, "litter": 2, "missing": 1}
    assert ("missing", "mask", first) in {
        (row["kind"], row["component"], row["key"]) for row in left_out(tmp_path / "out")
    }


def test_two_files_of_one_component_with_one_key_stop_the_run_and_are_listed(messy: Path, tmp_path: Path) -> None:
    first, second, *_ = samples_of(messy)
    shutil.copy(image_of(messy, "depth", second), messy / TREES["depth"] / f"{second}.jpg")
    shutil.copy(image_of(messy, "mask", first), image_of(messy, "mask", first).with_suffix(".png"))
    with pytest.raises(
        NoSampleError, match=rf"^2 files have the key .* would both be the mask of '{first}'"
    ) as stopped:
        convert([messy], tmp_path / "out")
    twice = [(one.key, one.component) for one in stopped.value.left_out if one.kind == "duplicate"]
    assert sorted(twice) == [(first, "mask"), (second, "depth")]


def test_names_with_dots_and_spaces(messy: Path, tmp_path: Path) -> None:
    key = samples_of(messy)[0]
    for name in ("fg_bg", "mask", "depth"):
        image_of(messy, name, key).rename(messy / TREES[name] / "en kølig sofa, 2.5 m combined_s3_.jpg")
    found = images(convert([messy], tmp_path / "out", samples_per_shard=150))
    assert len(found) == SAMPLES
    assert found["en_kølig_sofa,_2_5_m_combined_s3_"]["bg"] == (messy / TREES["bg"] / "Shelves_3.jpg").read_bytes()
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        assert not any(member.pax_headers for member in tar)


@given(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), max_size=25), st.integers(0, 8**11 - 1))
def test_tar_headers_are_those_of_tarfile(name: str, size: int) -> None:
    expected = tarfile.TarInfo(name)
    expected.size = size
    assert tar_header(name.encode(), size) == expected.tobuf(tarfile.USTAR_FORMAT)


def test_a_shard_of_many_megabytes_is_whole_and_its_digest_its_own(tmp_path: Path) -> None:
    """It is written by the megabyte: no piece is lost, and each image lies where it is told."""
    sizes = [0, 1, 511, 512, 513, 100_000, 3_000_000, 400_000, 700_000, 5]
    images = {f"k{i}": {"mask.png": random.Random(i).randbytes(size)} for i, size in enumerate(sizes)}
    with ShardWriter(tmp_path / "a.tar") as writer:
        told = {key: writer.write(key, parts) for key, parts in images.items()}
        sha256, size = writer.close()
    data = (tmp_path / "a.tar").read_bytes()
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (sha256, size)
    for key, ((name, begin, length),) in told.items():
        assert data[begin : begin + length] == images[key][name]
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert [(one.name, one.offset_data) for one in tar] == [(f"{key}.mask.png", told[key][0][1]) for key in told]


def bomb(data: bytes) -> bytes:
    """A JPEG whose header says 20,000 x 20,000 pixels."""
    height = data.index(b"\xff\xc0") + 5
    return data[:height] + (20_000).to_bytes(2) * 2 + data[height + 4 :]


def saved(path: Path, mode: str, size: int, form: str = "JPEG") -> bytes:
    Image.new(mode, (size, size)).save(path, form)
    return path.read_bytes()


BREAK: dict[str, Callable[[Path], bytes]] = {
    "truncated": lambda path: path.read_bytes()[:-300],
    "empty": lambda path: b"",
    "not-an-image": lambda path: b"see the other folder",
    "wrong-size": lambda path: saved(path, "RGB", 47),
    "wrong-format": lambda path: saved(path, "F", 48, "TIFF"),
    "too-large": lambda path: bomb(path.read_bytes()),
}


def test_broken_images_are_told_by_kind_and_name(messy: Path, tmp_path: Path) -> None:
    keys = samples_of(messy)
    broken = {kind: (keys[7 * i], ("fg_bg", "mask", "depth")[i % 3]) for i, kind in enumerate(BREAK)}
    for kind, (key, name) in broken.items():
        path = image_of(messy, name, key)
        path.write_bytes(BREAK[kind](path))
    dataset = convert([messy], tmp_path / "out")
    assert {row["kind"]: (row["key"], row["component"]) for row in left_out(tmp_path / "out")} == broken
    assert all(Path(row["source"]).stem == row["key"] for row in left_out(tmp_path / "out"))
    assert dataset.manifest.left_out == dict.fromkeys(sorted(BREAK), 1)
    assert sorted(images(dataset)) == sorted(set(keys) - {key for key, _ in broken.values()})
    assert not verify(LocalFolder(tmp_path / "out"), ONE_WORKER)


def test_files_that_cannot_be_read_are_left_out_too(folders: Path, tmp_path: Path) -> None:
    archive = next(path for path in zips(folders, tmp_path / "zips", 3, 1, zipfile.ZIP_STORED) if "Images" in path.name)
    flip(archive, 1000)
    dangling = shutil.copytree(folders / TREES["mask"], tmp_path / "zips" / TREES["mask"])
    (tmp_path / "zips" / "OverlayedMasks.zip").unlink()
    link = next(dangling.glob("*/*.jpg"))
    link.unlink()
    link.symlink_to(tmp_path / "nowhere.jpg")
    dataset = convert([tmp_path / "zips"], tmp_path / "out")
    assert dataset.manifest.left_out["unreadable"] == SAMPLES - len(dataset) > 0


def test_names_that_are_no_text_are_left_out(messy: Path, tmp_path: Path) -> None:
    key = samples_of(messy)[0]
    for name in ("fg_bg", "mask", "depth"):
        path = image_of(messy, name, key)
        try:
            path.rename(path.with_name("combined_s1_\udcff.jpg"))
        except (OSError, UnicodeError):
            pytest.skip("this file system takes no such name")
    dataset = convert([messy], tmp_path / "out")
    assert dataset.manifest.left_out == {"bad-name": 1}
    assert "udcff" in (tmp_path / "out" / "left-out.tsv").read_text()


def test_a_shard_without_a_single_good_image_is_no_obstacle(messy: Path, tmp_path: Path) -> None:
    for key in samples_of(messy)[5:]:
        image_of(messy, "mask", key).write_bytes(b"")
    dataset = convert([messy], tmp_path / "out", samples_per_shard=10)
    assert sorted(images(dataset)) == samples_of(messy)[:5]
    assert not verify(LocalFolder(tmp_path / "out"), ONE_WORKER)


def test_nothing_left_is_an_error_that_points_to_the_list(messy: Path, tmp_path: Path) -> None:
    for number, key in enumerate(samples_of(messy)):
        image_of(messy, ("mask", "depth")[number % 2], key).write_bytes(b"")
    with pytest.raises(InputError, match=r"no sample is left \(150 empty\); see .*left-out\.tsv"):
        convert([messy], tmp_path / "out")
    assert len(left_out(tmp_path / "out")) == SAMPLES


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", r"\.jpg \(Git LFS .* git lfs pull\)\."),
        (None, r"\.jpg: a link to nowhere, which is not there\."),
    ],
)
def test_files_that_are_not_there_are_said_to_be_that(messy: Path, text: bytes | None, said: str) -> None:
    """And not that names are wrong."""
    for key in samples_of(messy):
        path = image_of(messy, "depth", key)
        path.unlink()
        path.write_bytes(text) if text else path.symlink_to("nowhere")
    with pytest.raises(InputError, match=rf"^depth: most .* such as /[^ ]+{said} Mend them"):
        plan_conversion([messy], ConvertConfig())


def test_sources_without_a_complete_sample_are_refused(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(NoSampleError, match=r"mask='nowhere/\*.jpg' matches no image. Other images lie in .*Masks"):
        plan_conversion([folders], ConvertConfig(component=("mask=nowhere/*.jpg",)))


@pytest.mark.parametrize(
    "option",
    [
        {"component": ("shape=*",)},
        {"background": "("},
        {"background": "abc"},
        {"key": ("mask=a",)},
        {"columns": ("bg",)},
    ],
)
def test_options_that_mean_nothing_are_refused(option: dict[str, str]) -> None:
    with pytest.raises(InputError, match=f"^{next(iter(option))}: "):
        ConvertConfig(**option)  # type: ignore[arg-type]
