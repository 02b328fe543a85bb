"""A run's checkpoint: the weights, the configuration of their network, and the place where training stood."""

import math
import os
import pickle
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from model.seed import SeedNet
from model.unet import DualUNet, UNetConfig
from pipeline.loader import Loader
from shards.errors import InputError
from shards.format.depth import DepthRange
from shards.format.manifest import Manifest
from shards.format.schema import BY_NAME
from shards.format.storage import replacing

Architecture = Literal["unet", "seed"]
Device = Literal["auto", "cuda", "cpu"]
PREDICTED = ("mask", "depth")
"""The components that a network predicts, as far as the data set it was trained on has them."""


def select_device(wanted: str) -> torch.device:
    """Return the device that auto, cuda or cpu stands for. Raises InputError if PyTorch finds no such device."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no CUDA device. Use --device cpu.")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def make_model(
    architecture: Architecture,
    unet: UNetConfig,
    components: Collection[str],
    device: torch.device,
    **statistics: list[float],
) -> nn.Module:
    """Return a network with fresh weights on `device`, for samples that have these components; `seed` needs all.

    statistics: the mean and std by which it is to normalise.
    """
    background, mask, depth = (name in components for name in ("bg", *PREDICTED))
    model = (
        DualUNet(unet, background=background, mask=mask, depth=depth, **statistics)
        if architecture == "unet"
        else SeedNet(**statistics)
    )
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # stub lacks it
    return model


@dataclass
class Training:
    """Everything that training changes: from a checkpoint of it, training goes on as if it had not been stopped."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loader: Loader
    step: int = 0
    """optimiser steps done"""
    best: float = -math.inf
    """best validation score"""

    def save(self, path: Path, config: dict[str, Any]) -> None:
        """Write a checkpoint, whole or not at all, of tensors, numbers, text, lists and dicts, nothing else."""
        state = {name: getattr(self, name).state_dict() for name in _PARTS}
        with replacing(path) as temporary:
            torch.save({**state, "step": self.step, "best": self.best, "config": config}, temporary)

    def restore(self, path: Path, device: torch.device) -> None:
        """Go back to a checkpoint. Raises InputError if it is none, or is of other data or another network."""
        state, config = load(path, device), self.loader.config
        trained, found = components_of(state["config"]), self.loader.dataset.manifest.components
        if set(trained) != set(found):
            raise InputError(
                f"{path}: trained on samples of {', '.join(trained)}; those of {config.data} have {', '.join(found)}. "
                "Go on with the same data, or begin a new run."
            )
        try:
            for name in _PARTS:
                getattr(self, name).load_state_dict(state[name])
        except (RuntimeError, KeyError, ValueError) as error:
            raise InputError(f"{path}: of another network ({error}).") from error
        self.step, self.best = state["step"], state["best"]


_PARTS = ("model", "optimizer", "scaler", "loader")


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Return a checkpoint that `save` wrote. Raises InputError if it is none."""
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint. A run keeps them as checkpoints/best.pt and last.pt.") from None
    except (RuntimeError, OSError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: not a checkpoint of this project ({type(error).__name__}: {error}).") from error
    if not isinstance(state, dict) or "model" not in state or "config" not in state:
        raise InputError(f"{path}: not a checkpoint of this project. A run keeps them in its folder checkpoints.")
    return state


def components_of(config: dict[str, Any]) -> list[str]:
    """Return the components of the data set that a checkpoint's network was trained on.

    It sees fg_bg and, where there is one, bg; it predicts mask and depth, or the one that there is.
    """
    return list(config.get("components", BY_NAME))  # the first checkpoints do not say, for there were always all


def load_model(path: Path, device: torch.device) -> tuple[nn.Module, dict[str, Any]]:
    """Return a checkpoint's network, ready to predict on `device`, and the configuration it was trained with."""
    state = load(path, device)
    config = state["config"]
    model = make_model(config["architecture"], UNetConfig(**config["unet"]), components_of(config), device)
    model.load_state_dict(state["model"])
    return model.eval(), config


def refuse_other_data(path: Path, config: dict[str, Any], data: str | Path, manifest: Manifest) -> None:
    """Raise InputError if the network of a checkpoint cannot be measured on `data`.

    That is if it lacks the backgrounds that the network sees, or all that the network predicts, or if its depth is of
    another range than the one that the network was trained on.
    """
    trained, found = components_of(config), manifest.components
    has = f"the samples of {data} have {', '.join(found)}"
    if "bg" in trained and "bg" not in found:
        raise InputError(f"{path}: this network sees the background as well; {has}. Use a data set with bg.")
    predicted = [name for name in PREDICTED if name in trained]
    if found.keys().isdisjoint(predicted):
        what = " or ".join(predicted)
        raise InputError(f"{path}: this network predicts {what}; {has}. Use a data set with {what}.")
    depth = DepthRange(**config["depth"])
    if "depth" in predicted and "depth" in found and depth.scale != manifest.depth.scale:
        raise InputError(
            f"{path}: trained on depth {depth}; the depth of {data} is {manifest.depth}. The same value would mean "
            "another depth. Use a data set of the same unit and range."
        )
