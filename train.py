"""Trains a mask and depth network on a data set of shards.

    python train.py --data DATA --out runs/NAME                    one process
    torchrun --nproc-per-node 4 train.py --data DATA ...           one process a GPU
    python train.py --resume runs/NAME                             go on, to the bit, where the last checkpoint stands

The run's folder gets config.json, metrics.jsonl, checkpoints/last.pt and best.pt, pictures/, and W&B's files.
"""

import argparse
import json
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import tyro
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import checkpoint
from evaluate import evaluate
from model.losses import depth_loss, mask_loss
from model.unet import Prediction, UNetConfig
from pipeline.batch import Batch
from pipeline.loader import Loader, LoaderConfig
from shards.errors import InputError, report_errors
from shards.format.storage import write_bytes
from tracking import Report

Precision = Literal["auto", "bf16", "fp16", "fp32"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides how a run goes."""

    loader: LoaderConfig
    unet: UNetConfig = field(default_factory=UNetConfig)
    architecture: checkpoint.Architecture = "unet"
    """unet, or seed: the network of 2020"""
    out: Path = Path("runs/latest")
    """folder of the run"""
    epochs: int = 5
    learning_rate: float = 2e-3
    """at its highest, after the warm-up; a cosine takes it to 0"""
    weight_decay: float = 0.02
    warmup: float = 0.05
    """share of all steps in which the learning rate rises"""
    clip: float = 1.0
    """largest norm of the gradient"""
    mask_loss: str = "bce+dice"
    """sum of bce, dice, l1, smooth_l1, ssim, each with a weight if wanted: 0.5*bce+dice"""
    depth_loss: str = "l1+ssim"
    """sum of l1, smooth_l1, ssim, likewise; it is added to the mask's loss"""
    precision: Precision = "auto"
    """auto is bf16 where the device computes in it, else fp16 on CUDA and fp32 on a CPU"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    wandb: Literal["auto", "off"] = "auto"
    """auto is online where W&B has a key, else offline, to be sent later"""
    log_every: int = 50
    """optimiser steps"""
    save_every: int = 1000
    """optimiser steps between checkpoints, besides one at the end of each epoch"""

    def __post_init__(self) -> None:
        for name in ("epochs", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: at least 1 is needed.")
        if self.learning_rate <= 0 or self.clip <= 0 or self.weight_decay < 0 or not 0 <= self.warmup <= 1:
            raise InputError("learning_rate and clip must be above 0, weight_decay at least 0, warmup from 0 to 1.")
        try:
            mask_loss(self.mask_loss), depth_loss(self.depth_loss)
        except ValueError as error:
            raise InputError(str(error)) from None

    def to_dict(self) -> dict[str, Any]:
        """Itself in JSON's types."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "TrainConfig":
        loader = LoaderConfig(**{**plain["loader"], "cache_dir": Path(plain["loader"]["cache_dir"])})
        rest = {**plain, "loader": loader, "unet": UNetConfig(**plain["unet"]), "out": Path(plain["out"])}
        return cls(**rest)


@dataclass(frozen=True)
class Ranks:
    """This process among those that torchrun started; alone without it."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


@contextmanager
def distributed(wanted: str) -> Iterator[Ranks]:
    """Joins the processes of torchrun and leaves them at the end. Raises InputError if there is no such device."""
    device = checkpoint.chosen_device(wanted)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if "RANK" not in os.environ:
        yield Ranks(0, 1, device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def computed_in(precision: Precision, device: torch.device) -> torch.dtype:
    """The type of autocast; float32 for none."""
    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    if precision != "auto":
        return named[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    # A CPU without the instructions computes in bf16 too, but slower than in fp32; with them 1.8 times faster.
    can: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else torch.float32


def rate(config: TrainConfig, step: int, steps: int) -> float:
    """Learning rate at optimiser step `step` of `steps`: a line up in the warm-up, then half a cosine down to 0."""
    warmup = max(1, round(config.warmup * steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def start(config: TrainConfig, ranks: Ranks) -> checkpoint.Training:
    """A training before its first step. The same seed gives the same weights on every rank."""
    torch.manual_seed(config.loader.seed)
    loader = Loader(config.loader, rank=ranks.rank, world_size=ranks.world, device=ranks.device)
    model = checkpoint.make_model(config.architecture, config.unet, ranks.device, loader.dataset)
    optimizer = torch.optim.AdamW(_groups(model, config.weight_decay))
    fp16 = computed_in(config.precision, ranks.device) == torch.float16
    return checkpoint.Training(model, optimizer, torch.amp.GradScaler(ranks.device.type, enabled=fp16), loader)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay is for the kernels; it has no business with biases and the scales of batch norm."""
    kernels = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


Criterion = Callable[[Prediction, Batch], Tensor]
"""(prediction, batch) to the losses of mask and depth, float32 (2,)"""


def criterion(config: TrainConfig) -> Criterion:
    mask, depth = mask_loss(config.mask_loss), depth_loss(config.depth_loss)
    return lambda prediction, batch: torch.stack([mask(prediction, batch.mask), depth(prediction, batch.depth)])


def optimise(
    training: checkpoint.Training,
    network: nn.Module,
    batch: Batch,
    losses_of: Criterion,
    dtype: torch.dtype,
    clip: float,
) -> Tensor:
    """One optimiser step on one batch; returns its losses, detached. `network` is the model, or DDP around it."""
    device = batch.fg_bg.device
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        prediction = network(batch.fg_bg, batch.bg)
    losses = losses_of(prediction, batch)
    torch.autograd.backward(training.scaler.scale(losses.sum() * training.loader.weight(batch)))
    training.scaler.unscale_(training.optimizer)
    nn.utils.clip_grad_norm_(network.parameters(), clip)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.optimizer.zero_grad()
    training.step += 1
    return losses.detach()


def train(config: TrainConfig, ranks: Ranks, resume: bool) -> None:
    """Trains to the end of the last epoch. With `resume` it goes on from the run's last checkpoint."""
    training = start(config, ranks)
    last, best = (config.out / "checkpoints" / f"{name}.pt" for name in ("last", "best"))
    if resume:
        training.restore(last, ranks.device)
    saved = config.to_dict() | {"depth": asdict(training.loader.dataset.manifest.depth)}
    validation = replace(config.loader, split="val", shuffle=False)
    held_out = Loader(validation, rank=ranks.rank, world_size=ranks.world, device=ranks.device)
    dtype, losses_of = computed_in(config.precision, ranks.device), criterion(config)
    network = training.model if ranks.world == 1 else DistributedDataParallel(training.model)
    steps, totals = config.epochs * len(training.loader), torch.zeros(2, device=ranks.device)
    wandb = config.wandb == "auto"
    report = Report(config.out, saved, training.step, ranks.world, wandb=wandb) if ranks.first else None
    with training.loader as loader, held_out:
        while training.step < steps:
            network.train()
            before_epoch = before = loader.stats
            for batch in report.progress(loader, training.step % len(loader)) if report else loader:
                learning_rate = rate(config, training.step, steps)
                for group in training.optimizer.param_groups:
                    group["lr"] = learning_rate
                totals += optimise(training, network, batch, losses_of, dtype, config.clip)
                if report and training.step % config.log_every == 0:
                    report.step(training.step, totals / config.log_every, learning_rate, loader.stats.since(before))
                    totals.zero_()
                    before = loader.stats
                if report and training.step % config.save_every == 0:
                    training.save(last, saved)
            of_epoch = loader.stats.since(before_epoch)
            metrics, picture = evaluate(training.model, held_out, dtype)
            if report:
                score = metrics["mask_iou"] - metrics["depth_rmse"]
                improved = not score <= training.best  # so that one that is no number counts, and there is a best.pt
                training.best = score if improved else training.best
                for path in (last, best) if improved else (last,):
                    training.save(path, saved)
                report.epoch(training.step, loader.epoch, metrics, picture, of_epoch)
    if report:
        report.finish(best)


def parsed() -> tuple[TrainConfig, bool]:
    """The configuration from the command line, and whether a run is resumed, whose own is then the default."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", type=Path)
    known, rest = parser.parse_known_args()
    default = _config_of(known.resume) if known.resume else tyro.MISSING_NONPROP
    arguments = tyro.conf.OmitArgPrefixes[TrainConfig]
    return tyro.cli(arguments, description=__doc__, args=rest, default=default), known.resume is not None


def _config_of(run: Path) -> TrainConfig:
    path = run / "config.json"
    try:
        return replace(TrainConfig.from_dict(json.loads(path.read_text())), out=run)
    except FileNotFoundError:
        raise InputError(f"{run}: no run to resume (no config.json). Its folder is what --out named.") from None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a run's configuration that this version reads ({error}).") from error


def main() -> None:
    config, resume = parsed()
    logging.basicConfig(format="%(message)s")
    with distributed(config.device) as ranks:
        if ranks.first:
            logging.getLogger("pipeline").setLevel(logging.INFO)
            _open_run(config, resume)
        train(config, ranks, resume)


def _open_run(config: TrainConfig, resume: bool) -> None:
    """Makes the run's folder. Raises InputError if there is a run in it that is not to be resumed."""
    if not resume and (config.out / "checkpoints" / "last.pt").exists():
        raise InputError(f"{config.out}: holds a run. Go on with --resume {config.out}, or choose another --out.")
    (config.out / "checkpoints").mkdir(parents=True, exist_ok=True)
    write_bytes(config.out / "config.json", (json.dumps(config.to_dict(), indent=1) + "\n").encode())


if __name__ == "__main__":
    with report_errors():
        main()
