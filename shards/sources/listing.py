"""All image files of folder trees and zips: where each lies and what it is called, never what is in it.

A zip is read in place and counts as a folder of its own name: `OverlayedImages1.zip` with the member `15/a.jpg` is the
path `OverlayedImages1/15/a.jpg`. What is found is kept in arrays, for there may be millions of files.
"""

import hashlib
import os
import struct
import zipfile
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.images import LeftOut
from shards.format.schema import WORK
from shards.sources.zips import Entry, list_zip

READ = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"),
    ".npy",
}
"""Endings of the names of files that may be images that can be read; what they are is told by their bytes."""
_AS_NPY, _AS_PNG, _AS_FRAMES = "save each array as .npy (numpy.save)", "convert to PNG", "save its frames as images"
NOT_READ = {
    **dict.fromkeys((".exr", ".pfm", ".hdr"), "not read: save depth as .npy (numpy.save) or as a TIFF of floats"),
    **dict.fromkeys((".npz", ".mat", ".h5", ".hdf5"), f"several arrays in one file: {_AS_NPY}"),
    **dict.fromkeys((".pkl", ".pt", ".pth"), f"not read, because reading it may run code: {_AS_NPY}"),
    **dict.fromkeys((".bin", ".raw"), f"raw bytes do not tell their shape: {_AS_NPY}"),
    **dict.fromkeys((".heic", ".heif", ".avif", ".jxl", ".jp2"), f"not read: {_AS_PNG} or JPEG"),
    **dict.fromkeys((".dng", ".cr2", ".nef", ".arw"), f"a raw photo: {_AS_PNG} or JPEG"),
    **dict.fromkeys((".svg", ".psd", ".tga", ".dds"), f"not read: {_AS_PNG}"),
    **dict.fromkeys((".mp4", ".avi", ".mov", ".mkv"), f"a video: {_AS_FRAMES}"),
}
"""Endings of the names of files that hold images, as a rule, but are not read; with the reason and what to do."""

