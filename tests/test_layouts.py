"""Layouts that people have: each is drawn, converted, and every pair checked against its source by its bytes.

A layout is where the files of a sample lie: sample `n` of background `b` (from 1 to 6; `c` is 7 - b) and figure `f` in
round `r` (0 or 1; `h` is _flip in round 1).
"""

import csv
import io
import shutil
import zipfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_data import built_here, images

from shards.commands import main
from shards.errors import InputError, report_errors
from shards.ingest.convert import ConvertConfig, plan_conversion
from shards.sources.listing import NoSampleError
from shards.sources.samples import Found, find_samples
from shards.sources.words import meaning
from shards.sources.zips import Reader

ROUNDS = [{"b": b, "f": f, "r": r} for r, f, b in product(range(2), range(1, 6), range(1, 7))]
SAMPLES: list[dict[str, Any]] = [
    {"n": n, "c": 7 - one["b"], "h": "_flip" * one["r"], **one} | {"n0": n - 1, "b0": one["b"] - 1}
    for n, one in enumerate(ROUNDS, 1)
]


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
    "all of a background in its folder": Layout(
        *("bg_{b}/" + one + "_{f}{r}.jpg" for one in ("overlay", "mask", "depth"))
    ),
    "two in one folder": Layout("images/{n:06}.jpg", "labels/{n:06}_mask.png", "labels/{n:06}_depth.png"),
    "numbers with and without zeros": Layout("images/img{n}.jpg", "masks/mask{n:04}.png", "depth/depth_{n:04}.png"),
    "parts": alike("p{r}/fg_bg", "p{r}/mask", "p{r}/depth", "p{r}/bg", "{b}{f}.jpg", "{b}{f}.jpg"),
    "flipped apart": Layout("fg_bg{h}/{n}.jpg", "mask{h}/{n}.jpg", "depth{h}/{n}.jpg"),
    "backgrounds flipped": alike("fg_bg", "mask", "depth", "bg", "bg{b}{h}_{f}{r}.jpg", "bg{b}{h}.jpg"),
    "a word in other cases": alike("FG_BG", "MASK", "DEPTH", "BG", "BG{b}_FG{f}_{r}.JPG", "bg{b}.jpeg"),
    "images of each, masks of each": Layout("images/fg_bg/{n}.jpg", "masks/fg_bg/{n}.jpg", "depth/fg_bg/{n}.jpg"),
    "frames of cameras": Layout("{r}/frames/rgb/c{b}/rgb_{f}.jpg", "", "{r}/frames/depth/c{b}/depth_{f}.png"),
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


def plan(root: Path, **options: Any) -> Found:
    return find_samples([root], ConvertConfig(**options).layout)


def right_pairs(found: Found) -> int:
    """Count the samples, all of whose images are of one."""
    count = 0
    with Reader() as reader:
        for _, entries in found.samples:
            read = dict(zip(found.components, map(reader.read, entries), strict=True))
            number = next(number for number, image in PICTURES["fg_bg"].items() if image == read["fg_bg"])
            count += read == {name: PICTURES[name][number] for name in read}
    return count


WORDS = {
    "fg_bg": "OverlayedImages OverLayedImg fg_bg fgbg bg_fg bgfg FGBG FgBg_jpg fg-bg-2 overlay images JPEGImages rgb",
    "mask": "OverlayedMasks mask Masks fg_bg_mask fgbgmasks bg_fg_mask mask_black fg_mask MASK_3 alpha mattes",
    "depth": "DepthImage depth depthMap dense_depth fg_bg_depth bg_fg_depth_map depth_fg_bg DEPTH_jpg disparity",
    "bg": "Background bg bg_images backgrounds BG_2 bgimgs",
    "fg": "fg foreground cutouts fg_images",
    "": "0 scene_3 person Shelves readme",
}


@pytest.mark.parametrize(
    ("name", "component"), [(word, name) for name, words in WORDS.items() for word in words.split()]
)
def test_a_name_means_a_component(name: str, component: str) -> None:
    meant = meaning(name)
    assert (meant.component if meant else "") == component


