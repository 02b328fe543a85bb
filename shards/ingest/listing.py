"""All image files of folder trees and zips, joined to samples by name: where each lies, never what is in it.

A zip is read in place and counts as a folder of its own name: `OverlayedImages1.zip` with the member `15/a.jpg` is the
path `OverlayedImages1/15/a.jpg`. What is found is kept in arrays, 300 bytes a sample at the most.
"""

import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, groupby, islice
from operator import not_
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.images import IMAGE_SUFFIXES, LeftOut
from shards.format.schema import LONGEST_KEY, WORK
from shards.format.splits import unit_interval
from shards.ingest.zips import ZipMember, Zips, zip_members

FOUND = np.dtype([("source", "<u4"), ("crc", "<u4"), ("header", "<u8"), ("packed", "<u8")])
"""An image: the number of its source, 0 where there is no image; the rest as in Entry."""
_SUFFIXES = tuple(IMAGE_SUFFIXES)
_TOGETHER = 4096
"""Members of a zip that are told at once, at most: of a folder all names are in memory anyway, to be sorted."""
_AT_ONCE = 1 << 16
"""Bytes: most images in one piece."""
_NOT_IN_KEYS = re.compile(r"[\s.]")


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


def read(entry: Entry, zips: Zips) -> bytes:
    """Read a file or member. Raises OSError if its bytes cannot be had, or are not what the zip's directory says."""
    if entry.zip:
        return zips.read(entry.zip, ZipMember(entry.path, entry.header, entry.packed, entry.method, entry.crc))
    # In half the time of Path.read_bytes, and much of converting is reading. Only an empty piece says that it ended.
    file = os.open(entry.path, os.O_RDONLY)
    try:
        pieces = [os.read(file, _AT_ONCE)]
        while piece := os.read(file, _AT_ONCE):
            pieces.append(piece)
    finally:
        os.close(file)
    return b"".join(pieces)


class Siblings(NamedTuple):
    """Files side by side in one folder, or members side by side in one folder of a zip and packed by one method.

    inside: that folder as seen in the source, beginning with the source's own name. folder: as a person is told.
    members: one for each name, none where the files are in no zip.
    """

    inside: str
    folder: str
    names: Sequence[str]
    zip: str = ""
    method: int = 0
    members: Sequence[ZipMember] = ()

    def only(self, wanted: Sequence[bool]) -> Self:
        """Keep those for which `wanted`, one for each name, is true."""
        return self._replace(names=list(compress(self.names, wanted)), members=list(compress(self.members, wanted)))


def is_image(name: str) -> bool:
    """Tell whether the file's name is that of a JPEG or PNG, and not hidden."""
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def list_files(source: Path) -> Iterator[Siblings]:
    """List all files of a folder or zip in the order of their names, neighbours in one folder together.

    Raises InputError if there is no such source, or it is neither.
    """
    if source.is_dir():
        yield from _list_folder(source, source.resolve().name)
    elif zipfile.is_zipfile(source):
        yield from _list_zip(source, source.stem)
    else:
        raise InputError(f"{source}: no folder and no zip. Name a folder, or the zips one by one.")


def _list_folder(folder: Path, inside: str) -> Iterator[Siblings]:
    names, nested = [], set()
    with os.scandir(folder) as found:
        for entry in found:
            names.append(entry.name)
            if entry.is_dir() or entry.name.lower().endswith(".zip"):
                nested.add(entry.name)
    names.sort()
    for are_nested, some in groupby(names, nested.__contains__):
        if not are_nested:
            yield Siblings(inside, str(folder), list(some))
            continue
        for path in (folder / name for name in some if name != WORK):
            if path.is_dir():
                yield from _list_folder(path, f"{inside}/{path.name}")
            else:
                yield from _list_zip(path, f"{inside}/{path.name[: -len('.zip')]}")


