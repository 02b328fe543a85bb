"""Depth from a teacher: what the model says is what is stored, of all samples, killed or not, and nothing else changes.

The teachers are the real classes with a few thousand random weights, saved here; nothing is downloaded.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from small_data import (
    ONE_WORKER,
    TREES,
    Drawn,
    built,
    built_here,
    compose_config,
    contents,
    convert,
    division,
    flip,
    images,
    indexed_here,
)
from test_depth import rewritten
from test_foreign import packed
from test_interruption import killed_when

from shards.errors import InputError
from shards.format.dataset import Dataset
from shards.format.depth import DepthRange
from shards.format.splits import SPLITS, SplitConfig
from shards.format.storage import LocalFolder
from shards.ingest.compose import plan_composition
from shards.ingest.depth import plan_depth
from shards.ingest.teacher import DepthConfig, Teacher, load_teacher, resolved
from shards.inspect.show import describe
from shards.inspect.verify import verify

transformers = pytest.importorskip("transformers")


def save(model: torch.nn.Module, folder: Path) -> Path:
    """A teacher of random weights, large enough that its depth is not flat."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    model.save_pretrained(folder)  # type: ignore[operator]
    return folder


def depth_anything(folder: Path, **options: object) -> Path:
    from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

    stages = [f"stage{i}" for i in range(1, 5)]
    backbone = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=42, patch_size=14,
        out_features=stages, reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8] * 4, fusion_hidden_size=8,
        head_hidden_size=8, patch_size=14, **options,
    )  # fmt: skip
    size = {"height": 42, "width": 42}
    DPTImageProcessorPil(size=size, keep_aspect_ratio=True, ensure_multiple_of=14, resample=3).save_pretrained(folder)
    return save(transformers.DepthAnythingForDepthEstimation(config), folder)


def glpn(folder: Path) -> Path:
    from transformers.models.glpn.image_processing_pil_glpn import GLPNImageProcessorPil

    ones = [1] * 4
    config = transformers.GLPNConfig(
        depths=ones, hidden_sizes=[8] * 4, num_attention_heads=ones, mlp_ratios=ones, decoder_hidden_size=8
    )
    GLPNImageProcessorPil().save_pretrained(folder)
    return save(transformers.GLPNForDepthEstimation(config), folder)


