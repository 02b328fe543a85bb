"""Folders and zips as one listing, and members read in place."""

import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_data import flip

from shards.errors import InputError
from shards.schema import COMPONENTS
from shards.sources import Entry, Matcher, list_files, read

MATCHER = Matcher({component.name: component.glob for component in COMPONENTS})


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read_as_they_were_put_in(tmp_path: Path, method: int) -> None:
    members = {f"1/{i}.jpg": bytes([i, 7]) * (1 + 500 * i) for i in range(20)} | {"1/empty.jpg": b""}
    path = zipped(tmp_path / "DepthImage2.zip", members, method)
    found = {name.partition("/")[2]: read(entry) for name, entry in list_files(path)}
    assert found == members


def test_a_zip_in_a_folder_counts_as_a_folder_of_its_name(tmp_path: Path) -> None:
    zipped(tmp_path / "a.zip", {"x/1.jpg": b"1"})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.jpg").write_bytes(b"2")
    assert [name for name, _ in list_files(tmp_path)] == [f"{tmp_path.name}/a/x/1.jpg", f"{tmp_path.name}/b/2.jpg"]


def test_a_member_with_one_wrong_bit_is_not_handed_out(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"1.jpg": b"0123456789"}, zipfile.ZIP_STORED)
    flip(path, path.read_bytes().index(b"0123"))
    ((_, entry),) = list_files(path)
    with pytest.raises(OSError, match=r"1\.jpg: its checksum"):
        read(entry)


def test_a_zip_cut_short_is_named(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"1.jpg": bytes(1000)}, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"a\.zip: not a whole zip"):
        list(list_files(tmp_path))


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no folder and no zip"):
        list(list_files(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("path", "component"),
    [
        ("folders/OverlayedImages/15/a.jpg", "fg_bg"),
        ("OverlayedImages/15/a.jpg", "fg_bg"),
        ("OverlayedImages3/OverlayedImages/15/a.jpg", "fg_bg"),
        ("OverlayedMasks1/15/a.jpg", "mask"),
        ("drive/2020/DepthImage/0/a.jpg", "depth"),
        ("zips/Background/Background/Shelves_1.jpg", "bg"),
        ("folders/Thumbs.db", None),
        ("folders/Foreground/a.png", None),
    ],
)
def test_the_component_is_told_by_the_folder_or_zip(path: str, component: str | None) -> None:
    assert MATCHER.component(path) == component


def test_a_glob_may_begin_inside_the_source_or_with_its_name() -> None:
    matcher = Matcher({"fg_bg": "pasted/**/*.jpg", "mask": "alpha/*.png"})
    assert [matcher.component(path) for path in ("data/pasted/1/2/a.jpg", "pasted/a.jpg", "data/alpha/a.png")] == [
        "fg_bg",
        "fg_bg",
        "mask",
    ]
    assert matcher.component("data/alpha/deeper/a.png") is None


@given(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20))
def test_hidden_files_and_other_types_are_no_images(name: str) -> None:
    assert Entry(f"folder/.{name}.jpg").format is None
    assert Entry(f"folder/{name}.jpg.db").format is None
    assert Entry(f"folder/x{name}.JPG").format == "jpg"
