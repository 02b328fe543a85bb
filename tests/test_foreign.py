"""Tars that somebody else made are indexed as they are; what cannot be used is named with the reason."""

import bz2
import csv
import gzip
import io
import lzma
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_data import ONE_WORKER, SIZE, begun, built, contents, images, indexed_here
from test_interruption import command

from shards.errors import InputError
from shards.format.dataset import Dataset
from shards.format.depth import ExistingDepthConfig
from shards.format.manifest import Manifest
from shards.format.splits import SplitConfig
from shards.format.storage import LocalFolder
from shards.ingest.index import list_tar, plan_index
from shards.inspect.verify import verify

NAMES = ("fg_bg", "mask", "depth", "bg")

Files = dict[str, bytes]
"""the members of a tar, in their order"""

gnu_tar = pytest.mark.skipif(
    not shutil.which("tar") or b"GNU" not in subprocess.run(["tar", "--version"], capture_output=True).stdout,
    reason="there is no GNU tar here",
)


@pytest.fixture(scope="module")
def found(dataset: Path) -> dict[str, Files]:
    """All images by key and component."""
    return images(Dataset.open(dataset))


@pytest.fixture(scope="module")
def few(found: dict[str, Files]) -> dict[str, Files]:
    return dict(list(found.items())[:6])


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    (tmp_path / "tars").mkdir()
    return tmp_path / "tars"


def members(samples: dict[str, Files], extension: str = "jpg") -> Files:
    return {f"{key}.{name}.{extension}": data for key, parts in samples.items() for name, data in parts.items()}


