"""Network and losses as one compiled function: a few kernels instead of hundreds, begun by one call."""

import logging
import time
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from model.losses import Objective, window

log = logging.getLogger(__name__)

_TRIALS = 3
"""With CUDA graphs the first batch warms up, the second is recorded, the third is the first that is replayed."""


class Compiled(nn.Module):
    """An Objective compiled for batches of `count` samples; others, as an epoch's last may be, it computes as it is."""

    def __init__(self, objective: Objective, count: int, **options: Any) -> None:
        """options: of torch.compile."""
        super().__init__()
        self._count, self._plain = count, objective
        # This marks the function. As a decorator it would import the compiler wherever losses are imported.
        torch.compiler.assume_constant_result(window)  # type: ignore[no-untyped-call]  # stub lacks it
        self._compiled = torch.compile(objective, dynamic=False, fullgraph=True, **options)

    def forward(self, fg_bg: Tensor, *others: Tensor | None) -> Tensor:
        losses: Tensor = (self._compiled if len(fg_bg) == self._count else self._plain)(fg_bg, *others)
        return losses


def try_out(objective: nn.Module, *images: Tensor | None) -> None:
    """Compute losses and gradients of images, of which no trace is left in `objective`."""
    before = [buffer.clone() for buffer in objective.buffers()]
    try:
        torch.autograd.backward(objective(*images).sum())
    finally:
        objective.zero_grad()
        for buffer, value in zip(objective.buffers(), before, strict=True):
            buffer.copy_(value)


def compiled(objective: Objective, fg_bg: Tensor, *others: Tensor | None, **options: Any) -> nn.Module:
    """Return `objective` compiled for batches like these images, by trials.

    Where that fails, `objective` comes back, and the log says why. To be called with the autocast that training has.
    """
    begin, attempt = time.perf_counter(), Compiled(objective, len(fg_bg), **options)
    try:
        with warnings.catch_warnings():  # TF32, which it recommends, is too coarse for the variances of SSIM
            warnings.filterwarnings("ignore", message=".*TensorFloat32")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            for _ in range(_TRIALS):
                try_out(attempt, fg_bg, *others)
    except Exception as error:  # of whatever kind: compilers, drivers and kernels all fail in their own way
        reason = " ".join([type(error).__name__, *str(error).split("\n")[:2]])
        log.warning("not compiled, so training is slower: %s", reason)
        return objective
    log.info("compiled in %.0f s", time.perf_counter() - begin)
    return attempt
