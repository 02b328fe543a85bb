"""The errors of every sample: those of a slow computation by hand, sorted, and the worst of them to be seen."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import trained
from torch import nn

import checkpoint
from evaluate import EvaluateConfig, evaluate
from evaluate import main as evaluate_command
from model.metrics import per_sample
from model.unet import Prediction
from pipeline.loader import Loader, LoaderConfig
from shards.errors import InputError
from shards.format.dataset import Dataset
from tracking.grid import Grid

CPU = torch.device("cpu")
Row = dict[str, float]


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder."""
    return trained(dataset, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A copy of it, for a test to write into."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture(scope="module")
def evaluated(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it, of whose checkpoint val and test have been measured."""
    copy = Path(shutil.copytree(run, tmp_path_factory.mktemp("evaluated") / "run"))
    evaluate_command(EvaluateConfig(checkpoint=copy / "checkpoints" / "best.pt", split="val,test", device="cpu"))
    return copy


def table(path: Path) -> dict[str, Row]:
    """The rows of a CSV by key, in their order; what is empty is nan."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {row["key"]: {name: float(one or "nan") for name, one in row.items() if name != "key"} for row in rows}
    assert len(found) == len(rows)
    return found


def by_hand(model: nn.Module, data: Path, split: str) -> dict[str, Row]:
    """The errors of each sample, predicted alone, from its pixels in float64."""
    dataset, found = Dataset.open(data), dict[str, Row]()
    with Loader(LoaderConfig(data=data, split=split, size=32, batch_size=1, shuffle=False)) as loader:
        for batch in loader:
            with torch.inference_mode():
                prediction = model(batch.fg_bg, batch.bg)
            coverage, depth = (one.double().numpy()[0, 0] for one in (prediction.coverage, prediction.depth))
            assert batch.mask is not None
            assert batch.depth is not None
            mask, truth = (one.double().numpy()[0, 0] / 255 for one in (batch.mask, batch.depth))
            both, either = ((coverage > 0.5) & (mask > 0.5)).sum(), ((coverage > 0.5) | (mask > 0.5)).sum()
            iou, rmse = both / either if either else 1.0, np.sqrt(((depth - truth) ** 2).mean())
            row = {"error": 1 - iou + rmse, "mask_iou": iou, "mask_mae": np.abs(coverage - mask).mean()}
            row |= {"depth_rmse": rmse, "depth_mae": np.abs(depth - truth).mean()}
            found[dataset.key(int(batch.index))] = row
    return found


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_errors_of_each_sample_are_those_computed_by_hand_the_worst_first(
    evaluated: Path, dataset: Path, split: str
) -> None:
    model, _ = checkpoint.load_model(evaluated / "checkpoints" / "best.pt", CPU)
    found, expected = table(evaluated / f"evaluation-{split}.csv"), by_hand(model, dataset, split)
    assert found.keys() == expected.keys()
    for key, row in found.items():
        assert row == pytest.approx(expected[key], rel=1e-3, abs=1e-4)
    errors = [row["error"] for row in found.values()]
    assert errors == sorted(errors, reverse=True)
    assert len(set(errors)) > 1
    metrics = json.loads((evaluated / f"evaluation-{split}.json").read_text())
    assert metrics["depth_mae"] == pytest.approx(np.mean([row["depth_mae"] for row in found.values()]), rel=1e-4)


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_worst_are_drawn_with_their_keys_and_errors(evaluated: Path, split: str) -> None:
    drawn, found = (
        Grid.load(evaluated / f"pictures/evaluation-{split}-worst.png"),
        table(evaluated / f"evaluation-{split}.csv"),
    )
    assert drawn
    assert list(drawn.keys) == list(found)[:20]
    assert drawn.errors == pytest.approx([row["error"] for row in found.values()][:20], rel=1e-4)
    assert list(drawn.rows) == ["image", "true mask", "true depth", "predicted mask", "predicted depth"]
    assert {row.shape for row in drawn.rows.values()} == {(15, 32, 32, 3)}
    with Image.open(evaluated / f"evaluation-{split}-worst.png") as large:
        assert large.width > 10 * 100
        assert large.height > 2 * 5 * 100


def test_a_sample_without_figure_in_truth_and_prediction_is_without_error() -> None:
    nothing = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    figure = nothing.clone()
    figure[..., 4] = 255
    masks, logits = torch.cat([nothing, figure, nothing]), torch.cat([nothing, nothing, figure]) / 16 - 8.0
    found = per_sample(Prediction(logits, None), masks, None)
    assert found["mask_iou"].tolist() == [1, 0, 0]
    assert found["error"].tolist() == [0, 1, 1]
    assert found.keys() == {"error", "mask_iou", "mask_mae"}


def test_an_error_is_of_what_is_measured() -> None:
    depth = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(-1, -1, 4, 4)
    found = per_sample(Prediction(None, torch.full((2, 1, 4, 4), 0.25)), depth, depth)
    assert found.keys() == {"error", "depth_rmse", "depth_mae"}
    assert found["error"].tolist() == pytest.approx([0.25, 0.75])


def test_what_is_no_number_is_null_or_empty(copied: Path) -> None:
    path = copied / "checkpoints" / "best.pt"
    state = checkpoint.load(path, CPU)
    for weights in state["model"].values():
        if weights.is_floating_point():
            weights.fill_(torch.nan)
    torch.save(state, path)
    evaluate_command(EvaluateConfig(checkpoint=path, split="val", device="cpu"))
    metrics = json.loads((copied / "evaluation-val.json").read_text(), parse_constant=pytest.fail)
    assert metrics["depth_rmse"] is None
    text = (copied / "evaluation-val.csv").read_text()
    assert "nan" not in text.lower()
    assert all(np.isnan(row["error"]) for row in table(copied / "evaluation-val.csv").values())


def test_a_split_that_does_not_exist_is_told_before_any_is_measured(copied: Path) -> None:
    before = set(copied.iterdir())
    with pytest.raises(InputError, match=r"no samples in split 'tset'; it has train \(120\), val \(15\), test \(15\)"):
        evaluate_command(EvaluateConfig(checkpoint=copied / "checkpoints" / "best.pt", split="val,tset", device="cpu"))
    assert set(copied.iterdir()) == before


def test_a_sample_that_does_not_decode_is_not_listed_and_no_other_is_listed_twice(run: Path, damaged: Path) -> None:
    dataset = Dataset.open(damaged)
    place = dataset.locate("fg_bg", dataset.split("val")[3:4])
    with dataset.tar_path(int(place.file[0])).open("r+b") as tar:
        tar.seek(int(place.offset[0]))
        tar.write(bytes(int(place.size[0])))
    model, _ = checkpoint.load_model(run / "checkpoints" / "best.pt", CPU)
    wanted = LoaderConfig(data=damaged, split="val", size=32, batch_size=4, shuffle=False, check="never")
    with Loader(wanted) as loader:
        _, errors = evaluate(model, loader, torch.float32)
    assert sorted(errors.rows.tolist()) == sorted(set(dataset.split("val").tolist()) - {int(dataset.split("val")[3])})
