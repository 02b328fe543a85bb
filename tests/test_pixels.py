"""Images as people have them: what each becomes is stated, told before, and never a silent nonsense."""

import csv
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from numpy.typing import ArrayLike, NDArray
from PIL import ExifTags, Image, ImageOps
from small_data import ONE_WORKER, TREES, built_here, images

from pipeline.loader import Loader, LoaderConfig
from shards.build.build import BuildConfig
from shards.commands import convert as convert_command
from shards.errors import InputError
from shards.format.dataset import Dataset
from shards.format.depth import DepthRange, ExistingDepthConfig
from shards.format.images import BadImage, ImageFormat, decode_image, scale_image
from shards.format.manifest import Manifest
from shards.format.schema import Sample
from shards.format.splits import DivisionConfig, SplitConfig
from shards.format.storage import LocalFolder
from shards.ingest import convert
from shards.ingest.compose import load_background, load_figure
from shards.ingest.convert import ConvertConfig, plan_conversion
from shards.ingest.index import plan_index
from shards.ingest.job import Job, Unit, planned
from shards.ingest.looks import COLOUR_MAPS, plan_pixels
from shards.ingest.pixels import ColourMap, Making
from shards.inspect.show import storage_words
from shards.inspect.verify import verify
from shards.sources.listing import NOT_READ, READ

HIGH, WIDE = 24, 32
SAMPLES = 3
NAMES = tuple(TREES)
Files = bytes | list[bytes]
DALI = pytest.param("cpu", marks=pytest.mark.skipif(find_spec("nvidia") is None, reason="needs DALI"))


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def file_of(image: Image.Image | ArrayLike, form: str = "PNG", **options: Any) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
    image.save(buffer := io.BytesIO(), form, **options)
    return buffer.getvalue()


def npy(array: ArrayLike, allow_pickle: bool = False) -> bytes:
    np.save(buffer := io.BytesIO(), np.asarray(array), allow_pickle=allow_pickle)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def pixels(data: bytes) -> NDArray[np.int64]:
    return np.asarray(opened(data)).astype(np.int64)


