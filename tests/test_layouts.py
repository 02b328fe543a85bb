"""Layouts that people have: each is drawn, converted, and every pair checked against its source by its bytes.

A layout is where the files of a sample lie: sample `n` of background `b` (from 1 to 6) and figure `f` in round `r`.
"""

import csv
import io
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_data import built_here, images

from shards.errors import InputError
from shards.ingest.convert import ConvertConfig, plan_conversion
from shards.ingest.job import NoSampleError
from shards.ingest.layout import stem
from shards.ingest.words import meaning

ROUNDS = [{"b": b, "f": f, "r": r} for r, f, b in product(range(2), range(1, 6), range(1, 7))]
SAMPLES = [{"n": n, **one} for n, one in enumerate(ROUNDS, 1)]


def drawn(kind: int, number: int) -> bytes:
    """A picture that no other is equal to."""
    shape = (16, 16, 3) if kind in (0, 3) else (16, 16)
    pixels = np.random.default_rng((kind, number)).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "JPEG")
    return buffer.getvalue()


PICTURES: dict[str, dict[str, bytes]] = {
    "fg_bg": {str(one["n"]): drawn(0, one["n"]) for one in SAMPLES},
    "mask": {str(one["n"]): drawn(1, one["n"]) for one in SAMPLES},
    "depth": {str(one["n"]): drawn(2, one["n"]) for one in SAMPLES},
    "bg": {str(one["n"]): drawn(3, one["b"]) for one in SAMPLES},
}


class Layout(dict[str, str]):
    """Patterns of the paths by component. options: of convert. zips: each folder is packed."""

    def __init__(self, *patterns: str, zips: bool = False, **options: Any) -> None:
        super().__init__(zip(PICTURES, patterns, strict=False))
        self.zips, self.options = zips, options

    def write(self, root: Path) -> Path:
        for name, pattern in self.items():
            for one in SAMPLES if pattern else ():
                path = root / pattern.format(**one)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(PICTURES[name][str(one["n"])])
        for folder in [path for path in root.iterdir() if self.zips and path.is_dir()]:
            shutil.make_archive(str(folder), "zip", folder)
            shutil.rmtree(folder)
        return root


def alike(fg_bg: str, mask: str, depth: str, bg: str, name: str, of_bg: str, **more: Any) -> Layout:
    """Three folders in which files have one name."""
    return Layout(*(f"{folder}/{name}" for folder in (fg_bg, mask, depth)), f"{bg}/{of_bg}", **more)


