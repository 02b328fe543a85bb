"""DualUNet and the 2020 baseline: their size, and what holds for every image that they are given."""

import json
from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from model.losses import depth_loss, mask_loss
from model.metrics import Metrics
from model.seed import SeedNet
from model.unet import DualUNet, UNetConfig

SMALL = UNetConfig(width=8, levels=3, blocks=1)
NETWORKS: list[Callable[[], nn.Module]] = [lambda: DualUNet(SMALL), SeedNet]


def small() -> DualUNet:
    torch.manual_seed(0)
    return DualUNet(SMALL).eval()


def figures(samples: int, height: int = 32, width: int = 32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """uint8 fg_bg, bg, mask and depth: a box of noise, half as far as it, on noise above a slope."""
    generator = torch.Generator().manual_seed(0)
    bg, fg = torch.randint(0, 256, (2, samples, 3, height, width), dtype=torch.uint8, generator=generator)
    mask = torch.zeros(samples, 1, height, width, dtype=torch.uint8)
    mask[..., height // 4 : height // 2, width // 3 : width // 2] = 255
    slope = torch.linspace(60, 250, height).to(torch.uint8)[:, None].expand(mask.shape)
    return torch.where(mask > 0, fg, bg), bg, mask, torch.where(mask > 0, slope // 2, slope)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def gigaflop(network: nn.Module) -> float:
    """One sample forward at 64 x 64, 2 FLOP a multiply-add."""
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network.eval()(image, image)
    return float(counter.get_total_flops()) / 1e9


def test_the_unet_keeps_to_its_budget() -> None:
    network = DualUNet()
    assert parameters(network) <= 3_600_000
    assert 0 < gigaflop(network) <= 1


def test_the_baseline_is_the_network_of_2020() -> None:
    network = SeedNet()
    assert parameters(network) == 3_630_688
    assert gigaflop(network) == pytest.approx(29.7, abs=0.05)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70))
def test_any_size_in_is_the_size_out(samples: int, height: int, width: int) -> None:
    fg_bg, bg, *_ = figures(samples, height, width)
    with torch.inference_mode():
        prediction = small()(fg_bg, bg)
    for values in (prediction.mask, prediction.depth):
        assert values.shape == (samples, 1, height, width)
        assert values.dtype == torch.float32
        assert values.isfinite().all()
    assert prediction.depth.min() >= 0
    assert prediction.depth.max() <= 1


@pytest.mark.parametrize("make", NETWORKS)
def test_a_sample_is_predicted_alike_in_any_batch(make: Callable[[], nn.Module]) -> None:
    network = make().eval()
    fg_bg, bg, *_ = figures(3, 16, 16)
    with torch.inference_mode():
        together, alone = network(fg_bg, bg), network(fg_bg[1:2], bg[1:2])
    torch.testing.assert_close(together.mask[1:2], alone.mask)
    torch.testing.assert_close(together.depth[1:2], alone.depth)


@pytest.mark.parametrize("make", NETWORKS)
def test_every_parameter_learns(make: Callable[[], nn.Module]) -> None:
    network = make()
    fg_bg, bg, *_ = figures(2, 16, 16)
    mask, depth, _ = network(fg_bg, bg)
    torch.autograd.backward(mask.square().sum() + depth.square().sum())
    still = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not still


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("heads", [("mask",), ("depth",), ("mask", "depth")], ids=str)
def test_a_network_has_the_input_and_the_heads_that_are_asked_for(background: bool, heads: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    network = DualUNet(SMALL, background=background, mask="mask" in heads, depth="depth" in heads)
    fg_bg, bg, *_ = figures(2, 18, 16)
    prediction = network(fg_bg, bg) if background else network(fg_bg)
    found = {name: getattr(prediction, name) for name in ("mask", "depth", "coverage")}
    assert {name for name, one in found.items() if one is not None} == {*heads, *(["coverage"] * ("mask" in heads))}
    torch.autograd.backward(torch.stack([found[name].square().sum() for name in heads]).sum())
    assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())
    assert network.state_dict().keys() <= small().state_dict().keys()


def test_a_network_without_heads_does_not_exist() -> None:
    with pytest.raises(ValueError, match="predicts mask, depth or both"):
        DualUNet(SMALL, mask=False, depth=False)


def test_coverage_is_the_sigmoid_of_logits_and_the_raw_output_of_the_baseline() -> None:
    fg_bg, bg, *_ = figures(1, 16, 16)
    with torch.inference_mode():
        ours, baseline = small()(fg_bg, bg), SeedNet().eval()(fg_bg, bg)
    assert torch.equal(ours.coverage, ours.mask.sigmoid())
    assert torch.equal(baseline.coverage, baseline.mask)


@pytest.mark.parametrize("make", [DualUNet, SeedNet])
def test_normalisation_travels_with_the_weights(make: Callable[..., nn.Module]) -> None:
    mean, std = (0.2, 0.3, 0.4), (0.1, 0.2, 0.3)
    told = make(mean=mean, std=std)
    loaded = make()
    loaded.load_state_dict(told.state_dict())
    sigmas = torch.tensor([-1.0, 0.0, 1.0])
    image = 255 * torch.stack([m + s * sigmas for m, s in zip(mean, std, strict=True)])
    for network in (told, loaded):
        normalized = network.normalize(image[None, :, None])  # type: ignore[operator]
        torch.testing.assert_close(normalized, sigmas.expand(1, 3, 1, 3))


@pytest.mark.parametrize(("mean", "std"), [([0.5], [0.2]), ([0.5] * 3, [0.2, 0.0, 0.2]), ([0.5] * 3, [0.2] * 4)])
def test_statistics_that_cannot_be_are_refused(mean: list[float], std: list[float]) -> None:
    with pytest.raises(ValueError, match="mean and std"):
        DualUNet(SMALL, mean=mean, std=std)


def test_a_config_survives_json_and_an_impossible_one_does_not_exist() -> None:
    assert UNetConfig(**json.loads(json.dumps(asdict(SMALL)))) == SMALL
    with pytest.raises(ValueError, match="at least 1"):
        UNetConfig(blocks=0)


def test_bf16_and_channels_last_predict_nearly_the_same() -> None:
    network = small()
    fg_bg, bg, *_ = figures(2)
    with torch.inference_mode():
        exact = network(fg_bg, bg)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(*(image.contiguous(memory_format=torch.channels_last) for image in (fg_bg, bg)))
    assert rough.depth.dtype == rough.mask.dtype == torch.float32
    torch.testing.assert_close(rough.coverage, exact.coverage, rtol=0, atol=0.03)
    torch.testing.assert_close(rough.depth, exact.depth, rtol=0, atol=0.03)


def test_an_exported_graph_predicts_the_same() -> None:
    network = small()
    fg_bg, bg, *_ = figures(2, 20, 24)
    exported = torch.export.export(network, (fg_bg, bg)).module()
    with torch.inference_mode():
        expected, got = network(fg_bg, bg), exported(fg_bg, bg)
    torch.testing.assert_close(got[:2], expected[:2])


def train(steps: int) -> tuple[DualUNet, dict[str, Tensor]]:
    """A small network after `steps` on one batch, and what it scores on it."""
    network = small().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    on_mask, on_depth, metrics = mask_loss("bce+dice"), depth_loss("l1+ssim"), Metrics()
    fg_bg, bg, mask, depth = figures(4)
    for _ in range(steps):
        optimizer.zero_grad()
        prediction = network(fg_bg, bg)
        torch.autograd.backward(on_mask(prediction, mask) + on_depth(prediction, depth))
        optimizer.step()
    with torch.inference_mode():
        metrics.update(network(fg_bg, bg), mask, depth)
    return network, metrics.compute()


def test_it_learns_one_batch() -> None:
    _, measured = train(60)
    assert measured["mask_iou"] > 0.95
    assert measured["depth_rmse"] < 0.06


def test_two_trainings_end_with_the_same_bits() -> None:
    first, second = (train(3)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
