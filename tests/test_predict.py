import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import checkpoint
from checkpoint import Checkpoints
from evaluate import EvaluateConfig, evaluate
from evaluate import main as evaluate_command
from model.unet import UNetConfig
from pipeline.loader import Loader, LoaderConfig
from predict import depth_pixels, load_image, load_pair, pairs, predict
from ranks import Ranks
from shards.errors import InputError
from shards.format.depth import DepthRange
from shards.format.manifest import Manifest
from train import TrainConfig, start

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
METRES = DepthRange.metres(0, 10)


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's best checkpoint; of a network that has learned nothing, which is as good here."""
    config = TrainConfig(
        loader=LoaderConfig(data=dataset, size=32, batch_size=8, decode="portable"), unet=UNetConfig(width=4, levels=2)
    )
    training = start(config, Ranks(0, 1, CPU))
    run = tmp_path_factory.mktemp("run")
    of_data = {"depth": asdict(Manifest.read(dataset).depth)}
    with training.loader, Checkpoints(run, keep=1) as checkpoints:
        checkpoints.save(training.state_dict() | {"config": config.to_dict() | of_data}, best=True)
    return run / "checkpoints" / "best.pt"


@settings(max_examples=10)
@given(height=st.integers(1, 70), width=st.integers(1, 70), size=st.sampled_from([0, 32]))
def test_a_prediction_has_the_size_of_its_images(trained: Path, height: int, width: int, size: int) -> None:
    model, _ = checkpoint.load_model(trained, CPU)
    image = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
    found = predict(model, image, image, size)
    assert found.keys() == {"mask", "depth"}
    for values in found.values():
        assert values.shape == (height, width)
        assert 0 <= values.min() <= values.max() <= 1


def test_the_command_writes_a_mask_and_a_depth_for_every_pair(trained: Path, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for stem, size in (("a", (90, 50)), ("b", (33, 120))):
            Image.new("RGB", size, "gray").save(tmp_path / folder / f"{stem}.png")
    out = tmp_path / "out"
    subprocess.run(
        [sys.executable, ROOT / "predict.py", trained, tmp_path / "one", tmp_path / "two", "--out", out], check=True
    )
    assert sorted(path.name for path in out.iterdir()) == ["a.depth.png", "a.mask.png", "b.depth.png", "b.mask.png"]
    with Image.open(out / "b.depth.png") as depth, Image.open(out / "b.mask.png") as mask:
        assert depth.size == mask.size == (33, 120)
        assert depth.mode.startswith("I")


def test_depth_pixels_are_millimetres_where_the_range_is_in_metres() -> None:
    half = torch.tensor([[0.0, 0.5, 1.0]])
    assert depth_pixels(half, METRES).tolist() == [[0, 5000, 10000]]
    assert depth_pixels(half, DepthRange.metres(8, 2)).tolist() == [[2000, 5000, 8000]]
    assert depth_pixels(half, DepthRange()).tolist() == [[0, 32768, 65535]]
    assert depth_pixels(half, DepthRange.relative(near_is_bright=True)).tolist() == [[0, 32768, 65535]]


def test_pairs_are_found_by_name_or_share_one_background(tmp_path: Path) -> None:
    seen, empty = tmp_path / "seen", tmp_path / "empty"
    for folder, names in ((seen, "ab"), (empty, "a")):
        folder.mkdir()
        for name in names:
            Image.new("RGB", (4, 4)).save(folder / f"{name}.png")
    assert pairs(seen, empty / "a.png") == [(seen / f"{name}.png", empty / "a.png") for name in "ab"]
    with pytest.raises(InputError, match=r"no background for 1 of 2 images, such as b\.png"):
        pairs(seen, empty)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_pair_of_two_sizes_or_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "small.png")
    Image.new("RGB", (8, 4)).save(tmp_path / "wide.png")
    (tmp_path / "text.png").write_text("text")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 8)).save(tmp_path / "broken exif.jpg", exif=exif.tobytes()[:-3])
    with pytest.raises(InputError, match="must show the same view"):
        load_pair(tmp_path / "small.png", tmp_path / "wide.png")
    with pytest.raises(InputError, match="not an image"):
        load_pair(tmp_path / "small.png", tmp_path / "text.png")
    assert load_image(tmp_path / "broken exif.jpg").shape[2] == 3


def test_evaluation_covers_the_whole_split_whatever_the_batch_size(trained: Path, dataset: Path) -> None:
    model, _ = checkpoint.load_model(trained, CPU)
    found = []
    for batch_size in (4, 15):
        config = LoaderConfig(data=dataset, split="test", size=32, batch_size=batch_size, shuffle=False)
        with Loader(config) as loader:
            found.append(evaluate(model, loader, torch.float32)[0])
    assert found[0].keys() == found[1].keys()
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_the_evaluation_command_leaves_numbers_and_a_picture_in_the_run(trained: Path) -> None:
    subprocess.run([sys.executable, ROOT / "evaluate.py", trained, "--split", "val"], check=True)
    run = trained.parent.parent
    with Image.open(run / "evaluation-val.png") as picture:
        assert picture.size == (8 * 32, 5 * 32)
    assert "mask_iou" in (run / "evaluation-val.json").read_text()


@pytest.mark.parametrize("other", [METRES, DepthRange.relative(near_is_bright=True)], ids=str)
def test_a_data_set_whose_depth_means_something_else_is_refused(
    trained: Path, damaged: Path, other: DepthRange
) -> None:
    own = Manifest.read(damaged)
    (damaged / "manifest.json").write_text(replace(own, depth=other).to_json())
    with pytest.raises(InputError) as raised:
        evaluate_command(EvaluateConfig(checkpoint=trained, data=str(damaged), device="cpu"))
    assert f"trained on depth {own.depth}; the depth of {damaged} is {other}." in str(raised.value)
