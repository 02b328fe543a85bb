"""`python ARGV` in a fork of a process that has imported what most commands need: each would need seconds for it.

Apart from that it is a process like any other: it may be sent signals, and ends with an exit code.
"""

import os
import runpy
import sys
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import torch

ROOT = Path(__file__).parent.parent
PRELOADED = ["train", "evaluate", "predict", "tracking.page", "shards.commands"]
PRELOADED += ["nvidia.dali", "pytest", "s3fs", "transformers"]
ALONE = Lock()
"""Starting a process asks after all others, and of two threads that ask after one, one is told 255."""


class Ended(NamedTuple):
    """How a process ended, and all that it said."""

    code: int | None
    said: str


@dataclass
class Command:
    """A command that is running."""

    process: ForkServerProcess
    said: Path

    def signal(self, number: int) -> None:
        assert self.process.pid
        os.kill(self.process.pid, number)

    def ended(self, timeout: float = 120) -> Ended:
        wait([self.process.sentinel], timeout)
        with ALONE:
            self.process.kill()  # if it hangs
            self.process.join()
        return Ended(self.process.exitcode, self.said.read_text())


def start(argv: list[str], folder: Path, said: str = "said", **environment: str) -> Command:
    """Begin `python ARGV` in `folder`, which is home too. It says what it says to the file `said` there."""
    own = {"HOME": str(folder), "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": str(ROOT)} | environment
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_be_python, args=(argv, folder, own, folder / said))
    with ALONE:
        process.start()
    return Command(process, folder / said)


def python(argv: list[str], folder: Path, **environment: str) -> Ended:
    """Run `python ARGV` in `folder` to its end."""
    return start(argv, folder, **environment).ended()


def _be_python(argv: list[str], folder: Path, environment: dict[str, str], said: Path) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # OpenMP has read its variables long ago
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if argv[0] == "-m":
        sys.argv = argv[1:]
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv
        runpy.run_path(argv[0], run_name="__main__")