def _list_zip(path: Path, inside: str) -> Iterator[Siblings]:
    for (folder, method), some in groupby(zip_members(path), _folder_and_method):
        while together := list(islice(some, _TOGETHER)):
            names = [member.path.rpartition("/")[2] for member in together]
            yield Siblings(f"{inside}{folder}", f"{path}{folder}", names, str(path), method, together)


def _folder_and_method(member: ZipMember) -> tuple[str, int]:
    return f"/{member.path}".rpartition("/")[0], member.method


class Matcher:
    """Tells by a file's path which component it is. A pattern is a glob, with or without the source's own name."""

    def __init__(self, globs: dict[str, str]) -> None:
        from fsspec.utils import glob_translate  # 60 ms, which workers, who match nothing, are spared

        self._pattern = re.compile("|".join(f"(?P<{name}>{glob_translate(glob)})" for name, glob in globs.items()))
        self._folder_decides = all(glob.endswith("/**") for glob in globs.values())

    def components(self, inside: str, names: Sequence[str]) -> Sequence[str | None]:
        """For each of the files `names` in the folder `inside` give the first component whose glob matches, or None."""
        if self._folder_decides:
            return [self._component(f"{inside}/{names[0]}")] * len(names) if names else []
        return [self._component(f"{inside}/{name}") for name in names]

    def _component(self, path: str) -> str | None:
        found = self._pattern.match(path) or self._pattern.match(path.partition("/")[2])
        return found.lastgroup if found else None


class Source(NamedTuple):
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

    keys: bytes (N,). found: FOUND (N, components), in the components' order. sources: by number, those that occur.
    """

    keys: NDArray[np.bytes_]
    found: NDArray[Any]
    sources: Mapping[int, Source]

    def __len__(self) -> int:
        return len(self.keys)

    def part(self, begin: int, end: int) -> Self:
        """Cut out the samples from `begin` to `end`; in another process they take no more room than they need."""
        found = self.found[begin:end]
        sources = {number: self.sources[number] for number in np.unique(found["source"]).tolist()}
        return type(self)(self.keys[begin:end], found, sources)

    def entry(self, sample: int, component: int) -> Entry:
        return _entry(self.keys[sample].decode(), self.found.item(sample, component), self.sources)

    def extensions(self) -> list[str]:
        """The format that most images of each component have by their names; of two, that of the earlier sample."""
        return [self._extension(self.found["source"][:, column]) for column in range(self.found.shape[1])]

    def _extension(self, numbers: NDArray[np.uint32]) -> str:
        found: dict[str, tuple[int, int]] = {}
        for number, *first_and_count in zip(*np.unique(numbers, return_index=True, return_counts=True), strict=True):
            first, count = map(int, first_and_count)
            name = IMAGE_SUFFIXES["." + self.sources[int(number)].ending.rpartition(".")[2].lower()]
            total, earliest = found.get(name, (0, -first))
            found[name] = total + count, max(earliest, -first)
        return max(found, key=found.__getitem__)

    def __iter__(self) -> Iterator[tuple[str, list[Entry]]]:
        """Yield each sample's key, and its images in the order of the components."""
        for key, found in zip(self.keys, self.found, strict=True):
            name = key.decode()
            yield name, [_entry(name, one, self.sources) for one in found.tolist()]


