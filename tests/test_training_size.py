"""Images stored at the size they are trained at: the loader's own resize, done once, and nothing else is changed."""

import io
import json
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin
from rich.console import Console
from small_data import (
    ONE_WORKER,
    SAMPLES,
    SIZE,
    TREES,
    Drawn,
    built,
    compose_config,
    contents,
    division,
    images,
)
from test_interruption import TINY_SHARDS, command, killed_when

from pipeline.loader import Loader, LoaderConfig
from shards.build.build import BuildConfig
from shards.errors import InputError
from shards.format.dataset import Dataset
from shards.format.images import encode_image, scale_image
from shards.format.manifest import Encoding, Manifest
from shards.format.storage import LocalFolder
from shards.ingest.compose import ComposeUnit, load_background, plan_composition
from shards.ingest.convert import ConvertConfig, plan_conversion
from shards.inspect.export import export
from shards.inspect.show import describe
from shards.inspect.verify import verify

SMALL = 20
"""no divisor of SIZE"""

DALI = pytest.param("cpu", marks=pytest.mark.skipif(find_spec("nvidia") is None, reason="needs DALI"))
DECODERS = ["portable", DALI]


def scaled(folders: Path, out: Path, workers: int = 1, **options: Any) -> Dataset:
    config = ConvertConfig(division=division(), **{"size": SMALL} | options)
    return built(plan_conversion([folders], config), out, BuildConfig(workers=workers))


