"""Train a network on a data set of shards: for mask and depth, or for the one that the data set has.

    python train.py --data DATA --out runs/NAME              one process
    torchrun --nproc-per-node 4 train.py --data DATA ...     one process a GPU
    python train.py --resume runs/NAME                       from the last checkpoint on, to the bit

The run's folder gets config.json, metrics.jsonl, pictures, checkpoints and the files of W&B.
"""

import argparse
import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.distributed as dist
import tyro
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from checkpoint import PREDICTED, Architecture, Device, Training, make_model, select_device
from evaluate import evaluate
from model.compiled import compiled
from model.losses import Objective, depth_loss, mask_loss
from model.unet import UNetConfig
from pipeline.batch import Batch
from pipeline.loader import Loader, LoaderConfig
from shards.errors import InputError, report_errors
from shards.format.manifest import from_json
from shards.format.schema import BY_NAME
from shards.format.storage import write_bytes
from tracking.report import Report

Precision = Literal["auto", "bf16", "fp16", "fp32"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides how a run goes."""

    loader: LoaderConfig
    unet: UNetConfig = field(default_factory=UNetConfig)
    architecture: Architecture = "unet"
    """unet, or seed: the network of 2020"""
    out: Path = Path("runs/latest")
    """folder of the run"""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="(optional)")] = None
    """folder of a run to go on with; its options are then the defaults of all others"""
    epochs: int = 5
    """passes over the training split"""
    learning_rate: float = 2e-3
    """learning rate at its highest, after the warm-up; a cosine takes it down to 0"""
    weight_decay: float = 0.02
    """weight decay of AdamW; biases and batch norm are spared"""
    warmup: float = 0.05
    """share of all steps in which the learning rate rises"""
    grad_clip: float = 1.0
    """largest norm of the gradient"""
    mask_loss: str = "bce+dice"
    """sum of bce, dice, l1, smooth_l1, ssim, each with a weight if wanted: 0.5*bce+dice"""
    depth_loss: str = "l1+ssim"
    """sum of l1, smooth_l1, ssim, likewise; it is added to the loss of the mask"""
    precision: Precision = "auto"
    """auto is bf16 where the device computes in it, else fp16 on CUDA and fp32 on a CPU"""
    device: Device = "auto"
    """auto is CUDA where there is a GPU, else the CPU"""
    compile: Literal["auto", "off"] = "auto"
    """auto compiles network and losses on CUDA, where steps take less time then; on a CPU they would not"""
    wandb: Literal["auto", "off"] = "auto"
    """auto logs to Weights & Biases: online if you are logged in, else offline, to be sent later"""
    log_every: int = 50
    """optimiser steps between lines in metrics.jsonl"""
    save_every: int = 1000
    """optimiser steps between checkpoints, besides the one at the end of each epoch"""

    def __post_init__(self) -> None:
        for name in ("epochs", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 1 is needed.")
        if self.learning_rate <= 0 or self.grad_clip <= 0 or self.weight_decay < 0 or not 0 <= self.warmup <= 1:
            raise InputError(
                "--learning-rate and --grad-clip must be above 0, --weight-decay at least 0, --warmup from 0 to 1."
            )
        try:
            mask_loss(self.mask_loss), depth_loss(self.depth_loss)
        except ValueError as error:
            raise InputError(str(error)) from None

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration in JSON's types; whether it is resumed is no part of it."""
        return dict(json.loads(json.dumps(asdict(replace(self, resume=None)), default=str)))


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that torchrun started; alone without it."""

    rank: int
    world_size: int
    device: torch.device


@contextmanager
def distributed(wanted: str) -> Iterator[Ranks]:
    """Join the processes of torchrun, and leave them at the end. Raises InputError if there is no such device."""
    device = select_device(wanted)
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


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type that autocast computes in; float32 for none."""
    if precision != "auto":
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    # A CPU without the instructions computes in bf16 too, but slower than in fp32.
    can: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else torch.float32


def scheduled_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Return the learning rate at optimiser step `step` of `steps`: a line up, then half a cosine down to 0."""
    warmup = max(1, round(config.warmup * steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def start(config: TrainConfig, ranks: Ranks) -> Training:
    """Return a training before its first step. The same seed gives the same weights on every rank.

    Raises InputError if the data set does not have what is to be learned.
    """
    torch.manual_seed(config.loader.seed)
    loader = Loader(config.loader, rank=ranks.rank, world_size=ranks.world_size, device=ranks.device)
    manifest = loader.dataset.manifest
    _refuse_untrainable(config, list(manifest.components))
    statistics = asdict(manifest.statistics["fg_bg"])
    model = make_model(config.architecture, config.unet, manifest.components.keys(), ranks.device, **statistics)
    # Weight decay is for the kernels; it has no business with biases and the scales of batch norm.
    kernels = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": kernels}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
    fp16 = autocast_dtype(config.precision, ranks.device) == torch.float16
    return Training(model, optimizer, torch.amp.GradScaler(ranks.device.type, enabled=fp16), loader)


def _refuse_untrainable(config: TrainConfig, components: list[str]) -> None:
    data = config.loader.data
    has, lacks = ", ".join(components), [name for name in BY_NAME if name not in components]
    if not set(PREDICTED) & set(components):
        how = f"Depth can be added with `python -m shards depth {data} OUT`."
        raise InputError(f"{data}: its samples have only {has}; to train, mask or depth is needed. {how}")
    if config.architecture == "seed" and lacks:
        raise InputError(f"{data}: --architecture seed needs {', '.join(lacks)} too. Use --architecture unet.")


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Return the context in which a training computes."""
    dtype = autocast_dtype(config.precision, device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def make_objective(training: Training, config: TrainConfig, ranks: Ranks) -> nn.Module:
    """Return the network and its losses: compiled as `config` says, and as one of its copies on all ranks."""
    plain = Objective(training.model, mask_loss(config.mask_loss), depth_loss(config.depth_loss))
    objective: nn.Module = plain
    if config.compile == "auto" and ranks.device.type == "cuda":
        with autocast(config, ranks.device):
            objective = compiled(plain, *_black(training.loader), mode="reduce-overhead")
    return objective if ranks.world_size == 1 else DistributedDataParallel(objective)


def _black(loader: Loader) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return images as those of the loader's batches."""
    manifest, size = loader.dataset.manifest, loader.config.size
    count = len(loader.order.positions(0, loader.rank))
    height, width = (size, size) if size else manifest.image_size
    images = dict[str, Tensor]()
    for name, one in manifest.components.items():
        dtype = torch.uint16 if one.bits == 16 else torch.uint8
        image = torch.zeros(count, height, width, one.channels, dtype=dtype, device=loader.device)
        images[name] = image.permute(0, 3, 1, 2)
    return images["fg_bg"], images.get("bg"), images.get("mask"), images.get("depth")


def optimise(training: Training, objective: nn.Module, batch: Batch, config: TrainConfig) -> Tensor:
    """Make one optimiser step on a batch. Return its losses, detached: see Objective.

    objective: what `make_objective` made of `training`. Nothing waits for the device.
    """
    with autocast(config, batch.fg_bg.device):
        losses: Tensor = objective(batch.fg_bg, batch.bg, batch.mask, batch.depth)
    torch.autograd.backward(training.scaler.scale(losses.sum() * training.loader.weight(batch)))
    training.scaler.unscale_(training.optimizer)
    nn.utils.clip_grad_norm_(objective.parameters(), config.grad_clip)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.optimizer.zero_grad()
    training.step += 1
    return losses.detach().clone()  # into the memory of these a CUDA graph writes the next step's


def train(config: TrainConfig, ranks: Ranks) -> None:
    """Train to the end of the last epoch; with `config.resume`, from the run's last checkpoint on."""
    training = start(config, ranks)
    last, best = (config.out / "checkpoints" / f"{name}.pt" for name in ("last", "best"))
    if config.resume:
        training.restore(last, ranks.device)
    manifest = training.loader.dataset.manifest
    saved = config.to_dict() | {"depth": asdict(manifest.depth), "components": list(manifest.components)}
    learned = [name for name in PREDICTED if name in manifest.components]
    validation = replace(config.loader, split="val", shuffle=False, decode=training.loader.decode)
    held_out = Loader(validation, rank=ranks.rank, world_size=ranks.world_size, device=ranks.device)
    objective = make_objective(training, config, ranks)
    steps, losses = config.epochs * len(training.loader), list[Tensor]()
    of_run = config.out, saved, manifest, training.step, ranks.world_size, config.wandb == "auto"
    report = None if ranks.rank else Report(*of_run)
    if report and (lacks := [name for name in BY_NAME if name not in manifest.components]):
        seen = ", ".join(name for name in manifest.components if name not in learned)
        print(f"no {', '.join(lacks)} in {config.loader.data}: the network learns {' and '.join(learned)} from {seen}")
    with training.loader as loader, held_out:
        while training.step < steps:
            objective.train()
            before_epoch = before = loader.stats
            for batch in report.progress(loader, training.step % len(loader)) if report else loader:
                learning_rate = scheduled_rate(config, training.step, steps)
                for group in training.optimizer.param_groups:
                    group["lr"] = learning_rate
                losses.append(optimise(training, objective, batch, config))
                if training.step % config.log_every == 0:
                    if report:
                        mean = torch.stack(losses).mean(0).tolist()  # here the host waits for the device
                        named = dict(zip(learned, mean, strict=True))
                        report.step(training.step, named, learning_rate, loader.stats.since(before))
                    losses.clear()
                    before = loader.stats
                if report and training.step % config.save_every == 0:
                    training.save(last, saved)
            torch.get_device_module(ranks.device).synchronize()
            of_epoch = loader.stats.since(before_epoch)
            metrics, picture = evaluate(training.model, held_out, autocast_dtype(config.precision, ranks.device))
            if report:
                score = metrics.get("mask_iou", 0.0) - metrics.get("depth_rmse", 0.0)
                improved = not score <= training.best  # so that one that is no number counts, and there is a best.pt
                training.best = score if improved else training.best
                for path in (last, best) if improved else (last,):
                    training.save(path, saved)
                report.epoch(training.step, loader.epoch, metrics, picture, of_epoch)
    if report:
        report.finish()


def parse_args() -> TrainConfig:
    """Return the configuration that the command line gives; the default is that of the run to resume, if any."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", type=Path)
    run = parser.parse_known_args()[0].resume
    default = _config_of(run) if run else tyro.MISSING_NONPROP
    return tyro.cli(TrainConfig, description=__doc__, default=default, config=(tyro.conf.OmitArgPrefixes,))


def _config_of(run: Path) -> TrainConfig:
    path = run / "config.json"
    try:
        config: TrainConfig = from_json(TrainConfig, json.loads(path.read_text()))
        return replace(config, out=run, resume=run)
    except FileNotFoundError:
        raise InputError(f"{run}: no run to resume (no config.json). Its folder is what --out named.") from None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a run's configuration that this version reads ({error}).") from error


def main() -> None:
    config = parse_args()
    logging.basicConfig(format="%(message)s")
    with distributed(config.device) as ranks:
        if ranks.rank == 0:
            for package in ("pipeline", "model"):
                logging.getLogger(package).setLevel(logging.INFO)
            if not config.resume and (config.out / "checkpoints" / "last.pt").exists():
                raise InputError(f"{config.out}: holds a run. Go on with --resume {config.out}, or name another --out.")
            (config.out / "checkpoints").mkdir(parents=True, exist_ok=True)
            write_bytes(config.out / "config.json", (json.dumps(config.to_dict(), indent=1) + "\n").encode())
        train(config, ranks)


if __name__ == "__main__":
    with report_errors():
        main()