@pytest.fixture(scope="module")
def few(drawn: Drawn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 samples in 8 shards."""
    out = tmp_path_factory.mktemp("few") / "data"
    built(plan_composition(compose_config(drawn, samples=40, division=division(samples_per_shard=5))), out)
    return out


@pytest.fixture(scope="module")
def relative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return depth_anything(tmp_path_factory.mktemp("teachers") / "relative")


@pytest.fixture(scope="module")
def metric(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return glpn(tmp_path_factory.mktemp("teachers") / "metric")


def config(teacher: Path, **options: object) -> DepthConfig:
    return DepthConfig(teacher=str(teacher), device="cpu", **options)  # type: ignore[arg-type]


def labelled(source: Path, out: Path, wanted: DepthConfig) -> Dataset:
    """The pass in this process, where transformers is imported already."""
    return built_here(plan_depth(Dataset.open(source), wanted), out)


def depths(dataset: Dataset) -> list[NDArray[np.float64]]:
    """The depth of all samples in the unit of its range, from the stored values."""
    range_, bits = dataset.manifest.depth, dataset.manifest.components["depth"].bits
    stored = [np.asarray(Image.open(BytesIO(parts["depth"])), np.float64) for parts in images(dataset).values()]
    return [range_.black + one / (2**bits - 1) * (range_.white - range_.black) for one in stored]


def predicted(dataset: Dataset, teacher: Teacher, size: int = 32) -> list[NDArray[np.float32]]:
    """The depth of all samples, predicted `size` at a time."""
    pixels = [np.asarray(Image.open(BytesIO(parts["fg_bg"])).convert("RGB")) for parts in images(dataset).values()]
    return [depth for i in range(0, len(pixels), size) for depth in teacher.predict(pixels[i : i + size])]


@pytest.fixture(scope="module")
def made(few: Path, relative: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set with relative depth of 16 bits."""
    out = tmp_path_factory.mktemp("made") / "data"
    labelled(few, out, config(relative, format="png16"))
    return out


def test_everything_but_depth_stays_as_it_was(few: Path, made: Path) -> None:
    before, after = Dataset.open(few), Dataset.open(made)
    found = zip(images(before).items(), images(after).items(), strict=True)
    for (key, stored), (same_key, stored_now) in found:
        assert key == same_key
        assert stored | {"depth": b""} == stored_now | {"depth": b""}
        assert stored["depth"] != stored_now["depth"]
    assert all(np.array_equal(before.split(name), after.split(name)) for name in SPLITS)
    assert (made / "shared.tar").read_bytes() == (few / "shared.tar").read_bytes()
    old, new = before.manifest, after.manifest
    assert {n: s for n, s in old.statistics.items() if n != "depth"} == {
        n: s for n, s in new.statistics.items() if n != "depth"
    }
    assert (old.split_by, old.splits, old.left_out) == (new.split_by, new.splits, new.left_out)
    assert verify(LocalFolder(made), ONE_WORKER) == []


@pytest.mark.parametrize("others", [(), ("mask",)], ids=["fg_bg", "fg_bg and mask"])
def test_depth_is_added_to_samples_of_any_components(
    few: Path, metric: Path, tmp_path: Path, others: tuple[str, ...]
) -> None:
    whole = list(images(Dataset.open(few)).items())[:4]
    names = ("fg_bg", *others)
    (tmp_path / "tars").mkdir()
    packed(tmp_path / "tars" / "a.tar", ((f"{key}.{n}.jpg", parts[n]) for key, parts in whole for n in names))
    before = indexed_here(tmp_path / "tars", SplitConfig())
    after = labelled(before.root, tmp_path / "made", config(metric))
    assert list(after.manifest.components) == [*names, "depth"]
    stored = images(after)
    assert {key: {n: parts[n] for n in names} for key, parts in stored.items()} == images(before)
    assert verify(LocalFolder(after.root), ONE_WORKER) == []


def test_relative_depth_is_recorded_as_the_model_gives_it_and_fills_its_range(made: Path, relative: Path) -> None:
    opened = Dataset.open(made)
    assert opened.manifest.depth == DepthRange.relative(near_is_bright=True)
    assert opened.manifest.components["depth"].bits == 16
    assert opened.manifest.sources["depth"] == ["relative"]
    teacher = load_teacher(resolved(config(relative, format="png16")))
    for stored, depth in zip(depths(opened), predicted(opened, teacher), strict=True):
        assert (depth.min(), depth.max()) == (0, 1)
        assert np.abs(stored - depth).max() <= 1 / 65535
    # What the model itself says, without a line of ours: the inverse of depth is greatest where depth is 0.
    row = np.asarray(Image.open(BytesIO(next(iter(images(opened).values()))["fg_bg"])).convert("RGB"))
    estimator = transformers.pipeline("depth-estimation", model=str(relative), device="cpu")
    said = estimator(Image.fromarray(row))["predicted_depth"].squeeze().numpy()
    assert np.corrcoef(said.ravel(), depths(opened)[0].ravel())[0, 1] == pytest.approx(-1, abs=1e-3)


def test_the_other_direction_is_a_word_away(few: Path, relative: Path, tmp_path: Path, made: Path) -> None:
    other = labelled(few, tmp_path / "dark", config(relative, format="png16", predicts="near-is-dark"))
    assert other.manifest.depth == DepthRange.relative(near_is_bright=False)
    for one, opposite in zip(depths(other), depths(Dataset.open(made)), strict=True):
        assert np.abs(one + opposite - 1).max() <= 2 / 65535


@pytest.mark.parametrize("metres", [(0.0, 10.0), (0.5, 4.0), (10.0, 0.0)])
def test_metres_are_stored_as_metres_and_cut_off_where_it_was_said(
    few: Path, metric: Path, tmp_path: Path, metres: tuple[float, float]
) -> None:
    wanted = config(metric, format="png", metres=metres)
    opened = labelled(few, tmp_path / "out", wanted)
    assert opened.manifest.depth == DepthRange.metres(*metres)
    said = predicted(opened, load_teacher(resolved(wanted)))
    assert np.ptp(said) > 1
    for stored, depth in zip(depths(opened), said, strict=True):
        assert np.abs(stored - np.clip(depth, min(metres), max(metres))).max() <= 0.51 * 10 / 255


def test_batches_do_not_change_what_is_stored_by_more_than_rounding(few: Path, metric: Path) -> None:
    opened = Dataset.open(few)
    one, many = (predicted(opened, Teacher(resolved(config(metric))), size) for size in (7, 32))
    assert max(np.abs(a - b).max() for a, b in zip(one, many, strict=True)) < 1e-4


def test_metric_depth_anything_is_known_by_its_configuration(tmp_path: Path) -> None:
    teacher = depth_anything(tmp_path / "metric", depth_estimation_type="metric", max_depth=20)
    assert resolved(config(teacher)).depth_range == DepthRange.metres(0, 10)


def test_a_model_that_does_not_say_what_it_predicts_is_asked_about(tmp_path: Path) -> None:
    transformers.DPTConfig().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"type dpt may predict metres or the inverse .* --predicts metres, near-is-b"):
        resolved(config(tmp_path))
    assert resolved(config(tmp_path, predicts="metres")).depth_range.unit == "m"


