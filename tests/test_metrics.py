"""Metrics of a split are those of all its pixels at once, however the split was cut into batches or ranks."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torchmetrics.classification import BinaryF1Score, BinaryJaccardIndex
from torchmetrics.functional.image import structural_similarity_index_measure

from evaluate import Errors, evaluate
from model.metrics import MEANING, Metrics
from model.unet import DualUNet, Prediction, UNetConfig
from pipeline.loader import Loader, LoaderConfig

Split = tuple[Prediction, Tensor, Tensor]


def split(samples: int = 11, seed: int = 0) -> Split:
    """Predictions that are near their targets, uint8 masks and depths with pixels of depth 0 among them."""
    generator = torch.Generator().manual_seed(seed)
    mask = 255 * (torch.rand(samples, 1, 16, 20, generator=generator) > 0.7).to(torch.uint8)
    depth = torch.randint(0, 256, mask.shape, dtype=torch.uint8, generator=generator)
    depth[depth < 40] = 0
    noise = torch.randn(2, *mask.shape, generator=generator)
    return Prediction(mask=mask / 64 - 2 + 2 * noise[0], depth=depth / 255 + 0.1 * noise[1]), mask, depth


def predicted(prediction: Prediction) -> tuple[Tensor, Tensor]:
    """Its mask and depth."""
    assert prediction.mask is not None
    assert prediction.depth is not None
    return prediction.mask, prediction.depth


def part(whole: Split, start: int, stop: int) -> Split:
    prediction, mask, depth = whole
    logits, guess = predicted(prediction)
    return Prediction(logits[start:stop], guess[start:stop]), mask[start:stop], depth[start:stop]


def measure(whole: Split, edges: list[int], metrics: Metrics) -> dict[str, float]:
    for start, stop in pairwise(edges):
        metrics.update(*part(whole, start, stop))
    return {name: value.item() for name, value in metrics.compute().items()}


def directly(whole: Split, near: float, far: float) -> dict[str, float]:
    """Each metric from all pixels at once, in float64, by its definition."""
    prediction, mask, depth = whole
    logits, guess = predicted(prediction)
    p, t = guess.double().numpy(), depth.double().numpy() / 255
    figure, truth = logits.numpy() > 0, mask.numpy() >= 128
    metres, true_metres = near + p * (far - near), near + t * (far - near)
    known = true_metres > 0
    metres, true_metres = metres[known], true_metres[known]
    with np.errstate(divide="ignore"):
        within = np.maximum(metres / true_metres, np.where(metres > 0, true_metres / metres, np.inf)) < 1.25
    similarity = structural_similarity_index_measure(torch.tensor(p), torch.tensor(t), data_range=1.0)
    assert isinstance(similarity, Tensor)
    return {
        "mask_iou": (figure & truth).sum() / (figure | truth).sum(),
        "mask_dice": 2 * (figure & truth).sum() / (figure.sum() + truth.sum()),
        "depth_rmse": np.sqrt(((p - t) ** 2).mean()),
        "depth_mae": np.abs(p - t).mean(),
        "depth_abs_rel": (np.abs(metres - true_metres) / true_metres).mean(),
        "depth_delta_1.25": within.mean(),
        "depth_ssim": similarity.item(),
        "depth_iou_at_half_2020": ((p > 0.5) & (t > 0.5)).sum() / ((p > 0.5) | (t > 0.5)).sum(),
    }


@pytest.mark.parametrize(("near", "far"), [(0.0, 1.0), (0.0, 10.0), (0.5, 10.0)])
def test_unequal_batches_give_what_all_pixels_at_once_give(near: float, far: float) -> None:
    measured = measure(split(), [0, 4, 5, 11], Metrics(depth_min=near, depth_max=far))
    assert measured == pytest.approx(directly(split(), near, far), rel=1e-5)


@settings(deadline=None, max_examples=15)
@given(st.sets(st.integers(1, 10)))
def test_the_cut_into_batches_does_not_matter(edges: set[int]) -> None:
    whole = measure(split(), [0, 11], Metrics())
    assert measure(split(), [0, *sorted(edges), 11], Metrics()) == pytest.approx(whole, rel=1e-6)


def test_mask_metrics_are_those_of_torchmetrics() -> None:
    whole = split(seed=1)
    measured = measure(whole, [0, 11], Metrics())
    coverage, truth = whole[0].coverage, (whole[1] > 127).int()
    assert measured["mask_iou"] == pytest.approx(BinaryJaccardIndex()(coverage, truth).item(), rel=1e-5)
    assert measured["mask_dice"] == pytest.approx(BinaryF1Score()(coverage, truth).item(), rel=1e-5)


def test_a_raw_mask_is_measured_as_coverage() -> None:
    prediction, mask, depth = split()
    raw = Prediction(prediction.coverage, prediction.depth, mask_is_logits=False)
    metrics = Metrics()
    metrics.update(raw, mask, depth)
    assert metrics.compute()["mask_iou"].item() == measure(split(), [0, 11], Metrics())["mask_iou"]


def test_a_perfect_prediction_is_perfect() -> None:
    _, mask, depth = split()
    perfect = Prediction(mask=mask / 255, depth=depth / 255, mask_is_logits=False)
    errors = ("depth_rmse", "depth_mae", "depth_abs_rel")
    measured = measure((perfect._replace(mask=mask - 128.0, mask_is_logits=True), mask, depth), [0, 11], Metrics())
    assert measured == pytest.approx({name: 0 if name in errors else 1 for name in measured}, abs=1e-5)


def test_what_a_split_does_not_hold_is_nan_and_not_a_good_number() -> None:
    nothing = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    measured = measure((Prediction(nothing - 9.0, nothing / 255), nothing, nothing), [0, 2], Metrics())
    undefined = {name for name, value in measured.items() if np.isnan(value)}
    assert undefined == {"mask_iou", "mask_dice", "depth_abs_rel", "depth_delta_1.25", "depth_iou_at_half_2020"}


def test_only_what_is_predicted_and_known_is_measured() -> None:
    prediction, mask, depth = split()
    for one, targets in (
        (prediction._replace(depth=None), (mask, depth)),
        (prediction, (mask, None)),
        (prediction._replace(mask=None), (mask, depth)),
        (prediction, (None, depth)),
    ):
        metrics = Metrics()
        metrics.update(one, *targets)
        kind = "mask" if one.mask is not None and targets[0] is not None else "depth"
        assert metrics.compute().keys() == {name for name in MEANING if name.startswith(kind)}


def test_a_reset_forgets() -> None:
    metrics = Metrics()
    measure(split(seed=1), [0, 11], metrics)
    metrics.reset()
    assert measure(split(), [0, 11], metrics) == measure(split(), [0, 11], Metrics())


@pytest.mark.parametrize(("near", "far"), [(-1.0, 1.0), (2.0, 2.0), (3.0, 1.0)])
def test_an_impossible_depth_range_is_refused(near: float, far: float) -> None:
    with pytest.raises(ValueError, match="depth range"):
        Metrics(depth_min=near, depth_max=far)


def of_samples(data: Path, rank: int = 0, world_size: int = 1) -> Errors:
    """The errors of the samples of a split, of a network that has learned nothing."""
    torch.manual_seed(0)
    model = DualUNet(UNetConfig(width=4, levels=2))
    reading = LoaderConfig(data=data, size=32, batch_size=7, decode="portable", num_threads=1)
    with Loader(reading, rank=rank, world_size=world_size) as loader:
        return evaluate(model, loader, torch.float32)[1]


def rank_measures(rank: int, folder: Path, data: Path) -> None:
    torch.set_num_threads(1)  # or two processes would wait for each other's
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    mine = [0, 3, 7] if rank == 0 else [7, 11]
    torch.save(measure(split(), mine, Metrics()), folder / f"{rank}.pt")
    errors = of_samples(data, rank, 2)
    if rank == 0:
        torch.save(
            {"rows": errors.rows.tolist()} | {name: one.tolist() for name, one in errors.values.items()},
            folder / "errors.pt",
        )
    dist.destroy_process_group()


def test_two_ranks_measure_what_one_does(dataset: Path, tmp_path: Path) -> None:
    spawn(rank_measures, args=(tmp_path, dataset), nprocs=2)  # type: ignore[no-untyped-call]
    alone = measure(split(), [0, 11], Metrics())
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(alone, rel=1e-6)
    found, expected = torch.load(tmp_path / "errors.pt"), of_samples(dataset)
    assert len(set(expected.rows.tolist())) == len(expected.rows) == 120
    assert found["rows"] == expected.rows.tolist()
    for name, values in expected.values.items():
        assert found[name] == pytest.approx(values, rel=1e-4, abs=1e-5)
