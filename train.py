"""Train a network on a data set of shards: for mask and depth, or for the one that the data set has.

    python train.py --data DATA --out runs/NAME              begins a run, or goes on with it
    torchrun --nproc-per-node 4 train.py --data DATA ...     likewise, with one process a GPU
    python train.py --resume runs/NAME                       goes on with a run, whose options need not be given again

A run goes on from its last checkpoint, to the bit. Its folder gets config.json, metrics.jsonl, pictures, checkpoints
and the files of W&B. Stopped by SIGTERM or SIGUSR1 it saves and ends with exit code 75, stopped by Ctrl-C with 130.
"""

import argparse
import json
import logging
import math
import os
import signal
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

# Before PyTorch loads OpenMP, whose threads else spin for some 15 ms where they wait for each other: beside other busy
# processes they keep those from running that they wait for (bench/LOG.md).
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch
import torch.distributed as dist
import tyro
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from checkpoint import PREDICTED, Architecture, Checkpoints, Device, Training, make_model
from evaluate import Errors, draw, evaluate
from model.compiled import compiled, try_out
from model.losses import LEAST, Objective, depth_loss, mask_loss
from model.unet import UNetConfig
from pipeline.batch import Batch
from pipeline.loader import Loader, LoaderConfig
from ranks import Ranks, StopRequest, distributed, only_process
from shards.errors import InputError, masked, report_errors, say
from shards.format.fields import Bounds, Checked, Count, Share, parsed
from shards.format.manifest import Manifest
from shards.format.schema import BY_NAME
from shards.format.storage import LocalFolder, refuse_url, write_bytes
from tracking.options import options
from tracking.report import Report

STOPPED = 75
"""exit code of a run that was asked to stop and has saved: EX_TEMPFAIL of sysexits.h, to be tried again"""

Positive = Annotated[float, Bounds(1e-30, 1e30)]
Precision = Literal["auto", "bf16", "fp16", "fp32"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Checked):
    """Everything that decides how a run goes."""

    loader: LoaderConfig
    unet: UNetConfig = field(default_factory=UNetConfig)
    architecture: Architecture = "unet"
    """unet, or seed: the network of 2020"""
    out: Path = Path("runs/latest")
    """folder of the run"""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="(optional)")] = None
    """folder of a run to go on with; its options are then the defaults of all others"""
    epochs: Count = 5
    """passes over the training split"""
    learning_rate: Positive = 2e-3
    """learning rate at its highest, after the warm-up; a cosine takes it down to 0"""
    weight_decay: Annotated[float, Bounds(0, 1e30)] = 0.02
    """weight decay of AdamW; biases and batch norm are spared"""
    warmup: Share = 0.05
    """share of all steps in which the learning rate rises"""
    grad_clip: Positive = 1.0
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
    log_every: Count = 50
    """optimiser steps between lines in metrics.jsonl"""
    save_every: Count = 1000
    """optimiser steps between checkpoints, besides those at the end of each epoch"""
    keep: Count = 3
    """newest checkpoints that stay, besides the best one"""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_url(self.out)
        if self.resume and self.out != self.resume:
            raise InputError(f"--resume {self.resume} goes on in that folder. Leave out --out {self.out}.")
        try:
            mask_loss(self.mask_loss), depth_loss(self.depth_loss)
        except ValueError as error:
            raise InputError(str(error)) from None

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration in JSON's types; passwords, and whether it is resumed, are no part of it."""
        kept = replace(self, resume=None, loader=replace(self.loader, data=masked(str(self.loader.data))))
        return dict(json.loads(json.dumps(asdict(kept), default=str)))


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
    _refuse_too_small(config, loader)
    statistics = asdict(manifest.statistics["fg_bg"])
    if min(statistics["std"]) < 1e-6:
        raise InputError(
            f"{config.loader.data}: by its statistics a channel of fg_bg is the same everywhere, which cannot be "
            "normalised. `python -m shards show` shows what the images are like."
        )
    model = make_model(config.architecture, config.unet, manifest.components.keys(), ranks.device, **statistics)
    # Weight decay is for the kernels; it has no business with biases and the scales of batch norm.
    kernels = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": kernels}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
    fp16 = autocast_dtype(config.precision, ranks.device) == torch.float16
    totals = torch.zeros(len(learned(manifest)) + 2, device=ranks.device)
    return Training(model, optimizer, torch.amp.GradScaler(ranks.device.type, enabled=fp16), loader, totals)


