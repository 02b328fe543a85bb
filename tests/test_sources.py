"""Folders and zips as one listing, and members read in place."""

import os
import random
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_data import flip

from shards.errors import InputError
from shards.format import storage
from shards.format.images import LeftOut
from shards.sources import listing as files
from shards.sources import zips
from shards.sources.layout import Matcher
from shards.sources.listing import is_image, list_files, list_images
from shards.sources.zips import Entry, Reader, list_zip

GLOBS = {"fg_bg": "**/OverlayedImages*/**", "depth": "**/DepthImage*/**", "bg": "**/Background*/**"}
MATCHER = Matcher(GLOBS)


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def listed(source: Path) -> list[tuple[str, Entry]]:
    """Each file by itself, with its path inside the source."""
    return [(f"{inside}/{entry.name}", entry) for inside, entries in list_files(source) for entry in entries]


def component(matcher: Matcher, path: str) -> str | None:
    inside, _, name = path.rpartition("/")
    return matcher.components(inside, [name])[0]


def read(entry: Entry) -> bytes:
    with Reader() as reader:
        return reader.read(entry)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read_as_they_were_put_in(tmp_path: Path, method: int) -> None:
    members = {f"1/{i}.jpg": bytes([i, 7]) * (1 + 500 * i) for i in range(20)} | {"1/empty.jpg": b""}
    path = zipped(tmp_path / "DepthImage2.zip", members, method)
    found = {name.partition("/")[2]: read(entry) for name, entry in listed(path)}
    assert found == members


def test_a_zip_in_a_folder_counts_as_a_folder_of_its_name(tmp_path: Path) -> None:
    zipped(tmp_path / "a.zip", {"x/1.jpg": b"1"})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.jpg").write_bytes(b"2")
    assert [name for name, _ in listed(tmp_path)] == [f"{tmp_path.name}/a/x/1.jpg", f"{tmp_path.name}/b/2.jpg"]


def test_a_member_with_one_wrong_bit_is_not_handed_out(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"1.jpg": b"0123456789"}, zipfile.ZIP_STORED)
    flip(path, path.read_bytes().index(b"0123"))
    ((_, entry),) = listed(path)
    with pytest.raises(OSError, match=r"1\.jpg: its checksum"):
        read(entry)


def as_if_large(path: Path) -> None:
    """The forms for over 4 GB and over 65,535 members: numbers of 8 bytes in extra fields, and a second end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 500)
        patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
        zipped(path, {f"{i}.jpg": bytes([i]) * 300 * i for i in range(4)}, zipfile.ZIP_STORED)


def behind_a_program(path: Path) -> None:
    """As self-extracting archives are: all offsets are too small."""
    zipped(path, {"a/1.jpg": b"one", "a/2.jpg": b"two" * 1000})
    path.write_bytes(b"#!/bin/sh" * 100 + path.read_bytes())


def named_oddly(path: Path) -> None:
    """Folders, names in UTF-8 and in code page 437, extra fields, comments, methods that change."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("folder")
        archive.comment = b"said of all of it"
        for i, name in enumerate(("folder/en kølig sofa.jpg", "漢字.jpg", "plain.jpg", "..", "//x.jpg")):
            info = zipfile.ZipInfo(name)
            info.comment, info.extra = b"said" * i, b"\x99\x99\x04\x00abcd"
            archive.writestr(info, bytes(100 * i), zipfile.ZIP_DEFLATED if i % 2 else zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"plain", b"pl\x84in"))


