"""A folder, on a disk or at a URL. Nothing is half written: files appear under their name only when they are whole."""

import asyncio
import glob
import hashlib
import logging
import os
import random
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from threading import Event
from typing import Any

from shards.errors import DISK_FULL, MASK, InputError, masked

log = logging.getLogger(__name__)

PARTIAL = ".partial-"
"""what a temporary name begins with; a file of that name is what a killed run left"""

TRIES = 6
FIRST_PAUSE = 1.0
"""seconds before the second try, give or take a half; each later pause is twice as long, 31 s in all"""
STALLED = 60.0
"""seconds without a byte after which a transfer is given up"""
_AT_ONCE = 128
"""parts of files that are asked of a server at a time"""

LARGEST = 1 << 29
"""bytes of an image file at most: the pixels of the largest RGB image that Pillow decodes"""
LFS_POINTER = b"version https://git-lfs"
"""how the text begins that Git LFS puts in a file's place, until it is told `git lfs pull`"""
_PIECE = 1 << 16
"""bytes: most images in one piece"""

FileRange = tuple[str, int, int | None]
"""name of a file, offset and size in bytes; without a size it is all that follows"""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it is flushed and takes the name `path`, else it goes.

    The temporary name keeps the extension, because Pillow chooses the format by it. Raises InputError if there is
    something else than a file, which a file would take the place of.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"{path}: no file but a link, a folder, a pipe or a device. Name a file to write.")
    temporary = path.with_name(f"{PARTIAL}{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with naming(path):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have the error of a full disk name the file that is written inside: a write does not know where it goes."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            error.filename = error.filename or str(path)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def read_file(path: str | Path) -> bytes:
    """Read an image file. Raises OSError, too, where it has more than LARGEST bytes or is none: a pipe has no end."""
    # In three quarters of the time of open, and much of converting is reading. Only an empty piece says that it ended.
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # or opening a pipe would wait for who writes
    except FileNotFoundError:
        if Path(path).is_symlink():
            raise OSError(f"{path}: a link to {Path(path).readlink()}, which is not there") from None
        raise
    try:
        state = os.fstat(file)
        if not stat.S_ISREG(state.st_mode):
            raise OSError(f"{path}: no file but a folder, a pipe or a device")
        if state.st_size > LARGEST:
            raise OSError(f"{path}: {state.st_size:,} bytes, more than any image has")
        pieces = [os.read(file, _PIECE)]
        while piece := os.read(file, _PIECE):
            pieces.append(piece)
    finally:
        os.close(file)
    return b"".join(pieces)


def is_url(where: str | Path) -> bool:
    """Whether `where` is a URL. A URL must not become a Path, which makes one slash of two."""
    return "://" in str(where)


def refuse_url(path: Path) -> None:
    """Raise InputError if what is to be written here was a URL: there would be a folder of the name `https:`."""
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path), re.IGNORECASE):
        raise InputError(f"{path}: a URL, where only a folder or file on this machine will do. Name one.")


