"""Programs killed at random moments, by SIGKILL, and begun again until they end: with what one ends with in peace."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.faults import data
from bench.faults.attack import Attack, FailureError, command, doing, finish, told
from bench.faults.spoil import chance
from checkpoint import load

TIMED = ("samples_per_second", "waiting_share", "busy")
"""endings of the names that are logged of what is measured in seconds"""
MOST = 3
"""kills of one program before it is left in peace"""
CPU = torch.device("cpu")
Argv = list[str | Path]


def log_of(run: Path) -> list[dict[str, Any]]:
    """Return what a training has logged, but for what is measured in seconds."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.endswith(TIMED)} for line in lines]


def same_training(one: Path, other: Path) -> str:
    """Return what is not the same of two trainings, to the bit; nothing if all is."""
    first, second = (load(run / "checkpoints" / "last.pt", CPU) for run in (one, other))
    parts = [name for name in ("model", "optimizer", "step", "best") if not data.same(first[name], second[name])]
    return ", ".join([*parts, *["the log"] * (log_of(one) != log_of(other))])


def same_files(one: Path, other: Path) -> str:
    """Return which files of two folders are not the same; nothing if all are."""
    found, expected = data.contents(one), data.contents(other)
    return ", ".join(sorted(name for name in found | expected if found.get(name) != expected.get(name)))


@dataclass(frozen=True, kw_only=True)
class Program:
    """argv: what Python is given, of the folder that is prepared and the one to write. before: what that begins as."""

    argv: Callable[[Path, Path], Argv]
    before: str = ""
    other: Callable[[Path, Path], str] = same_files

    def begin(self, folder: Path, out: Path, **options: object) -> "subprocess.Popen[str]":
        """Begin the program, or go on with it."""
        if not out.exists() and self.before:
            shutil.copytree(folder / self.before, out)
        return command(self.argv(folder, out), **options)

    def end(self, folder: Path, out: Path) -> None:
        """Have the program go on to its end. Raises FailureError if that is no good end."""
        process = self.begin(folder, out)
        said, _ = process.communicate()
        if told(process.returncode, said)["refused"]:
            raise FailureError("traceback", f"refused, as nobody would expect: {said.strip().splitlines()[-1]}")

    def refuse_others(self, folder: Path, out: Path) -> None:
        """Raise FailureError unless `out` holds what the program has made in peace."""
        if others := self.other(out, folder / "whole"):
            raise FailureError("wrong bytes", f"not the same: {others}"[:500])


def shards(name: str, *arguments: str) -> Callable[[Path, Path], Argv]:
    """Return `python -m shards NAME ...`, where FOLDER stands for the one that is prepared, and OUT for its result."""

    def argv(folder: Path, out: Path) -> Argv:
        named = (one.replace("FOLDER", str(folder)).replace("OUT", str(out)) for one in arguments)
        return ["-m", "shards", name, *named]

    return argv


def training(ranks: int) -> Callable[[Path, Path], Argv]:
    launcher: Argv = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    return lambda folder, out: [*launcher, "train.py", "--data", folder / "data", "--out", out, *data.TRAINING]


SHARDS, WORKERS = ("--samples-per-shard", "3"), ("--workers", "2")
COMPOSE = ("--fg", "FOLDER/drawn/fg", "--bg", "FOLDER/drawn/bg", "--depth", "FOLDER/drawn/depth", "--samples", "60")
PROGRAMS = {
    "convert": Program(argv=shards("convert", "FOLDER/images", "OUT", *SHARDS, *WORKERS)),
    "zips": Program(argv=shards("convert", "FOLDER/zips", "OUT", *SHARDS, *WORKERS)),
    "compose": Program(
        argv=shards("compose", "--out", "OUT", *COMPOSE, "--places", "4", "--size", "48", *SHARDS, *WORKERS)
    ),
    "index": Program(argv=shards("index", "OUT", *WORKERS), before="tars"),
    "merge": Program(argv=shards("merge", "OUT"), before="begun"),
    "depth": Program(argv=shards("depth", "FOLDER/data", "OUT", "--teacher", "FOLDER/teacher", "--device", "cpu")),
    "export": Program(argv=shards("export", "FOLDER/data", "OUT", *WORKERS)),
    "train": Program(argv=training(1), other=same_training),
    "train-2": Program(argv=training(2), other=same_training),
}


