"""Folder trees and zips as one listing of image files: where each lies, never what is in it.

A zip is read in place and counts as a folder of its own name: `OverlayedImages1.zip` with the member `15/a.jpg` is the
path `OverlayedImages1/15/a.jpg`.
"""

import os
import re
from collections.abc import Iterator, Sequence
from itertools import compress, groupby, islice
from pathlib import Path
from typing import NamedTuple, Self

from shards.errors import InputError
from shards.schema import WORK
from shards.sources.zips import Member, Zips, is_zip, members

__all__ = ["IMAGES", "Entry", "Files", "Matcher", "is_image", "list_files", "read"]

IMAGES = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png"}
"""the format that a file name promises"""
_ENDINGS = tuple(IMAGES)
_TOGETHER = 4096
"""members of a zip that are told at once, at most: of a folder all names are in memory anyway, to be sorted"""
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)
"""Windows takes a file for text otherwise"""
_AT_ONCE = 1 << 16
"""bytes: most images in one piece"""


class Entry(NamedTuple):
    """One file, or one member of a zip. `path` is what a person is told; the rest is for `read`."""

    folder: str
    name: str
    zip: str = ""
    header: int = 0
    packed: int = 0
    method: int = 0
    crc: int = 0

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.name}"


class Files(NamedTuple):
    """Files side by side in one folder, or members side by side in one folder of a zip and packed by one method.

    inside: that folder as seen in the source, beginning with the source's own name. folder: as a person is told.
    members: one for each name, none where the files are in no zip.
    """

    inside: str
    folder: str
    names: Sequence[str]
    zip: str = ""
    method: int = 0
    members: Sequence[Member] = ()

    def only(self, wanted: Sequence[bool]) -> Self:
        """Those for which `wanted`, one for each name, is true."""
        names, members = list(compress(self.names, wanted)), list(compress(self.members, wanted))
        return self._replace(names=names, members=members)


def is_image(name: str) -> bool:
    """Whether the file's name is that of a JPEG or PNG, and not hidden."""
    return name.lower().endswith(_ENDINGS) and not name.startswith(".")


def list_files(source: Path) -> Iterator[Files]:
    """All files of a folder or zip in the order of their names, those that follow each other in one folder together.

    Raises InputError if there is no such source, or it is neither.
    """
    if source.is_dir():
        yield from _list_folder(source, source.resolve().name)
    elif is_zip(source):
        yield from _list_zip(source, source.stem)
    else:
        raise InputError(f"{source}: no folder and no zip. Name a folder, or the zips one by one.")


def _list_folder(folder: Path, inside: str) -> Iterator[Files]:
    names, apart = [], set()
    with os.scandir(folder) as found:
        for entry in found:
            names.append(entry.name)
            if entry.is_dir() or entry.name.lower().endswith(".zip"):
                apart.add(entry.name)
    names.sort()
    for are_apart, some in groupby(names, apart.__contains__):
        if not are_apart:
            yield Files(inside, str(folder), list(some))
            continue
        for name in some:
            if name != WORK:
                yield from _list_apart(folder / name, inside)


def _list_apart(path: Path, inside: str) -> Iterator[Files]:
    if path.is_dir():
        yield from _list_folder(path, f"{inside}/{path.name}")
    else:
        yield from _list_zip(path, f"{inside}/{path.name[: -len('.zip')]}")


def _list_zip(path: Path, inside: str) -> Iterator[Files]:
    for (folder, method), some in groupby(members(path), _folder_and_method):
        while together := list(islice(some, _TOGETHER)):
            names = [member.path.rpartition("/")[2] for member in together]
            yield Files(f"{inside}{folder}", f"{path}{folder}", names, str(path), method, together)


def _folder_and_method(member: Member) -> tuple[str, int]:
    return f"/{member.path}".rpartition("/")[0], member.method


def read(entry: Entry, zips: Zips) -> bytes:
    """The bytes of a file or member. Raises OSError if they cannot be had, or are not what the zip's directory says."""
    if entry.zip:
        return zips.read(entry.zip, Member(entry.path, entry.header, entry.packed, entry.method, entry.crc))
    return _contents(entry.path)


def _contents(path: str) -> bytes:
    """4.3 us for a small file, where open() takes 7 and a Path's own 14. Only an empty piece says that it has ended."""
    file = os.open(path, _READ)
    try:
        data, more = os.read(file, _AT_ONCE), []
        while piece := os.read(file, _AT_ONCE):
            more.append(piece)
    finally:
        os.close(file)
    return b"".join((data, *more)) if more else data


class Matcher:
    """Tells by a file's path which component it is. A pattern is a glob, with or without the source's own name."""

    def __init__(self, globs: dict[str, str]) -> None:
        from fsspec.utils import glob_translate  # 60 ms, which workers, who match nothing, are spared

        self._pattern = re.compile("|".join(f"(?P<{name}>{glob_translate(glob)})" for name, glob in globs.items()))
        self._folder_decides = all(glob.endswith("/**") for glob in globs.values())

    def components(self, inside: str, names: Sequence[str]) -> Sequence[str | None]:
        """For each of the files `names` in the folder `inside` the first component whose glob matches, or None."""
        if self._folder_decides:
            return [self._component(f"{inside}/{names[0]}")] * len(names) if names else []
        return [self._component(f"{inside}/{name}") for name in names]

    def _component(self, path: str) -> str | None:
        found = self._pattern.match(path) or self._pattern.match(path.partition("/")[2])
        return found.lastgroup if found else None