FILE = np.dtype([("state", "<u8"), ("packed", "<u4"), ("crc", "<u4"), ("end", "<u4")])
"""A file: `header`, `packed` and `crc` of its Entry; where its name ends among those of its group."""
_HIDDEN = {"@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "__MACOSX"}
"""Names of folders that systems keep for themselves, beside those that begin with a dot."""
_RECORD = struct.Struct("<Q3L")
"""The same, file by file."""
_MOST, _ANY = (1 << 32) - 1, (1 << 63) - 1
_TOGETHER = 4096
"""Files that are told at once, at most: of a folder all names are in memory anyway, to be sorted."""

Siblings = tuple[str, list[Entry]]
"""Files side by side in one folder, or in one folder of a zip and packed by one method; before them that folder as seen
in the source, beginning with the source's own name."""


class NoSampleError(InputError):
    """There is nothing to build. left_out: what there was instead."""

    def __init__(self, message: str, left_out: list[LeftOut]) -> None:
        super().__init__(message)
        self.left_out = left_out


def is_image(name: str) -> bool:
    """Tell whether the file's name is that of an image that can be read, and not hidden."""
    return name[name.rfind(".") :].lower() in READ and not name.startswith(".")


def list_files(source: Path) -> Iterator[Siblings]:
    """List all files of a folder or zip in the order of their names, neighbours in one folder together.

    Of a file in a folder, `header` is its modification time in ns and `packed` its size; both 0 where it has none.
    Raises InputError if there is no such source, or it is neither.
    """
    if source.is_dir():
        yield from _in_folder(source, source.resolve().name)
    elif source.is_file() and (source.suffix.lower() == ".zip" or zipfile.is_zipfile(source)):
        yield from _in_zip(source, source.stem)
    else:
        raise InputError(f"{source}: no folder and no zip. Name a folder, or the zips one by one.")


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _HIDDEN


def _in_folder(folder: Path, inside: str, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Siblings]:
    """List a folder, for which hidden folders, and links to folders `above` it, are files that are no images."""
    with os.scandir(folder) as found:
        entries = {one.name: one for one in found if one.name != WORK}
    above |= {_identity(folder)}

    def kind(name: str) -> str:
        if _is_hidden(name):
            return "file"
        with suppress(OSError):  # a link to itself is no folder
            if entries[name].is_dir():
                return "file" if entries[name].is_symlink() and _identity(folder / name) in above else "folder"
        return "zip" if name.lower().endswith(".zip") else "file"

    for of, names in groupby(sorted(entries), kind):
        if of == "file":
            while together := [_file(str(folder), entries[name]) for name in islice(names, _TOGETHER)]:
                yield inside, together
            continue
        for name in names:
            if of == "zip":
                yield from _in_zip(folder / name, f"{inside}/{name[: -len('.zip')]}")
            else:
                yield from _in_folder(folder / name, f"{inside}/{name}", above)


def _identity(folder: Path) -> tuple[int, int]:
    state = folder.stat()
    return state.st_dev, state.st_ino


def _file(folder: str, found: os.DirEntry[str]) -> Entry:
    try:
        state = found.stat()
    except OSError:  # a link that leads nowhere; reading it says so
        return Entry(folder, found.name)
    return Entry(folder, found.name, header=state.st_mtime_ns, packed=state.st_size)


def _in_zip(path: Path, inside: str) -> Iterator[Siblings]:
    for (folder, _), some in groupby(list_zip(path), attrgetter("folder", "method")):
        while together := list(islice(some, _TOGETHER)):
            yield inside + folder.removeprefix(str(path)), together


class Group(NamedTuple):
    """What files side by side have in common: their folder as seen in the source, and fields of their Entries."""

    inside: str
    folder: str
    zip: str
    method: int


class Files:
    """Image files, numbered from 0, group by group."""

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self._first, self._begin = [0], [0]  # of each group, and after the last: number of its first file, its names
        self._names, self._table = bytearray(), bytearray()  # names in UTF-8, each with a / after it

    def __len__(self) -> int:
        return self._first[-1]

    def add(self, group: Group, entries: Sequence[Entry]) -> None:
        """Add files of a group, to which others of that group may be added next."""
        if self.groups[-1:] != [group]:
            self.groups.append(group)
            self._first.append(self._first[-1])
            self._begin.append(self._begin[-1])
        names = [entry.name.encode("utf-8", "surrogatepass") for entry in entries]
        self._names += b"/".join(names) + b"/"
        rows = np.empty(len(entries), FILE)
        rows["state"] = [entry.header & _ANY for entry in entries]  # a time before 1970 is less than 0
        rows["packed"] = [min(entry.packed, _MOST) for entry in entries]
        rows["crc"] = [entry.crc for entry in entries]
        rows["end"] = self._begin[-1] - self._begin[-2] + np.cumsum([len(name) + 1 for name in names])
        self._table += rows.tobytes()
        self._first[-1] += len(entries)
        self._begin[-1] = len(self._names)

    @property
    def table(self) -> NDArray[Any]:
        """A record of each file, FILE (N,)."""
        return np.frombuffer(self._table, FILE)

    def names(self, group: int) -> list[str]:
        """Return the names of the files of a group, in the order of their numbers, which begin at `first`."""
        return self._text(*self._begin[group : group + 2]).split("/")[:-1]

    def numbers(self, group: int) -> range:
        return range(*self._first[group : group + 2])

    def group_of(self, number: int) -> int:
        return bisect_right(self._first, number) - 1

    def entry(self, number: int) -> Entry:
        group = self.group_of(number)
        of, begin = self.groups[group], self._begin[group]
        previous = (
            _RECORD.unpack_from(self._table, (number - 1) * FILE.itemsize)[3] if number > self._first[group] else 0
        )
        state, packed, crc, end = _RECORD.unpack_from(self._table, number * FILE.itemsize)
        return Entry(of.folder, self._text(begin + previous, begin + end - 1), of.zip, of.method, state, packed, crc)

    def inside(self, number: int) -> str:
        """Return the file's path as seen in its source, which it begins with."""
        return f"{self.groups[self.group_of(number)].inside}/{self.entry(number).name}"

    def path(self, number: int) -> str:
        return self.entry(number).path

    def part(self, numbers: NDArray[np.int64]) -> "Files":
        """Return some of the files, whose numbers (N,) ascend, alone: they are numbered anew."""
        part, table = type(self)(), self.table[numbers]
        groups = np.searchsorted(self._first, numbers, side="right") - 1
        offset, first = np.array(self._begin)[groups], np.array(self._first)[groups] == numbers
        begins = (offset + np.where(first, 0, self.table["end"][numbers - 1])).tolist()
        ends = (offset + table["end"]).tolist()
        names = [self._names[begin:end] for begin, end in zip(begins, ends, strict=True)]
        begin = 0
        for group, count in zip(*np.unique(groups, return_counts=True), strict=True):
            lengths = np.cumsum([len(name) for name in names[begin : begin + count]])
            table["end"][begin : begin + count] = lengths
            begin += int(count)
            part.groups.append(self.groups[group])
            part._first.append(begin)
            part._begin.append(part._begin[-1] + int(lengths[-1]))
        part._names, part._table = bytearray().join(names), bytearray(table.tobytes())
        return part

    def gathered(self) -> "Files":
        """Return the files with those of each group together: in a zip, a folder's need not follow each other."""
        if len(set(self.groups)) == len(self.groups):
            return self
        order = defaultdict[Group, list[int]](list)
        for number, group in enumerate(self.groups):
            order[group].append(number)
        gathered = type(self)()
        for group, some in order.items():
            for number in some:
                gathered.add(group, [self.entry(one) for one in self.numbers(number)])
        return gathered

    def _text(self, begin: int, end: int) -> str:
        return self._names[begin:end].decode("utf-8", "surrogatepass")


def list_images(sources: Iterable[Path], left_out: list[LeftOut]) -> Files:
    """List all files that are images by their names; the others join `left_out`."""
    files = Files()
    for source in sources:
        for inside, entries in list_files(source):
            hidden = any(map(_is_hidden, inside.split("/")[1:]))
            images = [entry for entry in entries if is_image(entry.name) and not hidden]
            if len(images) < len(entries):
                left_out += [_litter(entry, hidden) for entry in entries if hidden or not is_image(entry.name)]
            if images:
                files.add(Group(inside, images[0].folder, images[0].zip, images[0].method), images)
    return files.gathered()


def _litter(entry: Entry, hidden: bool) -> LeftOut:
    why = NOT_READ.get(entry.name[entry.name.rfind(".") :].lower(), "no image by its name")
    if hidden or _is_hidden(entry.name):
        why = "hidden, or in a hidden folder"
    elif not entry.zip and Path(entry.path).is_dir():
        why = "a link to a folder that it lies in"
    return LeftOut("litter", "", "", entry.path, why)


@dataclass(frozen=True)
class Samples:
    """Which images some samples have.

    keys: bytes (N,). found: numbers of the files, uint32 (N, components), in the components' order.
    """

    keys: NDArray[np.bytes_]
    found: NDArray[np.uint32]
    files: Files

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, some: slice) -> Self:
        return replace(self, keys=self.keys[some], found=self.found[some])

    def __iter__(self) -> Iterator[tuple[str, list[Entry]]]:
        """Yield each sample's key, and its images in the order of the components."""
        for key, numbers in zip(self.keys.tolist(), self.found.tolist(), strict=True):
            yield key.decode(), [self.files.entry(number) for number in numbers]

    def __getstate__(self) -> dict[str, Any]:
        """In another process a part takes no more room than it needs."""
        numbers, found = np.unique(self.found, return_inverse=True)
        files = self.files.part(numbers.astype(np.int64))
        return {"keys": self.keys, "found": found.astype(np.uint32).reshape(self.found.shape), "files": files}

    def digest(self) -> bytes:
        """Digest the keys, and the state of every image: CRC and size in a zip, else time of modification and size."""
        table = self.files.table[self.found][["state", "packed", "crc"]]
        table["state"][table["crc"] > 0] = 0  # in a zip it is where the image lies, which is no part of its state
        return hashlib.sha256(b"\0".join(self.keys.tolist()) + table.tobytes()).digest()
