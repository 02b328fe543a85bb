"""Whole files from wherever a remote data set lies: tried again with patience, and right when they are there."""

import asyncio
import errno
import hashlib
import logging
import random
import threading
import time
from pathlib import Path
from typing import Any

import fsspec
from fsspec.asyn import sync

from shards.errors import InputError

log = logging.getLogger(__name__)

TRIES = 6
FIRST_PAUSE = 1.0
"""seconds before the second try, give or take a half; each later pause is twice as long, 31 s in all"""
STALLED = 60.0
"""seconds without a byte after which a transfer is given up"""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PASSING = {408, 425, 429}
"""HTTP status codes 4xx that may be gone at the next try"""


class StoppedError(Exception):
    """Whoever asked for the file no longer wants it."""


class _WrongError(Exception):
    """The file came, and is not what the manifest says."""


class Origin:
    """The files below a url of any protocol that fsspec knows, with the credentials that fsspec is configured with.

    An instance may be used by many threads, but not by a forked process.
    """

    def __init__(self, url: str) -> None:
        """Raises InputError if the protocol is unknown, or if the package for it is not installed."""
        self.url = url.rstrip("/")
        try:
            # An instance of its own: those that fsspec keeps may have listed files as they once were.
            self._files, self._root = fsspec.url_to_fs(self.url, skip_instance_cache=True)
        except ImportError as error:
            raise InputError(f"{self.url}: a package is missing: {error}.") from error
        except ValueError as error:
            raise InputError(f"{self.url}: {error}.") from error
        if "https" in self._files.protocol:
            _without_deadline(self._files)

    def fetch(
        self, name: str, path: Path, *, size: int | None = None, sha256: str | None = None, stopped: threading.Event
    ) -> None:
        """Writes the file `name` to `path`, whole, of `size` bytes and with the digest `sha256` where these are given.

        Raises InputError if there is no such file or no permission, if the disk is full, or if TRIES tries have failed;
        StoppedError soon after `stopped` is set. What is at `path` then is of no use.
        """
        url = f"{self.url}/{name}"
        for attempt in range(1, TRIES + 1):
            try:
                self._transfer(name, path, size, stopped)
                _check(path, size, sha256)
                return
            except StoppedError:
                raise
            except Exception as error:
                _raise_if_lasting(error, url, path)
                if attempt == TRIES:
                    raise InputError(f"{url}: {_told(error)}, the last of {TRIES} tries. {_advice(error)}") from error
                # With chance in it: ranks that failed together should not come back together.
                pause = FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
                log.warning("%s: %s; try %d of %d in %.1f s", url, _told(error), attempt + 1, TRIES, pause)
            if stopped.wait(pause):
                raise StoppedError

    def _transfer(self, name: str, path: Path, size: int | None, stopped: threading.Event) -> None:
        source = f"{self._root.rstrip('/')}/{name}"
        if self._files.async_impl:
            sync(self._files.loop, _watched, self._files, source, path, size, stopped)
        else:
            self._files.get_file(source, str(path))


async def _watched(files: Any, source: str, path: Path, size: int | None, stopped: threading.Event) -> None:
    """Downloads on fsspec's event loop, which only this can end early. Timeouts are each protocol's own, or absent."""
    transfer = asyncio.ensure_future(files._get_file(source, str(path)))
    written, since = _written(path), time.monotonic()
    why: Exception | None = None
    while not transfer.done():
        await asyncio.wait([transfer], timeout=0.1)
        if written != (written := _written(path)):
            since = time.monotonic()
        if stopped.is_set():
            why = StoppedError()
        elif time.monotonic() - since > STALLED:
            why = ConnectionError(f"no byte came for {STALLED:g} s")
        elif size is not None and written[0] > size:
            why = _WrongError(f"more than the {size:,} bytes that the manifest says")
        if why:
            transfer.cancel()
            await asyncio.wait([transfer])  # it has the file open until then
            raise why
    transfer.result()


def _written(path: Path) -> tuple[int, int]:
    """Size and time of the last write, which is what moves where the file has its full size from the beginning."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _check(path: Path, size: int | None, sha256: str | None) -> None:
    found = path.stat().st_size
    if size is not None and found != size:
        raise _WrongError(f"{found:,} bytes came where the manifest says {size:,}")
    with path.open("rb") as file:
        if sha256 is not None and hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise _WrongError("what came has not the sha256 of the manifest")


def _without_deadline(files: Any) -> None:
    """Lifts aiohttp's limit of 300 s for a whole file, which a large tar on a slow line needs more than."""
    import aiohttp

    files.client_kwargs = {"timeout": aiohttp.ClientTimeout(total=None), **files.client_kwargs}


def _raise_if_lasting(error: Exception, url: str, path: Path) -> None:
    """Raises InputError where another try would end the same way."""
    status = _status(error)
    refused = status is not None and 400 <= status < 500 and status not in _PASSING
    if isinstance(error, OSError) and error.errno in _FULL:
        raise InputError(
            f"{path.parent}: the disk is full, or a limit on it is reached ({error.strerror}). Free some of it, "
            "download to another disk, or lower --cache-limit."
        ) from error
    if isinstance(error, FileNotFoundError):
        raise InputError(f"{url}: not found. Is the whole folder of a data set there?") from error
    if isinstance(error, PermissionError) or status in (401, 403) or "Credentials" in type(error).__name__:
        raise InputError(
            f"{url}: no permission ({_told(error)}). Set credentials as the service's own tools read them, or in "
            "~/.config/fsspec. Some services answer so too where there is no such file."
        ) from error
    if refused or isinstance(error, ValueError) or "Validation" in type(error).__name__:  # botocore, of a bucket's name
        raise InputError(f"{url}: {_told(error)}. Check the url.") from error


def _status(error: Exception) -> int | None:
    """The HTTP status code that an error of aiohttp or gcsfs is about."""
    status = error.status if hasattr(error, "status") else getattr(error, "code", None)
    return status if isinstance(status, int) else None


def _told(error: Exception) -> str:
    if status := _status(error):
        return f"the server answered {status}"
    return " ".join(str(error).split()) or type(error).__name__


def _advice(error: Exception) -> str:
    if isinstance(error, _WrongError):
        return "If it has changed there, start again; else copy it there again."
    return "Check the connection and start again; what has been downloaded is kept."
