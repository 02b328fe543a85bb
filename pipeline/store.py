"""A folder of bounded size for downloaded tars, which any number of threads and processes fill and empty together.

lock                    held (flock) while tars and claims are counted, made, removed or renamed: for milliseconds
NAME/*.tar              whole tars of one data set, used last at their mtime
NAME/.claim-BYTES-TAR   held (flock) by whoever downloads TAR; a killed process lets go, and the next one clears up
NAME/.partial-TAR       what has come of it so far
"""

import fcntl
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from shards.format.storage import PARTIAL

_CLAIM = ".claim-"


class Store:
    """The tars in the folders below `folder`: at most `limit` bytes, whole and half ones together."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def open(self, tar: Path, size: int) -> int | None:
        """A read-only descriptor of `tar`, which counts as used now; None if it is not there with all `size` bytes."""
        try:
            descriptor = os.open(tar, os.O_RDONLY)
        except FileNotFoundError:
            return None
        if os.fstat(descriptor).st_size == size:
            os.utime(descriptor)
            return descriptor
        os.close(descriptor)
        return None

    def fill(self, tar: Path, size: int, wanted: Sequence[Path], write: Callable[[Path], None]) -> int | None:
        """Makes room for `tar`, has `write` write it to the path it is given, and returns a read-only descriptor of it.

        The tars used longest ago make room. Those `wanted` stay if `tar` is one of them, else they go last, from the
        end. None, with nothing done, if somebody is downloading it already, or if there is no room before others have
        finished what they download: ask again soon. `size`, and those wanted together, must fit the limit.
        """
        with self._lock():
            if (descriptor := self.open(tar, size)) is not None:
                return descriptor
            claim = tar.with_name(f"{_CLAIM}{size}-{tar.name}")
            if _is_held(claim) or not self._make_room(tar, size, wanted):
                return None
            held = os.open(claim, os.O_RDWR | os.O_CREAT)
            fcntl.flock(held, fcntl.LOCK_EX)
        partial = tar.with_name(PARTIAL + tar.name)
        try:
            write(partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            with self._lock():  # renamed outside it, a count could miss both names
                partial.replace(tar)
                claim.unlink()
                return os.open(tar, os.O_RDONLY)
        except BaseException:
            with self._lock():
                partial.unlink(missing_ok=True)
                claim.unlink(missing_ok=True)
            raise
        finally:
            os.close(held)

    def _make_room(self, tar: Path, size: int, wanted: Sequence[Path]) -> bool:
        """Removes tars until `size` bytes more fit. False, with nothing removed, if they cannot."""
        urgency = {path: -place for place, path in enumerate(wanted)}
        found = {path: path.stat() for path in self.folder.glob("*/[!.]*.tar")}
        removable = [path for path in found if path not in urgency or tar not in urgency]
        free = self.limit - self._claimed() - sum(stat.st_size for stat in found.values())
        if free + sum(found[path].st_size for path in removable) < size:
            return False
        for path in sorted(removable, key=lambda path: (urgency.get(path, -math.inf), found[path].st_mtime_ns)):
            if free >= size:
                break
            path.unlink()
            free += found[path].st_size
        return True

    def _claimed(self) -> int:
        """Bytes of the tars that are being downloaded. What a killed process has left of others is removed."""
        total = 0
        for claim in self.folder.glob(f"*/{_CLAIM}*"):
            size, _, tar = claim.name.removeprefix(_CLAIM).partition("-")
            if _is_held(claim):
                total += int(size)
            else:
                claim.with_name(PARTIAL + tar).unlink(missing_ok=True)
                claim.unlink()
        return total

    def _lock(self) -> AbstractContextManager[None]:
        return locked(self.folder / "lock")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file `path`, which no other thread and no other process of this machine then does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
