"""Training on the GPU: it learns, compiled or not, waits for nothing, goes on where it stopped, and all ranks agree."""

import itertools
import json
import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from checkpoint import Checkpoints, Training
from pipeline.batch import Batch
from ranks import Ranks
from train import TrainConfig, autocast_dtype, make_objective, optimise, start, train

Record = Callable[[str, object], None]
BEFORE, AFTER = 6, 6


def test_it_learns(
    training_config: TrainConfig, device: torch.device, caplog: pytest.LogCaptureFixture, record_property: Record
) -> None:
    with caplog.at_level(logging.INFO, "model"):
        train(training_config, Ranks(0, 1, device))
    lines = [json.loads(line) for line in (training_config.out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    reached = [line["val/mask_iou"] for line in lines if "val/mask_iou" in line][-1]
    record_property("mask_iou", reached)
    record_property("precision", str(autocast_dtype(training_config.precision, device)))
    record_property("said", caplog.messages)
    assert losses[-1] < losses[0]
    assert reached > (0.7 if device.type == "cuda" else 0.5)


def state(training: Training) -> list[Tensor]:
    return [tensor.clone() for tensor in training.model.state_dict().values()]


def test_compiled_it_does_the_same(
    training_config: TrainConfig, device: torch.device, caplog: pytest.LogCaptureFixture, record_property: Record
) -> None:
    """And compiling leaves no trace, and is not done again for the batches that come. On a CPU nothing is compiled."""
    ways: tuple[Literal["off", "auto"], ...] = ("off", "auto")
    found, ranks = list[Tensor](), Ranks(0, 1, device)
    for way in ways:
        config = replace(training_config, compile=way, loader=replace(training_config.loader, decode="cpu"))
        training = start(config, ranks)
        before = state(training)
        with training.loader as loader, caplog.at_level(logging.INFO, "model"):
            objective = make_objective(training, config, ranks)
            assert all(map(torch.equal, before, state(training)))
            with torch._dynamo.config.patch(error_on_recompile=True):
                losses = [optimise(training, objective, batch, config) for batch in itertools.islice(loader, BEFORE)]
        found.append(torch.stack(losses))
    compiled = any(message.startswith("compiled in") for message in caplog.messages)
    assert compiled == (device.type == "cuda"), caplog.messages
    apart = ((found[1] - found[0]) / found[0]).abs().amax(1)
    record_property("relative_difference_of_losses", apart.tolist())
    # What lies between two kernels is not rounded to bf16 where they are one, and each step makes what differs larger.
    assert apart[0] <= (0.01 if compiled else 0)
    assert apart.max() <= (0.05 if compiled else 0)


@contextmanager
def waiting(device: torch.device, how: Literal["warn", "error"]) -> Iterator[set[str]]:
    """Yields the names of the threads that wait for the GPU meanwhile; with `error` to wait is an error."""
    names = set[str]()

    def note(message: Warning | str, *_: object) -> None:
        if "called a synchronizing" in str(message):
            names.add(threading.current_thread().name)

    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("always")
        patch.setattr(warnings, "showwarning", note)
        try:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode(how)
            yield names
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("compile", ["off", "auto"])
def test_between_logs_nothing_waits_for_the_gpu(
    training_config: TrainConfig, device: torch.device, compile: Literal["auto", "off"]
) -> None:
    """Neither with batches that lie on the device, nor, but for the loader's own threads, with those that it makes.

    What the CPU would wait for, tests/test_train_step.py counts.
    """
    config = replace(training_config, compile=compile, loader=replace(training_config.loader, split="test"))
    ranks = Ranks(0, 1, device)
    training = start(config, ranks)

    def train_on(batches: Iterable[Batch]) -> None:
        for batch in itertools.islice(batches, 12):
            optimise(training, objective, batch, config)

    with training.loader as loader:
        objective = make_objective(training, config, ranks)
        batches = list(loader)  # a whole epoch: the loader's threads are done
        train_on(batches)
        with waiting(device, "error"):
            train_on(itertools.cycle(batches))
        with waiting(device, "warn") as names:
            train_on(loader)
    assert all(name.startswith("loader") for name in names)


def steps(training: Training, config: TrainConfig, device: torch.device, count: int) -> list[Tensor]:
    """Makes optimiser steps; returns the rows that each one saw."""
    objective, seen = make_objective(training, config, Ranks(0, 1, device)), []
    for batch in itertools.islice(training.loader, count):
        optimise(training, objective, batch, config)
        seen.append(batch.index)
    return seen


def weights(training: Training) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in training.model.parameters()])


def test_a_resumed_run_ends_with_the_same_weights(
    training_config: TrainConfig, device: torch.device, tmp_path: Path, record_property: Record
) -> None:
    """On the CPU to the bit. CUDA adds up gradients in an order of its own, and AdamW makes the last bits larger."""
    config, ranks = replace(training_config, compile="off"), Ranks(0, 1, device)
    whole = start(config, ranks)
    with whole.loader:
        seen = steps(whole, config, device, BEFORE + AFTER)
    first = start(config, ranks)
    with first.loader, Checkpoints(tmp_path, keep=1) as checkpoints:
        steps(first, config, device, BEFORE)
        described = config.to_dict() | {"depth": asdict(first.loader.dataset.manifest.depth)}
        checkpoints.save(first.state_dict() | {"config": described})
    second = start(replace(config, loader=replace(config.loader, num_threads=1)), ranks)
    with second.loader:
        found = checkpoints.newest(device)
        assert found
        second.load_state_dict(*found)
        seen_after = steps(second, config, device, AFTER)
    assert torch.equal(torch.cat(seen_after), torch.cat(seen[BEFORE:]))
    apart = float((weights(whole) - weights(second)).norm() / weights(whole).norm())
    record_property("relative_difference_of_weights", apart)
    assert apart <= (5e-3 if device.type == "cuda" else 0)


def test_all_ranks_agree(data: Path, device: torch.device, record_property: Record) -> None:
    """A process for each GPU, joined by NCCL; two on the CPU, joined by gloo."""
    ranks = torch.cuda.device_count() if device.type == "cuda" else 2
    launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node"]
    worker = Path(__file__).with_name("agreement.py")
    command = [sys.executable, *launcher, str(ranks), str(worker), str(data), device.type]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr[-4000:]
    said = json.loads(finished.stdout.splitlines()[-1])
    record_property("ranks", said)
    assert said["world"] == ranks
    assert said["backend"] == ("nccl" if device.type == "cuda" else "gloo")
    assert said["weights_apart"] == 0
    assert said["samples_measured"] == said["samples_in_split"]