SELF = {
    "2020": alike(
        "OverlayedImages",
        "OverlayedMasks",
        "DepthImage",
        "Background",
        "{r}/combined_s{b}_p{f}_it{r}.jpg",
        "Shelves_{b}.jpg",
    ),
    "2020, zips of volumes": alike(
        "OverlayedImages{r}",
        "OverlayedMasks{r}",
        "DepthImage{r}",
        "Background",
        "combined_s{b}_p{f}_it{r}.jpg",
        "{b}.jpg",
        zips=True,
    ),
    "words at the end": Layout("X{n}y.jpeg", "X{n}y_mask.jpeg", "X{n}y_depth_map.jpeg"),
    "words at the end of numbers": Layout("all/{n:04}.jpg", "all/{n:04}_mask.png", "all/{n:04}_depth.png"),
    "fg_bg_7, bg_mask_7": Layout("fg_bg/fg_bg_{n}.jpg", "masks/bg_mask_{n}.jpg", "depth/depth_fg_bg_{n}.jpg"),
    "ol_X, mask_ol_X": Layout("images/ol_{n}.jpg", "mask/mask_ol_{n}.jpg", "depth/depth_ol_{n}.jpg"),
    "fg-bg1, fg-bg-mask1": Layout("fg-bg/fg-bg{n}.jpg", "fg-bg-mask/fg-bg-mask{n}.jpg", "depth/depth{n}.jpg"),
    "1_bg_1_fg": alike("bg_fg", "bg_fg_mask", "bg_fg_depth_map", "bg", "{b}_bg_{f}{r}_fg.jpg.jpg", "{b}.jpg"),
    "fg_1_bg_01": alike("bgfg", "mask_black", "dense_depth", "bg_images", "fg_{f}_bg_{b:02}_{r}.jpg", "bg_{b:02}.jpg"),
    "x_bg003": alike(
        "FGBG_jpg", "Masks_jpg", "depthMap_jpg", "BG_jpg", "x{f}{r}_bg{b:03}.jpg", "bg{b:03}.jpg", zips=True
    ),
    "x_s3_": alike("overlay", "mask", "depth", "backgrounds", "x_s{b}_{f}{r}.jpg", "room{b}.jpg"),
    "bg_005/img_0001": alike(
        "fg_bg", "fg_bg_masks", "fg_bg_depth", "bg", "bg_{b:03}/img_{f}{r:03}.jpg", "bg_{b:03}.jpg"
    ),
    "001/001/001": alike("FgBg", "FgBgMask", "Depth", "Bg", "{b:03}/{f:03}/{r:03}.jpg", "{b:03}.jpg"),
    "zips of folders": alike(
        "fg_bg_001", "mask_001", "depth_001", "bg", "bg_{b:03}/{f}{r}.jpg", "bg_{b:03}.jpg", zips=True
    ),
    "the background's name": alike("images", "masks", "depth", "bg", "hall{b}-man{f}-{r}.jpg", "hall{b}.jpg"),
    "a background each": alike("overlay", "mask", "depth", "background", "{n}.jpg", "bg_{n}.jpg"),
    "a folder a sample": Layout("{n}/fg_bg.jpg", "{n}/mask.png", "{n}/depth.png", "{n}/bg.jpg"),
    "a folder a scene": Layout("s{b}/fg_bg/{f}{r}.jpg", "s{b}/mask/{f}{r}.jpg", "s{b}/depth/{f}{r}.jpg", "s{b}/bg.jpg"),
    "a folder for inputs": Layout("in/overlay/{n}.jpg", "out/mask/{n}.jpg", "out/depth/{n}.jpg", "in/bg/{n}.jpg"),
    "portraits and mattes": Layout("portraits/{n}.jpg", "mattes/{n}.png"),
    "train and val": Layout("{r}/images/{f}{b}.jpg", "{r}/masks/{f}{b}.png"),
    "rooms and depth": Layout("room_{b}/rgb/{f}{r}.jpg", "", "room_{b}/depth/{f}{r}.png"),
    "images of a name of their own": Layout("clips/{n}.jpg", "alpha/{n}.png"),
    "no depth yet": Layout("fg_bg/{n}.jpg", "mask/{n}.jpg", "", "bg/{n}.jpg"),
}
"""Those that are found without any option."""
ONE_OPTION = {
    "numbers that lead nowhere": alike("fg_bg", "mask", "depth", "bg", "{n}.jpg", "{b}.jpg", component=("bg=",)),
    "a background's number first": alike(
        "fg_bg", "mask", "depth", "bg", "{b}_{f}_{r}.jpg", "{b}.jpg", background=r"/(\d+)_\d+_\d+$"
    ),
    "a number in another place": Layout("rgb/{n}.jpg", "mask/{b}z{n}.jpg", key=(r"mask=z(\d+)",)),
    "a name of two folders": Layout(
        "with/{n}.jpg", "mask/{n}.jpg", "mask_black/{n}.jpg", component=("depth=mask_black/**",)
    ),
}


def check(layout: Layout, root: Path, out: Path, options: dict[str, Any]) -> None:
    found = images(built_here(plan_conversion([root], ConvertConfig(**options)), out))
    numbers = {image: number for number, image in PICTURES["fg_bg"].items()}
    assert len(found) == len(SAMPLES)
    assert sorted(numbers[one["fg_bg"]] for one in found.values()) == sorted(numbers.values())
    for one in found.values():
        assert one == {name: PICTURES[name][numbers[one["fg_bg"]]] for name in one}
    without = {given.partition("=")[0] for given in options.get("component", ()) if given.endswith("=")}
    assert set(next(iter(found.values()))) == {name for name, pattern in layout.items() if pattern} - without


@pytest.mark.parametrize("layout", SELF.values(), ids=SELF)
def test_a_layout_is_found_by_itself(layout: Layout, tmp_path: Path) -> None:
    check(layout, layout.write(tmp_path / "in"), tmp_path / "out", {})


@pytest.mark.parametrize("layout", ONE_OPTION.values(), ids=ONE_OPTION)
def test_a_layout_is_found_with_one_option(layout: Layout, tmp_path: Path) -> None:
    assert len(layout.options) == 1
    root = layout.write(tmp_path / "in")
    check(layout, root, tmp_path / "out", layout.options)
