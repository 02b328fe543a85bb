"""How much the parts of `make gpu` do."""

from dataclasses import dataclass, field
from typing import Any

import torch

from model.unet import UNetConfig
from pipeline.cache import Caching
from pipeline.decode import Decode


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The amount of work: as it stands on a GPU, or a little of everything on the CPU."""

    device: torch.device
    decode: Decode = "gpu"
    """the decoder that is tested, and measured first"""
    cache: Caching = "device"
    unet: UNetConfig = field(default_factory=UNetConfig)
    stored: tuple[int, int] = (160, 64)
    """height and width of the stored images, pixels, of one data set each"""
    size: int = 64
    """height and width in batches, pixels"""
    sources: int = 60
    """figures, and rooms, of each data set of stage first"""
    samples: int = 40_960
    """of each of these; four in five are trained on, a multiple of every batch size"""
    many_sources: int = 100
    """figures, and rooms, of each data set of stage second"""
    whole: int = 400_000
    """samples that train.py is run on, of the smaller images"""
    peers: int = 20_000
    """samples that the peers read, of the larger images"""
    exported: int = 4000
    """samples that are trained on as in 2020"""
    batch: int = 1024
    batches: tuple[int, ...] = (1024, 256, 2048, 32)
    """samples in a batch, the most interesting first"""
    test_batch: int = 128
    seed_batch: int = 32
    threads: tuple[int, ...] = (16, 8, 4, 1)
    few_threads: int = 6
    epochs: int = 6
    log_every: int = 20
    """optimiser steps that are begun before their losses are looked at"""
    seconds: float = 1.5
    """length of a measurement"""
    seed_seconds: float = 30.0


FULL = Scale(device=torch.device("cuda", 0))
_DATA: dict[str, Any] = {"stored": (64, 32), "size": 32, "sources": 4, "samples": 400}
_DATA |= {"many_sources": 4, "whole": 400, "peers": 400, "exported": 100}
_WORK: dict[str, Any] = {"batch": 16, "batches": (16, 8), "test_batch": 16, "seed_batch": 1, "threads": (2, 1)}
_WORK |= {"few_threads": 1, "epochs": 2, "log_every": 2, "seconds": 0.1, "seed_seconds": 0.1}
DRY = Scale(
    device=torch.device("cpu"), decode="cpu", cache="host", unet=UNetConfig(width=8, levels=3), **_DATA, **_WORK
)
