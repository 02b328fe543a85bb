"""Whether the tars on this machine are those that were written: their digests, compared while an epoch is under way."""

import hashlib
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Literal

from shards.errors import InputError
from shards.format.dataset import Dataset

log = logging.getLogger(__name__)

Check = Literal["once", "always", "never"]

_PIECE = 1 << 22
"""bytes that are read and hashed at a time, while other threads run"""
_MOST = 1 << 23
"""bytes of the file of those found right, of 500,000 tars; it begins anew when it is larger"""
_found_right = set[str]()
"""by this process"""


class Digests:
    """Compares tars with their digests in the manifest, on a thread of its own.

    Those found right are known again by size, times and inode: by this process, and with `once` by later ones too, from
    the file `checked` in the folder `memory`, if that can be written.
    """

    def __init__(self, dataset: Dataset, numbers: Sequence[int], check: Check, memory: Path) -> None:
        """`numbers`: the tars to compare, of which each rank of this machine takes its part."""
        rank, ranks = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self._dataset, self._numbers = dataset, numbers[rank % ranks :: ranks] if check != "never" else []
        self._memory = memory / "checked" if check == "once" else None
        self._closed, self._wrong, self._thread = Event(), "", Thread()

    def begin(self) -> None:
        """Compare all that is not known to be right, or has been written to since."""
        if self._numbers and not self._thread.is_alive():
            self._thread = Thread(target=self._work, name="digests", daemon=True)
            self._thread.start()

    def refuse_wrong(self, *, wait: bool) -> None:
        """Raise InputError if a tar has been found to be wrong; with `wait`, once all are compared."""
        if wait and self._thread.is_alive():
            log.info("waiting until all shards are compared with their digests; --check never does without")
            self._thread.join()
        if self._wrong:
            raise InputError(self._wrong)

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        if self._thread.ident:
            self._thread.join()

    def _work(self) -> None:
        known = _found_right | self._recalled()
        for number in self._numbers:
            tar, path = self._dataset.tars[number], self._dataset.tar_path(number)
            try:
                name = _fingerprint(path.stat(), tar.sha256)
                if not tar.sha256 or name in known:
                    continue
                with path.open("rb") as file:
                    found = digest(file.fileno(), self._closed)
            except FileNotFoundError:
                continue  # it was there at the start: the reader has it open, or will tell
            except OSError as error:
                self._wrong = f"{path}: cannot be read ({error}). Check the disk or network that it is on."
                return
            if self._closed.is_set():
                return
            if found != tar.sha256:
                self._wrong = (
                    f"{path}: its digest is not the one in the manifest, so images in it are damaged. Copy it again, "
                    "or see with `python -m shards verify` what else is; --check never trains on it all the same."
                )
                return
            self._remember(name)

    def _recalled(self) -> set[str]:
        with suppress(OSError, RuntimeError):  # the latter if there is no home
            if self._memory:
                path = self._memory.expanduser()
                if path.stat().st_size > _MOST:
                    path.unlink()
                return set(path.read_text(errors="replace").split())
        return set()

    def _remember(self, name: str) -> None:
        _found_right.add(name)
        with suppress(OSError, RuntimeError):  # then the next run compares it again
            if self._memory:
                path = self._memory.expanduser()
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a") as file:  # a line is written in one piece, whoever else writes
                    file.write(f"{name}\n")


def digest(descriptor: int, stopped: Event | None = None) -> str:
    """Return the SHA-256 of an open file, in hexadecimal; of a part of it once `stopped` is set."""
    sha256, piece, offset = hashlib.sha256(), memoryview(bytearray(_PIECE)), 0
    while (count := os.preadv(descriptor, [piece], offset)) and not (stopped and stopped.is_set()):
        sha256.update(piece[:count])
        offset += count
    return sha256.hexdigest()


def _fingerprint(stat: os.stat_result, sha256: str) -> str:
    """Return what tells a file with this digest from all others, and from itself once it is written to."""
    named = f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {sha256}"
    return hashlib.sha256(named.encode()).hexdigest()[:16]
