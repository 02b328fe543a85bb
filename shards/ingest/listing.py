"""Folder trees and zips as one listing of image files: where each lies, never what is in it.

A zip is read in place and counts as a folder of its own name: `OverlayedImages1.zip` with the member `15/a.jpg` is the
path `OverlayedImages1/15/a.jpg`.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, groupby, islice
from operator import not_
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from shards.build.shard import LeftOut
from shards.errors import InputError
from shards.format.schema import LONGEST_KEY, WORK
from shards.format.splits import unit_interval
from shards.ingest.zips import Member, Zips, is_zip, members

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


FOUND = np.dtype([("place", "<u4"), ("crc", "<u4"), ("header", "<u8"), ("packed", "<u8")])
"""an image: the number of its place, 0 where there is no image; the rest as in Entry"""
_NOT_IN_KEYS = re.compile(r"[\s.]")


class Place(NamedTuple):
    """What the images of a folder have in common. Their names are the sample's key and `ending`.

    A name of another form, such as one with spaces or of a background of many samples, is an `ending` of its own.
    """

    folder: str = ""
    ending: str = ""
    whole: bool = True
    zip: str = ""
    method: int = 0

    def name(self, key: str) -> str:
        return self.ending if self.whole else key + self.ending


@dataclass(frozen=True)
class Samples:
    """Where the images of some samples are.

    keys: bytes (N,). found: FOUND (N, components), in the order of the components. places: by number, those that occur.
    """

    keys: NDArray[np.bytes_]
    found: NDArray[Any]
    places: Mapping[int, Place]

    def __len__(self) -> int:
        return len(self.keys)

    def part(self, begin: int, end: int) -> Self:
        """The samples from `begin` to `end`; in another process it takes no more room than they do."""
        found = self.found[begin:end]
        places = {int(number): self.places[int(number)] for number in np.unique(found["place"])}
        return type(self)(self.keys[begin:end], found, places)

    def entry(self, sample: int, component: int) -> Entry:
        return _entry(self.keys[sample].decode(), self.found.item(sample, component), self.places)

    def formats(self) -> list[str]:
        """The format that most images of each component have by their names; of two, that of the earlier sample."""
        return [self._format(column) for column in range(self.found.shape[1])]

    def _format(self, column: int) -> str:
        numbers, first, counts = np.unique(self.found["place"][:, column], return_index=True, return_counts=True)
        found: dict[str, tuple[int, int]] = {}
        for number, at, count in zip(numbers.tolist(), first.tolist(), counts.tolist(), strict=True):
            name = IMAGES["." + self.places[number].ending.rpartition(".")[2].lower()]
            total, earliest = found.get(name, (0, 0))
            found[name] = total + count, max(earliest, -at) if total else -at
        return max(found, key=found.__getitem__)

    def __iter__(self) -> Iterator[tuple[str, list[Entry]]]:
        """Each sample's key, and its images in the order of the components."""
        for key, found in zip(self.keys, self.found, strict=True):
            name = key.decode()
            yield name, [_entry(name, one, self.places) for one in found.tolist()]


def _entry(key: str, found: tuple[int, int, int, int], places: Mapping[int, Place] | Sequence[Place]) -> Entry:
    number, crc, header, packed = found
    place = places[number]
    return Entry(place.folder, place.name(key), place.zip, header, packed, place.method, crc)


