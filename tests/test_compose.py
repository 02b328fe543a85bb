"""Composing: what is pasted is what alpha says, depth is the floor's under the feet, and a seed fixes every byte."""

import hashlib
import io
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps
from small_data import (
    ONE_WORKER,
    SAMPLES,
    SIZE,
    Drawn,
    begun,
    built,
    compose_config,
    contents,
    division,
    flip,
    images,
    shard,
)

from shards.build.build import BuildConfig
from shards.errors import InputError
from shards.format.dataset import Dataset
from shards.format.images import BadImage
from shards.format.schema import identity, sample_key
from shards.ingest.compose import ComposeUnit, load_figure, plan_composition
from shards.ingest.job import Job
from shards.ingest.paste import Background, Figure, PasteConfig, paste

NEAR, FAR = np.float32(1.0), np.float32(8.0)


def values(image: Image.Image | None) -> NDArray[np.int64]:
    """(H, W), or (H, W, 3) where there are colours."""
    assert image is not None
    return np.asarray(image.convert("RGB") if image.mode == "RGBX" else image).astype(np.int64)


def room(colour: tuple[int, int, int]) -> Background:
    """A floor that comes nearer row by row, from 8 m to 1 m."""
    depth = np.repeat(np.linspace(FAR, NEAR, SIZE, dtype=np.float32)[:, None], SIZE, axis=1)
    return Background(b"", Image.new("RGBX", (SIZE, SIZE), (*colour, 0)), depth)


def figure(colour: tuple[int, int, int], seed: int, height: int = 40, width: int = 20) -> Image.Image:
    """One colour, its alpha anything from nothing at the left to all at the right."""
    noise = np.random.default_rng(seed).integers(-10, 10, (height, width))
    alpha = np.clip(np.linspace(0, 255, width)[None] + noise, 0, 255).astype(np.uint8)
    image = Image.new("RGBA", (width, height), colour)
    image.putalpha(Image.fromarray(alpha))
    return image


def pasted(
    seed: int, room_colour: tuple[int, int, int], colour: tuple[int, int, int], **options: float
) -> dict[str, Image.Image]:
    config = PasteConfig(size=SIZE, **options)  # type: ignore[arg-type]
    return paste(room(room_colour), [Figure(figure(colour, seed))], Random(seed), config)


def written(job: Job, folder: Path) -> bytes:
    """All shards, one after the other."""
    folder.mkdir(exist_ok=True)
    return b"".join((folder / shard(job, unit, folder).shard.name).read_bytes() for unit in job.units)


@given(st.integers(0, 10**6))
def test_the_mask_is_the_alpha_of_the_figure(seed: int) -> None:
    """White on black shows the alpha itself."""
    made = pasted(seed, (0, 0, 0), (255, 255, 255))
    assert np.abs(values(made["fg_bg"]) - values(made["mask"])[..., None]).max() <= 1


@given(st.integers(0, 10**6))
def test_figure_and_background_are_blended_by_alpha(seed: int) -> None:
    made, back, front = pasted(seed, (40, 90, 200), (230, 10, 120)), (40, 90, 200), (230, 10, 120)
    alpha = values(made["mask"])[..., None] / 255
    expected = alpha * np.array(front) + (1 - alpha) * np.array(back)
    assert np.abs(values(made["fg_bg"]) - expected).max() <= 4  # at low alpha colours have few bits; measured: 3.2
    assert (values(made["fg_bg"])[values(made["mask"]) == 0] == back).all()


@given(st.integers(0, 10**6))
def test_a_figure_is_as_far_as_the_floor_under_its_feet(seed: int) -> None:
    made, floor = pasted(seed, (0, 0, 0), (9, 9, 9)), np.asarray(room((0, 0, 0)).depth)[:, 0]
    visible = values(made["mask"]) >= 128
    feet = np.flatnonzero(visible.any(axis=1))[-1]
    metres = values(made["depth"]) / 255 * 10
    assert np.abs(metres[visible] - floor[feet]).max() <= 0.02
    assert np.abs(metres - floor[:, None])[~visible].max() <= 0.02


@given(st.integers(0, 10**6), st.sampled_from([0.2, 0.5, 1.0]))
def test_feet_stand_in_the_lowest_share_and_sizes_keep_to_the_scale(seed: int, floor: float) -> None:
    made = pasted(seed, (0, 0, 0), (255, 255, 255), floor=floor)
    left, top, right, bottom = made["mask"].getbbox() or (0, 0, 0, 0)
    assert bottom >= round(SIZE * (1 - floor))
    assert 0.3 * SIZE - 1 <= max(right - left, bottom - top) <= 0.6 * SIZE + 1