@dataclass(frozen=True)
class LocalFolder:
    """A folder on a disk, be it one that other machines mount too.

    As in a RemoteFolder, names are paths inside the folder, and all methods raise InputError or OSError where it cannot
    be reached or a file is not there. Both are small enough to be sent to another process or machine.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def resolved(self) -> str:
        """The one name of this folder, whichever way it is spelled."""
        return str(self.path.resolve())

    def exists(self, name: str) -> bool:
        return (self.path / name).exists()

    def names(self, inside: str = "") -> set[str]:
        """Return the names of the files right in the folder `inside`; none if there is no such folder."""
        folder = self.path / inside
        return {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def ranges(self, places: Sequence[FileRange]) -> Iterator[bytes]:
        """Yield parts of files in the order of `places`; a file is opened once for all that follow each other in it."""
        for name, parts in groupby(places, key=lambda place: place[0]):
            with (self.path / name).open("rb") as file:
                for _, offset, size in parts:
                    file.seek(offset)
                    yield file.read(size)

    def sha256(self, name: str) -> str:
        """Return the digest of a file, in hexadecimal. On a disk no more than a piece of it is in memory."""
        with (self.path / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def holds(self, name: str, size: int | None, sha256: str) -> bool:
        """Tell whether a file is there and, as far as that costs no download, of this size, if given, and digest."""
        path = self.path / name
        return path.is_file() and size in (None, path.stat().st_size) and self.sha256(name) == sha256

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.path / name, data)

    @contextmanager
    def filling(self) -> Iterator[Path]:
        """Yield the folder itself: whoever fills it writes whole files."""
        self.path.mkdir(parents=True, exist_ok=True)
        yield self.path

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it, if it is there."""
        if (path := self.path / name).is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def sweep(self, stems: Container[str] | None) -> None:
        """Remove what killed runs left half written: of files with these stems, or of all."""
        for path in self.path.rglob(f"{PARTIAL}*"):
            stem, *_ = path.name.removeprefix(PARTIAL).rsplit(".", 2)
            if stems is None or stem in stems:
                path.unlink(missing_ok=True)


class StoppedError(Exception):
    """Whoever asked for a download no longer wants it."""


class _WrongError(Exception):
    """A file came, and is not what it should be."""


