"""Losses by name: what they are worth, how they are added up, and that half precision does not reach them."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from model.losses import DEPTH_LOSSES, MASK_LOSSES, Loss, depth_loss, mask_loss, ssim
from model.unet import Prediction


def images(seed: int, *shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def guess(seed: int, *shape: int) -> Prediction:
    values = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
    return Prediction(mask=4 * values[0], depth=values[1].sigmoid())


@pytest.mark.parametrize("name", DEPTH_LOSSES)
def test_a_depth_that_equals_its_target_costs_nothing(name: str) -> None:
    target = images(0, 2, 1, 16, 16)
    right = Prediction(mask=torch.zeros_like(target), depth=target / 255)
    wrong = right._replace(depth=1 - target / 255)
    assert depth_loss(name)(right, target).item() == pytest.approx(0, abs=1e-6)
    assert depth_loss(name)(wrong, target) > 0.02


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_a_sure_and_right_mask_costs_nothing_and_a_wrong_one_much(name: str) -> None:
    target = 255 * (images(0, 2, 1, 16, 16) > 127).to(torch.uint8)
    sure = (target / 255 - 0.5) * 200
    right = Prediction(mask=sure, depth=torch.zeros_like(target))
    assert mask_loss(name)(right, target).item() == pytest.approx(0, abs=1e-6)
    assert mask_loss(name)(right._replace(mask=-sure), target) > 0.4


def test_bce_and_dice_are_the_published_formulas() -> None:
    prediction, target = guess(1, 3, 1, 8, 8), images(1, 3, 1, 8, 8)
    assert prediction.mask is not None
    p, t = prediction.mask.double().sigmoid(), target.double() / 255
    bce = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
    dice = 1 - (2 * (p * t).sum() + 1) / ((p**2).sum() + (t**2).sum() + 1)
    assert mask_loss("bce+dice")(prediction, target).item() == pytest.approx((bce + dice).item(), rel=1e-5)


def test_dice_of_an_empty_mask_is_defined() -> None:
    empty = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    logits = torch.full((2, 1, 8, 8), -30.0, requires_grad=True)
    loss = mask_loss("dice")(Prediction(mask=logits, depth=torch.zeros(2, 1, 8, 8)), empty)
    torch.autograd.backward(loss)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), height=st.integers(6, 40), width=st.integers(6, 40), noise=st.floats(0, 1))
def test_ssim_and_its_gradient_are_those_of_torchmetrics(seed: int, height: int, width: int, noise: float) -> None:
    target = images(seed, 2, 1, height, width) / 255
    ours = torch.lerp(target, torch.rand(target.shape, generator=torch.Generator().manual_seed(seed)), noise)
    theirs = ours.clone().requires_grad_()
    ours.requires_grad_()
    expected = structural_similarity_index_measure(theirs, target, data_range=1.0, reduction="none")
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(ssim(ours, target), expected, rtol=0, atol=1e-4)
    torch.autograd.backward(ssim(ours, target).sum())
    torch.autograd.backward(expected.sum())
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-4)


def test_a_sum_adds_its_terms_by_their_weights() -> None:
    prediction, target = guess(2, 2, 1, 16, 16), images(2, 2, 1, 16, 16)
    l1, similarity = (depth_loss(name)(prediction, target) for name in ("l1", "ssim"))
    torch.testing.assert_close(depth_loss("l1+ssim")(prediction, target), l1 + similarity)
    torch.testing.assert_close(depth_loss(" 0.25 * l1 + 3*ssim ")(prediction, target), 0.25 * l1 + 3 * similarity)


@pytest.mark.parametrize(
    "spec", ["", "l2", "l1+", "l1,ssim", "0*l1", "-1*l1", "nan*l1", "inf*l1", "l1*0.5", "*l1", "2*3*l1"]
)
@pytest.mark.parametrize("parse", [mask_loss, depth_loss])
def test_a_loss_that_cannot_be_read_is_refused_with_the_names_there_are(
    spec: str, parse: Callable[[str], Loss]
) -> None:
    with pytest.raises(ValueError, match="l1, smooth_l1, ssim"):
        parse(spec)


def test_bce_is_for_masks_and_only_for_logits() -> None:
    with pytest.raises(ValueError, match="'bce'"):
        depth_loss("bce")
    raw = guess(3, 1, 1, 8, 8)._replace(mask_is_logits=False)
    with pytest.raises(ValueError, match="logits"):
        mask_loss("bce+dice")(raw, images(3, 1, 1, 8, 8))


def test_raw_outputs_are_compared_as_they_are() -> None:
    raw = guess(4, 2, 1, 8, 8)._replace(mask_is_logits=False)
    target = images(4, 2, 1, 8, 8)
    assert raw.mask is not None
    expected = (raw.mask.double() - target.double() / 255).abs().mean()
    assert mask_loss("l1")(raw, target).item() == pytest.approx(expected.item(), rel=1e-6)


def test_autocast_changes_nothing() -> None:
    prediction, target = guess(5, 2, 1, 16, 16), images(5, 2, 1, 16, 16)
    for loss in (mask_loss("bce+dice+l1+smooth_l1+ssim"), depth_loss("l1+smooth_l1+ssim")):
        plain = loss(prediction, target)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(loss(prediction, target), plain)
        assert plain.dtype == torch.float32


def test_extreme_logits_still_have_a_finite_gradient() -> None:
    logits = torch.tensor([-1e4, 1e4, -50.0, 50.0]).repeat(16, 4).view(1, 1, 16, 16).requires_grad_()
    loss = mask_loss("bce+dice+ssim")(Prediction(mask=logits, depth=logits), images(6, 1, 1, 16, 16))
    torch.autograd.backward(loss)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