def test_mirrored_rounds_show_the_mirrored_figure(drawn: Drawn, tmp_path: Path) -> None:
    cutouts = tmp_path / "fg"
    cutouts.mkdir()
    both = Image.new("RGBA", (30, 30), (255, 0, 0, 255))
    both.paste((0, 0, 255, 255), (15, 0, 30, 30))
    both.save(cutouts / "red left of blue.png")
    (unit,) = plan_composition(compose_config(drawn._replace(fg=cutouts), samples=12)).units
    assert isinstance(unit, ComposeUnit)
    for pasting in unit.pastings:
        data = unit.sample(pasting).images
        pixels, mask = (values(Image.open(io.BytesIO(data[name]))) for name in ("fg_bg", "mask"))
        columns = np.flatnonzero(mask.max(axis=0) > 200)
        left = pixels[np.flatnonzero(mask.max(axis=1) > 200)][:, columns[: len(columns) // 3]].mean(axis=(0, 1))
        assert (left[0] > left[2]) == (pasting.round < 2)


def test_measured_depth_of_16_bits_is_that_of_8_in_finer_steps(drawn: Drawn) -> None:
    coarse, fine = (
        plan_composition(compose_config(drawn, samples=40, lossless=True, format=form)).units
        for form in ("png", "png16")
    )
    for few, many in zip(coarse, fine, strict=True):
        assert isinstance(few, ComposeUnit)
        assert isinstance(many, ComposeUnit)
        for pasting in few.pastings:
            levels, sixteenth = values(few.pasted(pasting)["depth"]), values(many.pasted(pasting)["depth"])
            assert np.abs(sixteenth / 257 - levels).max() <= 0.51


def test_where_there_are_many_some_are_counted_whatever_the_shards(
    drawn: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = built(plan_composition(compose_config(drawn)), tmp_path / "every").manifest
    monkeypatch.setattr("shards.ingest.compose.COUNTED", 40)
    some = [
        built(
            plan_composition(compose_config(drawn, division=division(samples_per_shard=n))), tmp_path / str(n)
        ).manifest
        for n in (7, 25)
    ]
    assert every.counted is None
    assert some[0].counted == some[1].counted == 38  # one in four of 150
    assert some[0].statistics == some[1].statistics != every.statistics
    for name, one in every.statistics.items():
        assert some[0].statistics[name].mean == pytest.approx(one.mean, abs=0.05)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(drawn: Drawn, tmp_path: Path) -> None:
    tars = [
        written(plan_composition(compose_config(drawn, seed=seed)), tmp_path / str(i))
        for i, seed in enumerate((0, 0, 1))
    ]
    assert tars[0] == tars[1] != tars[2]
    first, again, other = (
        plan_composition(compose_config(drawn, seed=seed)).plan.manifest.made_from for seed in (0, 0, 1)
    )
    assert first == again != other


def test_another_background_of_the_same_name_makes_all_of_it_again(drawn: Drawn, tmp_path: Path) -> None:
    """For figures and backgrounds come in all shards."""
    own = Drawn(*(Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in drawn))

    def plan(**options: int) -> Job:
        return plan_composition(compose_config(own, samples=20, division=division(samples_per_shard=10), **options))

    begun(plan(), tmp_path / "begun")
    built(plan(), tmp_path / "finished")
    room = min(own.bg.iterdir())
    ImageOps.mirror(Image.open(room)).save(room)
    whole = contents(built(plan(), tmp_path / "whole", BuildConfig(workers=2)).root)  # this process remembers images
    assert contents(built(plan(), tmp_path / "begun").root) == whole
    with pytest.raises(InputError, match=r"shard-000000\.tar and 1 more of 2 shards would no longer be the same"):
        built(plan(), tmp_path / "finished")
    assert contents(built(plan(), tmp_path / "finished", replace(ONE_WORKER, again=True)).root) == whole
    with pytest.raises(InputError, match="holds another data set already"):
        built(plan(seed=1), tmp_path / "finished", replace(ONE_WORKER, again=True))


@pytest.mark.parametrize(
    ("options", "sha256"),
    [
        ({}, "8e3b6fc533cfe52b36f1d8bd68f1edfdac7cff5b59731c6416957667d959d7ab"),
        ({"lossless": True}, "8be7b494fd9e2863feb465d0a374d71134b28e93778da35639eb45f21b4ccff2"),
        ({"size": 160, "samples": 30}, "63bb50a41b4511ebfe8d57a9389d2888b66da694104a9f2f83f9a46fbb882419"),
        (
            {"size": 20, "samples": 30, "floor": 1.0, "scale": (0.1, 0.9)},
            "a4b2c02137d309acd896ef646bc18d22ce3b0dc6111084abd21283a427fb4e7d",
        ),
    ],
    ids=["as they are", "lossless", "large", "small"],
)
def test_the_bytes_are_those_of_earlier_versions(
    drawn: Drawn, tmp_path: Path, options: dict[str, object], sha256: str
) -> None:
    """Of all shards one after the other. Another Pillow may scale or encode otherwise; then these change with it."""
    job = plan_composition(compose_config(drawn, **options))
    assert hashlib.sha256(written(job, tmp_path)).hexdigest() == sha256


def test_the_bytes_do_not_depend_on_how_many_samples_are_made_together(
    drawn: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = plan_composition(compose_config(drawn, samples=25))
    whole = written(job, tmp_path)
    monkeypatch.setattr("shards.ingest.compose.TOGETHER", 7)
    assert written(job, tmp_path) == whole


def test_shards_at_once_hold_what_folders_converted_hold(drawn: Drawn, dataset: Path) -> None:
    made = {
        sample.key: sample.images
        for unit in plan_composition(compose_config(drawn)).units
        if isinstance(unit, ComposeUnit)
        for sample in map(unit.sample, unit.pastings)
    }
    assert len(made) == SAMPLES
    assert images(Dataset.open(dataset)) == made


def test_a_sample_does_not_depend_on_the_others(drawn: Drawn, tmp_path: Path) -> None:
    few, all_ = (plan_composition(compose_config(drawn, samples=samples)).units[0] for samples in (10, None))
    assert isinstance(few, ComposeUnit)
    assert isinstance(all_, ComposeUnit)
    assert all_.pastings[:10] == few.pastings
    assert few.sample(few.pastings[9]).images == all_.sample(few.pastings[9]).images


def test_names_tell_background_figure_and_round(drawn: Drawn) -> None:
    units = plan_composition(compose_config(drawn, samples=None)).units
    found = [identity(sample_key(*p)) for unit in units if isinstance(unit, ComposeUnit) for p in unit.pastings]
    told = {(one.bg, one.fg, one.round) for one in found if one}
    assert told == {(str(b), str(f), str(r)) for b in range(1, 9) for f in range(1, 7) for r in range(4)}


def test_away_from_the_figure_the_background_is_untouched_but_for_jpeg(dataset: Path) -> None:
    """JPEG mixes 16 x 16 pixels, so only such blocks without a figure in them or beside them are compared."""
    apart = []
    for parts in images(Dataset.open(dataset)).values():
        fg_bg, bg, mask = (values(Image.open(io.BytesIO(parts[name]))) for name in ("fg_bg", "bg", "mask"))
        for y, x in ((y, x) for y in range(0, SIZE, 16) for x in range(0, SIZE, 16)):
            if mask[max(0, y - 1) : y + 17, max(0, x - 1) : x + 17].max() <= 2:
                apart.append(np.abs(fg_bg - bg)[y + 1 : y + 15, x + 1 : x + 15])
    assert len(apart) > 500
    assert np.max(apart) <= 12
    assert np.mean(apart) <= 1


def test_cutouts_that_cannot_be_used_are_reported(drawn: Drawn, tmp_path: Path) -> None:
    figure((1, 2, 3), seed=0).save(tmp_path / "1 good.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "2 no alpha.png")
    Image.new("RGBA", (9, 9)).save(tmp_path / "3 nothing to see.png")
    (tmp_path / "4 text.png").write_text("no image")
    work = plan_composition(compose_config(drawn._replace(fg=tmp_path)))
    assert [(one.kind, Path(one.source).name[0]) for one in work.plan.left_out] == [
        ("no-alpha", "2"),
        ("empty-alpha", "3"),
        ("not-an-image", "4"),
    ]
    assert work.plan.manifest.sources["fg"] == ["1 good.png"]
    (tmp_path / "1 good.png").unlink()
    with pytest.raises(InputError, match=r"no usable image for fg\. 2 no alpha\.png: mode RGB"):
        plan_composition(compose_config(drawn._replace(fg=tmp_path)))


def png(path: Path, colours: int, values: NDArray[np.generic], transparent: bytes = b"") -> Path:
    """Written by hand: Pillow writes no 16 bits per channel. `colours`: 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, values.dtype.itemsize * 8, colours, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(values.dtype.newbyteorder(">")).tobytes() for row in values)
    extra = chunk(b"tRNS", transparent) if transparent else b""
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


def test_cutouts_are_made_rgba_where_there_is_one_way(tmp_path: Path) -> None:
    """Three pixels, the first of them transparent, which is cropped away."""
    path = tmp_path / "one.png"
    palette = Image.new("P", (3, 1))
    palette.putpalette([9, 9, 9, 10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1, 2])
    for transparency, alphas in ((b"\0\x80\xff", (128, 255)), (0, (255, 255))):
        palette.save(path, transparency=transparency)
        expected = [[(10, 20, 30, alphas[0]), (40, 50, 60, alphas[1])]]
        assert np.array_equal(np.asarray(load_figure(path)), expected)
    grey, alpha = (np.array([row], np.uint8) for row in ((5, 100, 200), (0, 128, 255)))
    own = {4: np.dstack([grey, alpha]), 6: np.dstack([grey, grey, grey, alpha])}
    for kind, pixels in own.items():
        for wide in (pixels, pixels.astype(np.uint16) * 257, pixels.astype(np.uint16) * 256 + 255):
            found = load_figure(png(path, kind, wide))
            assert np.array_equal(np.asarray(found), own[6][:, 1:])
    for kind, pixels in ((0, grey), (2, np.dstack([grey] * 3))):
        found = load_figure(png(path, kind, pixels, struct.pack(">H", 5) * max(1, pixels.size // 3)))
        assert np.array_equal(np.asarray(found), [[(100, 100, 100, 255), (200, 200, 200, 255)]])


def test_what_kind_of_cutout_cannot_be_used_is_said(tmp_path: Path) -> None:
    path, wide = tmp_path / "one.png", np.array([[1000, 2000, 3000]], np.uint16)
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 4), np.uint8)
    made: dict[str, Callable[[], object]] = {
        "no-alpha": lambda: Image.new("P", (9, 9)).save(path),
        "empty-alpha": lambda: Image.new("P", (9, 9)).save(path, transparency=0),
        "wide-alpha": lambda: png(path, 2, np.dstack([wide] * 3), struct.pack(">HHH", 1000, 1000, 1000)),
        "wide-alpha again": lambda: png(path, 0, wide, struct.pack(">H", 1000)),
        "no-alpha again": lambda: png(path, 0, wide),
        "truncated": lambda: path.write_bytes(png(path, 6, noise).read_bytes()[:3000]),
    }
    for kind, make in made.items():
        make()
        with pytest.raises(BadImage) as found:
            load_figure(path)
        assert found.value.kind == kind.removesuffix(" again")


def test_a_cutout_larger_than_the_background_is_scaled_like_any_other(drawn: Drawn, tmp_path: Path) -> None:
    large = figure((200, 10, 90), seed=0, height=20 * SIZE, width=10 * SIZE)
    large.save(tmp_path / "large.png")
    (unit,) = plan_composition(compose_config(drawn._replace(fg=tmp_path), samples=5)).units
    assert isinstance(unit, ComposeUnit)
    for pasting in unit.pastings:
        left, top, right, bottom = unit.pasted(pasting)["mask"].getbbox() or (0, 0, 0, 0)
        assert 0.3 * SIZE - 1 <= max(right - left, bottom - top) <= 0.6 * SIZE + 1


def test_rooms_without_a_usable_depth_map_are_reported(drawn: Drawn, tmp_path: Path) -> None:
    depth = Path(shutil.copytree(drawn.depth, tmp_path / "depth"))
    (depth / "room0002.png").unlink()
    Image.new("L", (SIZE, SIZE)).save(depth / "room0003.png")
    Image.new("I;16", (9, 9)).save(depth / "room0004.png")
    Image.new("L", (SIZE, SIZE)).save(depth / "room0005.png", "DDS")
    flip(depth / "room0006.png", 45)
    work = plan_composition(compose_config(drawn._replace(depth=depth)))
    assert [(one.kind, Path(one.source).name) for one in work.plan.left_out] == [
        ("bad-depth", "room0002.jpg"),
        ("bad-depth", "room0003.jpg"),
        ("wrong-size", "room0004.jpg"),
        ("bad-depth", "room0005.jpg"),
        ("bad-depth", "room0006.jpg"),
    ]
    assert len(work.plan.manifest.sources["bg"]) == 3


@pytest.mark.parametrize("option", [{"scale": (0.6, 0.3)}, {"scale": (0.0, 0.3)}, {"floor": 0.0}, {"places": 0}])
def test_impossible_options_are_refused(drawn: Drawn, option: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(option))):
        compose_config(drawn, **option)


def test_a_folder_that_is_not_there_is_named(drawn: Drawn, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        plan_composition(compose_config(drawn._replace(fg=tmp_path / "nowhere")))