def _entry(key: str, found: tuple[int, int, int, int], sources: Mapping[int, Source] | Sequence[Source]) -> Entry:
    number, crc, header, packed = found
    source = sources[number]
    return Entry(source.folder, source.name(key), source.zip, header, packed, source.method, crc)


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
        self._sources = [Source()]
        self._numbers = {Source(): 0}
        self._matcher = Matcher(globs)
        for source in sources:
            for siblings in list_files(source):
                self._add(siblings)

    def _add(self, siblings: Siblings) -> None:
        self.files += len(siblings.names)
        components = self._matcher.components(siblings.inside, siblings.names)
        for component in dict.fromkeys(components):
            own = siblings.only([one == component for one in components])
            wanted = [component is not None and is_image(name) for name in own.names]
            for name in compress(own.names, map(not_, wanted)):
                path = f"{own.folder}/{name}"
                self._leave_out("litter", "", component or "", path, "no image of any component by its name")
            if component and any(wanted):
                self._join(component, own.only(wanted))

    def _join(self, component: str, files: Siblings) -> None:
        """Put the images of a component into the rows of their keys, of two for one place the first."""
        column = self._columns[component]
        stems = [name.rpartition(".")[0] for name in files.names]
        keys = _NOT_IN_KEYS.sub("_", "/".join(stems)).split("/")  # all in one, for no name has a / in it
        rows = np.array([self._rows.setdefault(key, len(self._rows)) for key in keys])
        if len(self._rows) > len(self._found):
            self._found.resize((len(self._rows) * 9 // 8, len(self._columns)), refcheck=False)  # in place, where it can
        first = np.zeros(len(rows), bool)
        first[np.unique(rows, return_index=True)[1]] = True
        first &= self._found["source"][rows, column] == 0
        self.counts[component] += int(np.count_nonzero(first))
        self._found[rows[first], column] = self._located(files, stems, keys)[first]
        for i in np.flatnonzero(~first).tolist():
            there = self._path(keys[i], int(rows[i]), column)
            path = f"{files.folder}/{files.names[i]}"
            self._leave_out("duplicate", keys[i], component, path, f"{there} has the same name")

    def _located(self, files: Siblings, stems: list[str], keys: list[str]) -> NDArray[Any]:
        """Tell where each of the images lies, FOUND (names,)."""
        endings = [
            name[len(stem) :] if stem == key else name for name, stem, key in zip(files.names, stems, keys, strict=True)
        ]
        numbers = {
            ending: self._number(Source(files.folder, ending, not ending.startswith("."), files.zip, files.method))
            for ending in dict.fromkeys(endings)
        }
        located = np.zeros(len(endings), FOUND)
        located["source"] = [numbers[ending] for ending in endings]
        if files.members:
            for name in ("crc", "header", "packed"):
                located[name] = [getattr(member, name) for member in files.members]
        return located

    def _number(self, source: Source) -> int:
        number = self._numbers.setdefault(source, len(self._sources))
        if number == len(self._sources):
            self._sources.append(source)
        return number

    def _leave_out(self, kind: str, key: str, component: str, source: str, detail: str) -> None:
        self.left_out.append(LeftOut(kind, key, component, source, detail))

    def samples(self, background: str) -> Samples:
        """Return the complete samples in the order of a hash of their keys; the others join `left_out`.

        background: regular expression that finds the name of a sample's background in its key, where that has none of
        its own name.
        """
        self._join_backgrounds(re.compile(background))
        complete = self._complete()
        kept = [key.encode() for key, row in self._rows.items() if complete[row]]
        self._rows.clear()
        keys = np.array(kept, f"S{max(map(len, kept), default=1)}")
        order = np.lexsort((keys, np.fromiter((unit_interval(key.decode(), 0) for key in kept), np.float64, len(kept))))
        found = self._found[np.flatnonzero(complete)[order]]
        return Samples(keys[order], found, dict(enumerate(self._sources)))

    def _join_backgrounds(self, background: re.Pattern[str]) -> None:
        """Give each sample that has no background of its own name the one that its key leads to, if that is one."""
        column = self._columns["bg"]
        own = self._found["source"][: len(self._rows), column] > 0
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
        """Tell where the image lies without the key of its own row."""
        number, crc, header, packed = self._found.item(row, column)
        source = self._sources[number]
        return self._number(source._replace(ending=source.name(key), whole=True)), crc, header, packed

    def _complete(self) -> NDArray[np.bool_]:
        """Tell which rows are samples with all their images and a key that can be stored, bool (rows,)."""
        present = self._found["source"][: len(self._rows)] > 0
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
        return _entry(key, found, self._sources).path


def _storable(key: str) -> bool:
    return key.isprintable() and len(key.encode()) <= LONGEST_KEY


IMAGES = IMAGE_SUFFIXES  # until its users are renamed
