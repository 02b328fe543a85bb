"""Compiled training: the same losses, no trace of the trial, and a reason where it cannot be.

Without code generation, which takes half a minute on a CPU: that the graph is whole, and what surrounds it.
"""

import copy
import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from model.compiled import Compiled, compiled
from model.losses import Objective, depth_loss, mask_loss
from model.unet import DualUNet, UNetConfig


def objective(losses: tuple[str, str] = ("bce+dice", "l1+ssim")) -> Objective:
    torch.manual_seed(0)
    return Objective(DualUNet(UNetConfig(width=4, levels=2)), mask_loss(losses[0]), depth_loss(losses[1]))


def images(count: int, depth: torch.dtype = torch.uint8) -> list[Tensor]:
    kinds = (3, torch.uint8), (3, torch.uint8), (1, torch.uint8), (1, depth)
    generator = torch.Generator().manual_seed(count)
    return [torch.randint(0, 256, (count, c, 16, 16), generator=generator).to(dtype) for c, dtype in kinds]


@pytest.mark.parametrize("depth", [torch.uint8, torch.uint16])
def test_losses_and_gradients_are_those_without_compiling(depth: torch.dtype) -> None:
    plain, batch = objective(), images(4, depth)
    attempt = compiled(copy.deepcopy(plain), *batch, backend="aot_eager")
    assert isinstance(attempt, Compiled)
    for count in (4, 3):
        losses = [one(*images(count, depth)) for one in (plain, attempt)]
        torch.testing.assert_close(losses[1], losses[0])
        for one in losses:
            torch.autograd.backward(one.sum())
    for ours, theirs in zip(plain.parameters(), attempt.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_a_network_of_one_image_and_one_head_is_compiled_too() -> None:
    torch.manual_seed(0)
    network = DualUNet(UNetConfig(width=4, levels=2), background=False, depth=False)
    plain = Objective(network, mask_loss("bce+dice"), depth_loss("l1+ssim"))
    fg_bg, _, mask, _ = images(4)
    attempt = compiled(copy.deepcopy(plain), fg_bg, None, mask, None, backend="eager")
    assert isinstance(attempt, Compiled)
    losses = [one(fg_bg, None, mask, None) for one in (plain, attempt)]
    assert losses[0].shape == (1,)
    torch.testing.assert_close(losses[1], losses[0])


def test_only_whole_batches_are_compiled() -> None:
    calls: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        def counted(*inputs: Any) -> Any:
            calls.append(1)
            return graph(*inputs)

        return counted

    attempt = compiled(objective(), *images(4), backend=backend)
    calls.clear()
    for count in (4, 3, 4, 1):
        attempt(*images(count))
    assert len(calls) == 2


def test_the_trial_leaves_no_trace() -> None:
    plain = objective()
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    compiled(plain, *images(4), backend="eager")
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert all(parameter.grad is None for parameter in plain.parameters())


def test_where_it_cannot_be_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no C compiler on this machine")

    plain = objective()
    with caplog.at_level(logging.WARNING, "model"):
        assert compiled(plain, *images(4), backend=broken) is plain
    assert "not compiled, so training is slower" in caplog.text
    assert "no C compiler on this machine" in caplog.text
