"""Training on one batch again and again, and fed by the loader."""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import nn

from bench.gpu.rates import Result, attempt, data_at, memory_share
from bench.gpu.scale import Scale
from bench.measure import count_for, endless
from checkpoint import Training
from model.compiled import Compiled
from pipeline.batch import Batch
from pipeline.loader import Loader, LoaderConfig
from ranks import Ranks
from train import TrainConfig, make_objective, optimise, start


class Trainer(NamedTuple):
    """A training at its beginning."""

    training: Training
    objective: nn.Module
    config: TrainConfig
    made: Result
    """whether the objective is compiled, and the seconds that it took to make it"""


@contextmanager
def _trainer(scale: Scale, work: Path, batch_size: int, compile: Literal["auto", "off"]) -> Iterator[Trainer]:
    torch.compiler.reset()  # or it would make one program of batches of all sizes
    reading = LoaderConfig(data=data_at(work, scale.stored[1]), size=scale.size, batch_size=batch_size, decode="cpu")
    reading = replace(reading, num_threads=1, prefetch=1)
    config = TrainConfig(loader=reading, unet=scale.unet, compile=compile, wandb="off", log_every=scale.log_every)
    ranks = Ranks(0, 1, scale.device)
    training = start(config, ranks)
    with training.loader:
        begin = time.perf_counter()
        objective = make_objective(training, config, ranks)
        made = {"compiled": isinstance(objective, Compiled), "ready_seconds": time.perf_counter() - begin}
        yield Trainer(training, objective.train(), config, made)


def resident(scale: Scale, work: Path) -> Iterator[Result]:
    """Train on one batch that lies on the device, again and again: the rate of training alone."""
    for how, size in itertools.product(("off", "auto"), scale.batches):
        yield attempt({"batch_size": size, "compile": how}, _resident, scale, work, size, how)


def _resident(scale: Scale, work: Path, batch_size: int, compile: Literal["auto", "off"]) -> Result:
    with _trainer(scale, work, batch_size, compile) as one:
        batch = next(iter(one.training.loader))
        return one.made | _training_rate(one, itertools.repeat(batch), scale)


def fed(scale: Scale, work: Path) -> Iterator[Result]:
    """Train through the loader."""
    ways: list[Result] = [{"decode": scale.decode}, {"decode": "cpu"}]
    ways += [{"decode": scale.decode, "num_threads": scale.few_threads}, {"decode": scale.decode, "cache": scale.cache}]
    with _trainer(scale, work, scale.batch, "auto") as one:
        yield one.made
        for way in ways:
            yield attempt({"stored": scale.stored[0], "batch_size": scale.batch, **way}, _fed, scale, work, one, way)


def _fed(scale: Scale, work: Path, one: Trainer, way: Result) -> Result:
    reading = LoaderConfig(data=data_at(work, scale.stored[0]), size=scale.size, batch_size=scale.batch, **way)
    with Loader(reading, device=scale.device) as loader:
        if reading.cache != "none":
            for _ in loader:
                pass
        fed_one = one._replace(training=replace(one.training, loader=loader))
        return _training_rate(fed_one, endless(loader), scale)


def _training_rate(one: Trainer, batches: Iterator[Batch], scale: Scale) -> Result:
    """Return the samples a second of training, and the share of the time in which it waited for data."""

    def steps() -> Iterator[int]:
        for batch in batches:
            losses = optimise(one.training, one.objective, batch, one.config)
            if one.training.step % one.config.log_every == 0:
                losses.tolist()  # as train.py does to log them; the host would run ahead without end
            yield len(batch.index)

    lengths, device, loader = steps(), torch.get_device_module(scale.device), one.training.loader
    count_for(scale.seconds / 2, lengths, least=4 * one.config.loader.batch_size)
    device.synchronize()
    before = loader.stats.waited
    samples, moments = count_for(scale.seconds, lengths)
    device.synchronize()
    spent, waited = time.perf_counter() - moments[0], loader.stats.waited - before
    rate = samples / spent
    return {"samples_per_second": rate, "waiting_share": waited / spent, **memory_share(rate, scale.device)}
