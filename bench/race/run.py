"""Formats written, contenders run in turns: each in a process of its own, watched, and named if it fails."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.race.contenders import Contender
from bench.race.formats import FORMATS, members, write_folders
from bench.race.truth import Truth
from bench.race.watch import memory
from shards.errors import InputError

ROOT = Path(__file__).parent.parent.parent
LIMIT = 120.0
"""seconds beyond its measurement after which a contender counts as hanging"""
EVERY = 0.25
"""seconds between two looks at the memory"""
PATIENCE = 2.0
"""seconds that processes have to end in, asked and then forced"""
NOT_INSTALLED = Path(sys.prefix) / "not-installed.json"
"""what pip said of the peers that it could not install (bench/race/install.py)"""


@dataclass(frozen=True)
class Race:
    """Where the formats lie, how long it takes, and what pip or a format's writer said where it failed."""

    scratch: Path
    rounds: int
    seconds: float
    warm_up: float
    unwritten: dict[str, str] = field(default_factory=dict)


@dataclass
class Run:
    """One contender in one round: what was measured, or why nothing was."""

    round: int
    contender: Contender
    measured: dict[str, Any] = field(default_factory=dict)
    error: str = ""


class Failed(Exception):  # noqa: N818 - a finding about a contender
    """A process ended badly; the message is the last line of what it said."""


def build_formats(data: Path, samples: int, scratch: Path) -> tuple[int, dict[str, str]]:
    """Writes all formats from the data set in `data`. Returns how many samples they have, and the errors by format."""
    errors: dict[str, str] = {}
    with _progress("formats", len(FORMATS) + 1) as advance:
        advance("folders", 0)
        count = write_folders(data, samples, scratch)
        for name in FORMATS:
            advance(name, 1)
            try:
                _process(["bench.race.formats", name, str(scratch)], scratch, timeout=10 * LIMIT)
            except Failed as failed:
                errors[name] = str(failed)
        advance("", 1)
    if "shards" in errors:
        raise InputError(f"the shards could not be written: {errors['shards']}")
    return count, errors


def race(contenders: Sequence[Contender], plan: Race, truth: Truth) -> list[Run]:
    """All contenders, round by round; one that fails is not run again. `truth` judges the first batches."""
    runs: list[Run] = []
    _into_page_cache(plan.scratch)
    with _progress("race", plan.rounds * len(contenders)) as advance:
        for number in range(1, plan.rounds + 1):
            for contender in contenders:
                advance(f"round {number} of {plan.rounds}, {contender.name}", 0)
                if not any(run.error and run.contender == contender for run in runs):
                    runs.append(_run(number, contender, plan, truth))
                advance("", 1)
    return runs


def _run(number: int, contender: Contender, plan: Race, truth: Truth) -> Run:
    run, first = Run(number, contender), plan.scratch / "first.npz"
    checked = number == 1 and contender.kind != "floor"
    where = plan.scratch / contender.format
    warm_samples = len(members(plan.scratch / "folders")) if contender.warm_epoch else 0
    command = ["bench.race.one", contender.runs, where, plan.seconds, plan.warm_up, warm_samples]
    try:
        if reason := plan.unwritten.get(contender.format):
            raise Failed(f"its format could not be written: {reason}")
        run.measured = _process(
            [*map(str, command), *([str(first)] if checked else [])], plan.scratch, plan.seconds + LIMIT
        )
        if checked:
            run.measured["pixel_difference"] = truth.difference(first)
    except (Failed, ValueError) as error:
        run.error = " ".join([str(error), *_said_by_pip(contender)])
    finally:
        first.unlink(missing_ok=True)
    return run


def _said_by_pip(contender: Contender) -> list[str]:
    said: dict[str, str] = json.loads(NOT_INSTALLED.read_text()) if NOT_INSTALLED.exists() else {}
    return [f"({package} is not installed: {said[package]})" for package in contender.packages if package in said]


def _process(arguments: list[str], scratch: Path, timeout: float) -> dict[str, Any]:
    """Runs a module in a process group of its own: what it prints last, if that is JSON, and its peak memory in MiB.

    One thread for OpenMP: workers and threads are two for all, and must not multiply. What peers leave in the folder
    for temporary files goes with `scratch`.
    """
    peak, temporary = [0.0, 0.0], scratch / "tmp"
    temporary.mkdir(exist_ok=True)
    with (scratch / "said").open("w+") as said, (scratch / "printed").open("w+") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)},
            stdout=printed,
            stderr=said,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            until = time.monotonic() + timeout
            while process.poll() is None and time.monotonic() < until:
                peak = [max(pair) for pair in zip(peak, memory(process.pid), strict=True)]
                time.sleep(EVERY)
            hangs = process.poll() is None
        finally:
            _end(process)
        lines = [_last_line(file) for file in (said, printed)]
    if hangs:
        raise Failed(f"had not ended after {timeout:.0f} s")
    if process.returncode:
        raise Failed(lines[0] or f"ended with exit code {process.returncode}, and said nothing")
    found: dict[str, Any] = json.loads(lines[1]) if lines[1].startswith("{") else {}
    return found | {"memory_mib": peak[0], "memory_with_files_mib": peak[1]}


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends the process and all that it started: its workers may outlive it.

    Asked first: Python's resource tracker does not listen, and clears away shared memory when the others are gone.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            process.poll()
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                return
            time.sleep(0.02)


def _last_line(file: Any) -> str:
    file.seek(0)
    lines = [line.strip() for line in file.read().splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _into_page_cache(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()


@contextmanager
def _progress(what: str, total: int) -> Iterator[Any]:
    """A bar with elapsed and remaining time; the function it yields says what is under way and how much is done."""
    columns = (TextColumn(what), BarColumn(), TimeElapsedColumn(), "of which remain", TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}")) as bar:
        task = bar.add_task("", total=total)
        yield lambda now, done: bar.update(task, advance=done, **({"description": now} if now else {}))