@pytest.mark.parametrize("write", [as_if_large, behind_a_program, named_oddly])
def test_a_directory_is_read_as_zipfile_reads_it(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "a.zip"
    write(path)
    with zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        assert len(infos) > 1
        assert [(e.path.removeprefix(f"{path}/"), e.header, e.packed, e.method, e.crc) for e in list_zip(path)] == [
            (i.filename, i.header_offset, i.compress_size, i.compress_type, i.CRC) for i in infos
        ]
        assert [read(entry) for _, entry in listed(path)] == [archive.read(info) for info in infos]


@given(st.data())
def test_a_damaged_directory_is_told_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = zipped(tmp_path_factory.getbasetemp() / "damaged.zip", {"a/1.jpg": b"one", "a/2.jpg": b"two"})
    whole = bytearray(path.read_bytes())
    whole[data.draw(st.integers(whole.index(b"PK\x01\x02"), len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    with suppress(InputError):
        assert len(list(list_zip(path))) <= 2


def test_a_zip_cut_short_is_named(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"1.jpg": bytes(1000)}, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"a\.zip: not a whole zip"):
        list(list_files(tmp_path))


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def link_to_nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [pipe, device, folder, link_to_nowhere, link_to_itself])
def test_what_is_no_file_is_said_to_be_none_and_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "1.jpg")
    with pytest.raises(OSError, match=r"1\.jpg: (no file but a|a link to)|symbolic links: .*1\.jpg"):
        read(Entry(str(tmp_path), "1.jpg"))
    if make is folder:
        return
    assert [name for name, _ in listed(tmp_path)] == [f"{tmp_path.name}/1.jpg"]  # so that it is told
    make(tmp_path / "a.zip")
    for source in (tmp_path, tmp_path / "a.zip"):
        with pytest.raises(InputError, match=r"a\.zip: no (zip but a|folder and no zip)"):
            list(list_files(source))


def test_files_larger_than_any_image_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes may unpack to gigabytes."""
    for module in (storage, zips):
        monkeypatch.setattr(module, "LARGEST", 1000)
    (tmp_path / "1.jpg").write_bytes(bytes(1001))
    some = [entry for _, entry in listed(tmp_path)]
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        some += [entry for _, entry in listed(zipped(tmp_path / f"{method}.zip", {"1.jpg": bytes(1001)}, method))]
    assert len(some) == 3
    for entry in some:
        with pytest.raises(OSError, match=r"1\.jpg: .* more than any image has"):
            read(entry)
        assert len(read(listed(zipped(tmp_path / "small.zip", {"1.jpg": bytes(1000)}))[0][1])) == 1000


@pytest.mark.parametrize(("size", "at"), [(1 << 62, 1 << 62), (1 << 62, 0), (9, (1 << 64) - 1)])
def test_a_member_with_impossible_numbers_is_left_out_alone(tmp_path: Path, size: int, at: int) -> None:
    path = zipped(tmp_path / "a.zip", {"1.jpg": b"one", "2.jpg": b"two"}, zipfile.ZIP_STORED)
    data = path.read_bytes()
    begin = data.index(b"PK\x01\x02")
    extra = b"\x01\x00\x18\x00" + size.to_bytes(8, "little") * 2 + at.to_bytes(8, "little")
    full = (1 << 32) - 1
    entry = bytearray(data[begin : begin + 51])
    entry[20:28], entry[30:32], entry[42:46] = full.to_bytes(4) * 2, b"\x1c\0", full.to_bytes(4)
    end = bytearray(data[data.index(b"PK\x05\x06") :])
    end[12:16] = (2 * 51 + 28).to_bytes(4, "little")
    path.write_bytes(data[:begin] + entry + extra + data[begin + 51 : -22] + end)
    found = list_images([path], [])
    assert read(found.entry(1)) == b"two"
    with pytest.raises(OSError, match=r"1\.jpg: "):
        read(found.entry(0))


def test_members_that_cannot_be_unpacked_are_told_as_what_they_are(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"1.jpg": b"one"}, zipfile.ZIP_LZMA)
    with pytest.raises(OSError, match=r"1\.jpg: packed by method 14"):
        read(listed(path)[0][1])
    flip(path, path.read_bytes().index(b"PK\x01\x02") + 8)
    with pytest.raises(OSError, match=r"1\.jpg: encrypted"):
        read(listed(path)[0][1])


def test_hidden_folders_and_zips_are_passed_over_and_told(tmp_path: Path) -> None:
    """They hold copies of the files, thumbnails, or what was thrown away."""
    zipped(tmp_path / "a.zip", {"__MACOSX/masks/1.jpg": b"x", "masks/1.jpg": b"1", "masks/.small/1.jpg": b"x"})
    for name in (".Trash-1000", "@eaDir", ".AppleDouble"):
        (tmp_path / name / "masks").mkdir(parents=True)
        (tmp_path / name / "masks" / "1.jpg").write_bytes(b"x")
    (tmp_path / "._a.zip").write_bytes(b"attributes")
    left_out: list[LeftOut] = []
    found = list_images([tmp_path], left_out)
    assert [found.inside(number) for number in range(len(found))] == [f"{tmp_path.name}/a/masks/1.jpg"]
    assert {one.source.removeprefix(f"{tmp_path}/") for one in left_out} == {
        *("._a.zip", ".AppleDouble", ".Trash-1000", "@eaDir", "a.zip/__MACOSX/masks/1.jpg", "a.zip/masks/.small/1.jpg")
    }
    assert {(one.kind, one.detail) for one in left_out} == {("litter", "hidden, or in a hidden folder")}
    hidden = tmp_path / ".Trash-1000"
    assert len(list_images([hidden], [])) == 1  # of what is asked for itself


def test_links_that_lead_back_are_not_followed_for_ever(tmp_path: Path) -> None:
    for one, other in ("ab", "ba"):
        (tmp_path / one).mkdir()
        (tmp_path / one / "1.jpg").write_bytes(b"1")
        (tmp_path / one / f"to {other}").symlink_to(f"../{other}")
    (tmp_path / "a" / "up").symlink_to("..")
    left_out: list[LeftOut] = []
    assert len(list_images([tmp_path], left_out)) == 4
    assert "a/up" in [one.source.removeprefix(f"{tmp_path}/") for one in left_out]
    assert {one.detail for one in left_out} == {"a link to a folder that it lies in"}


def test_a_file_of_before_1970_is_one_like_others(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"1")
    os.utime(tmp_path / "1.jpg", (-(10**9), -(10**9)))
    assert read(list_images([tmp_path], []).entry(0)) == b"1"


def test_a_zip_that_git_lfs_has_is_said_to_be_there(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    for source in (tmp_path, tmp_path / "a.zip"):
        with pytest.raises(InputError, match=r"a\.zip: Git LFS has the zip, and this points to it: git lfs pull"):
            list(list_files(source))


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no folder and no zip"):
        list(list_files(tmp_path / "nowhere"))


def test_files_folders_and_zips_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("a.jpg", "c.jpg", "d.jpg", "f.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    for name in ("b", "f", "g.zip"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"1")
    zipped(tmp_path / "e.ZIP", {"1.jpg": b"1"})
    names = [name.partition("/")[2] for name, _ in listed(tmp_path)]
    assert names == ["a.jpg", "b/1.jpg", "c.jpg", "d.jpg", "e/1.jpg", "f/1.jpg", "f.jpg", "g.zip/1.jpg"]
    assert [len(entries) for _, entries in list_files(tmp_path)] == [1, 1, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("together", [1, 3, 100])
def test_members_are_the_same_however_many_are_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(files, "_TOGETHER", together)
    path = zipped(tmp_path / "a.zip", {f"{i // 5}/{i:02}.jpg": bytes([i]) for i in range(12)})
    assert [name for name, _ in listed(path)] == [f"a/{i // 5}/{i:02}.jpg" for i in range(12)]
    assert [read(entry) for _, entry in listed(path)] == [bytes([i]) for i in range(12)]


@pytest.mark.parametrize("size", [0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 300_000])
def test_files_of_any_size_are_read_to_their_end(tmp_path: Path, size: int) -> None:
    (tmp_path / "1.jpg").write_bytes(random.Random(size).randbytes(size))
    assert read(Entry(str(tmp_path), "1.jpg")) == (tmp_path / "1.jpg").read_bytes()


def test_a_file_that_comes_in_small_pieces_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1.jpg").write_bytes(bytes(range(256)) * 10)
    whole = os.read
    monkeypatch.setattr(os, "read", lambda file, size: whole(file, min(size, 100)))
    assert read(Entry(str(tmp_path), "1.jpg")) == bytes(range(256)) * 10


def test_a_glob_may_begin_inside_the_source_or_with_its_name() -> None:
    matcher = Matcher({"fg_bg": "pasted/**/*.jpg", "mask": "alpha/*.png"})
    assert [component(matcher, path) for path in ("data/pasted/1/2/a.jpg", "pasted/a.jpg", "data/alpha/a.png")] == [
        "fg_bg",
        "fg_bg",
        "mask",
    ]
    assert component(matcher, "data/alpha/deeper/a.png") is None


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20)


@given(st.lists(st.sampled_from(["a", "OverlayedImages", "DepthImage1", "Background", "x.jpg"]), min_size=1), NAMES)
def test_where_folders_decide_every_file_is_of_its_folders_component(folders: list[str], name: str) -> None:
    inside = "/".join(folders)
    one_by_one = Matcher({name: f"{glob}/*" for name, glob in GLOBS.items()})
    assert not one_by_one._folder_decides
    assert MATCHER.components(inside, [name, "DepthImage", name]) == [
        component(one_by_one, f"{inside}/{one}") for one in (name, "DepthImage", name)
    ]


def test_one_glob_that_names_files_has_every_file_looked_at() -> None:
    matcher = Matcher({"fg_bg": "**/pasted/**", "mask": "**/alpha/*.png"})
    assert matcher.components("data/alpha", ["a.png", "a.jpg", "b.png"]) == ["mask", None, "mask"]
    assert matcher.components("data/pasted/1", ["a.png", "a.jpg"]) == ["fg_bg", "fg_bg"]


@given(NAMES)
def test_hidden_files_and_other_types_are_no_images(name: str) -> None:
    assert not is_image(f".{name}.jpg")
    assert not is_image(f"{name}.jpg.db")
    assert is_image(f"x{name}.JPG")