def packed(path: Path, files: Iterable[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT) -> None:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def unpacked(folder: Path, files: Files) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def by_gnu_tar(path: Path, folder: Path, *arguments: str) -> None:
    subprocess.run(["tar", "-cf", path, "-C", folder, *arguments], check=True, capture_output=True)


def indexed(folder: Path, again: bool = False) -> Dataset:
    work = plan_index(folder, ExistingDepthConfig(), SplitConfig(val_share=0, test_share=0))
    return built(work, folder, replace(ONE_WORKER, again=again))


def left_out(folder: Path) -> list[tuple[str, str, str]]:
    """Kind, key, and the member or tar of each."""
    with (folder / "left-out.tsv").open(newline="") as file:
        return [(row["kind"], row["key"], row["source"]) for row in csv.DictReader(file, delimiter="\t")]


def test_tars_made_elsewhere_hold_the_same_samples(dataset: Path, found: dict[str, Files], tars: Path) -> None:
    files = list(members(found).items())
    packed(tars / "a.tar", files[: 4 * 70], tarfile.PAX_FORMAT)
    packed(tars / "b.tar", files[4 * 70 :], tarfile.GNU_FORMAT)
    before = contents(tars)
    made = built(plan_index(tars, ExistingDepthConfig(depth_metres=(0.0, 10.0)), SplitConfig()), tars)
    assert images(made) == found
    assert {name: contents(tars)[name] for name in before} == before
    assert made.manifest.statistics == Dataset.open(dataset).manifest.statistics
    assert made.manifest.depth.unit == "m"


def unusable(tar: Path) -> list[tuple[str, str, str]]:
    """The same, without the images being looked at."""
    return [(one.kind, one.key, one.source) for one in list_tar(tar)[1]]


@gnu_tar
@pytest.mark.parametrize("form", ["gnu", "pax", "ustar", "v7"])
def test_a_folder_packed_by_gnu_tar_with_all_that_lies_in_it(
    few: dict[str, Files], tars: Path, tmp_path: Path, form: str
) -> None:
    litter = {
        ".hidden": b"x",
        ".mask.jpg": b"x",
        "._combined_s1.mask.jpg": b"x",
        "2/.DS_Store": b"x",
        "README.txt": b"x",
    }
    some = next(iter(few))
    unpacked(tmp_path / "in", members(few) | litter | {f"{some}.json": b"{}"})
    (tmp_path / "in" / "empty").mkdir()
    by_gnu_tar(tars / "a.tar", tmp_path / "in", f"--format={form}", ".")
    assert images(indexed(tars)) == few
    assert verify(LocalFolder(tars), ONE_WORKER) == []
    assert left_out(tars) == sorted(("litter", "", f"a.tar/./{name}") for name in litter)


@gnu_tar
@pytest.mark.parametrize("form", ["gnu", "pax", "ustar"])
def test_long_names_in_folders_with_spaces(few: dict[str, Files], tars: Path, tmp_path: Path, form: str) -> None:
    named = {f"my photos {'y' * 80}/v1.2/{key}": parts for key, parts in few.items()}
    unpacked(tmp_path / "in", members(named))
    by_gnu_tar(tars / "a.tar", tmp_path / "in", f"--format={form}", ".")
    assert images(indexed(tars)) == named
    lines = (tars / "a.idx").read_text().splitlines()
    assert all(len(line.split(" ")) == 4 * 4 for line in lines[1:])


def test_components_need_not_lie_side_by_side_for_us_nor_for_dali(few: dict[str, Files], tars: Path) -> None:
    """DALI goes by the index. The webdataset library, which goes by the tar, would see parts of samples."""
    named = {f"my photos/{key}": parts for key, parts in few.items()}
    packed(tars / "a.tar", sorted(members(named).items(), key=lambda item: item[0].partition(".")[2]))
    assert images(indexed(tars)) == named
    extensions = [f"{name}.jpg" for name in NAMES]
    assert dali_samples([tars / "a.tar"], extensions, len(few)) == [tuple(parts.values()) for parts in few.values()]


def dali_samples(paths: list[Path], extensions: list[str], count: int) -> list[tuple[bytes, ...]]:
    """The bytes of the first samples as DALI's own reader gives them."""
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import Pipeline, fn

    pipeline = Pipeline(batch_size=count, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        read = fn.readers.webdataset(
            paths=[str(path) for path in paths],
            index_paths=[str(path.with_suffix(".idx")) for path in paths],
            ext=extensions,
            missing_component_behavior="error",
        )
        pipeline.set_outputs(*read)  # type: ignore[misc]
    pipeline.build()
    return list(zip(*([batch.at(i).tobytes() for i in range(count)] for batch in pipeline.run()), strict=True))


def test_extensions_are_spelled_in_any_way(few: dict[str, Files], tars: Path) -> None:
    spelled = zip(few.items(), ["JPG", "jpeg", "Jpeg", "jpg", "JPEG", "jpg"], strict=True)
    packed(
        tars / "a.tar", (item for (key, parts), spelling in spelled for item in members({key: parts}, spelling).items())
    )
    made = indexed(tars)
    assert images(made) == few
    assert verify(LocalFolder(tars), ONE_WORKER) == []
    assert {component.extension for component in made.manifest.components.values()} == {"jpg"}


def test_depth_of_16_bits_is_kept_as_such(few: dict[str, Files], tars: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE)).save(buffer, "PNG")
    files = {name.replace("depth.jpg", "depth.png"): data for name, data in members(few).items()}
    packed(tars / "a.tar", {n: buffer.getvalue() if n.endswith("png") else d for n, d in files.items()}.items())
    made = indexed(tars)
    assert made.manifest.components["depth"].bits == 16
    assert all(parts["depth"] == buffer.getvalue() for parts in images(made).values())


@gnu_tar
def test_hard_links_are_followed_and_symbolic_ones_named(few: dict[str, Files], tars: Path, tmp_path: Path) -> None:
    folder = unpacked(tmp_path / "in", members(few))
    first, second, *_ = sorted(few)
    (folder / f"{second}.bg.jpg").unlink()
    (folder / f"{second}.bg.jpg").hardlink_to(folder / f"{first}.bg.jpg")
    (folder / f"{first}.mask.jpg").unlink()
    (folder / f"{first}.mask.jpg").symlink_to(f"{second}.mask.jpg")
    by_gnu_tar(tars / "a.tar", folder, "--sort=name", ".")
    with tarfile.open(tars / "a.tar") as tar:
        assert tar.getmember(f"./{second}.bg.jpg").islnk()
    expected = {key: parts for key, parts in few.items() if key != first}
    expected[second] = expected[second] | {"bg": few[first]["bg"]}
    assert images(indexed(tars)) == expected
    assert left_out(tars) == [("link", first, f"a.tar/./{first}.mask.jpg")]


def test_a_hard_link_to_nothing_is_named(few: dict[str, Files], tars: Path) -> None:
    key = next(iter(few))
    packed(tars / "a.tar", [item for item in members(few).items() if item[0] != f"{key}.bg.jpg"])
    with tarfile.open(tars / "a.tar", "a") as tar:
        link = tarfile.TarInfo(f"{key}.bg.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "elsewhere.jpg"
        tar.addfile(link)
    assert unusable(tars / "a.tar") == [("link", key, f"a.tar/{key}.bg.jpg")]


@gnu_tar
@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_sparse_members_are_named(few: dict[str, Files], tars: Path, tmp_path: Path, form: str) -> None:
    folder, key = unpacked(tmp_path / "in", members(few)), next(iter(few))
    with (folder / f"{key}.mask.jpg").open("ab") as file:
        file.truncate(1 << 20)
    by_gnu_tar(tars / "a.tar", folder, f"--format={form}", "--sparse", ".")
    assert (tars / "a.tar").stat().st_size < 1 << 20
    assert unusable(tars / "a.tar") == [("sparse", key, f"a.tar/./{key}.mask.jpg")]


def test_the_last_of_two_members_of_a_name_counts_as_when_unpacking(
    found: dict[str, Files], few: dict[str, Files], tars: Path, tmp_path: Path
) -> None:
    key, other = next(iter(few)), list(found)[-1]
    packed(tars / "a.tar", [*members(few).items(), *members({key: found[other]}).items()])
    assert images(indexed(tars)) == few | {key: found[other]}
    assert left_out(tars) == sorted(("duplicate", key, f"a.tar/{key}.{name}.jpg") for name in NAMES)
    with tarfile.open(tars / "a.tar") as tar:
        tar.extractall(tmp_path / "out", filter="data")
    assert images(Dataset.open(tars))[key]["mask"] == (tmp_path / "out" / f"{key}.mask.jpg").read_bytes()


def test_a_key_in_two_tars_is_one_error(few: dict[str, Files], tars: Path) -> None:
    for name in ("a.tar", "b.tar"):
        packed(tars / name, members(few).items())
    with pytest.raises(InputError, match=r"a\.tar and .*b\.tar both begin with the sample 'combined_"):
        plan_index(tars, ExistingDepthConfig(), SplitConfig())
    packed(tars / "b.tar", reversed(members(few).items()))
    said = rf"tars: 6 keys occur more than once, such as '{min(few)}' in a\.tar and b\.tar\."
    with pytest.raises(InputError, match=said):
        indexed_here(tars, SplitConfig())


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_is_no_tar(tars: Path, make: Callable[[Path], None]) -> None:
    make(tars / "a.tar")
    with pytest.raises(InputError, match=r"a\.tar: no tar but a folder, a pipe"):
        plan_index(tars, ExistingDepthConfig(), SplitConfig())


def test_names_that_are_no_text_or_lead_elsewhere_are_left_out(few: dict[str, Files], tars: Path) -> None:
    first, second, *_ = few
    names = {first: "../../" + first, second: "caf\udce9"}
    packed(tars / "a.tar", members({names.get(key, key): parts for key, parts in few.items()}).items())
    assert images(indexed(tars)) == {key: parts for key, parts in few.items() if key not in names}
    assert {(kind, key) for kind, key, _ in left_out(tars)} == {
        ("bad-name", f"../../{first}"),
        ("bad-name", "caf\\udce9"),
    }


def test_incomplete_and_broken_samples_are_left_out(few: dict[str, Files], tars: Path) -> None:
    missing, broken, *good = few
    files = members(few) | {f"{broken}.depth.jpg": b"no image"}
    del files[f"{missing}.mask.jpg"]
    packed(tars / "a.tar", files.items())
    assert images(indexed(tars)) == {key: few[key] for key in good}
    assert left_out(tars) == [("missing", missing, "a.tar"), ("not-an-image", broken, f"a.tar/{broken}.depth.jpg")]


def test_a_first_tar_without_samples_is_no_obstacle(few: dict[str, Files], tars: Path) -> None:
    packed(tars / "a.tar", [("readme.md", b"x")])
    packed(tars / "b.tar", members(few).items())
    assert images(indexed(tars)) == few


def test_tars_without_samples_are_told_by_the_names_in_them(tars: Path) -> None:
    packed(tars / "a.tar", [("1.jpg", b"x"), ("1.mask.jpg", b"x")])
    with pytest.raises(InputError, match=r"a\.tar: no sample has an image fg_bg; .* named KEY\.mask\.jpg"):
        indexed(tars)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_tar_is_named(few: dict[str, Files], tars: Path, compress: Callable[[bytes], bytes]) -> None:
    packed(tars / "a.tar", members(few).items())
    (tars / "a.tar").write_bytes(compress((tars / "a.tar").read_bytes()))
    with pytest.raises(InputError, match=r"a\.tar: compressed by \w+\. .* unpack it"):
        indexed(tars)


def test_a_tar_that_git_lfs_has_is_said_to_be_there(tars: Path) -> None:
    (tars / "a.tar").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(InputError, match=r"a\.tar: Git LFS has the tar, and this points to it: git lfs pull"):
        plan_index(tars, ExistingDepthConfig(), SplitConfig())


def test_compressed_tars_beside_others_are_left_out_by_name(few: dict[str, Files], tars: Path) -> None:
    (tars / "b.tar.gz").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no \.tar in it\. Unpack b\.tar\.gz"):
        indexed(tars)
    packed(tars / "a.tar", members(few).items())
    assert images(indexed(tars)) == few
    assert left_out(tars) == [("compressed", "", "b.tar.gz")]


def test_a_hidden_tar_is_left_out_by_name(few: dict[str, Files], tars: Path) -> None:
    """macOS puts `._a.tar` beside a.tar on disks that are not its own."""
    packed(tars / "a.tar", members(few).items())
    (tars / "._a.tar").write_bytes(b"attributes")
    assert len(indexed(tars)) == len(few)
    assert left_out(tars) == [("litter", "", "._a.tar")]


def test_tars_joined_by_cat_are_named(few: dict[str, Files], tars: Path) -> None:
    packed(tars / "a.tar", members(few).items())
    (tars / "a.tar").write_bytes(2 * (tars / "a.tar").read_bytes())
    with pytest.raises(InputError, match=r"a\.tar: goes on after its end"):
        indexed(tars)


@pytest.mark.parametrize("block", [1, tarfile.BLOCKSIZE])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_tar_cut_short_anywhere_before_its_end_is_named(
    dataset: Path, tmp_path_factory: pytest.TempPathFactory, block: int, share: float
) -> None:
    data = (dataset / "shard-000000.tar").read_bytes()
    end = len(data.rstrip(b"\0"))
    path = tmp_path_factory.mktemp("cut") / "short.tar"
    path.write_bytes(data[: int(share * end) // block * block])
    with pytest.raises(InputError, match=r"short\.tar: not a whole tar"):
        list_tar(path)


CHECKED = [*range(148), *range(156, 500)]
"""the bytes of a header that its checksum is about, itself left out"""


@settings(max_examples=100)
@given(st.integers(0, 99), st.sampled_from(CHECKED), st.integers(1, 255))
def test_no_damage_to_a_header_is_passed_over(
    dataset: Path, tmp_path_factory: pytest.TempPathFactory, member: int, byte: int, change: int
) -> None:
    """The tar is refused: never are the members that follow just gone."""
    whole = dataset / "shard-000000.tar"
    with tarfile.open(whole) as tar:
        position = tar.getmembers()[member].offset + byte
    data = bytearray(whole.read_bytes())
    data[position] ^= change
    path = tmp_path_factory.mktemp("header") / "damaged.tar"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged\.tar: not a whole tar"):
        list_tar(path)


def header(kind: bytes, size: bytes) -> bytes:
    """Of a member 1.mask.jpg, with its checksum."""
    info = tarfile.TarInfo("1.mask.jpg")
    info.type = kind
    data = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    data[124:136], data[148:156] = size.ljust(12, b"\0"), b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


PAX = b"19 size=-1000000000\n"
NEVER_ENDING = {
    "a size that leads back": header(tarfile.REGTYPE, b"\xff" * 10 + (-1024 & 0xFFFF).to_bytes(2)),
    "one in an extended header": header(tarfile.XHDTYPE, b"%o" % len(PAX)) + PAX.ljust(512, b"\0"),
    "a name that leads back": header(tarfile.GNUTYPE_LONGNAME, b"\xff" * 10 + (-1024 & 0xFFFF).to_bytes(2)),
    "a name that takes all memory": header(tarfile.GNUTYPE_LONGNAME, b"77777777777"),
    "headers of headers": (header(tarfile.XHDTYPE, b"14") + b"12 key=value".ljust(512, b"\0")) * 3000,
    "a size past all disks": header(tarfile.REGTYPE, b"\x80" + (1 << 62).to_bytes(11)),
    "half of a sparse file's header": header(tarfile.GNUTYPE_SPARSE, b"0")[:482] + b"\1",
}


@pytest.mark.parametrize("what", NEVER_ENDING)
def test_a_header_of_impossible_numbers_is_told_and_its_reading_ends(
    few: dict[str, Files], tars: Path, what: str
) -> None:
    packed(tars / "a.tar", list(members(few).items())[:1])
    data = (tars / "a.tar").read_bytes().rstrip(b"\0")
    regular = header(tarfile.REGTYPE, b"0") * 4
    (tars / "a.tar").write_bytes(data + bytes(-len(data) % 512) + NEVER_ENDING[what] + regular + bytes(1024))
    with pytest.raises(InputError, match=r"a\.tar: not a whole tar \("):
        list_tar(tars / "a.tar")


def test_mended_tars_are_indexed_anew(few: dict[str, Files], tars: Path) -> None:
    packed(tars / "a.tar", members(few).items())
    packed(tars / "b.tar", reversed(members(few).items()))
    with pytest.raises(InputError, match="more than once"):
        indexed(tars)
    (tars / "b.tar").unlink()
    assert images(indexed(tars)) == few
    others = list(few)[1:]
    packed(tars / "a.tar", members({key: few[key] for key in others}).items())
    with pytest.raises(InputError, match=r"a\.tar of 1 shards would no longer be the same\. Add --again"):
        indexed(tars)
    again = command("index", tars, "--val-share", "0", "--test-share", "0", "--again")
    subprocess.run(again, check=True, capture_output=True)
    assert images(Dataset.open(tars)) == {key: few[key] for key in others}


def test_of_a_begun_index_only_the_tars_that_changed_are_read_again(few: dict[str, Files], tars: Path) -> None:
    first, second, third, *others = few
    packed(tars / "a.tar", members({key: few[key] for key in others}).items())
    packed(tars / "b.tar", members({first: few[first]}).items())
    packed(tars / "c.tar", members({second: few[second]}).items())
    begun(plan_index(tars, ExistingDepthConfig(), SplitConfig()), tars)
    before = {name: (tars / f"{name}.idx").stat().st_mtime_ns for name in "abc"}
    packed(tars / "b.tar", members({third: few[third]}).items())
    (tars / "c.tar").unlink()
    assert images(indexed(tars)) == {key: few[key] for key in [*others, third]}
    assert (tars / "a.idx").stat().st_mtime_ns == before["a"]
    assert (tars / "b.idx").stat().st_mtime_ns > before["b"]
    assert not (tars / "c.idx").exists()


def test_a_finished_index_with_other_options_is_made_again_when_asked(few: dict[str, Files], tars: Path) -> None:
    packed(tars / "a.tar", members(few).items())
    indexed(tars)
    other = plan_index(tars, ExistingDepthConfig(near_is_bright=True), SplitConfig())
    with pytest.raises(InputError, match=r"shards would be the same, but not .* Add --again"):
        built(other, tars)
    assert built(other, tars, replace(ONE_WORKER, again=True)).manifest.depth == other.plan.manifest.depth
    manifest = Manifest.read(tars)
    (tars / "manifest.json").write_text(replace(manifest, made_from="index of yesterday", command="").to_json())
    with pytest.raises(InputError, match=r"holds another data set already\. Delete its manifest\.json\."):
        indexed(tars, again=True)