class Listing:
    """Files found one after the other, then joined, once.

    files: how many there were. left_out: those that are in no sample. counts: images found, by component.
    """

    def __init__(self, sources: Iterable[Path], globs: dict[str, str]) -> None:
        self.left_out: list[LeftOut] = []
        self.files = 0
        self.counts = dict.fromkeys(globs, 0)
        self._columns = {name: column for column, name in enumerate(globs)}
        self._rows: dict[str, int] = {}
        self._found = np.zeros((1024, len(globs)), FOUND)
        self._places = [Place()]
        self._numbers = {Place(): 0}
        self._matcher = Matcher(globs)
        for source in sources:
            for files in list_files(source):
                self._add(files)

    def _add(self, files: Files) -> None:
        self.files += len(files.names)
        components = self._matcher.components(files.inside, files.names)
        for component in dict.fromkeys(components):
            own = files.only([one == component for one in components])
            wanted = [component is not None and is_image(name) for name in own.names]
            for name in compress(own.names, map(not_, wanted)):
                path = f"{files.folder}/{name}"
                self._leave_out("litter", "", component or "", path, "no image of any component by its name")
            if component and any(wanted):
                self._join(component, own.only(wanted))

    def _join(self, component: str, files: Files) -> None:
        """Puts the images of a component into the rows of their keys, of two for one place the first."""
        column = self._columns[component]
        stems = [name.rpartition(".")[0] for name in files.names]
        keys = _NOT_IN_KEYS.sub("_", "/".join(stems)).split("/")  # all in one, for no name has a / in it
        rows = np.array([self._rows.setdefault(key, len(self._rows)) for key in keys])
        if len(self._rows) > len(self._found):
            self._found.resize((len(self._rows) * 9 // 8, len(self._columns)), refcheck=False)  # in place, where it can
        first = np.zeros(len(rows), bool)
        first[np.unique(rows, return_index=True)[1]] = True
        first &= self._found["place"][rows, column] == 0
        self.counts[component] += int(np.count_nonzero(first))
        self._found[rows[first], column] = self._located(files, stems, keys)[first]
        for i in np.flatnonzero(~first).tolist():
            there = self._path(keys[i], int(rows[i]), column)
            path = f"{files.folder}/{files.names[i]}"
            self._leave_out("duplicate", keys[i], component, path, f"{there} has the same name")

    def _located(self, files: Files, stems: list[str], keys: list[str]) -> NDArray[Any]:
        """Where each of the images lies, FOUND (names,)."""
        endings = [
            name[len(stem) :] if stem == key else name for name, stem, key in zip(files.names, stems, keys, strict=True)
        ]
        places = {
            ending: self._number(Place(files.folder, ending, not ending.startswith("."), files.zip, files.method))
            for ending in dict.fromkeys(endings)
        }
        located = np.zeros(len(endings), FOUND)
        located["place"] = [places[ending] for ending in endings]
        if files.members:
            for name in ("crc", "header", "packed"):
                located[name] = [getattr(member, name) for member in files.members]
        return located

    def _number(self, place: Place) -> int:
        number = self._numbers.setdefault(place, len(self._places))
        if number == len(self._places):
            self._places.append(place)
        return number

    def _leave_out(self, kind: str, key: str, component: str, source: str, detail: str) -> None:
        self.left_out.append(LeftOut(kind, key, component, source, detail))

    def samples(self, background: str) -> Samples:
        """The complete samples in the order of a hash of their keys; the others join `left_out`.

        background: regular expression that finds the name of a sample's background in its key, where that has none of
        its own name.
        """
        self._join_backgrounds(re.compile(background))
        complete = self._complete()
        longest = max((len(key.encode()) for key, row in self._rows.items() if complete[row]), default=1)
        kept = (key for key, row in self._rows.items() if complete[row])
        keys = np.fromiter((key.encode() for key in kept), f"S{longest}", np.count_nonzero(complete))
        self._rows.clear()
        order = np.lexsort((keys, np.fromiter((unit_interval(key.decode(), 0) for key in keys), np.float64, len(keys))))
        found = self._found[np.flatnonzero(complete)[order]]
        return Samples(keys[order], found, dict(enumerate(self._places)))

    def _join_backgrounds(self, background: re.Pattern[str]) -> None:
        """Gives each sample that has no background of its own name the one that its key leads to, if that is one."""
        column = self._columns["bg"]
        own = self._found["place"][: len(self._rows), column] > 0
        if own.all():
            return
        by_tail: dict[str, str] = {}
        for key, row in self._rows.items():
            if own[row]:
                tail = key.rpartition("_")[2]
                by_tail[tail] = "" if tail in by_tail else key  # two of them: neither is meant
        shared: dict[str, tuple[int, int, int, int]] = {}
        for key, row in self._rows.items():
            if own[row] or not (named := background.search(key)):
                continue
            its = self._rows.get(named[1])
            name = named[1] if its is not None and own[its] else by_tail.get(named[1])
            if name and name not in shared:
                shared[name] = self._as_shared(name, self._rows[name], column)
            if name:
                self._found[row, column] = shared[name]

    def _as_shared(self, key: str, row: int, column: int) -> tuple[int, int, int, int]:
        """The image, told without the key of its own row."""
        number, crc, header, packed = self._found.item(row, column)
        place = self._places[number]
        return self._number(place._replace(ending=place.name(key), whole=True)), crc, header, packed

    def _complete(self) -> NDArray[np.bool_]:
        """Which rows are samples with all their images and a key that can be stored, bool (rows,)."""
        present = self._found["place"][: len(self._rows)] > 0
        own = [column for name, column in self._columns.items() if name != "bg"]
        begun, complete = np.asarray(present[:, own].any(axis=1)), np.asarray(present.all(axis=1))
        for key, row in self._rows.items():
            if begun[row] and not (complete[row] and _storable(key)):
                self._report(key, row, present[row])
                complete[row] = False
        return complete & begun

    def _report(self, key: str, row: int, present: NDArray[np.bool_]) -> None:
        some = self._path(key, row, int(present.argmax()))
        for name, column in self._columns.items():
            if not present[column]:
                self._leave_out("missing", key, name, some, f"there is no {name} for it")
        if not _storable(key):
            detail = f"a tar cannot hold this name: {LONGEST_KEY} bytes of printable UTF-8 at most"
            self._leave_out("bad-name", key, "", some, detail)

    def _path(self, key: str, row: int, column: int) -> str:
        found: tuple[int, int, int, int] = self._found.item(row, column)  # type: ignore[assignment]  # of four fields
        return _entry(key, found, self._places).path


def _storable(key: str) -> bool:
    return key.isprintable() and len(key.encode()) <= LONGEST_KEY