def test_a_mask_of_cutouts_is_one_only_where_there_is_no_other(tmp_path: Path) -> None:
    assert meaning("mask_black") > meaning("fg_mask")  # type: ignore[operator]  # neither is None
    root = Layout("fg_bg/{n}.jpg", "mask_black/{n}.jpg").write(tmp_path)
    Layout("fg/{n}.jpg", "fg_mask/{n}.jpg").write(tmp_path)
    found = plan(root)
    assert right_pairs(found) == len(SAMPLES)
    assert [note.partition(" (")[0] for note in found.notes if note.startswith("left aside")] == [
        f"left aside: {tmp_path.name}/{folder}" for folder in ("fg", "fg_mask")
    ]
    assert {one.kind for one in found.left_out} == {"litter"}
    shutil.rmtree(tmp_path / "mask_black")
    assert right_pairs(plan(root)) == len(SAMPLES)


def test_what_was_found_is_told_with_two_samples(tmp_path: Path) -> None:
    notes = plan(SELF["fg_bg_7, bg_mask_7"].write(tmp_path / "in")).notes
    assert notes[:4] == [
        "fg_bg: in/fg_bg (60 images)",
        "mask: in/masks (60 images)",
        "depth: in/depth (60 images)",
        "key: the last part of the path, of fg_bg without 'fg_bg_' at its beginning, "
        "of mask without 'bg_mask_' at its beginning, of depth without 'depth_fg_bg_' at its beginning",
    ]
    assert len(notes) == 6
    key = notes[4].partition(":")[0]
    folder = tmp_path / "in"
    assert notes[4] == (
        f"{key}: fg_bg <- {folder}/fg_bg/fg_bg_{key}.jpg, mask <- {folder}/masks/bg_mask_{key}.jpg, "
        f"depth <- {folder}/depth/depth_fg_bg_{key}.jpg"
    )


REFUSED = {
    "two folders": (
        Layout("rgb/{n}.jpg", "mask/{n}.jpg", "mask_black/{n}.jpg"),
        "--component mask='mask/.*or --component mask='mask_bl",
    ),
    "numbers that lead nowhere": (
        ONE_OPTION["numbers that lead nowhere"],
        "6 of 60 samples have one of their own name, which",
    ),
    "folders of many": (alike("fg_bg", "mask", "depth", "bg", "{r}/{n}.jpg", "{b}.jpg"), "Give --background REGEX"),
    "the component's number": (
        alike("fg_bg", "mask", "depth", "bg", "fg_bg_{n}.jpg", "bg_{b}.jpg"),
        "Give --background REGEX",
    ),
    "two folders of numbers": (
        alike("fg_bg", "mask", "depth", "bg", "{b}/{c}/{n}.jpg", "{b}.jpg"),
        r"the folder above the folder: .*--background '\(\[\^/\]\+\)",
    ),
    "images twice": (
        Layout("overlay/{n}.jpg", "masks/{n}.jpg", "", "images/{n}.jpg"),
        "may both be fg_bg. Say which: ",
    ),
    "few of the masks": (Layout("fg_bg/{n}.jpg", "mask/1{n}.jpg"), "only 9 of 60 images have a mask"),
    "other parts": (Layout("fg_bg_part1/{n}.jpg", "mask_part2/{n}.jpg"), "in folders of other numbers"),
    "another first number": (Layout("fg_bg/{n}.jpg", "mask/{n0}.jpg"), "the numbers of fg_bg begin at another one"),
    "backgrounds from another number": (
        alike("fg_bg", "mask", "depth", "bg", "bg{b0}_{f}{r}.jpg", "bg{b}.jpg"),
        "the backgrounds 0 .the number after bg., which are not there",
    ),
    "a letter, or a number": (
        alike("fg_bg", "mask", "depth", "bg", "{b}_s{c}_{f}{r}.jpg", "{b}.jpg"),
        "(?s)the number after s: .*number 1 in the name: ",
    ),
    "a folder, or a number": (
        alike("fg_bg", "mask", "depth", "bg", "{c}/{b}_{f}{r}.jpg", "{b}.jpg"),
        "(?s)the folder: .*number 1",
    ),
    "other figures": (Layout("fg_bg/bg1_{n}.jpg", "mask/fg1_{n}.jpg"), "no complete sample"),
    "other numbers": (Layout("fg_bg/cam_1_{n}x.jpg", "mask/cam_2_{n}x.jpg"), "no complete sample"),
    "no image": (Layout(), "no folder is known to hold fg_bg, .* Found: nothing"),
    "images alone": (Layout("photos/{n}.jpg"), "hold mask or depth. Found: fg_bg: in/photos"),
    "others' names": (
        Layout("images/a{n}.jpg", "masks/{n}{b}c.jpg"),
        r"(?s)among 120 .*images \(60 .*masks \(60 .*has the key '\w+', and \w+ has no file of that key.*--key mask=",
    ),
}


