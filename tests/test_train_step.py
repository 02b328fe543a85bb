"""A training step looks at no number of a tensor: with a GPU, the host would have to wait for it."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from model.unet import UNetConfig
from pipeline.loader import LoaderConfig
from ranks import Ranks
from train import Precision, TrainConfig, make_objective, optimise, start

COPIES = {Tensor.tolist, Tensor.numpy, Tensor.cpu}


class Copies(TorchFunctionMode):
    """Notes what is called to bring tensors to the host."""

    def __init__(self, noted: list[object]) -> None:
        super().__init__()
        self._noted = noted

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._noted += [func] * (func in COPIES)
        return func(*args, **(kwargs or {}))


class Numbers(TorchDispatchMode):  # type: ignore[no-untyped-call]  # stub lacks it
    """Notes each number that is read, by item, float, int, bool or as an index."""

    def __init__(self, noted: list[object]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # stub lacks it
        self._noted = noted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._noted += [func] * (func is torch.ops.aten._local_scalar_dense.default)
        return func(*args, **(kwargs or {}))


LOOKS: dict[str, Callable[[Tensor], object]] = {
    "item": Tensor.item,
    "float": float,
    "condition": lambda tensor: 1 if tensor > 0 else 0,
    "index": lambda tensor: torch.zeros(3)[tensor],
    "tolist": Tensor.tolist,
    "numpy": Tensor.numpy,
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_each_look_is_noted(look: Callable[[Tensor], object]) -> None:
    noted = list[object]()
    with Copies(noted), Numbers(noted):
        look(torch.tensor(2))
    assert noted


def small(dataset: Path, precision: Precision) -> TrainConfig:
    read = LoaderConfig(data=dataset, size=32, batch_size=8, num_threads=1)
    return TrainConfig(loader=read, unet=UNetConfig(width=4, levels=2), precision=precision, wandb="off")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_looks_at_none(dataset: Path, precision: Precision) -> None:
    config = small(dataset, precision)
    ranks, noted = Ranks(0, 1, torch.device("cpu")), list[object]()
    training = start(config, ranks)
    objective = make_objective(training, config, ranks)
    with training.loader as loader, Copies(noted), Numbers(noted):
        for batch in itertools.islice(loader, 12):
            optimise(training, objective, batch, config)
    assert training.step == 12
    assert noted == []


def test_ranks_add_up_the_gradients_of_the_first_step_as_those_of_all_others(dataset: Path, tmp_path: Path) -> None:
    """In one order, lest three ranks that go on get other sums than three that were not stopped."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        config, ranks = small(dataset, "fp32"), Ranks(0, 2, torch.device("cpu"))
        training = start(config, ranks)
        before = {name: value.clone() for name, value in training.model.state_dict().items()}
        objective = make_objective(training, config, ranks)
        assert all(torch.equal(value, before[name]) for name, value in training.model.state_dict().items())
        assert all(parameter.grad is None for parameter in training.model.parameters())
        with training.loader as loader:
            optimise(training, objective, next(iter(loader)), config)
        assert isinstance(objective, DistributedDataParallel)
        assert objective._has_rebuilt_buckets  # PyTorch tells it nowhere else
    finally:
        dist.destroy_process_group()
