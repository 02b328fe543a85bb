"""Remote data sets: whole shards, downloaded ahead of their use into a bounded folder that all processes share."""

import hashlib
import os
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.origin import Origin, StoppedError
from pipeline.store import Store, locked
from shards.errors import InputError
from shards.format.dataset import Dataset
from shards.format.manifest import Manifest
from shards.format.storage import PARTIAL, replacing, write_bytes

THREADS = 4
"""tars that a process downloads ahead at once; those it waits for come on top"""

_POLL = 0.05
"""seconds after which one that waits for another's download looks again"""


class Downloads:
    """Whole tars of a remote data set in a local folder of bounded size, shared by all processes of this machine.

    For any number of threads, but not for a forked process. The bound is on the files in the folder: what is unlinked
    while it is open takes disk space until it is closed.
    """

    def __init__(self, url: str, folder: Path, limit: int) -> None:
        """`limit`: bytes that the tars in `folder`, of all data sets there together, may occupy.

        Downloads the manifest, and, where no process has done so yet, the index. Raises InputError if that fails.
        """
        self._closed = threading.Event()
        self._origin = Origin(url)
        self._store = Store(folder, limit)
        folder.mkdir(parents=True, exist_ok=True)
        self.dataset = self._opened(folder)
        self._shards = self.dataset.tars
        self._wanted: list[int] = []
        self._queue: deque[int] = deque()
        self._under_way: set[int] = set()
        self._failed: dict[int, str] = {}
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    def open(self, number: int) -> int:
        """A read-only descriptor of the tar of this number in `dataset.tars`, whole and checked; the caller closes it.

        Downloads it, or waits for whoever does. Raises InputError if it cannot be had, be it that an earlier attempt in
        the background has failed, and RuntimeError after `close`.
        """
        while (descriptor := self._tried(number)) is None:
            self._closed.wait(_POLL)
        return descriptor

    def prefetch(self, numbers: Sequence[int]) -> None:
        """Says which tars are needed next, in this order, and returns at once; those not there come in the background.

        They stay until the next call says otherwise, as far as this process decides. What an earlier call has named and
        this one does not is downloaded no more, unless it is under way. Raises InputError if they exceed the limit.
        """
        wanted = list(dict.fromkeys(numbers))
        self._check_room(wanted)
        with self._changed:
            self._wanted = wanted
            absent = [number for number in reversed(wanted) if not self._touched(number)]
            self._queue = deque(n for n in reversed(absent) if n not in self._under_way and n not in self._failed)
            if not self._threads and not self._closed.is_set():
                names = [f"download-{number}" for number in range(THREADS)]
                self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
                for thread in self._threads:
                    thread.start()
            self._changed.notify_all()

    def check_room(self, count: int) -> None:
        """Raises InputError if the `count` largest tars do not fit the limit together: now rather than in mid-epoch."""
        by_size = sorted(range(len(self.dataset.manifest.shards)), key=lambda number: self._shards[number].bytes)
        self._check_room(by_size[-count:])

    def close(self) -> None:
        """Ends the threads; what is under way is given up.

        Protocols that fsspec does not serve from its event loop (sftp, for one) cannot be interrupted: such a download
        may go on for a while after 10 s.
        """
        with self._changed:
            self._closed.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=10)

    def _opened(self, folder: Path) -> Dataset:
        """The data set's manifest and index, in a folder of their own: a changed data set is another one."""
        with tempfile.TemporaryDirectory() as temporary:
            self._fetch("manifest.json", path := Path(temporary) / "manifest.json")
            text = path.read_bytes()
        url = self._origin.url
        manifest = Manifest.parse(text, f"{url}/manifest.json")
        root = folder / hashlib.sha256(f"{url}\n".encode() + text).hexdigest()[:16]
        (root / "index").mkdir(parents=True, exist_ok=True)
        with locked(root / "lock"):
            for left in (root / "index").glob(f"{PARTIAL}*"):  # by a killed process
                left.unlink()
            for name, sha256 in manifest.index.items():
                if not (root / "index" / name).exists():
                    with replacing(root / "index" / name) as path:
                        self._fetch(f"index/{name}", path, sha256=sha256)
            if not (root / "manifest.json").exists():
                write_bytes(root / "manifest.json", text)
        return Dataset.open(root)

    def _fetch(self, name: str, path: Path, size: int | None = None, sha256: str | None = None) -> None:
        self._origin.fetch(name, path, size=size, sha256=sha256, stopped=self._closed)

    def _tried(self, number: int) -> int | None:
        """Opens or downloads a tar; None if it must wait for others."""
        if self._closed.is_set():
            raise RuntimeError("these downloads are closed")
        if error := self._failed.get(number):
            raise InputError(error)
        path, shard = self.dataset.tar_path(number), self._shards[number]
        if (descriptor := self._store.open(path, shard.bytes)) is not None:
            return descriptor
        self._check_room([number])
        wanted = [self.dataset.tar_path(n) for n in self._wanted]
        return self._store.fill(path, shard.bytes, wanted, lambda partial: self._download(number, partial))

    def _download(self, number: int, path: Path) -> None:
        shard = self._shards[number]
        try:
            self._fetch(shard.name, path, shard.bytes, shard.sha256)
        except StoppedError:
            raise RuntimeError("these downloads were closed") from None
        except InputError as error:
            self._failed[number] = str(error)  # while the claim is held: others who wait for this tar are to see it
            raise

    def _work(self) -> None:
        """What each thread does until `close`: downloads the most urgent tar that no other of them is at."""
        while (number := self._next()) is not None:
            with suppress(Exception):  # kept in _failed, or met again by `open`
                self._ahead(number)

    def _next(self) -> int | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed.is_set())
            if self._closed.is_set():
                return None
            number = self._queue.popleft()
            self._under_way.add(number)
            return number

    def _ahead(self, number: int) -> None:
        """Downloads a tar; puts it off if another process is at it, for there may be others that nobody is at."""
        try:
            descriptor = self._tried(number)
        finally:
            self._under_way.discard(number)
        if descriptor is not None:
            os.close(descriptor)
            return
        with self._changed:
            if number in self._wanted:
                self._queue.append(number)
        self._closed.wait(_POLL)

    def _touched(self, number: int) -> bool:
        """Whether the tar is there, which then counts as used now: other processes are to take older ones first."""
        try:
            os.utime(self.dataset.tar_path(number))
        except FileNotFoundError:
            return False
        return True

    def _check_room(self, numbers: Sequence[int]) -> None:
        needed, limit = sum(self._shards[number].bytes for number in numbers), self._store.limit
        if needed > limit:
            raise InputError(
                f"{len(numbers)} shards of {self._origin.url} are needed at a time, {needed:,} bytes, but "
                f"{self._store.folder} may hold {limit:,}. Set --cache-limit {-(-needed >> 20)}, or lower "
                "--shuffle-window."
            )