def prepare(name: str, folder: Path) -> None:
    """Fill the folder with what the program needs, and run it in peace."""
    source, program = data.compose(folder), PROGRAMS[name]
    if name in ("convert", "zips"):
        finish(["-m", "shards", "export", source, folder / "images"])
        shutil.rmtree(folder / "images" / ".work", ignore_errors=True)
    if name == "zips":
        (folder / "zips").mkdir()
        for tree in (folder / "images").iterdir():
            with zipfile.ZipFile(folder / "zips" / f"{tree.name}.zip", "w") as archive:
                for path in sorted(path for path in tree.rglob("*") if path.is_file()):
                    archive.write(path, path.relative_to(tree.parent))
    if name == "index":
        (folder / "tars").mkdir()
        for tar in source.glob("shard-*.tar"):
            shutil.copy2(tar, folder / "tars" / tar.name)
    if name == "merge":
        own = [*COMPOSE, "--places", "4", "--size", "48", *SHARDS, *WORKERS, "--part", "1/1"]
        finish(shards("compose", "--out", "OUT", *own)(folder, folder / "begun"))
    if name == "depth":
        save_teacher(folder / "teacher")
    began = time.monotonic()
    program.end(folder, folder / "whole")
    (folder / "seconds").write_text(str(time.monotonic() - began))


def save_teacher(folder: Path) -> None:
    """Save a teacher of metric depth with a few thousand random weights."""
    import transformers
    from transformers.models.glpn.image_processing_pil_glpn import GLPNImageProcessorPil

    ones = [1] * 4
    config = transformers.GLPNConfig(
        depths=ones, hidden_sizes=[8] * 4, num_attention_heads=ones, mlp_ratios=ones, decoder_hidden_size=8
    )
    torch.manual_seed(0)
    GLPNImageProcessorPil().save_pretrained(folder)
    transformers.GLPNForDepthEstimation(config).save_pretrained(folder)


def processes(out: Path, process: "subprocess.Popen[str]") -> list[int]:
    """Return the processes of a program: of its session, and, as torchrun's ranks have others, those given `out`."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session, *_ = path.read_text().rpartition(")")[2].split()
            argv = (path.parent / "cmdline").read_text().split("\0")
            if state != "Z" and (int(session) == process.pid or str(out) in argv):
                found.add(int(path.parent.name))
    return sorted(found - {os.getpid()})


def kill(out: Path, process: "subprocess.Popen[str]", of: random.Random) -> None:
    """Kill all processes of a program, or one of them and, when that has had its effect, the rest."""
    if of.random() < 0.5:
        _kill(sorted(processes(out, process), key=lambda _: of.random())[:1])
        time.sleep(of.uniform(0, 1))
    while left := processes(out, process):
        _kill(left)
        process.poll()
    process.communicate()


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def fresh(folder: Path) -> Path:
    """Return a folder that is not there, to be written."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    return folder / "out"


def killed(name: str, folder: Path, number: int) -> None:
    program, of, out = PROGRAMS[name], chance("kills", name, number), fresh(folder)
    longest, moments = float((folder / "seconds").read_text()), list[float]()
    for _ in range(of.randint(1, MOST)):
        process = program.begin(folder, out, stdout=subprocess.DEVNULL)
        moments.append(of.uniform(0.3, 1.0) * longest)
        doing(f"killed after {', '.join(f'{one:.2f}' for one in moments)} s")
        try:
            process.wait(moments[-1])
            break
        except subprocess.TimeoutExpired:
            kill(out, process, of)
    program.end(folder, out)
    program.refuse_others(folder, out)


ATTACKS = [
    Attack(
        name=f"kills-{name}",
        what=f"{name} killed by SIGKILL up to {MOST} times, and begun again",
        prepare=partial(prepare, name),
        attempt=partial(killed, name),
        attempts=4,
        long=50,
        seconds=300,
        memory=0,
    )
    for name in PROGRAMS
]
