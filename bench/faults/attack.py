"""An attack: one thing that goes wrong, in many ways; and how its attempts are run and judged.

An attempt must end well or be refused by name: by an InputError, or an OSError that names its file. Attempts run in a
process of their own, one after the other. What ends that process, hangs in it or takes too much memory is the failure
of one attempt, and another process goes on with the next.
"""

import faulthandler
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from shards.errors import InputError

ROOT = Path(__file__).parents[2]
Kind = Literal["signal", "hang", "traceback", "memory", "wrong bytes"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""how an attempt can fail"""
WELL, REFUSED = "well", "refused"
"""how else it can end"""
_PREPARING, _LIMIT = "preparing", 900.0
"""what is done before the first attempt, and the seconds that it may take"""


class FailureError(Exception):
    """An attempt has failed in a way that it has seen itself."""

    def __init__(self, kind: Kind, told: str) -> None:
        super().__init__(told)
        self.kind = kind


class Failure(NamedTuple):
    """attempt: its number. doing: what was done to the project. told: the last lines of what it said."""

    attempt: int
    kind: Kind
    doing: str
    told: str


@dataclass(frozen=True, kw_only=True)
class Attack:
    """What is done to the project, and how often.

    prepare: fills a folder. attempt: does the attempt of a number there. It returns nothing if that ended well, or how
    many times it ended in which way; it raises what the project raises, or FailureError. attempts, long: how many there
    are by default, and in the long run. seconds: after which an attempt counts as hanging. memory: MiB of address space
    that the process may take beside what it has before the first attempt; 0 is any amount.
    """

    name: str
    what: str
    prepare: Callable[[Path], object]
    attempt: Callable[[Path, int], Counter[str] | None]
    attempts: int
    long: int
    seconds: float = 120.0
    memory: int = 2048


@dataclass
class Row:
    """What became of an attack: a row of the table."""

    name: str
    what: str
    ended: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def attempts(self) -> int:
        return self.ended.total() + len(self.failures)

    def failed(self, kind: Kind) -> int:
        return sum(one.kind == kind for one in self.failures)


Outcome = Counter[str] | tuple[Kind, str, str]
"""How many times an attempt ended in which way; or how it failed, what was done, and the last lines of what it said."""

_doing = _PREPARING
_say: Callable[[str], object] = str


def doing(text: str) -> None:
    """Note what the attempt that is under way does to the project, lest it cannot be asked any more."""
    global _doing
    _doing = text
    _say(text)


def judged(attack: Attack, folder: Path, number: int) -> Outcome:
    """Do one attempt, in this process."""
    doing(f"attempt {number}")
    try:
        return attack.attempt(folder, number) or Counter({WELL: 1})
    except InputError:
        return Counter({REFUSED: 1})
    except FailureError as failure:
        return failure.kind, _doing, str(failure)
    except MemoryError:
        return "memory", _doing, _last_lines()
    except OSError as error:
        return Counter({REFUSED: 1}) if error.filename else ("traceback", _doing, _last_lines())
    except BaseException:  # nor is an attempt to end the process
        return "traceback", _doing, _last_lines()


def _last_lines() -> str:
    return "\n".join(traceback.format_exc().rstrip().splitlines()[-7:])


def run(attack: Attack, work: Path, attempts: int, advance: Callable[[Row], object] = id) -> Row:
    """Do so many attempts in processes of their own, in a folder inside `work`; call `advance` after each."""
    row, began, number = Row(attack.name, attack.what), time.monotonic(), 0
    while number < attempts:
        for outcome in _in_a_process(attack, work, number, attempts):
            if isinstance(outcome, Counter):
                row.ended += outcome
            else:
                row.failures.append(Failure(number, *outcome))
            row.seconds, number = time.monotonic() - began, number + 1
            advance(row)
            if not isinstance(outcome, Counter) and outcome[1] == _PREPARING:
                return row
    return row


def _in_a_process(attack: Attack, work: Path, first: int, last: int) -> Iterator[Outcome]:
    """Yield what becomes of the attempts from `first` on: up to `last`, or to the one that ends the process."""
    spawn, said = multiprocessing.get_context("spawn"), work / f"{attack.name}.log"
    receive, send = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_work, args=(attack, work / attack.name, first, last, send, said))
    process.start()
    send.close()
    text, limit = _PREPARING, _LIMIT
    try:
        while receive.poll(limit):
            message = receive.recv()
            if isinstance(message, str):
                text = message
            else:
                yield message
            limit = attack.seconds
        yield "hang", text, f"had not ended after {limit:.0f} s"
    except EOFError:
        process.join()
        if process.exitcode:
            lines = said.read_text(errors="replace").splitlines()
            lines = [line for line in lines if not line.startswith("Extension modules")][-12:]
            yield "signal", text, "\n".join([*lines, f"ended with exit code {process.exitcode}"])
    finally:
        kill_started(process.pid or 0)
        process.kill()
        process.join()
        receive.close()


def kill_started(pid: int) -> None:
    """Kill all processes that a process has started, and what they have, whichever sessions they are in."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                kill_started(child)
                os.kill(child, signal.SIGKILL)


def _work(attack: Attack, folder: Path, first: int, last: int, send: Connection, said: Path) -> None:
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.enable()
    global _say
    _say = send.send
    try:
        prepare(attack, folder)
    except BaseException:
        send.send(("traceback", _PREPARING, _last_lines()))
        return
    if attack.memory and (statm := Path("/proc/self/statm")).exists():
        most = int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + (attack.memory << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for number in range(first, last):
        send.send(judged(attack, folder, number))


def prepare(attack: Attack, folder: Path) -> None:
    """Prepare an attack in `folder`, once."""
    if not (folder / "prepared").exists():
        shutil.rmtree(folder, ignore_errors=True)  # what was not prepared to its end
        folder.mkdir(parents=True)
        attack.prepare(folder)
        (folder / "prepared").touch()


def command(argv: Sequence[str | Path], **options: object) -> "subprocess.Popen[str]":
    """Begin a program of the project, `python ARGV`, in a session of its own; it says what it says to `stdout`."""
    said: dict[str, object] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    own = {"cwd": ROOT, "start_new_session": True}
    whole = said | own | options
    begun: subprocess.Popen[str] = subprocess.Popen([sys.executable, *map(str, argv)], **whole)  # type: ignore[call-overload]  # of object
    return begun


def finish(argv: Sequence[str | Path]) -> None:
    """Have a program of the project run to its good end, on which preparing depends."""
    process = command(argv)
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(said)


def told(code: int, said: str) -> Counter[str]:
    """Judge a program by its exit code and what it said. Raises FailureError."""
    last = "\n".join(said.rstrip().splitlines()[-7:])
    if code == 0:
        return Counter({WELL: 1})
    if code == 2 and "error: " in said and "Traceback" not in said:
        return Counter({REFUSED: 1})
    raise FailureError("signal" if code < 0 or code > 128 else "traceback", f"exit code {code}\n{last}")