COLOURS = Image.fromarray(noise(HIGH, WIDE, 3))
FIGURE: NDArray[np.uint8] = (np.indices((HIGH, WIDE))[1] > WIDE // 2).astype(np.uint8)
RAMP = np.linspace(0, 255, HIGH * WIDE).astype(np.uint8).reshape(HIGH, WIDE)
PLAIN = {"fg_bg": file_of(COLOURS), "mask": file_of(FIGURE * 255), "depth": file_of(RAMP), "bg": file_of(COLOURS)}


def laid_out(folder: Path, **replaced: Files) -> Path:
    """SAMPLES samples or as many as are given. All names end in .png, whatever the bytes are."""
    given = PLAIN | replaced
    count = max(len(one) if isinstance(one, list) else SAMPLES for one in given.values())
    for name, files in given.items():
        (folder / TREES[name]).mkdir(parents=True)
        for i, data in enumerate(files if isinstance(files, list) else [files] * count):
            (folder / TREES[name] / f"k{i}.png").write_bytes(data)
    return folder


def planned_of(folder: Path, **options: Any) -> Job:
    return plan_conversion([folder], ConvertConfig(division=DivisionConfig(val_share=0, test_share=0), **options))


def made(folder: Path, options: dict[str, Any] | None = None, **replaced: Files) -> Dataset:
    job = planned_of(laid_out(folder / "in", **replaced), **(options or {}))
    return built_here(job, folder / "out")


def refused(folder: Path, options: dict[str, Any] | None = None, **replaced: Files) -> str:
    laid_out(folder / "in", **replaced)
    with pytest.raises(InputError) as error:
        planned_of(folder / "in", **(options or {}))
    return str(error.value)


def notes(folder: Path, options: dict[str, Any] | None = None, **replaced: Files) -> list[str]:
    """What is told of pixels, after which files make a sample."""
    told = list(planned_of(laid_out(folder / "in", **replaced), **(options or {})).notes)
    return told[1 + max(number for number, one in enumerate(told) if " <- " in one) :]


def stored(dataset: Dataset, name: str) -> list[bytes]:
    """By the order of their keys, which is that of the files."""
    return [parts[name] for _, parts in sorted(images(dataset).items())]


def left_out(dataset: Dataset) -> list[tuple[str, str, str]]:
    with (dataset.root / "left-out.tsv").open(newline="") as file:
        return [(row["kind"], row["key"], row["detail"]) for row in csv.DictReader(file, delimiter="\t")]


def deep(grey: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(grey.astype(np.uint16) * np.uint16(257))


GREYS = noise(HIGH, WIDE, seed=1)
ALPHA = noise(HIGH, WIDE, seed=2)
KINDS = [
    *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *(("JPEG", mode) for mode in ("L", "RGB", "CMYK")),
    *(("BMP", mode) for mode in ("1", "L", "P", "RGB")),
    *(("TIFF", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK")),
    *(("WEBP", mode) for mode in ("RGB", "RGBA")),
    *(("GIF", mode) for mode in ("L", "P")),
    *(("PPM", mode) for mode in ("1", "L", "RGB", "I;16")),
]


def in_mode(mode: str, colour: bool) -> Image.Image:
    image = COLOURS if colour else Image.fromarray(GREYS)
    if mode == "I;16":
        return deep(GREYS)
    if mode == "P":  # not Pillow's own palette, which has some colours twice
        return image.quantize(64)
    image = image.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(ALPHA))
    return image


def expected(image: Image.Image, name: str) -> NDArray[np.int64]:
    """By the rules as they are stated."""
    if name == "mask" and image.mode in ("LA", "RGBA"):
        return np.asarray(image.getchannel("A")).astype(np.int64)
    if image.mode in ("I;16", "I"):
        values = np.asarray(image).astype(np.int64)
        if name == "depth":
            return values
        image = Image.fromarray(np.uint8((values + 128) // 257))
    if image.mode in ("LA", "RGBA"):
        bands = image.split()[:-1]
        image = Image.merge("RGB", bands) if len(bands) == 3 else bands[0]
    return np.asarray(image.convert("RGB" if name in ("fg_bg", "bg") else "L")).astype(np.int64)


@pytest.mark.parametrize(("form", "mode"), KINDS)
def test_every_kind_of_image_becomes_what_is_stated_in_every_component(tmp_path: Path, form: str, mode: str) -> None:
    exact = {"lossless": True, "exact": True} if form == "WEBP" else {}
    given = {name: in_mode(mode, name in ("fg_bg", "bg")) for name in NAMES}
    files = {name: file_of(image, form, **exact) for name, image in given.items()}
    dataset = made(tmp_path, **files)  # type: ignore[arg-type]
    as_it_is = {name for name in NAMES if form in ("PNG", "JPEG") and mode in ("L", "RGB")}
    as_it_is |= {"depth"} if (form, mode) == ("PNG", "I;16") else set()
    for name in NAMES:
        component = dataset.manifest.components[name]
        assert component.extension == ("jpg" if form == "JPEG" else "png")
        assert component.bits == (16 if (name, mode) == ("depth", "I;16") else 8)
        for data in stored(dataset, name):
            wanted = expected(opened(files[name]), name)
            if name in as_it_is:
                assert data == files[name]
            elif form == "JPEG":  # of noise, once more
                assert np.abs(pixels(data) - wanted).mean() < 4
            else:
                assert (pixels(data) == wanted).all()
                if mode != "CMYK":
                    assert (wanted == expected(given[name], name)).all()
            decode_image(data, dataset.manifest.image_format(name))
    assert set(dataset.manifest.storage.converted if dataset.manifest.storage else ()) == set(NAMES) - as_it_is
    assert dataset.manifest.left_out == {}


ARRAYS: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {
    "bool": (FIGURE > 0, FIGURE * 255),
    "uint8": (GREYS, GREYS),
    "uint16": (np.asarray(deep(GREYS)), GREYS),
    "big-endian": (np.asarray(deep(GREYS)).astype(">u2"), GREYS),
    "(1, H, W)": (GREYS[None], GREYS),
    "(H, W, 1)": (GREYS[..., None], GREYS),
    "Fortran": (np.asfortranarray(GREYS), GREYS),
    "int64": (FIGURE.astype(np.int64), FIGURE * 255),
    "float64": (FIGURE.astype(np.float64), FIGURE * 255),
    "soft": (GREYS / np.float32(255), GREYS),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_are_read(tmp_path: Path, kind: str) -> None:
    array, wanted = ARRAYS[kind]
    colour = {"fg_bg": npy(np.asarray(COLOURS)), "bg": npy(array)} if array.dtype.kind in "bu" else {}
    dataset = made(tmp_path, mask=npy(array), **colour)  # type: ignore[arg-type]
    assert all((pixels(data) == wanted).all() for data in stored(dataset, "mask"))
    if colour:
        assert all((pixels(data) == np.asarray(COLOURS)).all() for data in stored(dataset, "fg_bg"))
        assert all((pixels(data) == wanted[..., None]).all() for data in stored(dataset, "bg"))


def test_arrays_that_are_no_images_are_left_out(tmp_path: Path) -> None:
    lying = npy(GREYS).replace(b"(24, 32)", b"(99, 99)")
    bad = [
        npy(np.array([{}]), allow_pickle=True),
        lying,
        npy(GREYS).replace(b"}", b" "),
        npy(noise(2, HIGH, WIDE)),
        npy(GREYS * 1j),
    ]
    dataset = made(tmp_path, mask=[npy(GREYS)] * 7 + bad)
    assert len(dataset) == 7
    assert [kind for kind, *_ in sorted(left_out(dataset))] == ["truncated"] * 3 + ["wrong-mode"] * 2


def test_a_file_is_what_its_bytes_say(tmp_path: Path) -> None:
    """All are called .png. JPEGs are stored as JPEGs, the very files."""
    files = {"fg_bg": file_of(COLOURS, "JPEG"), "depth": file_of(RAMP, "JPEG")}
    dataset = made(tmp_path, **files)  # type: ignore[arg-type]
    extensions = {name: one.extension for name, one in dataset.manifest.components.items()}
    assert extensions == {"fg_bg": "jpg", "mask": "png", "depth": "jpg", "bg": "png"}
    assert all(parts == PLAIN | files for parts in images(dataset).values())
    assert dataset.manifest.storage is None


@pytest.mark.parametrize(("most", "other"), [("JPEG", "PNG"), ("PNG", "JPEG")])
def test_of_two_formats_the_commoner_is_stored_and_its_files_stay(tmp_path: Path, most: str, other: str) -> None:
    files = [file_of(COLOURS, most), file_of(COLOURS, other), file_of(COLOURS, most)]
    dataset = made(tmp_path, fg_bg=files)
    first, second, third = stored(dataset, "fg_bg")
    assert (first, third) == (files[0], files[2])
    assert opened(second).format == most
    assert np.abs(pixels(second) - pixels(files[1])).mean() < 4
    assert dataset.manifest.storage
    assert dataset.manifest.storage.converted == {"fg_bg": f"RGB {other}, converted to RGB {most}"}
    assert f"fg_bg: RGB {other}, converted to RGB {most}" in storage_words(dataset.manifest)
    assert Manifest.from_json(dataset.manifest.to_json()) == dataset.manifest


def test_pictures_of_several_are_their_first(tmp_path: Path) -> None:
    several = {
        form: file_of(COLOURS.copy(), form, save_all=True, append_images=[Image.new("RGB", (WIDE, HIGH))])
        for form in ("MPO", "TIFF")
    }
    dataset = made(tmp_path, fg_bg=several["MPO"], bg=several["TIFF"])
    assert dataset.manifest.components["fg_bg"].extension == "jpg"
    assert all((pixels(data) == np.asarray(COLOURS)).all() for data in stored(dataset, "bg"))
    assert all(np.abs(pixels(data) - pixels(several["MPO"])).mean() < 4 for data in stored(dataset, "fg_bg"))


@pytest.fixture
def few_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second of six samples."""
    monkeypatch.setattr(convert, "LOOKED_AT", 3)


@pytest.mark.usefixtures("few_looked_at")
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("wrong-format", file_of(COLOURS, "BMP")),
        ("wrong-mode", file_of(in_mode("RGBA", True))),
        ("wrong-size", file_of(np.asarray(COLOURS)[:-1])),
        ("not-an-image", b"no image"),
    ],
)
@pytest.mark.parametrize("verified", ["full", "header"])
def test_a_later_exception_is_left_out_and_size_advised(
    tmp_path: Path, kind: str, data: bytes, verified: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "DECODED", 1)
    laid_out(tmp_path / "in", fg_bg=[PLAIN["fg_bg"]] * 6)
    order = [key for key, _ in plan_conversion([tmp_path / "in"], ConvertConfig()).units[0].entries]  # type: ignore[attr-defined]
    (tmp_path / "in" / TREES["fg_bg"] / f"{order[1]}.png").write_bytes(data)
    dataset = built_here(planned_of(tmp_path / "in", verify=verified), tmp_path / "out")
    ((found, key, detail),) = left_out(dataset)
    assert (found, key) == (kind, order[1])
    assert ("--size" in detail) == (kind != "not-an-image")
    if kind != "not-an-image":
        whole = built_here(planned_of(tmp_path / "in", size=16), tmp_path / "scaled")
        assert len(whole) == (5 if kind == "wrong-size" else 6)  # 23 rows of 24 are another shape


GROUND, CLASSES = np.zeros((HIGH, WIDE), np.uint8), FIGURE * np.uint8(15) + FIGURE[::-1, ::-1] * np.uint8(3)
VOC = [0, 0, 0, *np.random.default_rng(3).integers(1, 256, 3 * 20).tolist()]


def with_palette(indices: NDArray[np.uint8], palette: list[int]) -> Image.Image:
    image = Image.fromarray(indices).convert("P")
    image.putdata(indices.reshape(-1).tolist())
    image.putpalette(palette)
    return image


GREY_STEPS = [value for value in (255, 0) for _ in range(3)]
MASKS: dict[str, tuple[bytes, NDArray[Any], str]] = {
    "0 and 1": (file_of(FIGURE), FIGURE, "mask: 0 and 1, stored as 0 and 255"),
    "0 and 1 of 16 bits": (file_of(FIGURE.astype(np.uint16)), FIGURE, "mask: 0 and 1, stored as 0 and 255"),
    "0 and 255 of 16 bits": (file_of(FIGURE * np.uint16(255)), FIGURE, "mask: classes 0 to 255; all above 0 is figure"),
    "classes": (file_of(CLASSES), CLASSES > 0, "mask: classes 0 to 15; all above 0 is figure"),
    "classes in RGB": (
        file_of(np.repeat(CLASSES[..., None], 3, 2)),
        CLASSES > 0,
        "mask: classes 0 to 15; all above 0 is figure",
    ),
    "indices": (file_of(with_palette(CLASSES, VOC)), CLASSES > 0, "mask: classes 0 to 15; all above 0 is figure"),
    "void": (
        file_of(with_palette(CLASSES * np.uint8(17), [*VOC, *[200, 200, 100] * 235])),
        CLASSES > 0,
        "mask: classes 0 to 255; all above 0 is figure",
    ),
    "grey palette": (
        file_of(with_palette(FIGURE, GREY_STEPS)),
        1 - FIGURE,
        "mask: palette PNG, converted to grey PNG",
    ),
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("size", [None, 20])
def test_masks_of_other_values_are_recognised(tmp_path: Path, kind: str, size: int | None) -> None:
    data, figure, note = MASKS[kind]
    job = planned_of(laid_out(tmp_path / "in", mask=data), size=size)
    assert job.notes[-1] == note
    wanted = Image.fromarray(np.uint8(figure) * np.uint8(255))
    wanted = scale_image(wanted, (size, size)) if size else wanted
    dataset = built_here(job, tmp_path / "out")
    assert all((pixels(one) == np.asarray(wanted)).all() for one in stored(dataset, "mask"))


def test_values_are_converted_where_headers_alone_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "DECODED", 1)
    dataset = made(tmp_path, {"verify": "header"}, mask=file_of(FIGURE))
    assert all((pixels(one) == FIGURE * 255).all() for one in stored(dataset, "mask"))


def test_what_else_a_file_says_is_not_kept_when_it_is_encoded_again(tmp_path: Path) -> None:
    """A transparent colour, say, which another reader would make alpha of."""
    palette = file_of(in_mode("P", True), transparency=bytes(range(64)))
    dataset = made(
        tmp_path,
        {"size": 16},
        fg_bg=file_of(COLOURS.copy(), "JPEG", comment=b"said"),
        depth=file_of(RAMP, transparency=7),
        bg=palette,
    )
    told = {"comment", "transparency"}
    assert not any(told & opened(data).info.keys() for parts in images(dataset).values() for data in parts.values())


def test_an_image_of_ground_alone_is_no_obstacle(tmp_path: Path) -> None:
    dataset = made(tmp_path, mask=[file_of(with_palette(GROUND, VOC)), file_of(with_palette(CLASSES, VOC))])
    assert [pixels(one).max() for one in stored(dataset, "mask")] == [0, 255]


def test_a_mask_with_alpha_is_its_alpha_unless_that_is_opaque_everywhere(tmp_path: Path) -> None:
    clear, opaque = Image.merge("LA", [Image.new("L", (WIDE, HIGH), 9), Image.fromarray(GREYS)]), in_mode("LA", False)
    opaque.putalpha(255)
    dataset = made(tmp_path, mask=[file_of(clear), file_of(opaque)])
    assert all((pixels(one) == GREYS).all() for one in stored(dataset, "mask"))


@pytest.mark.parametrize(
    ("data", "values", "wanted"),
    [
        (file_of(FIGURE * 255), (255, 0), 255 - FIGURE * 255),
        (file_of(RAMP), (50, 100), np.clip((RAMP - 50.0) / 50, 0, 1) * 255),
        (file_of(np.full_like(RAMP, 100), "JPEG"), (0, 100), np.full_like(RAMP, 255)),
        (file_of(GROUND), (255, 0), np.full_like(RAMP, 255)),
        (file_of(with_palette(CLASSES, VOC)), (3, 15), (CLASSES >= 15) * 255),
    ],
)
def test_values_that_are_given_are_used(
    tmp_path: Path, data: bytes, values: tuple[float, float], wanted: NDArray[Any]
) -> None:
    dataset = made(tmp_path, {"mask_values": values}, mask=data)
    assert dataset.manifest.components["mask"].extension == "png"
    for one in stored(dataset, "mask"):
        assert np.abs(pixels(one) - wanted).max() <= 0.5 + 1e-9


def test_masks_that_cannot_be_told_are_refused(tmp_path: Path) -> None:
    assert "are black" in refused(tmp_path / "1", mask=file_of(GROUND))
    assert "--mask-values 0 100" in refused(tmp_path / "2", mask=file_of(FIGURE * 100, "JPEG", quality=100))
    assert "--mask-values 0 63" in refused(tmp_path / "3", mask=file_of(RAMP // 4))
    assert "--mask-values 0 255" in refused(tmp_path / "4", mask=file_of(RAMP.astype(np.uint16)))


def test_classes_beside_a_void_of_255_are_noted(tmp_path: Path) -> None:
    void = CLASSES.copy()
    void[0] = 255
    (note,) = notes(tmp_path / "a", mask=file_of(void))
    assert "values 0 to 15, and 255" in note
    assert "--mask-values 0 1" in note
    assert notes(tmp_path / "b", mask=file_of(RAMP)) == notes(tmp_path / "c") == []


def coloured(name: str) -> NDArray[np.uint8]:
    return np.asarray(colormaps[name](RAMP, bytes=True)[..., :3])


@pytest.mark.parametrize("name", COLOUR_MAPS)
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_depth_in_the_colours_of_a_map_is_refused_by_its_name(tmp_path: Path, name: str, form: str) -> None:
    found = {"fg_bg": [("a", PLAIN["fg_bg"])], "depth": [("b", file_of(coloured(name), form))]}
    with pytest.raises(InputError, match=rf"--depth-colormap {name}, or {name}_r if"):
        plan_pixels(found, ConvertConfig())


def test_depth_in_other_colours_is_refused_and_grey_in_rgb_is_not(tmp_path: Path) -> None:
    assert "not of a colour map that is known" in refused(tmp_path / "a", depth=file_of(COLOURS))
    grey = file_of(np.repeat(RAMP[..., None], 3, 2))
    assert stored(made(tmp_path / "b", depth=grey), "depth") == [grey] * SAMPLES
    assert "grey already" in refused(tmp_path / "c", {"depth_colormap": "jet"}, depth=grey)


@pytest.mark.parametrize("name", ["jet", "turbo", "plasma", "viridis", "inferno_r", "magma", "hot"])
def test_a_colour_map_is_turned_back(name: str) -> None:
    levels = np.asarray(ColourMap(name).image(Image.fromarray(coloured(name)))).astype(int)
    assert np.abs(levels - RAMP).max() <= 2
    shifted = np.clip(coloured(name).astype(int) + 2, 0, 255).astype(np.uint8)
    near = np.asarray(ColourMap(name).image(Image.fromarray(shifted))).astype(int)
    assert np.abs(near - RAMP).mean() < 4


def test_coloured_depth_is_stored_grey_of_the_map_that_is_given(tmp_path: Path) -> None:
    options = {"depth_colormap": "inferno_r", "near_is_bright": True}
    dataset = made(tmp_path, options, depth=file_of(coloured("inferno_r"), "BMP"))
    assert all(np.abs(pixels(one) - RAMP).max() <= 2 for one in stored(dataset, "depth"))
    assert dataset.manifest.depth == DepthRange.relative(near_is_bright=True)


MILLIMETRES = np.linspace(1000, 9000, HIGH * WIDE).astype(np.uint16).reshape(HIGH, WIDE)


@pytest.mark.parametrize("scale", [1000, 5000, 256])
def test_a_scale_alone_keeps_the_files(tmp_path: Path, scale: float) -> None:
    data = file_of(MILLIMETRES)
    dataset = made(tmp_path, {"depth_scale": scale}, depth=data)
    depth = dataset.manifest.depth
    assert stored(dataset, "depth") == [data] * SAMPLES
    assert dataset.manifest.storage is None
    metres = depth.black + (depth.white - depth.black) * MILLIMETRES / 65535
    assert depth.unit == "m"
    assert metres == pytest.approx(MILLIMETRES / scale)


@pytest.mark.parametrize("ends", [(0.0, 5.0), (5.0, 0.0)])
def test_a_scale_and_metres_store_that_range(tmp_path: Path, ends: tuple[float, float]) -> None:
    """Of integers, floats in arrays and TIFFs alike, what is no distance as 0 m, and beyond the range its end."""
    whole = MILLIMETRES.astype(np.int32)
    whole[0] = -5
    floats = whole.astype(np.float64)
    floats[0, :3] = np.nan, np.inf, -np.inf
    given = [npy(whole), npy(floats), file_of(floats.astype(np.float32), "TIFF"), file_of(whole, "TIFF")]
    dataset = made(tmp_path, {"depth_scale": 1000, "depth_metres": ends}, depth=given)
    assert dataset.manifest.depth == DepthRange.metres(*ends)
    assert dataset.manifest.components["depth"].bits == 16
    metres = np.clip(MILLIMETRES / 1000, 0, 5)
    metres[0] = 0
    for data in stored(dataset, "depth"):
        assert ends[0] + (ends[1] - ends[0]) * pixels(data) / 65535 == pytest.approx(metres, abs=1e-4)


def test_floats_are_metres_if_nothing_else_is_said_and_need_a_range(tmp_path: Path) -> None:
    array = npy(MILLIMETRES / np.float32(1000))
    assert "--depth-metres 0 10" in refused(tmp_path / "a", depth=array)
    assert "--depth-metres 0 10" in refused(tmp_path / "b", {"depth_scale": 1000.0}, depth=array)
    dataset = made(tmp_path / "c", {"depth_metres": (0.0, 10.0)}, depth=array)
    for data in stored(dataset, "depth"):
        assert pixels(data) * 10 / 65535 == pytest.approx(MILLIMETRES / 1000, abs=1e-4)


def test_what_looks_like_millimetres_is_noted(tmp_path: Path) -> None:
    data = file_of(MILLIMETRES)
    (note,) = notes(tmp_path / "a", depth=data)
    assert "--depth-scale 1000" in note
    assert notes(tmp_path / "b", {"near_is_bright": True}, depth=data) == []
    assert notes(tmp_path / "c", depth=file_of(MILLIMETRES * np.uint16(3))) == []


def test_the_share_that_was_not_measured_is_noted_in_metres(tmp_path: Path) -> None:
    holes = MILLIMETRES.copy()
    holes[:3] = 0
    reach, note = notes(tmp_path / "a", {"depth_scale": 1000}, depth=file_of(holes))
    assert "12% of the pixels are 0" in note
    assert "0 m" in note
    assert "9 m, and the range 65.5 m; --depth-metres 0 9 as well" in reach
    assert notes(tmp_path / "b", {"depth_scale": 200}, depth=file_of(np.uint16(MILLIMETRES * 2))) == []


def test_of_16_and_8_bits_the_commoner_is_stored(tmp_path: Path) -> None:
    wide, flat = deep(RAMP), Image.fromarray(RAMP)
    for most, other in ((wide, flat), (flat, wide)):
        dataset = made(tmp_path / most.mode[0], depth=[file_of(most), file_of(other), file_of(most)])
        assert all((pixels(data) == np.asarray(most)).all() for data in stored(dataset, "depth"))


def turned(image: Image.Image, orientation: int, form: str) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return file_of(image, form, exif=exif, **({"quality": 100, "subsampling": "4:4:4"} if form == "JPEG" else {}))


def smooth(channels: int) -> Image.Image:
    ramps = [RAMP, RAMP[::-1], RAMP[:, ::-1]]
    return Image.merge("RGB", [*map(Image.fromarray, ramps)]) if channels == 3 else Image.fromarray(RAMP)


@pytest.mark.parametrize("orientations", [range(1, 5), range(5, 9)])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("verified", ["full", "header"])
def test_images_are_stored_upright(
    tmp_path: Path, orientations: range, form: str, verified: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where headers alone are read. The last four swap height and width; an untagged image stays what it is."""
    monkeypatch.setattr(convert, "DECODED", 1)
    own = {name: smooth(3 if name in ("fg_bg", "bg") else 1) for name in NAMES}
    files = {name: [turned(image, i, form) for i in orientations] for name, image in own.items()}
    right = {name: [ImageOps.exif_transpose(opened(data)) for data in some] for name, some in files.items()}
    bare = {name: file_of(some[0].copy(), "JPEG" if form == "JPEG" else "PNG") for name, some in right.items()}
    given = {name: [*some, bare[name]] for name, some in files.items()}
    dataset = made(tmp_path, {"verify": verified}, **given)
    assert dataset.manifest.left_out == {}
    for name in NAMES:
        *found, last = stored(dataset, name)
        assert last == bare[name]
        for orientation, data, file, upright in zip(orientations, found, files[name], right[name], strict=True):
            assert (data == file) == (orientation == 1 and form in ("JPEG", "PNG"))
            assert orientation == 1 or "exif" not in opened(data).info
            assert np.abs(pixels(data) - np.asarray(upright.convert(opened(data).mode))).mean() < 2
            decode_image(data, dataset.manifest.image_format(name))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_composing_turns_cut_outs_and_backgrounds(tmp_path: Path, orientation: int) -> None:
    cut_out = smooth(3)
    cut_out.putalpha(Image.fromarray(FIGURE * 255))
    for form, image in (("JPEG", smooth(3).resize((WIDE, WIDE))), ("PNG", cut_out)):
        path, right = tmp_path / f"tagged.{form}", tmp_path / "right.png"
        path.write_bytes(turned(image, orientation, form))
        ImageOps.exif_transpose(Image.open(path)).save(right)
        if form == "PNG":
            assert np.array_equal(np.asarray(load_figure(path)), np.asarray(load_figure(right)))
        else:
            found, wanted = (load_background(one, None, WIDE) for one in (path, right))
            assert np.array_equal(np.asarray(found.image), np.asarray(wanted.image))
            assert "exif" not in opened(found.data).info


@dataclass(frozen=True, kw_only=True)
class Given(Unit):
    """Samples of a data set that somebody else has written."""

    given: dict[str, dict[str, bytes]]

    def samples(self) -> Iterator[Sample]:
        counts = {name: np.ones((3 if name in ("fg_bg", "bg") else 1, 256), np.int64) for name in NAMES}
        for key, parts in self.given.items():
            yield Sample(key, parts, counts)


@pytest.fixture(scope="module", params=["JPEG", "PNG"])
def of_all_turns(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Square images of all orientations, as they are; 16 bits of depth in PNG."""
    form = request.param
    own = {name: smooth(3 if name in ("fg_bg", "bg") else 1).resize((WIDE, WIDE)) for name in NAMES}
    own |= {"depth": Image.fromarray(np.asarray(own["depth"], np.uint16) * np.uint16(200))} if form == "PNG" else {}
    samples = {f"k{i}": {name: turned(image, i, form) for name, image in own.items()} for i in range(1, 9)}
    formats = {
        name: ImageFormat("jpg" if form == "JPEG" else "png", (WIDE, WIDE), 16 if image.mode == "I;16" else 8, channels)
        for name, image in own.items()
        for channels in [3 if image.mode == "RGB" else 1]
    }
    units = [Given(name="shard-000000.tar", size=8, made_from="", given=samples)]
    job = planned(units, formats, DivisionConfig(val_share=0, test_share=0), [], depth=DepthRange())
    return built_here(job, tmp_path_factory.mktemp("turned") / "out")


@pytest.mark.parametrize("decode", ["portable", DALI])
def test_every_decoder_turns_what_is_to_be_turned(of_all_turns: Dataset, decode: str) -> None:
    found = images(of_all_turns)
    options: dict[str, Any] = {"data": of_all_turns.root, "decode": decode, "size": 0, "bank_mib": 0}
    with Loader(LoaderConfig(shuffle=False, batch_size=8, **options), device=torch.device("cpu")) as loader:
        (batch,) = loader
    for name in NAMES:
        for image, row in zip(getattr(batch, name).int().numpy(), batch.index.tolist(), strict=True):
            data = found[of_all_turns.key(row)][name]
            right = np.asarray(ImageOps.exif_transpose(opened(data))).reshape(WIDE, WIDE, -1).transpose(2, 0, 1)
            assert np.abs(image - right.astype(int)).max() <= (3 if opened(data).format == "JPEG" else 0)


def test_verify_names_images_that_are_to_be_turned(of_all_turns: Dataset) -> None:
    problems = verify(LocalFolder(of_all_turns.root), ONE_WORKER)
    assert {where.split()[0] for where, _ in problems} == {f"k{i}" for i in range(2, 9)}
    assert all(what.startswith("turned: its EXIF data says") for _, what in problems)


def test_index_leaves_out_images_that_are_to_be_turned(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(1, 9):
            for name, data in (PLAIN | {"mask": turned(Image.fromarray(FIGURE * 255), i, "PNG")}).items():
                member = tarfile.TarInfo(f"k{i}.{name}.png")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    job = plan_index(tmp_path, ExistingDepthConfig(), SplitConfig(val_share=0, test_share=0))
    ((kind, key),) = {
        (one.kind, type(one.key).__name__) for one in job.units[0].samples() if not isinstance(one, Sample)
    }
    assert (kind, key) == ("turned", "str")
    assert [one.key for one in job.units[0].samples() if isinstance(one, Sample)] == ["k1"]


def test_a_png_that_says_it_at_its_end_is_turned_too(tmp_path: Path) -> None:
    tagged, bare = turned(smooth(3).resize((WIDE, WIDE)), 6, "PNG"), file_of(smooth(3).resize((WIDE, WIDE)))
    at = tagged.index(b"eXIf") - 4
    chunk = tagged[at : at + 12 + int.from_bytes(tagged[at : at + 4])]
    late = bare[:-12] + chunk + bare[-12:]
    form = ImageFormat("png", (WIDE, WIDE), 8, 3)
    assert not form.heads(late)
    with pytest.raises(BadImage, match="turned"):
        decode_image(late, form)
    data, _, _ = Making(component="fg_bg", stored=form).make(late)
    assert (pixels(data) == np.asarray(ImageOps.exif_transpose(opened(late)))).all()


def test_sizes_that_differ_are_refused_and_scaled_if_a_size_is_given(tmp_path: Path) -> None:
    half = file_of(scale_image(Image.fromarray(RAMP), (HIGH // 2, WIDE // 2)))
    error = refused(tmp_path / "a", depth=half)
    assert "fg_bg 32x24" in error
    assert "depth 16x12" in error
    assert "--size" in error
    dataset = made(tmp_path / "b", {"size": 20}, depth=half)
    wanted = np.asarray(scale_image(opened(half), (20, 20)))
    assert all((pixels(one) == wanted).all() for one in stored(dataset, "depth"))


def test_a_sample_whose_images_have_other_shapes_is_left_out(tmp_path: Path) -> None:
    square, near = file_of(np.resize(RAMP, (WIDE, WIDE))), file_of(np.resize(RAMP, (48, 65)))
    dataset = made(tmp_path, {"size": 16}, depth=[PLAIN["depth"], square, near])
    assert left_out(dataset) == [("wrong-size", "k1", "32x32, but fg_bg has 32x24, which is another shape")]
    assert sorted(images(dataset)) == ["k0", "k2"]


def test_the_size_that_images_have_is_for_those_that_need_it(tmp_path: Path) -> None:
    fg_bg, mask, depth = (
        file_of(scale_image(one, (20, 20))) for one in (COLOURS, Image.fromarray(FIGURE * 255), Image.fromarray(RAMP))
    )
    square = {"fg_bg": fg_bg, "mask": mask, "depth": depth, "bg": fg_bg}
    for size in (20, 21):
        assert f"size {size}: the images are 20x20" in refused(tmp_path / str(size), {"size": size}, **square)
    large = file_of(Image.fromarray(RAMP).resize((40, 40)))
    dataset = made(tmp_path / "scaled", {"size": 20}, **square | {"depth": large})
    assert [stored(dataset, name)[0] for name in ("fg_bg", "mask", "bg")] == [fg_bg, mask, fg_bg]
    assert (pixels(stored(dataset, "depth")[0]) == np.asarray(scale_image(opened(large), (20, 20)))).all()
    bmp = file_of(opened(mask), "BMP")
    assert stored(made(tmp_path / "bmp", {"size": 20}, **square | {"mask": bmp}), "fg_bg")[0] == fg_bg


def test_the_command_says_what_it_will_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = laid_out(tmp_path / "in", mask=file_of(CLASSES))
    convert_command((str(folder), str(tmp_path / "out")), ConvertConfig(), BuildConfig(workers=1))
    said = capsys.readouterr().out
    assert "\nmask: classes 0 to 15; all above 0 is figure\nsamples" in said


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"mask_values": (1.0, 1.0)}, "mask-values: "),
        ({"depth_scale": 0.0}, "depth-scale is 0.0, "),
        ({"depth_scale": 1000.0, "near_is_bright": True}, "near-is-bright is for relative depth"),
        ({"depth_scale": 1000.0, "depth_colormap": "jet"}, "depth-scale: what a colour map drew"),
        ({"depth_colormap": "jett"}, "depth-colormap: 'jett' is no colour map"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], error: str) -> None:
    with pytest.raises(InputError, match=f"^{error}"):
        ConvertConfig(**options)


def test_no_ending_is_both_read_and_not() -> None:
    assert not READ & NOT_READ.keys()
    assert all(ending == ending.lower() and ending.startswith(".") for ending in (*READ, *NOT_READ))
