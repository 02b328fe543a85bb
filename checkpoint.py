"""A run's checkpoints: the weights, the configuration of their network, and the place where training stood."""

import io
import json
import logging
import math
import os
import shutil
import zipfile
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from model.seed import SeedNet
from model.unet import DualUNet, UNetConfig
from pipeline.loader import Loader, LoaderConfig
from shards.errors import InputError
from shards.format.depth import DepthRange
from shards.format.fields import Bounds, from_json
from shards.format.manifest import Manifest
from shards.format.schema import BY_NAME
from shards.format.storage import replacing, write_bytes

log = logging.getLogger(__name__)

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
    """Everything that training changes: from a state of it, training goes on as if it had not been stopped."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loader: Loader
    totals: Tensor
    """float32 (L + 2,): sums since the last line of the log of L losses, of the gradient's norm, and of 1 a step"""
    step: int = 0
    """optimiser steps done"""
    validated: int = 0
    """step of the last validation"""
    best: float = -math.inf
    """best validation score"""

    @property
    def finite(self) -> Tensor:
        """Whether all weights and the losses since the last line of the log are numbers: bool ()."""
        return torch.stack([one.isfinite().all() for one in (*self.model.state_dict().values(), self.totals)]).all()

    @property
    def validation_due(self) -> bool:
        """Whether an epoch has ended since the last validation."""
        return self.step > self.validated and self.step % len(self.loader) == 0

    def note_validation(self, score: float) -> bool:
        """Note that validation gave this score, nan if it is no number. Return whether that is the best so far."""
        self.validated = self.step
        best = score > self.best or self.best == -math.inf
        self.best = score if score > self.best else self.best
        return best

    def state_dict(self) -> dict[str, Any]:
        """Return tensors, numbers, text, lists and dicts, nothing else."""
        return {name: getattr(self, name).state_dict() for name in _PARTS} | {
            name: getattr(self, name) for name in _REST
        }

    def load_state_dict(self, path: Path, state: dict[str, Any]) -> None:
        """Go back to the state in the checkpoint `path`. Raises InputError if it is of other data or another network.

        Another device, precision or number of ranks is none of its business.
        """
        trained, found = components_of(state["config"]), self.loader.dataset.manifest.components
        if set(trained) != set(found):
            raise InputError(
                f"{path}: trained on samples of {', '.join(trained)}; those of {self.loader.config.data} have "
                f"{', '.join(found)}. Go on with the same data, or begin a new run."
            )
        try:
            for name in _PARTS:
                if name != "scaler":
                    getattr(self, name).load_state_dict(state[name])
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: of another network. Go on with the run's own --architecture, --width, --levels and --blocks."
            ) from error
        if state.get("scaler") and self.scaler.is_enabled():  # it has a state in fp16 only
            self.scaler.load_state_dict(state["scaler"])
        for name in _REST:  # which the first checkpoints do not have all of
            before = getattr(self, name)
            found = state.get(name, before)
            if type(found) is not type(before) or (name == "totals" and found.shape != before.shape):
                raise InputError(f"{path}: damaged: {name} is of another kind. Go on from another checkpoint.")
            setattr(self, name, found)
        if math.isnan(self.best):  # which the first versions took for a best score
            self.best = -math.inf


_PARTS, _REST = ("model", "optimizer", "scaler", "loader"), ("totals", "step", "validated", "best")