def learned(manifest: Manifest) -> list[str]:
    """Return which components of a data set a network learns to predict."""
    return [name for name in PREDICTED if name in manifest.components]


def _refuse_untrainable(config: TrainConfig, components: list[str]) -> None:
    data = config.loader.data
    has, lacks = ", ".join(components), [name for name in BY_NAME if name not in components]
    if not set(PREDICTED) & set(components):
        how = f"Depth can be added with `python -m shards depth {data} OUT`."
        raise InputError(f"{data}: its samples have only {has}; to train, mask or depth is needed. {how}")
    if config.architecture == "seed" and lacks:
        raise InputError(f"{data}: --architecture seed needs {', '.join(lacks)} too. Use --architecture unet.")


def _refuse_too_small(config: TrainConfig, loader: Loader) -> None:
    height, width = (config.loader.size,) * 2 if config.loader.size else loader.dataset.manifest.image_size
    if min(height, width) < LEAST:
        raise InputError(
            f"images of {height}x{width} pixels: at least {LEAST} each way are needed. Use a larger --size."
        )
    pixels = -(-height // 2**config.unet.levels) * -(-width // 2**config.unet.levels)
    if config.architecture == "unet" and loader.order.smallest * pixels == 1:
        raise InputError(  # of which batch norm has no variance
            f"--batch-size {config.loader.batch_size} leaves a rank a single sample, and --levels {config.unet.levels} "
            f"a single pixel of {height}x{width}: too little for batch norm. Use a larger batch or fewer levels."
        )


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Return the context in which a training computes."""
    dtype = autocast_dtype(config.precision, device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def make_objective(training: Training, config: TrainConfig, ranks: Ranks) -> nn.Module:
    """Return the network and its losses: compiled as `config` says, and as one of its copies on all ranks."""
    plain = Objective(training.model, mask_loss(config.mask_loss), depth_loss(config.depth_loss))
    objective: nn.Module = plain
    with autocast(config, ranks.device):
        if config.compile == "auto" and ranks.device.type == "cuda":
            objective = compiled(plain, *_black(training.loader), mode="reduce-overhead")
        if ranks.world_size > 1:
            objective = DistributedDataParallel(objective)
            # After its first gradients it puts them into another order, in which three ranks add up to other numbers:
            # were they those of a step, a run that was gone on with would differ from one that was not stopped.
            try_out(objective, *_black(training.loader))
    return objective


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
    norm = nn.utils.clip_grad_norm_(objective.parameters(), config.grad_clip)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.optimizer.zero_grad()
    training.step += 1
    losses = losses.detach().clone()  # into the memory of these a CUDA graph writes the next step's
    # In fp16 steps with an infinite gradient are skipped; that is no reason to have no mean.
    norm = norm.where(norm.isfinite(), 0) if training.scaler.is_enabled() else norm
    training.totals += torch.cat([losses * training.loader.weight(batch), norm[None], torch.ones_like(norm[None])])
    return losses


def share_totals(training: Training, config: TrainConfig, ranks: Ranks) -> None:
    """Have all ranks know the mean of their totals. On divergence, raises InputError on rank 0, else SystemExit."""
    if ranks.world_size > 1:
        dist.all_reduce(training.totals)
        training.totals /= ranks.world_size
    if not training.finite:
        if ranks.rank:
            sys.exit(2)
        raise InputError(
            f"training has diverged: the losses up to step {training.step}, or the weights then, are no numbers. To go "
            f"on from the last checkpoint before: python train.py --resume {config.out} --learning-rate "
            f"{config.learning_rate / 4:g}, or --precision fp32."
        )


def validate(
    training: Training, held_out: Loader, config: TrainConfig, ranks: Ranks
) -> tuple[dict[str, float], Errors]:
    """Return what `evaluate` returns, of the network that rank 0 saves: batch norm differs from rank to rank."""
    if ranks.world_size > 1:
        for buffer in training.model.buffers():
            dist.broadcast(buffer, 0)
    return evaluate(training.model, held_out, autocast_dtype(config.precision, ranks.device))


def score(metrics: dict[str, float]) -> float:
    """Return mask IoU - depth RMSE, or the one of them that there is; nan if the depth is no number."""
    iou = metrics.get("mask_iou", math.nan)  # it is nan where neither truth nor prediction has a figure
    return (0.0 if math.isnan(iou) else iou) - metrics.get("depth_rmse", 0.0)


def train(config: TrainConfig, ranks: Ranks) -> int:
    """Train to the end of the last epoch, from the newest checkpoint in `config.out` on if there is one.

    Returns 0, or the number of the signal that it was asked to stop by, once what it did is saved. Raises InputError if
    training diverges.
    """
    training = start(config, ranks)
    with ExitStack() as stack:
        stop, loader = stack.enter_context(StopRequest(ranks)), stack.enter_context(training.loader)
        checkpoints = stack.enter_context(Checkpoints(config.out, config.keep))
        if found := checkpoints.newest(ranks.device):
            training.load_state_dict(*found)
        manifest = loader.dataset.manifest
        if ranks.world_size > 1:
            data = sha256(manifest.to_json().encode()).hexdigest()[:12]
            ranks.agree({"digest of the data set": data, "step of the checkpoint in --out": training.step})
        steps = config.epochs * len(loader)
        if training.step >= steps and not training.validation_due:
            if not ranks.rank:
                say(f"{config.out}: finished. For more: python train.py --resume {config.out} --epochs N")
            return 0
        validation = replace(config.loader, split="val", shuffle=False, decode=loader.decode)
        held_out = Loader(validation, rank=ranks.rank, world_size=ranks.world_size, device=ranks.device)
        stack.enter_context(held_out)
        saved, report = _described(config, manifest), None
        if not ranks.rank:
            done, tracked = (training.step, training.validated), config.wandb == "auto"
            defaults = TrainConfig(loader=LoaderConfig(data=config.loader.data)).to_dict()
            report = Report(config.out, saved, defaults, *done, loader, wandb=tracked)
            _say_what_is_learned(config, manifest)
        objective = make_objective(training, config, ranks)
        before_epoch = loader.stats
        while training.step < steps or training.validation_due:
            if training.validation_due:
                torch.get_device_module(ranks.device).synchronize()
                of_epoch = loader.stats.since(before_epoch)
                metrics, errors = validate(training, held_out, config, ranks)
                improved = training.note_validation(score(metrics))
                if report:
                    chosen, dtype = report.chosen(errors.rows), autocast_dtype(config.precision, ranks.device)
                    grids = {kind: draw(training.model, held_out, rows, errors, dtype) for kind, rows in chosen.items()}
                    report.epoch(training.step, training.step // len(loader), metrics, grids, of_epoch)
                    checkpoints.save(training.state_dict() | {"config": saved}, best=improved)
                continue
            objective.train()
            before_epoch = before = loader.stats
            for batch in report.progress(loader, training.step % len(loader)) if report else loader:
                learning_rate = scheduled_rate(config, training.step, steps)
                for group in training.optimizer.param_groups:
                    group["lr"] = learning_rate
                optimise(training, objective, batch, config)
                stopped = stop.agreed()
                logs = training.step % config.log_every == 0
                saves = stopped or training.step % config.save_every == 0 or training.step % len(loader) == 0
                if saves:  # no checkpoint is to have seen a damaged shard
                    loader.finish_check()
                if logs or saves:  # here the host waits for the device
                    share_totals(training, config, ranks)
                if logs:
                    *losses, norm = (training.totals[:-1] / training.totals[-1]).tolist()
                    training.totals.zero_()
                    if report:
                        named = dict(zip(learned(manifest), losses, strict=True))
                        report.step(training.step, named, norm, learning_rate, loader.stats.since(before))
                    before = loader.stats
                if saves and report:
                    checkpoints.save(training.state_dict() | {"config": saved})
                if stopped:
                    checkpoints.wait()
                    if report:
                        report.stopped(training.step, steps, signal.Signals(stopped))
                    return stopped
    if report:
        report.finish()
    return 0


def _decides(config: TrainConfig, ranks: Ranks) -> dict[str, object]:
    """Return what must be the same on all ranks: options, but for those that each machine has its own of, and code."""
    root = Path(__file__).parent
    files = [
        *root.glob("*.py"),
        *(path for name in ("model", "pipeline", "shards") for path in root.glob(f"{name}/**/*.py")),
    ]
    code = sha256(b"".join(sha256(path.read_bytes()).digest() for path in sorted(files))).hexdigest()[:12]
    own = ("--data", "--device", "--num-threads", "--cache-dir", "--cache-limit")
    same = {name: value for name, value in options(config.to_dict()).items() if name not in own}
    dtype = autocast_dtype(config.precision, ranks.device)
    return same | {"--precision": dtype, "digest of the program": code, "PyTorch": torch.__version__}


def _say_what_is_learned(config: TrainConfig, manifest: Manifest) -> None:
    if lacks := [name for name in BY_NAME if name not in manifest.components]:
        predicted, seen = learned(manifest), ", ".join(name for name in manifest.components if name not in PREDICTED)
        said = f"the network learns {' and '.join(predicted)} from {seen}"
        say(f"no {', '.join(lacks)} in {config.loader.data}: {said}")


def _described(config: TrainConfig, manifest: Manifest) -> dict[str, Any]:
    """Return the configuration as checkpoints hold it, with what a network must know of its data."""
    return config.to_dict() | {"depth": asdict(manifest.depth), "components": list(manifest.components)}


def parse_args() -> TrainConfig:
    """Return the configuration that the command line gives; the default is that of the run to resume, if any."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", type=Path)
    run = parser.parse_known_args()[0].resume
    default = replace(_config_of(run), out=run, resume=run) if run else tyro.MISSING_NONPROP
    return tyro.cli(TrainConfig, description=__doc__, default=default, config=(tyro.conf.OmitArgPrefixes,))


