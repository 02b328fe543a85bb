"""Small trainings for the tests, begun as by the command line."""

import sys
from pathlib import Path

import pytest
import torch

import train

SMALL = "--size 32 --batch-size 24 --width 4 --levels 2 --log-every 2 --decode portable --num-threads 1"
SMALL += " --wandb off --device cpu"


def train_command(*arguments: object) -> None:
    """`python train.py ARGUMENTS`, in this process."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
        assert train.main() == 0
    torch.set_num_threads(threads)


def trained(data: Path, out: Path, *options: object) -> Path:
    """Trains one epoch, if not said otherwise, and returns the run's folder."""
    train_command("--data", data, "--out", out, *SMALL.split(), "--epochs", 1, *options)
    return out
