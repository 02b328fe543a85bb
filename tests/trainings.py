"""Small trainings in processes of their own, and what is left of them."""

import json
from pathlib import Path
from typing import Any

import torch
from commands import ROOT, Command, Ended, start

import checkpoint

SMALL = ["--size=32", "--width=4", "--levels=2", "--batch-size=8", "--num-threads=1", "--precision=fp32"]
SMALL += ["--wandb=off"]
EPOCHS, STEPS = 4, 15
"""of the runs here; steps in an epoch"""
CPU = torch.device("cpu")


def begin(folder: Path, *arguments: object, said: str = "said", **environment: str) -> Command:
    return start([str(ROOT / "train.py"), *map(str, arguments)], folder, said, **environment)


def train(folder: Path, *arguments: object, said: str = "said") -> Ended:
    return begin(folder, *arguments, said=said).ended()


def trained(folder: Path, *arguments: object) -> str:
    """What a training says that ends well."""
    ended = train(folder, *arguments)
    assert ended.code == 0, ended.said
    return ended.said


def state(run: Path, name: str = "last") -> dict[str, Any]:
    return checkpoint.load(run / "checkpoints" / f"{name}.pt", CPU)


def same_weights(one: Path, other: Path) -> bool:
    found, expected = state(one)["model"], state(other)["model"]
    return all(torch.equal(found[name], expected[name]) for name in expected)


def steps_saved(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*.pt"))


def refused(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def logged(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refused) for line in lines]


def told(run: Path) -> list[dict[str, Any]]:
    """What is logged, but for what is measured in seconds."""
    rates = ("samples_per_second", "waiting_share", "busy")
    return [{name: value for name, value in line.items() if not name.endswith(rates)} for line in logged(run)]


def options_for(data: Path) -> list[object]:
    return ["--data", data, *SMALL, "--epochs", EPOCHS, "--save-every", 4, "--keep", 99, "--log-every", 5]
