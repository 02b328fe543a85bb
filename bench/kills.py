"""Whether a training that is killed again and again ends as one that is not: `python -m bench.kills DATA`.

For 1 and for 2 ranks, a run is trained whole; then others of the same options, each of whose processes, or a random one
of them, is killed by SIGKILL at random moments, begun again by the same command and so on to the end. The weights must
be the same to the bit, and the logs line by line, but for what is measured in seconds.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from bench.measure import ROOT
from checkpoint import load
from shards.errors import report_errors
from shards.format.storage import PARTIAL

OPTIONS = ["--size=32", "--width=8", "--batch-size=16", "--save-every=5", "--log-every=3", "--num-threads=1"]
OPTIONS += ["--wandb=off"]
TIMED = ("samples_per_second", "waiting_share", "busy")
"""endings of the names that are logged of what is measured in seconds"""


@dataclass(frozen=True, kw_only=True)
class KillsConfig:
    """How often, and on what."""

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
    """folder of a data set"""
    kills: int = 30
    """kills for each number of ranks"""
    epochs: int = 3
    """passes over the training split of each run"""
    seed: int = 0
    """decides when whom is killed"""


def begin(config: KillsConfig, ranks: int, run: Path) -> subprocess.Popen[bytes]:
    """Begin a training, or go on with it."""
    launcher = [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    what = ["--data", str(config.data), "--epochs", str(config.epochs), "--out", str(run)]
    variables, said = os.environ | {"OMP_NUM_THREADS": "1"}, subprocess.DEVNULL
    command = [sys.executable, *launcher, str(ROOT / "train.py"), *what, *OPTIONS]
    return subprocess.Popen(command, env=variables, stdout=said, stderr=said)


def processes(run: Path, process: subprocess.Popen[bytes]) -> list[int]:
    """Return the processes that train in the folder `run`.

    torchrun's ranks have sessions of their own, and torchrun a title that says nothing.
    """
    found = subprocess.run(["pgrep", "-f", "--", f"--out {run} "], capture_output=True, text=True)
    return list({int(pid) for pid in found.stdout.split()} | ({process.pid} if process.poll() is None else set()))


def kill(run: Path, process: subprocess.Popen[bytes], chance: random.Random) -> None:
    """Kill all processes of a training, or one of them and, when that has had its effect, the rest."""
    if chance.random() < 0.5:
        _kill(sorted(processes(run, process), key=lambda _: chance.random())[:1])
        time.sleep(chance.uniform(0, 3))
    while left := processes(run, process):
        _kill(left)
        process.wait()


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def steps_saved(run: Path) -> int:
    path = run / "checkpoints" / "last.pt"
    return int(load(path, torch.device("cpu"))["step"]) if path.exists() else 0


def told(run: Path) -> list[dict[str, Any]]:
    """Return what a run has logged, but for what is measured in seconds."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.endswith(TIMED)} for line in lines]


def same(one: Path, other: Path) -> bool:
    first, second = (load(run / "checkpoints" / "last.pt", torch.device("cpu"))["model"] for run in (one, other))
    return told(one) == told(other) and all(torch.equal(first[name], second[name]) for name in first)


def campaign(config: KillsConfig, ranks: int, work: Path, chance: random.Random) -> dict[str, object]:
    """Return what the kills struck, and how many of the runs that they struck ended as the one that they did not."""
    whole, struck, ended = work / f"{ranks}-whole", Counter[str](), list[bool]()
    started = time.perf_counter()
    if begin(config, ranks, whole).wait():
        sys.exit(f"a run of {ranks} ranks that nobody killed failed; its folder is {whole}")
    longest = time.perf_counter() - started
    while struck.total() < config.kills or not ended:
        run = work / f"{ranks}-{len(ended)}"
        while True:
            before, process = steps_saved(run), begin(config, ranks, run)
            if struck.total() < config.kills:
                time.sleep(chance.uniform(0, longest))
            else:
                process.wait()
            if process.poll() is not None:
                break
            kill(run, process, chance)
            writing = any(run.rglob(f"{PARTIAL}*"))
            struck["while writing" if writing else "in training" if steps_saved(run) > before else "before a step"] += 1
        ended.append(process.returncode == 0 and same(run, whole))
    found: dict[str, object] = {"ranks": ranks, "steps": steps_saved(whole), "kills": struck.total(), **struck}
    return found | {"runs": len(ended), "the same to the bit": sum(ended)}


def main(config: KillsConfig) -> None:
    columns = [
        "ranks",
        "steps",
        "kills",
        "before a step",
        "in training",
        "while writing",
        "runs",
        "the same to the bit",
    ]
    table, chance = Table(*columns, title="trainings killed at random moments"), random.Random(config.seed)
    with tempfile.TemporaryDirectory(prefix="sluice-kills-") as work:
        for ranks in (1, 2):
            found = campaign(config, ranks, Path(work), chance)
            table.add_row(*(str(found.get(name, 0)) for name in columns))
    Console().print(table)


if __name__ == "__main__":
    with report_errors():
        main(tyro.cli(KillsConfig, description=__doc__))
