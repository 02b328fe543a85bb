"""Trainings of several ranks, of which one is killed, stopped for a while, or begun with something else."""

import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.faults import data
from bench.faults.attack import REFUSED, Attack, FailureError, command, doing, told
from bench.faults.kills import Argv, Program, fresh, kill, processes, same_training, training
from bench.faults.spoil import chance

RANKS = (2, 3, 4)
GONE = 120.0
"""seconds after which the others of a rank that is gone must have ended"""


def _program(ranks: int) -> Program:
    return Program(argv=training(ranks), other=same_training)


def _workers(out: Path, process: "subprocess.Popen[str]") -> list[int]:
    """Return the ranks, once they train."""
    while process.poll() is None and not (out / "checkpoints").exists():
        time.sleep(0.05)
    return [pid for pid in processes(out, process) if pid != process.pid]


def disturbed(way: str, folder: Path, number: int) -> Counter[str] | None:
    of, out = chance("ranks", way, number), fresh(folder)
    ranks = of.choice(RANKS)
    program, whole = _program(ranks), folder / f"whole-{ranks}"
    process = program.begin(folder, out)
    found = _workers(out, process)
    doing(f"one of {ranks} ranks {way}, number {number}")
    if found and way == "killed":
        os.kill(of.choice(found), signal.SIGKILL)
        try:
            process.wait(GONE)
        except subprocess.TimeoutExpired:
            kill(out, process, of)
            raise FailureError("hang", f"the others went on for {GONE:g} s") from None
        if process.returncode == 0:
            raise FailureError("wrong bytes", "ended well without one of its ranks")
        kill(out, process, of)
        program.end(folder, out)
    else:
        if found:
            stopped = of.choice(found)
            os.kill(stopped, signal.SIGSTOP)
            time.sleep(of.uniform(1, 5))
            os.kill(stopped, signal.SIGCONT)
        said, _ = process.communicate()
        told(process.returncode, said)
    if others := same_training(out, whole):
        raise FailureError("wrong bytes", f"not the same: {others}")
    return None


OTHERS: dict[str, Callable[[Path], Argv]] = {
    "another seed": lambda _: ["--seed", "1"],
    "another batch size": lambda _: ["--batch-size", "8"],
    "a wider network": lambda _: ["--width", "6"],
    "another loss": lambda _: ["--mask-loss", "bce"],
    "another learning rate": lambda _: ["--learning-rate", "0.1"],
    "more epochs": lambda _: ["--epochs", "3"],
    "other data": lambda folder: ["--data", folder / "other" / "data"],
}


def different(folder: Path, number: int) -> Counter[str]:
    """Begin one of two to four ranks with another option, as a cluster's scripts may: all must say so and end."""
    of, out = chance("different", number), fresh(folder)
    ranks, what = of.choice(RANKS), sorted(OTHERS)[number % len(OTHERS)]
    other = of.randrange(ranks)
    doing(f"rank {other} of {ranks} with {what}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1]), "WORLD_SIZE": str(ranks)}
    place |= {"LOCAL_WORLD_SIZE": str(ranks)}
    begun = []
    for rank in range(ranks):
        argv = [*training(1)(folder, out), *(OTHERS[what](folder) if rank == other else [])]
        begun.append(command(argv, env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}))
    end, told_all = time.monotonic() + GONE, list[Counter[str]]()
    try:
        for process in begun:
            said, _ = process.communicate(timeout=max(1, end - time.monotonic()))
            told_all.append(told(process.returncode, said))
    except subprocess.TimeoutExpired:
        raise FailureError("hang", f"went on for {GONE:g} s") from None
    finally:
        for process in begun:
            process.kill()
            process.wait()
    if not all(one[REFUSED] for one in told_all):
        raise FailureError("wrong bytes", f"trains, although rank {other} has {what}")
    return Counter({REFUSED: 1})


def _prepare(ranks: tuple[int, ...], folder: Path) -> None:
    data.compose(folder)
    data.compose(folder / "other", samples=40)
    for number in ranks:
        _program(number).end(folder, folder / f"whole-{number}")


ATTACKS = [
    Attack(
        name=f"ranks-{way.split()[0]}",
        what=f"one of {RANKS[0]} to {RANKS[-1]} ranks {way}",
        prepare=partial(_prepare, RANKS),
        attempt=partial(disturbed, way),
        attempts=4,
        long=50,
        seconds=400,
        memory=0,
    )
    for way in ("killed", "stopped for a while")
]
ATTACKS += [
    Attack(
        name="ranks-different",
        what=f"one of {RANKS[0]} to {RANKS[-1]} ranks with other data, another seed or another configuration",
        prepare=partial(_prepare, ()),
        attempt=different,
        attempts=len(OTHERS),
        long=10 * len(OTHERS),
        seconds=400,
        memory=0,
    )
]