def test_metres_are_not_to_be_had_of_relative_depth(relative: Path) -> None:
    with pytest.raises(InputError, match=r"its depth is relative \(near-is-bright\), which has no metres"):
        resolved(config(relative, metres=(0.0, 5.0)))


def test_what_is_no_teacher_is_said_in_one_line(few: Path, relative: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    transformers.BertConfig().save_pretrained(tmp_path / "bert")
    truncated = depth_anything(tmp_path / "truncated") / "model.safetensors"
    truncated.write_bytes(truncated.read_bytes()[:-1000])
    for name in ("empty", "bert", "truncated"):
        with pytest.raises(InputError, match=rf"{name}: no depth estimation model that can be loaded") as raised:
            Teacher(resolved(config(tmp_path / name, predicts="metres")))
        assert "\n" not in str(raised.value)
    headless = depth_anything(tmp_path / "headless")
    model = transformers.Dinov2Backbone(transformers.DepthAnythingConfig.from_pretrained(headless).backbone_config)
    torch.save(model.state_dict(), headless / "pytorch_model.bin")
    (headless / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"headless: it has no weights for .*so its depth would be noise"):
        Teacher(resolved(config(headless)))


def test_depth_comes_to_a_data_set_that_has_none(few: Path, relative: Path, made: Path, tmp_path: Path) -> None:
    bare = rewritten(few, tmp_path / "bare", None, DepthRange(), 8)
    describe(LocalFolder(bare), Console(quiet=True))
    opened = labelled(bare, tmp_path / "out", config(relative, format="png16"))
    for depth, other in zip(depths(opened), depths(Dataset.open(made)), strict=True):
        assert np.abs(depth - other).max() <= 2 / 65535  # the shards, and so the batches, are others
    assert list(opened.manifest.components) == ["fg_bg", "mask", "depth", "bg"]
    assert verify(LocalFolder(tmp_path / "out"), ONE_WORKER) == []


def test_where_its_source_was_made_again_the_shards_that_differ_are_known(
    messy: Path, relative: Path, tmp_path: Path
) -> None:
    source, wanted = tmp_path / "source", config(relative)
    before = plan_depth(convert([messy], source), wanted)
    built_here(before, tmp_path / "out")
    assert [unit.made_from for unit in plan_depth(Dataset.open(source), wanted).units] == [
        unit.made_from for unit in before.units
    ]
    flip(min((messy / TREES["fg_bg"]).rglob("*.jpg")), 50)
    convert([messy], source, again=True)
    after = plan_depth(Dataset.open(source), wanted)
    changed = [new.name for old, new in zip(before.units, after.units, strict=True) if old.made_from != new.made_from]
    assert len(changed) == 1
    with pytest.raises(InputError, match=rf"{changed[0]} of 6 shards would no longer be the same\. Add --again"):
        built(after, tmp_path / "out")
    with pytest.raises(InputError, match="holds another data set already"):
        built(plan_depth(Dataset.open(source), config(relative, format="png")), tmp_path / "out")


def test_killed_and_continued_the_bytes_are_the_same(few: Path, relative: Path, made: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "out", ("--teacher", relative, "--format", "png16", "--device", "cpu")
    killed_when(".work/shard-*.npz", "depth", few, out, *options, out=out)
    assert not (out / "manifest.json").exists()
    done = [out / path.name.rsplit(".", 2)[0] for path in (out / ".work").glob("shard-*.npz")]
    before = {path: path.stat().st_mtime_ns for path in done}
    assert before
    built(plan_depth(Dataset.open(few), config(relative, format="png16")), out)
    assert contents(out) == contents(made)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(InputError, match="holds another data set already"):
        built(plan_depth(Dataset.open(few), config(relative, format="png")), out)