@dataclass(frozen=True)
class RemoteFolder:
    """A folder at a URL of any protocol that fsspec knows, with the credentials that fsspec is configured with.

    For any number of threads. The methods of both kinds of folder are explained at LocalFolder. Its name is masked, and
    so are its errors, which for that reason do not tell their causes. The query of a URL, which may be a signature,
    goes behind every file's name. Raises InputError if `url` is masked itself.
    """

    url: str

    def __post_init__(self) -> None:
        if MASK in self.url:
            raise InputError(
                f"{self.url}: {MASK} stands for a password or token, which is never written down. Give the whole URL "
                "again; train.py and evaluate.py take it as --data, also beside --resume."
            )

    def __str__(self) -> str:
        return masked(self.resolved)

    @property
    def resolved(self) -> str:
        return self.url_of("")

    def url_of(self, name: str) -> str:
        """Return the URL of a file, or of the folder itself."""
        folder, query = self.url, ""
        if folder.startswith(("http://", "https://")):  # elsewhere a name may have a question mark
            folder, mark, query = folder.partition("?")
            query = mark + query
        return f"{folder.rstrip('/')}/{name}".rstrip("/") + query

    def exists(self, name: str) -> bool:
        with self._asked(name) as (files, path):
            return bool(files.exists(path))

    def names(self, inside: str = "") -> set[str]:
        with self._asked(inside) as (files, path), suppress(FileNotFoundError):
            return {one["name"].rpartition("/")[2] for one in files.ls(path, detail=True) if one["type"] == "file"}
        return set()

    def read(self, name: str) -> bytes:
        with self._asked(name) as (files, path):
            return bytes(files.cat_file(path))

    def ranges(self, places: Sequence[FileRange]) -> Iterator[bytes]:
        found = self._parts(places) if self._sends_parts(places) else self._cut(places)
        for (name, _, size), data in zip(places, found, strict=True):
            if size is not None and len(data) != size:
                raise InputError(
                    f"{masked(self.url_of(name))}: {len(data):,} bytes came where {size:,} were asked for. If it is as "
                    "long as it was made, use a server that sends parts of files; else copy it there again."
                )
            yield data

    def _sends_parts(self, places: Sequence[FileRange]) -> bool:
        """Tell whether the server does not send the whole file where a part of it is asked for."""
        name, begin, size = next((place for place in places if place[2]), ("", 0, None))
        if size is None:
            return True
        with self._asked(name) as (files, path):
            return len(files.cat_file(path, start=begin, end=begin + size)) <= size

    def _parts(self, places: Sequence[FileRange]) -> Iterator[bytes]:
        """Ask for many parts at a time."""
        for some in (places[first : first + _AT_ONCE] for first in range(0, len(places), _AT_ONCE)):
            with self._asked() as (files, _):
                paths, begins = [self._located(name)[1] for name, _, _ in some], [begin for _, begin, _ in some]
                ends = [size if size is None else begin + size for _, begin, size in some]
                found: list[bytes] = files.cat_ranges(paths, begins, ends, on_error="raise")
            yield from found

    def _cut(self, places: Sequence[FileRange]) -> Iterator[bytes]:
        """Cut the parts from whole files, one after the other."""
        log.warning("%s: this server sends whole files where parts are asked for, which takes longer", self)
        for name, parts in groupby(places, key=lambda place: place[0]):
            whole = self.read(name)
            yield from (whole[begin:][:size] for _, begin, size in parts)

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.read(name)).hexdigest()

    def holds(self, name: str, size: int | None, sha256: str) -> bool:
        with self._asked(name) as (files, path), suppress(FileNotFoundError):
            found = files.info(path)
            return size in (None, found["size"])
        return False

    def write(self, name: str, data: bytes) -> None:
        with self._asked(name) as (files, path):
            files.pipe_file(path, data)

    @contextmanager
    def filling(self) -> Iterator[Path]:
        """Yield a temporary folder, whose files are then uploaded, the manifest last."""
        with tempfile.TemporaryDirectory(prefix="sluice-") as temporary:
            yield Path(temporary)
            found = sorted(path for path in Path(temporary).rglob("*") if path.is_file())
            for local in sorted(found, key=lambda path: path.name == "manifest.json"):
                with self._asked(local.relative_to(temporary).as_posix()) as (files, path):
                    files.put_file(str(local), path)

    def remove(self, name: str) -> None:
        with self._asked(name) as (files, path):
            if files.exists(path):
                files.rm(glob.escape(path), recursive=True)

    def sweep(self, stems: Container[str] | None) -> None:
        """Do nothing: a file at a URL is never half written."""

    def download(
        self, name: str, path: Path, *, size: int | None = None, sha256: str = "", stopped: Event | None = None
    ) -> None:
        """Write the file `name` to `path`, whole, of `size` bytes and with the digest `sha256` where these are given.

        Tries again what may be gone at the next try. Raises InputError if there is no such file or no permission, if
        the disk is full, or if TRIES tries have failed; StoppedError soon after `stopped` is set. What is at `path`
        then is of no use.
        """
        url, stopped = masked(self.url_of(name)), stopped or Event()
        for attempt in range(1, TRIES + 1):
            try:
                files, source = self._located(name)
                if files.async_impl:
                    watched = _watched(files, source, path, size, stopped)
                    asyncio.run_coroutine_threadsafe(watched, files.loop).result()
                else:
                    files.get_file(source, str(path))
                _check(path, size, sha256)
                return
            except StoppedError:
                raise
            except Exception as error:
                if lasting := _lasting(error, url, path):
                    raise InputError(lasting) from None
                if attempt == TRIES:
                    advice = "Check the connection and start again; what has been downloaded is kept."
                    if isinstance(error, _WrongError):
                        advice = "If it has changed there, start again; else copy it there again."
                    raise InputError(f"{url}: {_told(error)}, the last of {TRIES} tries. {advice}") from None
                # With chance in it: ranks that failed together should not come back together.
                pause = FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
                log.warning("%s: %s; try %d of %d in %.1f s", url, _told(error), attempt + 1, TRIES, pause)
            if stopped.wait(pause):
                raise StoppedError

    @contextmanager
    def _asked(self, name: str = "") -> Iterator[tuple[Any, str]]:
        """Yield what `_located` returns, and turn all that fails meanwhile into InputError."""
        try:
            yield self._located(name)
        except Exception as error:  # of as many kinds as there are protocols
            url = masked(self.url_of(name))
            told = _lasting(error, url) or f"{url}: {_told(error)}. Check the URL, credentials and connection."
            raise InputError(told) from None

    def _located(self, name: str) -> tuple[Any, str]:
        """Return fsspec's file system, which all threads share, and the path of `name` in it."""
        import fsspec  # slowly; those who stay on the disk do without

        options: dict[str, Any] = {}
        if self.url.startswith(("http://", "https://")):
            import aiohttp

            # Without its own limit of 300 s for a whole file: a large tar on a slow line needs longer.
            options["timeout"] = aiohttp.ClientTimeout(sock_connect=30, sock_read=300)
        files, path = fsspec.url_to_fs(self.url_of(name), **options)
        if "://" not in path and masked(bare := f"x://{path}") != bare:  # taken for a part of the name
            raise ValueError("such URLs hold no password; set credentials as the service's own tools read them")
        files.invalidate_cache()  # listings, which other machines change
        return files, path