@pytest.mark.parametrize(("layout", "told"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_told_is_refused_with_the_options_that_decide(layout: Layout, told: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match=told):
        plan(layout.write(tmp_path / "in"))


def test_a_refusal_lists_what_was_not_used_and_ends_with_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = REFUSED["others' names"][0].write(tmp_path / "in")
    (root / "depth.exr").write_bytes(b"x")
    monkeypatch.setattr("sys.argv", ["shards", "convert", str(root), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended, report_errors():
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "no complete sample" in said
    assert "Traceback" not in said
    lines = (tmp_path / "out" / "left-out.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines[1:]] == ["litter"]
    assert "not read: save depth as .npy" in lines[1]


@settings(max_examples=12)
@given(
    st.sampled_from(["", "img_", "a b_", "ol-"]),
    st.tuples(*[st.tuples(*[st.sampled_from(["", "x_", "fg_bg_", "mask_", "depth-map-", "ov2_"])] * 2)] * 3),
    st.booleans(),
)
def test_names_that_differ_by_component_are_joined_rightly_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, stem: str, ends: tuple[tuple[str, str], ...], folders: bool
) -> None:
    name = "{b}/" + stem + "{f}{r}" if folders else stem + "{n}"
    patterns = []
    for component, (before, after) in zip(("images", "masks", "depth"), ends, strict=True):
        above, slash, own = name.rpartition("/")
        patterns.append(f"{component}/{above}{slash}{before}{own}{'_' if after else ''}{after.strip('_-')}.jpg")
    root = Layout(*patterns).write(tmp_path_factory.mktemp("named"))
    found = plan(root)
    assert right_pairs(found) == len(found.samples) == len(SAMPLES)


def test_a_background_of_the_own_name_counts_only_if_all_have_one(tmp_path: Path) -> None:
    root = SELF["a background each"].write(tmp_path)
    (root / "background" / "bg_7.jpg").unlink()
    with pytest.raises(InputError, match="59 of 60 samples have one of their own name, which counts if all have"):
        plan(root)
    found = plan(root, background="/([0-9]+)$")
    assert right_pairs(found) == 59
    assert [(one.kind, one.component) for one in found.left_out] == [("missing", "bg")]


def test_two_backgrounds_that_are_meant_are_none(tmp_path: Path) -> None:
    root = SELF["2020"].write(tmp_path)
    (root / "Background" / "Other_3.jpg").write_bytes(b"x")
    found = plan(root)
    assert {key.split("_")[1] for key, _ in found.samples} == {f"s{i}" for i in range(1, 7) if i != 3}
    assert {(one.kind, one.component) for one in found.left_out} == {("missing", "bg")}


def table(path: Path, layout: Layout, delimiter: str, header: list[str] | None, above: str = "") -> Path:
    lines = [[above + pattern.format(**one) for pattern in layout.values()] for one in SAMPLES]
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(([header] if header else []) + lines)
    return path


LISTED = Layout("a/{b}/{f}{r}.jpg", "{n}.jpg", "x/z{n}.jpg", "a/room {b}.jpg")


@pytest.mark.parametrize("zips", [False, True])
@pytest.mark.parametrize(
    ("delimiter", "header", "above"),
    [
        (",", ["image", "mask", "depth", "background"], ""),
        ("\t", None, "/mnt/elsewhere/in/"),
        (";", ["fg_bg", "alpha", "depth_map", "bg"], "./"),
    ],
)
def test_a_list_names_the_files_of_each_sample(
    delimiter: str, header: list[str] | None, above: str, zips: bool, tmp_path: Path
) -> None:
    layout = Layout(*LISTED.values(), zips=zips)
    root = layout.write(tmp_path / "in")
    found = plan(root, list=table(tmp_path / "list.txt", layout, delimiter, header, above))
    assert found.components == list(PICTURES)
    assert right_pairs(found) == len(found.samples) == len(SAMPLES)


def test_columns_of_a_list_may_be_named(tmp_path: Path) -> None:
    layout = Layout("rgb/{b}/{f}{r}.jpg", "", "gt/{n}.png")
    root = layout.write(tmp_path / "in")
    listed = table(tmp_path / "train.csv", Layout("rgb/{b}/{f}{r}.jpg", "gt/{n}.png"), ",", None, "data/")
    with pytest.raises(InputError, match=r"no header.*--columns"):
        plan(root, list=listed)
    found = plan(root, list=listed, columns=("fg_bg", "depth"))
    assert found.components == ["fg_bg", "depth"]
    assert right_pairs(found) == len(SAMPLES)


def test_what_a_list_names_in_vain_is_told(tmp_path: Path) -> None:
    root = LISTED.write(tmp_path / "in")
    listed = table(tmp_path / "list.csv", LISTED, ",", ["key", "mask", "depth", "bg"])
    with pytest.raises(InputError, match="fg_bg and some of"):
        plan(root, list=listed)
    listed = table(tmp_path / "list.csv", LISTED, ",", ["fg_bg", "mask", "depth", "bg"])
    (root / "17.jpg").unlink()
    found = plan(root, list=listed)
    assert right_pairs(found) == len(SAMPLES) - 1
    (one,) = found.left_out
    assert (one.kind, one.component) == ("missing", "mask")
    assert "17.jpg" in one.detail
    lines = listed.read_text().splitlines()
    listed.write_text("\n".join([*lines, lines[-1]]))
    with pytest.raises(InputError, match="several lines are of the sample"):
        plan(root, list=listed)


def test_one_file_is_not_two_images_of_a_line(tmp_path: Path) -> None:
    root = Layout("{n}.jpg", "{n}_mask.jpg").write(tmp_path / "in")
    with pytest.raises(InputError, match="line 1: two columns name the same file"):
        plan(root, list=table(tmp_path / "list.csv", Layout("{n}.jpg", "{n}.jpg"), ",", ["image", "mask"]))


def test_bare_names_in_a_list_are_those_in_the_folders_of_the_columns(tmp_path: Path) -> None:
    root = Layout("fg_bg/{n}.jpg", "mask/{n}.jpg").write(tmp_path / "in")
    found = plan(root, list=table(tmp_path / "list.csv", Layout("{n}.jpg", "{n}.jpg"), ",", ["image", "mask"]))
    assert right_pairs(found) == len(SAMPLES)


def test_a_list_without_a_header_in_another_order_is_refused(tmp_path: Path) -> None:
    layout = Layout("fg_bg/{n}.jpg", "mask/{n}.jpg", "depth/{n}.jpg", "bg/{n}.jpg")
    root = layout.write(tmp_path / "in")
    swapped = Layout("mask/{n}.jpg", "fg_bg/{n}.jpg", "depth/{n}.jpg", "bg/{n}.jpg")
    with pytest.raises(InputError, match=r"in that of fg_bg, looks like another. Name them: --columns"):
        plan(root, list=table(tmp_path / "list.csv", swapped, ",", None))


def test_a_list_or_key_that_finds_nothing_says_so(tmp_path: Path) -> None:
    root = Layout("fg_bg/{n}.jpg", "mask/{n}.jpg").write(tmp_path / "in")
    listed = table(tmp_path / "list.csv", Layout("a{n}.jpg", "b{n}.jpg"), ",", ["image", "mask"])
    with pytest.raises(NoSampleError, match="none of 60 lines names files that are all there") as stopped:
        plan(root, list=listed)
    assert len(stopped.value.left_out) == 2 * len(SAMPLES)
    with pytest.raises(NoSampleError, match=r"--key finds nothing in paths such as in/fg_bg/1 \("):
        plan(root, key=("fg_bg=nowhere(.)", "mask=nowhere(.)"))
    with pytest.raises(InputError, match=r"finds nothing in in/fg_bg/1 "):
        plan(Layout("", "", "", "bg/{b}.jpg").write(root), background=r"(\d+)\.jpg")


def test_a_component_that_is_not_sure_goes_where_its_names_do_not_fit(tmp_path: Path) -> None:
    root = Layout("fg_bg/a{n}.jpg", "mask/a{n}.jpg", "bg_depth/{b}.jpg").write(tmp_path / "in")
    found = plan(root)
    assert found.components == ["fg_bg", "mask"]
    assert right_pairs(found) == len(SAMPLES)
    assert "left aside: depth: in/bg_depth (6 images), whose names fit too few of the others" in found.notes


def test_a_zip_may_have_its_files_in_any_order(tmp_path: Path) -> None:
    layout = Layout("data/{n}.jpg", "mask/{n}.png", "data/{n}_depth.png")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for one in SAMPLES:
            for name, pattern in layout.items():
                archive.writestr(pattern.format(**one), PICTURES[name][str(one["n"])])
    found = plan(tmp_path / "in.zip")
    assert right_pairs(found) == len(SAMPLES)
    assert len(found.samples.files.groups) == 2
