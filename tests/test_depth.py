"""Depth of either direction and either width is stored, checked and delivered as one thing: near is 0, far is most."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from small_data import ONE_WORKER, SIZE, built, built_here, convert, division, images
from test_loader import DECODERS, epoch, loader

from checkpoint import refuse_other_data
from model.losses import depth_loss
from model.metrics import Metrics
from model.pictures import rows_of
from model.unet import Prediction
from shards.errors import InputError
from shards.format.dataset import Dataset
from shards.format.depth import STORED, DepthFormat, DepthRange, ExistingDepthConfig, depth_image
from shards.format.images import (
    BadImage,
    ImageFormat,
    decode_image,
    eight_bit,
    encode_image,
    histogram,
    read_any_header,
    scale_image,
)
from shards.format.manifest import Manifest, Shard, StoredComponent
from shards.format.schema import COMPONENTS, Sample
from shards.format.splits import DivisionConfig
from shards.format.storage import LocalFolder
from shards.ingest.convert import ConvertConfig, plan_conversion
from shards.ingest.job import Job, Plan, Unit
from shards.inspect.verify import verify

METRES, INVERSE = DepthRange.metres(0, 10), DepthRange.relative(near_is_bright=True)
CACHES: list[dict[str, Any]] = [{"cache": "none"}, {"cache": "host"}, {"cache": "host", "cache_mib": 1, "size": 0}]


@dataclass(frozen=True, kw_only=True)
class Rewritten(Unit):
    """All samples of a data set as one shard: with other depth, or with none."""

    source: Path
    components: dict[str, StoredComponent]
    depths: list[bytes]
    name: str = "shard-000000.tar"
    size: int = 1
    made_from: str = "rewritten"

    def samples(self) -> Iterator[Sample]:
        for (key, stored), depth in zip(images(Dataset.open(self.source)).items(), self.depths, strict=True):
            own = {name: (stored | {"depth": depth})[name] for name in self.components}
            yield Sample(key, own, {name: histogram(Image.open(io.BytesIO(data))) for name, data in own.items()})


def rewritten(source: Path, out: Path, depths: list[bytes] | None, depth_range: DepthRange, bits: int) -> Path:
    """`source` with these depth images (png), or without depth, as a data set in `out`."""
    manifest = Manifest.read(source)
    components = {name: one for name, one in manifest.components.items() if depths or name != "depth"}
    if depths:
        components["depth"] = StoredComponent(extension="png", channels=1, bits=bits)
    unit = Rewritten(source=source, components=components, depths=depths or [b""] * len(Dataset.open(source)))
    goal = Manifest(
        image_size=manifest.image_size,
        components=components,
        depth=depth_range,
        split_by="key",
        shards=[Shard(unit.name)],
        made_from="rewritten",
    )
    return built_here(Job(Plan(manifest=goal, left_out=[], split=DivisionConfig()), [unit]), out).root


@pytest.fixture(scope="module")
def values(dataset: Path) -> NDArray[np.uint16]:
    """A depth image of 16 bits for each sample, (N, H, W)."""
    opened = Dataset.open(dataset)
    random = np.random.default_rng(0)
    return random.integers(0, 65536, (len(opened), *opened.manifest.image_size), np.uint16)


@pytest.fixture(scope="module")
def deep(dataset: Path, values: NDArray[np.uint16], tmp_path_factory: pytest.TempPathFactory) -> Path:
    depths = [encode_image(Image.fromarray(one), "png") for one in values]
    return rewritten(dataset, tmp_path_factory.mktemp("deep") / "data", depths, METRES, 16)


def test_files_of_16_bits_are_converted_as_they_are(messy: Path, tmp_path: Path) -> None:
    given = {}
    for i, path in enumerate(sorted((messy / "DepthImage").rglob("*.jpg"))):
        depth = np.random.default_rng(i).integers(0, 65536, (SIZE, SIZE), np.uint16)
        given[path.stem] = encode_image(Image.fromarray(depth), "png")
        path.with_suffix(".png").write_bytes(given[path.stem])
        path.unlink()
    narrow = min(given)
    next((messy / "DepthImage").rglob(f"{narrow}.png")).write_bytes(encode_image(Image.new("L", (SIZE, SIZE)), "png"))
    opened = convert([messy], tmp_path / "out")
    assert opened.manifest.components["depth"].bits == 16
    found = {key: stored["depth"] for key, stored in images(opened).items()}
    black = Image.open(io.BytesIO(found.pop(narrow)))
    assert (black.mode, black.getextrema()) == ("I;16", (0, 0))
    assert found == {key: data for key, data in given.items() if key != narrow}


def test_existing_depth_means_what_is_said_of_it(folders: Path, tmp_path: Path) -> None:
    for name, existing in {
        "dark": ExistingDepthConfig(),
        "bright": ExistingDepthConfig(near_is_bright=True),
        "metres": ExistingDepthConfig(depth_metres=(8.0, 0.5)),
    }.items():
        config = ConvertConfig(**vars(existing), division=division())
        opened = built(plan_conversion([folders], config), tmp_path / name)
        assert opened.manifest.depth == existing.depth_range
    assert ExistingDepthConfig(near_is_bright=True).depth_range == DepthRange.relative(near_is_bright=True)
    assert ExistingDepthConfig().depth_range == DepthRange.relative(near_is_bright=False)
    with pytest.raises(InputError, match="For metres, give those of black first: depth-metres 10 0"):
        ExistingDepthConfig(near_is_bright=True, depth_metres=(0.0, 10.0))


def inverted(data: Path) -> None:
    """Says of a data set that its depth is bright where it is near."""
    manifest = Manifest.read(data)
    turned = replace(manifest.depth, black=manifest.depth.white, white=manifest.depth.black)
    (data / "manifest.json").write_text(replace(manifest, depth=turned).to_json())


def number(tensor: torch.Tensor | None) -> NDArray[np.int64]:
    assert tensor is not None
    return tensor.cpu().numpy().astype(np.int64)


@given(
    st.sampled_from(list(STORED)),
    st.sampled_from([METRES, INVERSE, DepthRange(), DepthRange.metres(8, 0.5)]),
    st.integers(0, 10**6),
)
def test_what_is_stored_means_what_was_given_to_half_a_step(way: DepthFormat, range_: DepthRange, seed: int) -> None:
    extension, bits = STORED[way]
    depth = np.random.default_rng(seed).uniform(range_.near, range_.far, (8, 8)).astype(np.float32)
    data = encode_image(depth_image(depth, range_, bits), extension)
    share = np.asarray(Image.open(io.BytesIO(data)), np.float64) / (2**bits - 1)
    error = np.abs(range_.black + share * (range_.white - range_.black) - depth).max()
    step = (range_.far - range_.near) / (2**bits - 1)
    assert error <= step * (0.51 if extension == "png" else 64)
    assert read_any_header(data) == (extension, (8, 8), bits)


def test_what_is_beyond_the_range_is_cut_off() -> None:
    depth = np.array([[-1, 0, 10, 11]], np.float32)
    assert np.asarray(depth_image(depth, METRES)).tolist() == [[0, 0, 255, 255]]
    assert np.asarray(depth_image(depth, DepthRange.metres(10, 0), 16)).tolist() == [[65535, 65535, 0, 0]]


@pytest.mark.parametrize(("black", "white"), [(0, 0), (3, 3), (-1, 1), (1, -1)])
def test_a_range_needs_two_ends(black: float, white: float) -> None:
    with pytest.raises(InputError, match=r"two different numbers from 0|a number from 0"):
        DepthRange.metres(black, white)


def test_only_a_component_of_16_bits_takes_them() -> None:
    deep, flat = (encode_image(Image.new(mode, (8, 8)), "png") for mode in ("I;16", "L"))
    wide = ImageFormat("png", (8, 8), 16, 1)
    assert decode_image(deep, wide).mode == "I;16"
    with pytest.raises(BadImage, match="wrong-mode: L where grey of 16 bits"):
        decode_image(flat, wide)
    for component in COMPONENTS:
        with pytest.raises(BadImage, match="wrong-mode: I;16 where RGB or grey"):
            decode_image(deep, ImageFormat("png", (8, 8), 8, component.channels))


@given(st.integers(0, 10**6))
def test_16_bits_are_counted_shown_and_scaled_as_8_are(seed: int) -> None:
    random = np.random.default_rng(seed)
    flat = random.integers(0, 256, (12, 12), np.uint8)
    shallow, wide = Image.fromarray(flat), Image.fromarray(flat.astype(np.uint16) * 257)
    near = np.clip(flat.astype(np.int64) * 257 + random.integers(-128, 129, flat.shape), 0, 65535).astype(np.uint16)
    assert (histogram(Image.fromarray(near)) == histogram(shallow)).all()
    assert np.array_equal(np.asarray(eight_bit(Image.fromarray(near))), flat)
    apart = np.asarray(scale_image(wide, (6, 6)), np.float64) / 257 - np.asarray(
        scale_image(shallow, (6, 6)), np.float64
    )
    assert np.abs(apart).max() <= 1


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("caching", CACHES, ids=["uncached", "cached", "partly-cached"])
def test_16_bits_come_through_the_loader_as_they_are(
    deep: Path, values: NDArray[np.uint16], decode: str, caching: dict[str, Any]
) -> None:
    with loader(deep, decode=decode, **{"size": 0} | caching) as opened:
        for batch in (batch for _ in range(2) for batch in opened):
            assert batch.depth is not None
            if opened.config.size == 0:
                assert np.array_equal(number(batch.depth)[:, 0], values[batch.index])
            assert batch.depth.dtype == torch.uint16
            assert batch.depth.is_contiguous(memory_format=torch.channels_last)
            assert {one.dtype for one in batch[:3] if one is not None} == {torch.uint8}


def test_16_bits_are_scaled_in_float_and_alike_from_decoder_and_cache(deep: Path, values: NDArray[np.uint16]) -> None:
    options: list[dict[str, Any]] = [{"decode": "portable"}, {"decode": "auto"}, {"cache": "host"}]
    for batches in zip(*(epoch(deep, size=24, **option) for option in options), strict=True):
        first = number(batches[0].depth)
        for other in batches[1:]:
            assert np.array_equal(number(other.depth), first)
        expected = np.stack(
            [np.asarray(scale_image(Image.fromarray(values[row]), (24, 24))) for row in batches[0].index]
        )
        apart = first[:, 0] - expected.astype(np.int64)
        assert np.abs(apart).max() <= 1
        assert np.abs(apart).mean() < 0.05  # rounded, not cut: that would be half a level less


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("options", [{"size": 0}, {"size": 32}, {"size": 32, "cache": "host"}], ids=str)
@pytest.mark.parametrize("bits", [8, 16])
def test_near_is_bright_is_delivered_inverted_exactly(
    damaged: Path, deep: Path, decode: str, options: dict[str, Any], bits: int, tmp_path: Path
) -> None:
    copy = damaged
    if bits == 16:
        copy = tmp_path / "copy"
        copy.mkdir()
        for path in deep.rglob("*"):
            target = copy / path.relative_to(deep)
            target.mkdir(exist_ok=True) if path.is_dir() else target.write_bytes(path.read_bytes())
    with loader(copy, decode=decode, **options) as opened:
        dark = [batch for _ in range(2) for batch in opened]
    inverted(copy)
    with loader(copy, decode=decode, **options) as opened:
        bright = [batch for _ in range(2) for batch in opened]
    for one, other in zip(dark, bright, strict=True):
        assert np.array_equal(number(other.depth), 2**bits - 1 - number(one.depth))
        assert np.array_equal(number(one.mask), number(other.mask))
        assert torch.equal(one.fg_bg, other.fg_bg)


def test_bits_that_are_not_those_of_the_manifest_are_found(deep: Path, dataset: Path, tmp_path: Path) -> None:
    """A data set of 16 bits, one of whose depth images has 8."""
    depths = [parts["depth"] for parts in images(Dataset.open(deep)).values()]
    broken = Dataset.open(deep).split("train")[0]
    depths[broken] = encode_image(eight_bit(Image.open(io.BytesIO(depths[broken]))), "png")
    mixed = rewritten(dataset, tmp_path / "mixed", depths, METRES, 16)
    assert [(p.where.split()[-1], p.what.split(":")[0]) for p in verify(LocalFolder(mixed), ONE_WORKER)] == [
        ("depth", "wrong-mode")
    ]
    with loader(mixed) as opened:
        list(opened)
        assert opened.stats.bad == 1


def test_a_data_set_without_depth_is_whole(dataset: Path, tmp_path: Path) -> None:
    bare = rewritten(dataset, tmp_path / "bare", None, DepthRange(), 8)
    assert verify(LocalFolder(bare), ONE_WORKER) == []
    assert list(Manifest.read(bare).components) == ["fg_bg", "mask", "bg"]
    assert all(batch.depth is None for batch in epoch(bare))


def test_a_deep_data_set_says_so_and_verifies(deep: Path) -> None:
    manifest = Manifest.read(deep)
    assert {name: component.bits for name, component in manifest.components.items() if component.bits != 8} == {
        "depth": 16
    }
    assert manifest.statistics["depth"].mean == pytest.approx([0.5], abs=1e-3)
    assert verify(LocalFolder(deep), ONE_WORKER) == []


def test_manifests_from_before_there_were_bits_have_8(damaged: Path) -> None:
    path = damaged / "manifest.json"
    path.write_text(path.read_text().replace(',\n   "bits": 8', ""))
    assert '"bits"' not in path.read_text()
    assert {component.bits for component in Manifest.read(damaged).components.values()} == {8}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (METRES, DepthRange.metres(10, 0), True),
        (METRES, DepthRange.metres(0, 20), False),
        (METRES, DepthRange(black=0, white=10), False),
        (DepthRange(), INVERSE, False),
        (INVERSE, INVERSE, True),
    ],
)
def test_depths_that_mean_different_things_are_never_mixed(
    dataset: Path, one: DepthRange, other: DepthRange, same: bool
) -> None:
    trained = {"depth": {"black": one.black, "white": one.white, "unit": one.unit}}
    manifest = replace(Manifest.read(dataset), depth=other)
    if same:
        refuse_other_data(Path("best.pt"), trained, "data", manifest)
        return
    with pytest.raises(InputError) as raised:
        refuse_other_data(Path("best.pt"), trained, "data", manifest)
    assert str(one) in str(raised.value)
    assert str(other) in str(raised.value)


def test_losses_metrics_and_pictures_see_the_same_depth_in_8_and_in_16_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    depth, mask = (torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8, generator=generator) for _ in range(2))
    wide = (depth.int() * 257).to(torch.uint16)
    logits, guess = torch.randn(2, 3, 1, 16, 16, generator=generator)
    prediction = Prediction(mask=logits, depth=guess.sigmoid())
    loss, found = depth_loss("l1+ssim+smooth_l1"), []
    for target in (depth, wide):
        metrics = Metrics(depth_max=10)
        metrics.update(prediction, mask, target)
        found.append([loss(prediction, target).item(), *(float(one) for one in metrics.compute().values())])
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    fg_bg = mask.expand(-1, 3, -1, -1)
    narrow, deep = (rows_of(fg_bg, mask, target, prediction) for target in (depth, wide))
    assert all(torch.equal(narrow[name], deep[name]) for name in narrow)


def stored_rmse(metres: NDArray[np.float32], way: DepthFormat) -> float:
    """Return the RMSE in mm of depth (H, W) that is stored in this format and read again."""
    extension, bits = STORED[way]
    data = encode_image(depth_image(metres, METRES, bits), extension, full_chroma=True)
    read = np.asarray(Image.open(io.BytesIO(data)), np.float64) / ((1 << bits) - 1) * 10
    return 1000 * float(np.sqrt(np.mean((read - metres) ** 2)))


def test_each_format_of_depth_has_the_error_of_its_step() -> None:
    metres = np.random.default_rng(0).uniform(0.5, 9, (32, 32)).astype(np.float32)
    jpg, png, png16 = (stored_rmse(metres, way) for way in STORED)
    assert jpg > png == pytest.approx(10_000 / 255 / 12**0.5, rel=0.1)
    assert png16 < 0.1
