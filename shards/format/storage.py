"""Nothing is half written: files appear under their name only when they are whole and on the disk."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Container, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, TypeVar

from shards.errors import InputError

PARTIAL = ".partial-"
"""what a temporary name begins with; a file of that name is what a killed run left"""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; on success it is flushed and takes the name `path`, else it goes.

    The temporary name keeps the extension, because Pillow chooses the format by it.
    """
    temporary = path.with_name(f"{PARTIAL}{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


T = TypeVar("T")

Piece = tuple[str, int, int]
"""name of a file, offset and size in bytes"""

AT_ONCE = 128
"""files, or parts of them, that are asked of a server at a time"""


class Folder(Hashable, Protocol):
    """Names are paths inside the folder. Small enough to be sent to another process or machine.

    All raise InputError or OSError where the folder cannot be reached or a file is not there.
    """

    @property
    def name(self) -> str:
        """The folder's own, without what it lies in."""

    def exists(self, name: str) -> bool: ...

    def names(self, inside: str = "") -> set[str]:
        """The names of the files right in the folder `inside`; none if there is no such folder."""

    def read(self, name: str) -> bytes: ...

    def each(self, names: Sequence[str]) -> Iterator[bytes]:
        """Whole files, in the order in which they are asked for."""

    def pieces(self, places: Sequence[Piece]) -> Iterator[bytes]:
        """Parts of files, in the order in which they are asked for."""

    def sha256(self, name: str) -> str | None:
        """The digest of a file, in hexadecimal; None if it is not there."""

    def write(self, name: str, data: bytes) -> None:
        """Whole or not at all."""

    def filling(self) -> AbstractContextManager[Path]:
        """A folder on this machine's disk; what is in it when the context ends is in this one then, manifest last."""

    def remove(self, inside: str) -> None:
        """Removes the folder `inside` with all that is in it, if it is there."""

    def sweep(self, stems: Container[str] | None) -> None:
        """Removes what killed runs left half written: of files with these stems, or of all."""


def is_url(where: str | Path) -> bool:
    """Whether `where` is a URL. A URL must not become a Path, which makes one slash of two."""
    return "://" in str(where)


def folder_at(where: str | Path) -> Folder:
    """The folder at a path or URL."""
    if is_url(where) and not str(where).startswith("file://"):
        return RemoteFolder(str(where).rstrip("/"))
    return LocalFolder(Path(str(where).removeprefix("file://")))


@dataclass(frozen=True)
class LocalFolder:
    """A folder on a disk, be it one that other machines mount too."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def exists(self, name: str) -> bool:
        return (self.path / name).exists()

    def names(self, inside: str = "") -> set[str]:
        folder = self.path / inside
        return {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def each(self, names: Sequence[str]) -> Iterator[bytes]:
        return map(self.read, names)

    def pieces(self, places: Sequence[Piece]) -> Iterator[bytes]:
        """A file is opened once for all parts of it that follow each other."""
        for name, parts in groupby(places, key=lambda place: place[0]):
            with (self.path / name).open("rb") as file:
                for _, offset, size in parts:
                    file.seek(offset)
                    yield file.read(size)

    def sha256(self, name: str) -> str | None:
        if not self.exists(name):
            return None
        with (self.path / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def write(self, name: str, data: bytes) -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.path / name, data)

    @contextmanager
    def filling(self) -> Iterator[Path]:
        """The folder itself: whoever fills it writes whole files."""
        self.path.mkdir(parents=True, exist_ok=True)
        yield self.path

    def remove(self, inside: str) -> None:
        shutil.rmtree(self.path / inside, ignore_errors=True)

    def sweep(self, stems: Container[str] | None) -> None:
        for path in self.path.rglob(f"{PARTIAL}*"):
            stem, *_ = path.name.removeprefix(PARTIAL).rsplit(".", 2)
            if stems is None or stem in stems:
                path.unlink(missing_ok=True)


@dataclass(frozen=True)
class RemoteFolder:
    """A folder at a URL, with the credentials that fsspec is configured with. A file appears when it is whole."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    def exists(self, name: str) -> bool:
        with self._asked(name) as (files, path):
            return bool(files.exists(path))

    def names(self, inside: str = "") -> set[str]:
        with self._asked(inside) as (files, path):
            try:
                found = files.ls(path, detail=True)
            except FileNotFoundError:
                return set()
            return {one["name"].rpartition("/")[2] for one in found if one["type"] == "file"}

    def read(self, name: str) -> bytes:
        with self._asked(name) as (files, path):
            data: bytes = files.cat_file(path)
            return data

    def each(self, names: Sequence[str]) -> Iterator[bytes]:
        for some in _together(names):
            with self._asked() as (files, root):
                paths = [f"{root}/{name}" for name in some]
                found: dict[str, bytes] = files.cat(paths)
            yield from (found[path] for path in paths)

    def pieces(self, places: Sequence[Piece]) -> Iterator[bytes]:
        for some in _together(places):
            with self._asked() as (files, root):
                paths, begins = [f"{root}/{name}" for name, _, _ in some], [begin for _, begin, _ in some]
                ends = [begin + size for _, begin, size in some]
                found: list[bytes] = files.cat_ranges(paths, begins, ends, on_error="raise")
            yield from found

    def sha256(self, name: str) -> str | None:
        return hashlib.sha256(self.read(name)).hexdigest() if self.exists(name) else None

    def write(self, name: str, data: bytes) -> None:
        with self._asked(name) as (files, path):
            files.pipe_file(path, data)

    @contextmanager
    def filling(self) -> Iterator[Path]:
        """A temporary folder, whose files are then uploaded."""
        with tempfile.TemporaryDirectory(prefix="sluice-") as temporary:
            yield Path(temporary)
            found = sorted(path for path in Path(temporary).rglob("*") if path.is_file())
            for local in sorted(found, key=lambda path: path.name == "manifest.json"):
                name = local.relative_to(temporary).as_posix()
                with self._asked(name) as (files, path):
                    files.put_file(str(local), path)

    def remove(self, inside: str) -> None:
        with self._asked(inside) as (files, path):
            if files.exists(path):
                files.rm(path, recursive=True)

    def sweep(self, stems: Container[str] | None) -> None:
        """Nothing is ever half written here."""

    @contextmanager
    def _asked(self, name: str = "") -> Iterator[tuple[Any, str]]:
        """The file system and the path of `name` in it; what fails is told with the URL."""
        import fsspec  # 60 ms, which those who stay on the disk are spared

        where = f"{self.url}/{name}".rstrip("/")
        try:
            files, path = fsspec.url_to_fs(where)
            files.invalidate_cache()  # listings, which other machines change
            yield files, path.rstrip("/")
        except FileNotFoundError as error:
            raise InputError(f"{where}: not found ({error}).") from error
        except Exception as error:  # of as many kinds as there are protocols
            told = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{where}: {told}. Check the URL, credentials and connection.") from error


def _together(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[first : first + AT_ONCE] for first in range(0, len(items), AT_ONCE))
