"""Training on the GPU: it learns in half precision, goes on where it stopped, and all ranks agree."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.sections import Scale
from checkpoint import Training
from model.unet import UNetConfig
from pipeline.loader import LoaderConfig
from train import Ranks, TrainConfig, autocast_dtype, optimise, start, train

Record = Callable[[str, object], None]
BEFORE, AFTER = 6, 6


@pytest.fixture
def training_config(config: LoaderConfig, scale: Scale, tmp_path: Path) -> TrainConfig:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    unet = UNetConfig(width=scale.width, levels=4 if scale.width > 16 else 3)
    return TrainConfig(loader=config, unet=unet, out=run, epochs=2, wandb="off", log_every=5)


def test_it_learns(training_config: TrainConfig, scale: Scale, device: torch.device, record_property: Record) -> None:
    train(training_config, Ranks(0, 1, device))
    lines = [json.loads(line) for line in (training_config.out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    reached = [line["val/mask_iou"] for line in lines if "val/mask_iou" in line][-1]
    record_property("mask_iou", reached)
    record_property("precision", str(autocast_dtype(training_config.precision, device)))
    assert losses[-1] < losses[0]
    assert reached > (0.7 if device.type == "cuda" else 0.5)


def steps(training: Training, config: TrainConfig, device: torch.device, count: int) -> list[Tensor]:
    """Makes optimiser steps; returns the rows that each one saw."""
    seen = []
    training.model.train()
    for batch in itertools.islice(training.loader, count):
        optimise(training, training.model, batch, config)
        seen.append(batch.index)
    return seen


def weights(training: Training) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in training.model.parameters()])


def test_a_resumed_run_ends_with_the_same_weights(
    training_config: TrainConfig, device: torch.device, tmp_path: Path, record_property: Record
) -> None:
    """On the CPU to the bit. CUDA adds up gradients in an order of its own, and AdamW makes the last bits larger."""
    config, ranks = training_config, Ranks(0, 1, device)
    whole = start(config, ranks)
    with whole.loader:
        seen = steps(whole, config, device, BEFORE + AFTER)
    first = start(config, ranks)
    with first.loader:
        steps(first, config, device, BEFORE)
        first.save(tmp_path / "last.pt", config.to_dict())
    second = start(replace(config, loader=replace(config.loader, num_threads=1)), ranks)
    with second.loader:
        second.restore(tmp_path / "last.pt", device)
        seen_after = steps(second, config, device, AFTER)
    assert torch.equal(torch.cat(seen_after), torch.cat(seen[BEFORE:]))
    apart = float((weights(whole) - weights(second)).norm() / weights(whole).norm())
    record_property("relative_difference_of_weights", apart)
    assert apart <= (5e-3 if device.type == "cuda" else 0)


def test_all_ranks_agree(data: Path, scale: Scale, record_property: Record) -> None:
    """A process for each GPU, joined by NCCL; two on the CPU, joined by gloo."""
    ranks = torch.cuda.device_count() if scale.device == "cuda" else 2
    launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node"]
    worker = Path(__file__).with_name("ranks.py")
    command = [sys.executable, *launcher, str(ranks), str(worker), str(data), scale.device]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)
    assert finished.returncode == 0, finished.stderr[-4000:]
    said = json.loads(finished.stdout.splitlines()[-1])
    record_property("ranks", said)
    assert said["world"] == ranks
    assert said["backend"] == ("nccl" if scale.device == "cuda" else "gloo")
    assert said["weights_apart"] == 0
    assert said["samples_measured"] == said["samples_in_split"]