class Checkpoints(AbstractContextManager["Checkpoints"]):
    """The checkpoints of a run: the newest `keep` as step-N.pt, of which one is last.pt too, and best.pt.

    They are written while training goes on. At the end of the context they all are.
    """

    def __init__(self, run: Path, keep: int) -> None:
        self.folder, self._keep = run / "checkpoints", keep
        self._writer, self._written = ThreadPoolExecutor(1, thread_name_prefix="checkpoints"), Future[None]()
        self._written.set_result(None)

    @property
    def _steps(self) -> list[Path]:
        """The checkpoints that bear their steps in their names, the oldest first."""
        return sorted(self.folder.glob("step-*.pt"), key=lambda path: int(path.stem.removeprefix("step-")))

    def exist(self) -> bool:
        """Whether there is one to go on from, be it a damaged one."""
        return (self.folder / "last.pt").exists() or bool(self._steps)

    def newest(self, device: torch.device) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest checkpoint that is whole and holds numbers only, and its state; None if there are none.

        What is passed over is logged. Raises InputError if nothing is left.
        """
        said = list[str]()
        for path in (self.folder / "last.pt", *reversed(self._steps)):
            if not path.exists():
                continue
            try:
                state = load(path, device)
                if all(tensor.isfinite().all() for tensor in state["model"].values()):
                    return path, state
                said.append(f"{path}: its weights are no numbers, so training had diverged when it was saved.")
            except InputError as error:
                said.append(str(error))
            log.warning("passed over: %s", said[-1])
        if said:
            raise InputError(f"no checkpoint to go on from is left. {said[0]} Begin a new run, with another --out.")
        return None

    def save(self, state: dict[str, Any], *, best: bool = False) -> None:
        """Copy `state`, and begin to write it once what was begun before is written.

        Raises OSError if that could not be written; what had been written before is intact.
        """
        self.wait()
        self._written = self._writer.submit(self._write, _copied(state), best)

    def wait(self) -> None:
        """Wait until all is written. Raises OSError as `save` does."""
        self._written.result()

    def _write(self, state: dict[str, Any], best: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save(state, buffer := io.BytesIO())  # by itself it would hide that a disk is full
        path = self.folder / f"step-{state['step']:07d}.pt"
        write_bytes(path, buffer.getvalue())
        for name in ("last.pt", "best.pt")[: 1 + best]:
            with replacing(self.folder / name) as temporary:
                try:
                    temporary.hardlink_to(path)
                except OSError:  # not every file system can
                    shutil.copyfile(path, temporary)
        for old in self._steps[: -self._keep]:
            old.unlink()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._writer.shutdown()
        if kind is None:
            self.wait()


def _copied(value: Any) -> Any:
    """Return a copy of nested dicts and lists, with all tensors on the host."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _copied(one) for name, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """What is read of the configuration that a network was trained with; of other versions it may have more."""

    architecture: Architecture
    unet: UNetConfig
    loader: LoaderConfig
    depth: DepthRange
    components: list[str] = field(default_factory=lambda: [*BY_NAME])  # of the first checkpoints, which do not say

    def __post_init__(self) -> None:
        if not {"fg_bg"} < {*self.components} <= BY_NAME.keys() or {*self.components} == {"fg_bg", "bg"}:
            raise ValueError(f"a network is trained on no samples of {', '.join(self.components)}")


@dataclass(frozen=True, kw_only=True)
class _Told:
    """What a checkpoint says besides its tensors, as far as it must be there."""

    config: _Trained
    step: Annotated[int, Bounds(0, 2**63 - 1)]


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Return a checkpoint that `save` wrote. Raises InputError if it is none, or a byte of it is not as it was."""
    try:
        with zipfile.ZipFile(path) as file:
            # PyTorch writes checksums and never looks at them; of what is marked as a folder it reads nothing.
            damaged = file.testzip() or next((one.filename for one in file.infolist() if one.external_attr), None)
        if damaged:
            raise zipfile.BadZipFile(f"{damaged} is not as it was written")
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint. A run keeps them as checkpoints/best.pt and last.pt.") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Use another checkpoint of the run.") from error
    except Exception as error:  # of as many kinds as there are ways to be damaged
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{path}: damaged, or not a checkpoint of this project ({said}). Use another one.") from error
    return checked(path, state)


def checked(path: Path, state: Any) -> dict[str, Any]:
    """Return what the checkpoint `path` holds, its configuration with all that is read of it."""
    match state:
        case {"model": dict(weights), "config": dict(config)} if all(map(torch.is_tensor, weights.values())):
            try:
                told: _Told = from_json(_Told, state, others=True)
            except ValueError as error:
                raise InputError(f"{path}: not a checkpoint that this version reads: {error}.") from None
            return dict(state, config=config | json.loads(json.dumps(asdict(told.config), default=str)))
    raise InputError(f"{path}: not a checkpoint of this project. A run keeps them in its folder checkpoints.")


def components_of(config: dict[str, Any]) -> list[str]:
    """Return the components of the data set that a checkpoint's network was trained on.

    It sees fg_bg and, where there is one, bg; it predicts mask and depth, or the one that there is.
    """
    return list(config.get("components", BY_NAME))  # the first checkpoints do not say, for there were always all


def load_model(path: Path, device: torch.device) -> tuple[nn.Module, dict[str, Any]]:
    """Return a checkpoint's network, ready to predict on `device`, and the configuration it was trained with."""
    state = load(path, device)
    return model_of(path, state, device), state["config"]


def model_of(path: Path, state: dict[str, Any], device: torch.device) -> nn.Module:
    """Return the network of a checkpoint that was loaded from `path`, ready to predict on `device`.

    Raises InputError if its weights are not those of the network that its configuration describes.
    """
    config = state["config"]
    try:
        model = make_model(config["architecture"], UNetConfig(**config["unet"]), components_of(config), device)
        model.load_state_dict(state["model"])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: of another network than it says, or than this version has. Train again.") from error
    return model.eval()


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