Folder = LocalFolder | RemoteFolder


def folder_at(where: str | Path) -> Folder:
    """Return the folder at a path or URL."""
    where = str(where).removeprefix("file://")
    return RemoteFolder(where) if is_url(where) else LocalFolder(Path(where))


async def _watched(files: Any, source: str, path: Path, size: int | None, stopped: Event) -> None:
    """Download on fsspec's event loop, which only this can end early. Timeouts are each protocol's own, or absent."""
    transfer = asyncio.ensure_future(files._get_file(source, str(path)))
    written, since = _written(path), time.monotonic()
    try:
        while not transfer.done():
            await asyncio.wait([transfer], timeout=0.1)
            if written != (written := _written(path)):
                since = time.monotonic()
            if stopped.is_set():
                raise StoppedError
            if time.monotonic() - since > STALLED:
                raise ConnectionError(f"no byte came for {STALLED:g} s")
            if size is not None and written[0] > size:
                raise _WrongError(f"more than the {size:,} bytes that the manifest says")
    finally:
        transfer.cancel()
        await asyncio.wait([transfer])  # it has the file open until then
    transfer.result()


def _written(path: Path) -> tuple[int, int]:
    """Return size and time of the last write, which is what moves where a file has its full size from the beginning."""
    with suppress(FileNotFoundError):
        stat = path.stat()
        return stat.st_size, stat.st_mtime_ns
    return 0, 0


def _check(path: Path, size: int | None, sha256: str) -> None:
    found = path.stat().st_size
    if size is not None and found != size:
        raise _WrongError(f"{found:,} bytes came where the manifest says {size:,}")
    if sha256 and LocalFolder(path.parent).sha256(path.name) != sha256:
        raise _WrongError("its digest is not the one in the manifest (sha256)")


def _lasting(error: Exception, url: str, path: Path | None = None) -> str | None:
    """Return what to tell of an error, of a download to `path` if given, that no other try can mend; None of others."""
    status = _status(error)
    if isinstance(error, ImportError):
        return f"{url}: a package is missing: {error}."
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        where = path.parent if path else error.filename or tempfile.gettempdir()
        return (
            f"{where}: the disk is full, or a limit on it is reached ({error.strerror}). Free some of it, lower "
            "--cache-limit, or use another disk: --cache-dir or TMPDIR."
        )
    if isinstance(error, FileNotFoundError):
        return f"{url}: not found. Check the URL, and that all of the data set is there."
    if isinstance(error, PermissionError) or status in (401, 403) or "Credentials" in type(error).__name__:
        return (
            f"{url}: no permission ({_told(error)}). Set credentials as the service's own tools read them, or in "
            "~/.config/fsspec. Some services answer so too where there is no such file."
        )
    refused = status is not None and 400 <= status < 500 and status not in (408, 425, 429)  # these may pass
    if refused or isinstance(error, ValueError) or "Validation" in type(error).__name__:  # botocore, of a bucket's name
        return f"{url}: {_told(error)}. Check the URL."
    return None


def _status(error: Exception) -> int | None:
    """Return the HTTP status code that an error of aiohttp or gcsfs is about."""
    status = error.status if hasattr(error, "status") else getattr(error, "code", None)  # aiohttp's has both
    return status if isinstance(status, int) else None


def _told(error: Exception) -> str:
    if status := _status(error):
        return f"the server answered {status}"
    return masked(" ".join(str(error).split())) or type(error).__name__
