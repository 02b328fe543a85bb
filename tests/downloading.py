"""Downloads as the tests make them: here or in processes of their own, and what they leave in their folder."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.downloads import Downloads, locked

ROOT = Path(__file__).parent.parent
FIRST = "shard-000000.tar"
ROOMY = 1 << 30
Start = Callable[..., Downloads]

_OPENER = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pipeline.downloads import Downloads
from shards.errors import report_errors
url, folder, limit, *numbers = sys.argv[1:]

def open_all(_):
    for number in numbers:
        os.close(downloads.open(int(number)))

with report_errors(), ThreadPoolExecutor(3) as pool:
    downloads = Downloads(url, Path(folder), int(limit))
    list(pool.map(open_all, range(3)))
    downloads.close()
"""


def opener(url: str, folder: Path, limit: int, *numbers: int, within: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    """A process, started by the command `within`, that opens the tars of these numbers on three threads at once."""
    command = [*within, sys.executable, "-c", _OPENER, url, str(folder), str(limit), *map(str, numbers)]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(command, cwd=ROOT, text=True, stderr=subprocess.PIPE, env=environment)


def until(condition: Callable[[], object]) -> None:
    """Waits for `condition`, which a busy machine may take long over."""
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def content(downloads: Downloads, number: int) -> bytes:
    with os.fdopen(downloads.open(number), "rb") as file:
        return file.read()


def tars(folder: Path) -> dict[str, int]:
    """The sizes of the tars in `folder` and of what is to become one, by name."""
    with locked(folder / "lock"):  # else a file that is renamed meanwhile counts twice
        paths = [*folder.glob("*/shard-*.tar"), *folder.glob("*/.partial-*.tar")]
        return {path.name: path.stat().st_size for path in paths}


def hidden(folder: Path) -> list[str]:
    """What a download that is under way, or was given up, has in `folder`."""
    return [path.name for path in folder.rglob(".*")]


def shard_bytes(dataset: Path) -> int:
    """The size of the largest shard."""
    return max(path.stat().st_size for path in dataset.glob("shard-*.tar"))
