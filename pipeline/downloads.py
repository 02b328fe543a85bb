"""Remote data sets: whole shards, downloaded ahead of their use into a bounded folder that all processes share.

lock                    held (flock) while tars and claims are counted, made, removed or renamed: for milliseconds
NAME/*.tar              whole tars of one data set, used last at their mtime
NAME/.claim-BYTES-TAR   held (flock) by whoever downloads TAR; a killed process lets go, and the next one clears up
NAME/.partial-TAR       what has come of it so far
"""

import fcntl
import hashlib
import logging
import math
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Condition, Event, Thread

from pipeline.digests import digest
from shards.errors import InputError
from shards.format.dataset import Dataset, download_index
from shards.format.storage import PARTIAL, RemoteFolder, StoppedError

log = logging.getLogger(__name__)

THREADS = 4
"""tars that a process downloads ahead at once; those it waits for come on top"""

_POLL = 0.05
"""seconds after which one that waits for another's download looks again"""
_CLAIM = ".claim-"


class Downloads:
    """Whole tars of a remote data set in a local folder of bounded size, shared by all processes of this machine.

    For any number of threads, but not for a forked process. The bound is on the files in the folder: what is unlinked
    while it is open takes disk space until it is closed.
    """

    def __init__(self, url: str, folder: Path, limit: int, *, distrust: bool = False) -> None:
        """Download the manifest, and, where no process has done so yet, the index.

        distrust: compare also what is kept with its digest, when it is opened first.

        Raises InputError if that fails, or if `folder`, which may begin with ~, cannot be written.
        limit: bytes that the tars in `folder`, of all data sets there together, may occupy.
        """
        folder = _writable(folder)
        self._remote, self._store = RemoteFolder(url), Store(folder, limit)
        self._closed, self._changed, self._threads = Event(), Condition(), list[Thread]()
        self._wanted, self._queue = list[int](), deque[int]()
        self._under_way, self._failed = set[int](), dict[int, str]()
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "manifest.json"
            self._remote.download(path.name, path, stopped=self._closed)
            manifest = path.read_bytes()
        # A folder of its own: a changed data set is another one.
        root = folder / hashlib.sha256(f"{self._remote}\n".encode() + manifest).hexdigest()[:16]
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / "lock"):
            download_index(self._remote, manifest, root, self._closed)
        self.dataset = Dataset.open(root)
        self._trusted = set[int]() if distrust else set(range(len(self.dataset.tars)))

    def open(self, number: int) -> int:
        """Return a read-only descriptor, for the caller to close, of the tar of this number, whole and checked.

        Downloads it, or waits for whoever does. Raises InputError if it cannot be had, be it that an earlier attempt in
        the background has failed, and RuntimeError after `close`.
        """
        while (descriptor := self._tried(number)) is None:
            self._closed.wait(_POLL)
        return descriptor

    def replace(self, number: int, descriptor: int) -> bool:
        """Remove the tar of this number if that which is open as `descriptor` has not its digest; tell whether.

        `open` then downloads it again. It was whole when it came.
        """
        tar, path = self.dataset.tars[number], self.dataset.tar_path(number)
        if not tar.sha256 or digest(descriptor) == tar.sha256:
            return False
        log.warning("%s is damaged, and downloaded again", path)
        self._store.remove(path, descriptor)
        return True

    def prefetch(self, numbers: Sequence[int]) -> None:
        """Say which tars are needed next, in this order, and return at once; those not there come in the background.

        They stay until the next call says otherwise, as far as this process decides. What an earlier call has named and
        this one does not is downloaded no more, unless it is under way. Raises InputError if they exceed the limit.
        """
        wanted = list(dict.fromkeys(numbers))
        self._refuse_too_much(wanted)
        with self._changed:
            self._wanted, self._queue = wanted, deque()
            for number in reversed(wanted):
                try:  # what is there counts as used now: other processes are to take older ones first
                    os.utime(self.dataset.tar_path(number))
                except FileNotFoundError:
                    if number not in self._under_way and number not in self._failed:
                        self._queue.appendleft(number)
            if not self._threads and not self._closed.is_set():
                self._threads = [Thread(target=self._work, name=f"download-{n}", daemon=True) for n in range(THREADS)]
                for thread in self._threads:
                    thread.start()
            self._changed.notify_all()

    def check_room(self, count: int) -> None:
        """Raise InputError if the `count` largest shards do not fit the limit: now rather than in mid-epoch."""
        sizes = [shard.bytes for shard in self.dataset.manifest.shards]
        self._refuse_too_much(sorted(range(len(sizes)), key=sizes.__getitem__)[-count:])

    def close(self) -> None:
        """End the threads; what is under way is given up.

        Protocols that fsspec does not serve from its event loop (sftp, for one) cannot be interrupted: such a download
        may go on for a while after 10 s.
        """
        with self._changed:
            self._closed.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=10)

    def _tried(self, number: int) -> int | None:
        """Open or download a tar; return None if it must wait for others."""
        if self._closed.is_set():
            raise RuntimeError("these downloads are closed")
        if error := self._failed.get(number):
            raise InputError(error)
        path, size = self.dataset.tar_path(number), self.dataset.tars[number].bytes
        if (descriptor := self._store.open(path, size)) is not None:
            if number in self._trusted or not self.replace(number, descriptor):
                self._trusted.add(number)
                return descriptor
            os.close(descriptor)
        self._refuse_too_much([number])
        wanted = [self.dataset.tar_path(n) for n in self._wanted]
        return self._store.fill(path, size, wanted, lambda partial: self._download(number, partial))

    def _download(self, number: int, path: Path) -> None:
        tar = self.dataset.tars[number]
        if met := self._failed.get(number):  # by another thread, while this one asked for the claim
            raise InputError(met)
        try:
            self._remote.download(tar.name, path, size=tar.bytes, sha256=tar.sha256, stopped=self._closed)
        except StoppedError:
            raise RuntimeError("these downloads were closed") from None
        except InputError as error:
            self._failed[number] = str(error)  # while the claim is held: others who wait for this tar are to see it
            raise

    def _work(self) -> None:
        """Download the most urgent tar that no other thread is at, then the next, until `close`.

        One that another process is at is put off, for there may be others that nobody is at.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed.is_set())
                if self._closed.is_set():
                    return
                number = self._queue.popleft()
                self._under_way.add(number)
            try:
                descriptor = self._tried(number)
            except Exception:  # kept in _failed, or met again by `open`
                continue
            finally:
                self._under_way.discard(number)
            if descriptor is not None:
                os.close(descriptor)
                continue
            with self._changed:
                if number in self._wanted:
                    self._queue.append(number)
            self._closed.wait(_POLL)

    def _refuse_too_much(self, numbers: Sequence[int]) -> None:
        needed, limit = sum(self.dataset.tars[number].bytes for number in numbers), self._store.limit
        if needed > limit:
            raise InputError(
                f"{len(numbers)} shards of {self._remote} are needed at a time, {needed:,} bytes, but "
                f"{self._store.folder} may hold {limit:,}. Set --cache-limit {-(-needed >> 20)}, or lower "
                "--shuffle-window."
            )


class Store:
    """The tars in the folders below `folder`: at most `limit` bytes, whole and half ones together."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit, self._lock = folder, limit, folder / "lock"

    def open(self, tar: Path, size: int) -> int | None:
        """Return a read-only descriptor of `tar`, which counts as used now; None if not all `size` bytes are there."""
        with suppress(FileNotFoundError):
            descriptor = os.open(tar, os.O_RDONLY)
            if os.fstat(descriptor).st_size == size:
                os.utime(descriptor)
                return descriptor
            os.close(descriptor)
        return None

    def remove(self, tar: Path, descriptor: int) -> None:
        """Remove `tar` if it is still the file that is open as `descriptor`."""
        with locked(self._lock), suppress(FileNotFoundError):
            if tar.stat().st_ino == os.fstat(descriptor).st_ino:
                tar.unlink()

    def fill(self, tar: Path, size: int, wanted: Sequence[Path], write: Callable[[Path], None]) -> int | None:
        """Make room for `tar`, have `write` write it to the path it is given, and return a read-only descriptor of it.

        The tars used longest ago make room. Those `wanted` stay if `tar` is one of them, else they go last, from the
        end. None, with nothing done, if somebody is downloading it already, or if there is no room before others have
        finished what they download: ask again soon. `size`, and those wanted together, must fit the limit.
        """
        with locked(self._lock):
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
            with locked(self._lock):  # renamed outside it, a count could miss both names
                partial.replace(tar)
                claim.unlink()
                return os.open(tar, os.O_RDONLY)
        except BaseException:
            with locked(self._lock):
                partial.unlink(missing_ok=True)
                claim.unlink(missing_ok=True)
            raise
        finally:
            os.close(held)

    def _make_room(self, tar: Path, size: int, wanted: Sequence[Path]) -> bool:
        """Remove tars until `size` bytes more fit. False, with nothing removed, if they cannot."""
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
        """Return the bytes of the tars that are being downloaded. What a killed process has left is removed."""
        total = 0
        for claim in self.folder.glob(f"*/{_CLAIM}*"):
            size, _, tar = claim.name.removeprefix(_CLAIM).partition("-")
            if _is_held(claim):
                total += int(size)
            else:
                claim.with_name(PARTIAL + tar).unlink(missing_ok=True)
                claim.unlink()
        return total


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, which no other thread and no other process of this machine then does."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _writable(folder: Path) -> Path:
    """Make the folder, if it is not there yet, and return its full path."""
    try:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock"):
            return folder
    except (OSError, RuntimeError) as error:  # the latter if there is no home
        advice = "Name a folder that can be written by --cache-dir, or a home by HOME."
        raise InputError(f"{folder}: shards cannot be kept there ({error}). {advice}") from error


def _is_held(path: Path) -> bool:
    with suppress(FileNotFoundError), path.open("rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
