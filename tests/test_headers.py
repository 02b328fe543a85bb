"""Verification by headers: quick where a file is plain, and never kinder than it says."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_data import SAMPLES, built, contents, division, said
from test_convert import BREAK, image_of, left_out, samples_of

from shards.errors import InputError
from shards.format.dataset import Dataset
from shards.format.images import _jpeg_header, _of_beginning, read_header
from shards.format.manifest import Manifest
from shards.ingest import convert
from shards.ingest.convert import ConvertConfig, plan_conversion


def converted(folders: Path, out: Path, verify: str, **options: int) -> Dataset:
    config = ConvertConfig(verify=verify, division=division(**options))  # type: ignore[arg-type]
    return built(plan_conversion([folders], config), out)


def encoded(mode: str, form: str, **options: object) -> bytes:
    """24 x 16 pixels of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 4), np.uint8)
    image = Image.fromarray(noise).convert("RGB").convert(mode) if mode != "I;16" else Image.new("I;16", (24, 16), 999)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


PLAIN = {
    "grey": encoded("L", "JPEG"),
    "colour": encoded("RGB", "JPEG", quality=95),
    "full chroma": encoded("RGB", "JPEG", subsampling="4:4:4", optimize=True),
    "progressive": encoded("RGB", "JPEG", progressive=True),
    "commented": encoded("RGB", "JPEG", comment=b"\xff\xc0" * 50, exif=b"Exif\0\0" + bytes(99)),
    "commented at length": encoded("RGB", "JPEG", comment=b"\xff\xc0" * 5000),
    "restarts": encoded("L", "JPEG", restart_marker_blocks=1),
    "grey PNG": encoded("L", "PNG"),
    "colour PNG": encoded("RGB", "PNG"),
    "deep PNG": encoded("I;16", "PNG"),
}
OTHERS = {
    "CMYK": encoded("CMYK", "JPEG"),
    "profile": encoded("RGB", "JPEG", icc_profile=bytes(200)),
    "pictures": encoded("RGB", "MPO", save_all=True, append_images=[Image.new("RGB", (24, 16))]),
    "two frames": PLAIN["grey"].replace(
        b"\xff\xc0", bytes.fromhex("ffc0 000b 08 0010 0020 01 011100") + b"\xff\xc0", 1
    ),
    "palette": encoded("P", "PNG"),
    "alpha": encoded("RGBA", "PNG"),
    "grey alpha": encoded("LA", "PNG"),
    "one bit": encoded("1", "PNG"),
    "GIF": encoded("L", "GIF"),
    "cut": PLAIN["colour"][:-1],
    "cut PNG": PLAIN["grey PNG"][:-1],
    "nothing": b"",
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_images_are_known_by_their_headers(name: str) -> None:
    image = Image.open(io.BytesIO(PLAIN[name]))
    extension = {"JPEG": "jpg", "PNG": "png"}[str(image.format)]
    assert read_header(PLAIN[name]) == (extension, (16, 24), 16 if image.mode == "I;16" else 8)


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_not_vouched_for(name: str) -> None:
    assert read_header(OTHERS[name]) is None


def test_images_that_begin_of_beginning_are_told_apart() -> None:
    beginning, _, rest = PLAIN["colour"].partition(b"\xff\xc0")
    for height in (16, 17, 4096, 16):
        data = beginning + b"\xff\xc0" + rest[:3] + height.to_bytes(2, "big") + rest[5:]
        assert read_header(data) == ("jpg", (height, 24), 8)
    assert read_header(beginning + b"\xff\xc1" + rest) == read_header(PLAIN["colour"])
    assert read_header(beginning + b"\xff\xd9") is None


def test_an_image_that_begins_like_another_is_looked_up() -> None:
    read_header(PLAIN["colour"])
    before = _of_beginning.cache_info().hits
    assert read_header(PLAIN["colour"]) == ("jpg", (16, 24), 8)
    assert _of_beginning.cache_info().hits == before + 1
    assert _of_beginning(PLAIN["colour"][: PLAIN["colour"].index(b"\xff\xda") + 2]) is not None


@given(st.sampled_from(sorted(PLAIN)), st.integers(0, 199), st.integers(0, 255))
def test_what_is_vouched_for_pillow_says_too(name: str, position: int, value: int) -> None:
    """With any byte of the first 200 changed: Pillow refuses the file, or finds the size in it that the header has."""
    data = bytearray(PLAIN[name])
    data[position % len(data)] = value
    found = read_header(bytes(data))
    assert not data.startswith(b"\xff\xd8\xff") or found is None or found == _jpeg_header(bytes(data))
    if found is None:
        return
    try:
        image = Image.open(io.BytesIO(data))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return
    extension, size, _ = found
    assert (image.height, image.width) == size
    assert image.mode in {"L", "RGB", "I;16"}
    assert {"JPEG": "jpg", "PNG": "png"}[str(image.format)] == extension


def test_a_data_set_without_flaws_is_the_same(folders: Path, dataset: Path, tmp_path: Path) -> None:
    found = converted(folders, tmp_path / "out", "header")
    own, other = contents(found.root), contents(dataset)
    assert own.pop("manifest.json") != other.pop("manifest.json")
    assert own == other
    assert said(found.root) == replace(said(dataset), verified="header")
    assert said(dataset).verified == "full"


@pytest.fixture
def one_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first sample is counted, and so decoded."""
    for name in ("COUNTED", "DECODED"):
        monkeypatch.setattr(convert, name, 1)


def broken_inside(data: bytes) -> bytes:
    """A JPEG whose header and end are right, with a table that no decoder takes."""
    at = data.index(b"\xff\xc4") + 5
    return data[:at] + b"\xff" * 16 + data[at + 16 :]


@pytest.mark.usefixtures("one_counted")
def test_what_its_header_tells_is_left_out_and_for_the_same_reason(messy: Path, dataset: Path, tmp_path: Path) -> None:
    """But damage between header and end is not seen: that is what full is for."""
    counted = Dataset.open(dataset).key(0)
    keys = [key for key in samples_of(messy) if key != counted]
    for i, damage in enumerate(BREAK.values()):
        path = image_of(messy, "fg_bg", keys[7 * i])
        path.write_bytes(damage(path))
    inside = image_of(messy, "mask", keys[-1])
    inside.write_bytes(broken_inside(inside.read_bytes()))
    full, quick = (converted(messy, tmp_path / verify, verify) for verify in ("full", "header"))
    reports = [{tuple(row.values()) for row in left_out(one.root)} for one in (full, quick)]
    assert {row["kind"] for row in left_out(quick.root)} == BREAK.keys()
    assert [row[1] for row in reports[0] - reports[1]] == [keys[-1]]
    assert reports[1] < reports[0]
    assert len(quick) == len(full) + 1 == SAMPLES - len(BREAK)


@pytest.mark.parametrize("verify", ["full", "header"])
def test_statistics_of_a_part_are_said_to_be(
    folders: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: str
) -> None:
    monkeypatch.setattr(convert, "COUNTED" if verify == "full" else "DECODED", 40)
    found = [converted(folders, tmp_path / str(n), verify, samples_per_shard=n).manifest for n in (25, 7)]
    assert found[0].counted == found[1].counted == len(range(0, SAMPLES, 4))
    assert found[0].statistics == found[1].statistics
    whole = Dataset.open(dataset).manifest
    assert whole.counted is None
    assert found[0].statistics != whole.statistics
    for name, one in found[0].statistics.items():
        assert one.mean == pytest.approx(whole.statistics[name].mean, abs=0.05)
    assert Manifest.from_json(found[0].to_json()) == found[0]


@pytest.mark.usefixtures("one_counted")
def test_no_whole_sample_to_count_is_an_error(messy: Path, dataset: Path, tmp_path: Path) -> None:
    path = image_of(messy, "depth", Dataset.open(dataset).key(0))
    path.write_bytes(broken_inside(path.read_bytes()))
    with pytest.raises(InputError, match="none of the samples that were to be counted"):
        converted(messy, tmp_path / "out", "header")


def test_scaling_needs_every_pixel() -> None:
    with pytest.raises(InputError, match="verify header: with size every image is decoded"):
        ConvertConfig(size=32, verify="header")