def _config_of(run: Path) -> TrainConfig:
    path = run / "config.json"
    try:
        config: TrainConfig = parsed(TrainConfig, path.read_bytes())
        return config
    except FileNotFoundError:
        raise InputError(f"{run}: no run to resume (no config.json). Its folder is what --out named.") from None
    except ValueError as error:
        raise InputError(f"{path}: not a run's configuration that this version reads: {error}.") from None


def _refuse_other_options(config: TrainConfig) -> None:
    """Raise InputError if there is a run in `config.out` that was begun with other options."""
    then, now = (options(one.to_dict()) for one in (_config_of(config.out), config))
    others = {name: value for name, value in now.items() if value != then[name]}
    if others:
        began = ", ".join(f"{name} {then[name]} then, {value} now" for name, value in others.items())
        change = " ".join(f"{name} {value}" for name, value in others.items())
        raise InputError(
            f"{config.out}: holds a run of other options ({began}). Name another --out, or go on with that run: "
            f"python train.py --resume {config.out}, with {change} if that is to change."
        )


def main() -> int:
    config = parse_args()
    with distributed(config.device) as ranks, nullcontext() if ranks.rank else only_process(config.out):
        if ranks.world_size > 1:
            ranks.agree(_decides(config, ranks))
        if not config.resume and Checkpoints(config.out, config.keep).exist():
            _refuse_other_options(config)
        if ranks.rank == 0:
            for package in ("pipeline", "model"):
                logging.getLogger(package).setLevel(logging.INFO)
            LocalFolder(config.out).sweep(None)
            write_bytes(config.out / "config.json", (json.dumps(config.to_dict(), indent=1) + "\n").encode())
        stopped = train(config, ranks)
    return {0: 0, signal.SIGINT: 130}.get(stopped, STOPPED)


if __name__ == "__main__":
    with report_errors():
        sys.exit(main())