@pytest.fixture(scope="module")
def lossy(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scaled(folders, tmp_path_factory.mktemp("lossy") / "out").root


@pytest.fixture(scope="module")
def lossless(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scaled(folders, tmp_path_factory.mktemp("lossless") / "out", lossless=True).root


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def pixels(data: bytes) -> NDArray[np.int64]:
    return np.asarray(opened(data)).astype(np.int64)


def chroma(jpeg: bytes) -> str:
    return {0: "4:4:4", 2: "4:2:0"}[JpegImagePlugin.get_sampling(opened(jpeg))]


def loaded(data: Path, **options: Any) -> dict[str, torch.Tensor]:
    """All images of the training split in the order of their rows, int32 (N, C, H, W) by component."""
    config = LoaderConfig(data=data, shuffle=False, batch_size=16, **options)
    with Loader(config, device=torch.device("cpu")) as loader:
        batches = list(loader)
    names = ("fg_bg", "bg", "mask", "depth")
    return {name: torch.cat([getattr(batch, name) for batch in batches]).int() for name in names}


def test_lossless_images_are_the_files_resized_to_the_pixel(dataset: Path, lossless: Path) -> None:
    files = images(Dataset.open(dataset))
    found = images(Dataset.open(lossless))
    assert found.keys() == files.keys()
    for key, parts in found.items():
        for name in ("mask", "depth"):
            assert opened(parts[name]).format == "PNG"
            assert (pixels(parts[name]) == np.asarray(scale_image(opened(files[key][name]), (SMALL, SMALL)))).all()


def test_all_else_is_jpeg_of_full_chroma_near_the_files_resized(dataset: Path, lossy: Path, lossless: Path) -> None:
    files, found, exact = (images(Dataset.open(root)) for root in (dataset, lossy, lossless))
    for key, parts in found.items():
        for name, data in parts.items():
            wanted = np.asarray(scale_image(opened(files[key][name]), (SMALL, SMALL))).astype(int)
            assert opened(data).format == "JPEG"
            assert np.abs(pixels(data) - wanted).mean() < 3  # drawn edges are hard; measured: 2.0
        assert {name: parts[name] for name in ("fg_bg", "bg")} == {name: exact[key][name] for name in ("fg_bg", "bg")}
        assert chroma(parts["fg_bg"]) == chroma(parts["bg"]) == "4:4:4"


@pytest.mark.parametrize("decode", DECODERS)
def test_the_loader_makes_the_same_of_large_and_of_stored_small_images(
    dataset: Path, lossless: Path, decode: str
) -> None:
    """What it reads at the stored size is what it would have scaled the large ones to, but for JPEG."""
    large, small = loaded(dataset, size=SMALL, decode=decode), loaded(lossless, size=0, decode=decode)
    for name in ("mask", "depth"):
        apart = large[name] - small[name]
        assert apart.abs().max() <= 1  # which direction is scaled first decides how some are rounded
        assert apart.float().mean().abs() < 0.01
    for name in ("fg_bg", "bg"):
        assert (large[name] - small[name]).abs().float().mean() < 3


def test_shrinking_is_antialiased() -> None:
    board = np.uint8(np.indices((96, 96)).sum(0) % 2 * 255)
    inner = np.asarray(scale_image(Image.fromarray(board), (40, 40)))[2:-2, 2:-2]
    assert np.abs(inner.astype(int) - 128).max() < 20
    aliased = Image.fromarray(board).resize((40, 40), Image.Resampling.NEAREST)
    assert {value for _, value in aliased.getcolors() or ()} == {0, 255}


def test_full_chroma_keeps_colours_apart() -> None:
    stripes = Image.fromarray(np.array([[(255, 0, 0), (0, 0, 255)] * 16] * 32, np.uint8))
    near, far = (
        np.abs(pixels(encode_image(stripes, "jpg", full)) - np.asarray(stripes)).mean() for full in (True, False)
    )
    assert near < 5 < 50 < far


def test_the_manifest_says_what_was_done(dataset: Path, lossy: Path, lossless: Path, tmp_path: Path) -> None:
    for root, extension in ((lossy, "jpg"), (lossless, "png")):
        manifest = Dataset.open(root).manifest
        assert manifest.image_size == (SMALL, SMALL)
        assert manifest.storage == Encoding(
            resized_from=(SIZE, SIZE), resized_by="bilinear, antialiased", jpeg_quality=95, jpeg_chroma="4:4:4"
        )
        assert {name: c.extension for name, c in manifest.components.items()} == {
            "fg_bg": "jpg",
            "mask": extension,
            "depth": extension,
            "bg": "jpg",
        }
        assert manifest.components["bg"].shared == 8
        assert Manifest.from_json(manifest.to_json()) == manifest
    assert Dataset.open(dataset).manifest.storage is None


def test_a_manifest_from_before_is_read(dataset: Path) -> None:
    raw = json.loads((dataset / "manifest.json").read_text())
    del raw["storage"]
    assert Manifest.from_json(json.dumps(raw)) == Manifest.read(dataset)


def test_it_is_shown_in_words(dataset: Path, lossless: Path) -> None:
    shown = {}
    for root in (dataset, lossless):
        console = Console(file=io.StringIO(), width=200)
        describe(LocalFolder(root), console)
        shown[root] = console.file.getvalue()  # type: ignore[attr-defined]
    words = "scaled down from 48x48 (bilinear, antialiased); JPEG quality 95, chroma 4:4:4; lossless: mask, depth"
    assert words in shown[lossless]
    assert "scaled" not in shown[dataset]


def test_statistics_are_those_of_the_resized_pixels(lossless: Path) -> None:
    dataset = Dataset.open(lossless)
    found = images(dataset)
    for name, statistics in dataset.manifest.statistics.items():
        values = np.stack([pixels(parts[name]) for parts in found.values()]).reshape(SAMPLES * SMALL**2, -1) / 255
        within = 1e-6 if name in ("mask", "depth") else 2 / 255
        assert statistics.mean == pytest.approx(values.mean(0), abs=within)
        assert statistics.std == pytest.approx(values.std(0), abs=within)


def test_the_files_are_checked_at_the_size_that_they_have(messy: Path, tmp_path: Path) -> None:
    small, cut, *_ = sorted((messy / TREES["mask"] / "0").iterdir())
    Image.new("L", (SMALL, SMALL + 1)).save(small)
    cut.write_bytes(cut.read_bytes()[:-100])
    dataset = scaled(messy, tmp_path / "out")
    assert dataset.manifest.left_out == {"truncated": 1, "wrong-size": 1}
    assert len(dataset) == SAMPLES - 2


def test_nothing_is_wrong_with_them(lossy: Path, lossless: Path) -> None:
    assert verify(LocalFolder(lossy), ONE_WORKER) == verify(LocalFolder(lossless), ONE_WORKER) == []


def test_workers_do_not_matter_but_size_and_lossless_do(folders: Path, lossless: Path, tmp_path: Path) -> None:
    scaled(folders, tmp_path / "out", workers=2, lossless=True)
    assert contents(tmp_path / "out") == contents(lossless)
    for other in ({"lossless": False}, {"lossless": True, "size": SMALL + 1}):
        with pytest.raises(InputError, match="holds another data set already"):
            scaled(folders, tmp_path / "out", **other)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_killed_it_goes_on_to_the_same_bytes(folders: Path, tmp_path: Path) -> None:
    options = ("--size", str(SMALL), "--lossless", *TINY_SHARDS)
    killed_when(".work/*.npz", "convert", folders, tmp_path / "killed", *options, out=tmp_path / "killed")
    assert not (tmp_path / "killed" / "manifest.json").exists()
    for out in ("killed", "whole"):
        subprocess.run(command("convert", folders, tmp_path / out, *options), check=True, capture_output=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("size", [SIZE, SIZE + 1])
def test_a_size_that_is_not_smaller_is_refused(folders: Path, size: int) -> None:
    with pytest.raises(InputError, match=rf"size {size}: the images are 48x48\. Give a smaller size"):
        plan_conversion([folders], ConvertConfig(size=size))


@pytest.mark.parametrize(("option", "message"), [({"size": 15}, "size is 15, where"), ({"lossless": True}, "needs")])
def test_options_that_make_no_sense_are_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ConvertConfig(**option)


@pytest.fixture(scope="module")
def exact(drawn: Drawn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Composed at SIZE, mask and depth lossless."""
    out, config = tmp_path_factory.mktemp("exact") / "out", compose_config(drawn, lossless=True)
    return built(plan_composition(config), out).root


def composed(drawn: Drawn, **options: Any) -> dict[str, dict[str, bytes]]:
    units = [unit for unit in plan_composition(compose_config(drawn, **options)).units if isinstance(unit, ComposeUnit)]
    return {sample.key: sample.images for unit in units for sample in map(unit.sample, unit.pastings)}


def test_lossless_composing_changes_how_mask_and_depth_are_stored_only(drawn: Drawn, exact: Path) -> None:
    jpegs, found = composed(drawn), images(Dataset.open(exact))
    assert found.keys() == jpegs.keys()
    for key, parts in found.items():
        assert {name: parts[name] for name in ("fg_bg", "bg")} == {name: jpegs[key][name] for name in ("fg_bg", "bg")}
        for name in ("mask", "depth"):
            assert opened(parts[name]).format == "PNG"
            assert encode_image(opened(parts[name]), "jpg", full_chroma=True) == jpegs[key][name]
    assert Dataset.open(exact).manifest.storage == Encoding(
        resized_from=None,
        resized_by="cut-outs and backgrounds by lanczos, depth by bilinear, both antialiased",
        jpeg_quality=95,
        jpeg_chroma="4:4:4",
    )
    assert verify(LocalFolder(exact), ONE_WORKER) == []


@pytest.mark.parametrize(("size", "expected"), [(SMALL, "4:4:4"), (160, "4:2:0")])
def test_colour_is_composed_in_full_below_the_size_of_2020(drawn: Drawn, size: int, expected: str) -> None:
    work = plan_composition(compose_config(drawn, samples=1, size=size))
    (unit,) = work.units
    assert isinstance(unit, ComposeUnit)
    data = unit.sample(unit.pastings[0]).images
    assert chroma(data["fg_bg"]) == chroma(data["bg"]) == expected
    assert work.plan.manifest.storage is not None
    assert work.plan.manifest.storage.jpeg_chroma == expected


@pytest.mark.parametrize("decode", DECODERS)
def test_the_loader_reads_lossless_pixels_exactly(exact: Path, decode: str) -> None:
    dataset = Dataset.open(exact)
    found, read = images(dataset), loaded(exact, size=0, decode=decode)
    for i, row in enumerate(dataset.split("train")):
        for name in ("mask", "depth"):
            assert (read[name][i, 0].numpy() == pixels(found[dataset.key(int(row))][name])).all()


def test_lossless_folders_stay_lossless_on_the_way(drawn: Drawn, exact: Path, tmp_path: Path) -> None:
    """As they are, and scaled down too: what came as PNG is never made JPEG."""
    export(Dataset.open(exact), tmp_path / "folders", ONE_WORKER)
    as_it_is = ConvertConfig(division=division())
    converted = built(plan_conversion([tmp_path / "folders"], as_it_is), tmp_path / "out")
    assert images(converted) == images(Dataset.open(exact))
    found = images(scaled(tmp_path / "folders", tmp_path / "small"))
    for key, parts in images(converted).items():
        for name in ("mask", "depth"):
            assert (pixels(found[key][name]) == np.asarray(scale_image(opened(parts[name]), (SMALL, SMALL)))).all()


def test_what_was_not_measured_is_no_part_of_a_smaller_depth(drawn: Drawn, tmp_path: Path) -> None:
    depth = Path(shutil.copytree(drawn.depth, tmp_path / "depth"))
    path = min(drawn.bg.iterdir())
    millimetres = np.full((SIZE, SIZE), 2000, np.uint16)
    millimetres[::3, ::3] = 0  # holes between
    millimetres[:, SIZE // 2 :] = 0  # and a half that nothing is known of
    Image.fromarray(millimetres).save(depth / f"{path.stem}.png")
    small = np.asarray(load_background(path, depth, SMALL).depth)
    assert small[:, : SMALL // 2 - 1] == pytest.approx(2.0)
    assert (small[:, SMALL // 2 + 1 :] == 0).all()
    assert (
        np.asarray(load_background(path, depth, SIZE).depth) == millimetres.astype(np.float32) * np.float32(1e-3)
    ).all()


def test_composed_depth_of_another_size_is_what_the_loader_makes_of_the_large_one(drawn: Drawn) -> None:
    """Drawn rooms are smooth but for their edges. NEAREST, which sets every pixel to one of those it covers, fails."""
    apart = []
    for path in sorted(drawn.bg.iterdir()):
        large, small = (np.asarray(load_background(path, drawn.depth, size).depth) for size in (SIZE, SMALL))
        apart.append(np.abs(np.asarray(scale_image(Image.fromarray(large), (SMALL, SMALL))) - small).max())
    assert max(apart) < 1e-4
