"""All image files of folder trees and zips, joined to samples by name: where each lies, never what is in it.

A zip is read in place and counts as a folder of its own name: `OverlayedImages1.zip` with the member `15/a.jpg` is the
path `OverlayedImages1/15/a.jpg`. What is found is kept in arrays, 300 bytes a sample at the most.
"""

import hashlib
import os
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import compress, groupby, islice, repeat
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.images import IMAGE_SUFFIXES, LeftOut
from shards.format.schema import LONGEST_KEY, WORK
from shards.format.splits import unit_interval
from shards.ingest.zips import Entry, list_zip

FOUND = np.dtype([("source", "<u4"), ("header", "<u8"), ("packed", "<u8"), ("crc", "<u4")])
"""An image: the number of its source, 0 where there is no image; the rest as in Entry."""
_RECORD = struct.Struct("<LQQL")
"""The same, image by image."""
_SUFFIXES = tuple(IMAGE_SUFFIXES)
_TOGETHER = 4096
"""Files that are told at once, at most: of a folder all names are in memory anyway, to be sorted."""
_NOT_IN_KEYS = re.compile(r"[\s.]")

Siblings = tuple[str, list[Entry]]
"""Files side by side in one folder, or in one folder of a zip and packed by one method; before them that folder as seen
in the source, beginning with the source's own name."""


def is_image(name: str) -> bool:
    """Tell whether the file's name is that of a JPEG or PNG, and not hidden."""
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def list_files(source: Path) -> Iterator[Siblings]:
    """List all files of a folder or zip in the order of their names, neighbours in one folder together.

    Raises InputError if there is no such source, or it is neither.
    """
    if source.is_dir():
        yield from _in_folder(source, source.resolve().name)
    elif zipfile.is_zipfile(source):
        yield from _in_zip(source, source.stem)
    else:
        raise InputError(f"{source}: no folder and no zip. Name a folder, or the zips one by one.")


def _in_folder(folder: Path, inside: str) -> Iterator[Siblings]:
    with os.scandir(folder) as found:
        kinds = {
            one.name: "folder" if one.is_dir() else "zip" if one.name.lower().endswith(".zip") else "file"
            for one in found
        }
    for kind, names in groupby(sorted(kinds), kinds.__getitem__):
        if kind == "file":
            while together := list(map(Entry, repeat(str(folder)), islice(names, _TOGETHER))):
                yield inside, together
            continue
        for name in names:
            if kind == "zip":
                yield from _in_zip(folder / name, f"{inside}/{name[: -len('.zip')]}")
            elif name != WORK:
                yield from _in_folder(folder / name, f"{inside}/{name}")


def _in_zip(path: Path, inside: str) -> Iterator[Siblings]:
    for (folder, _), some in groupby(list_zip(path), attrgetter("folder", "method")):
        while together := list(islice(some, _TOGETHER)):
            yield inside + folder.removeprefix(str(path)), together


class Matcher:
    """Tells by a file's path which component it is. A pattern is a glob, with or without the source's own name."""

    def __init__(self, globs: dict[str, str]) -> None:
        from fsspec.utils import glob_translate  # 60 ms, which workers, who match nothing, are spared

        self._pattern = re.compile("|".join(f"(?P<{name}>{glob_translate(glob)})" for name, glob in globs.items()))
        self._folder_decides = all(glob.endswith("/**") for glob in globs.values())

    def components(self, inside: str, names: Sequence[str]) -> Sequence[str | None]:
        """For each of the files `names` in the folder `inside` give the first component whose glob matches, or None."""
        if self._folder_decides:
            return [self._component(f"{inside}/{names[0]}")] * len(names)
        return [self._component(f"{inside}/{name}") for name in names]

    def _component(self, path: str) -> str | None:
        found = self._pattern.match(path) or self._pattern.match(path.partition("/")[2])
        return found.lastgroup if found else None


class Source(NamedTuple):
    """What images of one folder have in common. Their names are the sample's key and `ending`, a suffix.

    A name of another form, such as one with spaces or of a background of many samples, is an `ending` of its own.
    """

    folder: str = ""
    ending: str = ""
    zip: str = ""
    method: int = 0

    def name(self, key: str) -> str:
        return key + self.ending if self.ending.startswith(".") else self.ending

    def entry(self, key: str, *where: int) -> Entry:
        return Entry(self.folder, self.name(key), self.zip, self.method, *where)


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

    def __getitem__(self, some: slice) -> Self:
        """Cut out some samples; in another process they take no more room than they need."""
        found = self.found[some]
        sources = {number: self.sources[number] for number in np.unique(found["source"]).tolist()}
        return type(self)(self.keys[some], found, sources)

    def __iter__(self) -> Iterator[tuple[str, list[Entry]]]:
        """Yield each sample's key, and its images in the order of the components."""
        for encoded, found in zip(self.keys, self.found, strict=True):
            key = encoded.decode()
            yield key, [self.sources[number].entry(key, *where) for number, *where in found.tolist()]

    def digest(self) -> bytes:
        """Digest the samples' keys and what tells the versions of their files apart, in their order."""
        digest, state = hashlib.sha256(), cache(Entry.state)  # a background is asked for once, not by every sample
        for key, entries in self:
            digest.update(b"\0".join([key.encode(), *map(state, entries), b""]))
        return digest.digest()

    def extensions(self) -> list[str]:
        """The format that most images of each component have by their names; of two, that of the earlier sample."""
        forms = {
            number: IMAGE_SUFFIXES.get("." + source.ending.rpartition(".")[2].lower(), "")
            for number, source in self.sources.items()
        }
        columns = (map(forms.__getitem__, numbers.tolist()) for numbers in self.found["source"].T)
        return [Counter(column).most_common(1)[0][0] for column in columns]


class Listing:
    """Files found one after the other, then joined, once.

    files: how many there were. left_out: those that are in no sample. counts: images found, by component.
    """

    def __init__(self, sources: Iterable[Path], globs: dict[str, str]) -> None:
        self.left_out: list[LeftOut] = []
        self.files = 0
        self.counts = dict.fromkeys(globs, 0)
        self._rows: dict[str, int] = {}
        self._found = bytearray()
        self._numbers = {Source(): 0}
        self._sources = {0: Source()}
        matcher = Matcher(globs)
        for source in sources:
            for inside, entries in list_files(source):
                self._add(entries, matcher.components(inside, [entry.name for entry in entries]))

    def _add(self, entries: list[Entry], components: Sequence[str | None]) -> None:
        """Put images into the rows of their keys and columns of their components, of two for one place the first."""
        self.files += len(entries)
        width = FOUND.itemsize * len(self.counts)
        offsets = {name: FOUND.itemsize * column for column, name in enumerate(self.counts)}
        stems = [entry.name.rpartition(".")[0] for entry in entries]
        keys = _NOT_IN_KEYS.sub("_", "/".join(stems)).split("/")  # all in one, for no name has a / in it
        numbers: dict[str, int] = {}
        for entry, component, stem, key in zip(entries, components, stems, keys, strict=True):
            if not component or not is_image(entry.name):
                why = "no image of any component by its name"
                self.left_out.append(LeftOut("litter", "", component or "", entry.path, why))
                continue
            row = self._rows.setdefault(key, len(self._rows))
            if row * width == len(self._found):
                self._found += bytes(width)
            at = row * width + offsets[component]
            if there := _RECORD.unpack_from(self._found, at)[0]:
                why = f"{self._sources[there].entry(key).path} has the same name"
                self.left_out.append(LeftOut("duplicate", key, component, entry.path, why))
                continue
            ending = entry.name[len(stem) :] if stem == key else entry.name
            if ending not in numbers:
                numbers[ending] = self._number(Source(entry.folder, ending, entry.zip, entry.method))
            _RECORD.pack_into(self._found, at, numbers[ending], entry.header, entry.packed, entry.crc)
            self.counts[component] += 1

    def _number(self, source: Source) -> int:
        number = self._numbers.setdefault(source, len(self._numbers))
        self._sources[number] = source
        return number

    def samples(self, background: str) -> Samples:
        """Return the complete samples in the order of a hash of their keys; the others join `left_out`.

        background: regular expression that finds the name of a sample's background in its key, where that has none of
        its own name.
        """
        found = np.frombuffer(self._found, FOUND).reshape(-1, len(self.counts))
        self._join_backgrounds(found[:, list(self.counts).index("bg")], re.compile(background))
        complete = self._complete(found["source"])
        kept = [key.encode() for key in compress(self._rows, complete)]
        self._rows.clear()
        keys = np.array(kept, np.bytes_)
        order = np.lexsort((keys, np.fromiter((unit_interval(key.decode(), 0) for key in kept), np.float64, len(kept))))
        return Samples(keys[order], found[np.flatnonzero(complete)[order]], self._sources)

    def _join_backgrounds(self, found: NDArray[Any], background: re.Pattern[str]) -> None:
        """Give each sample that has no background of its own name the one that its key leads to, if that is one.

        found: the backgrounds, FOUND (rows,).
        """
        own = found["source"] > 0
        if own.all():
            return
        named: dict[str, str] = {}
        for key in compress(self._rows, own):
            tail = key.rpartition("_")[2]
            named[tail] = "" if tail in named else key  # two of them: neither is meant
        named |= {key: key for key in compress(self._rows, own)}

        @cache
        def shared(key: str) -> tuple[int, ...]:
            """Tell where the image lies without the key of its own row."""
            number, *where = found.item(self._rows[key])
            source = self._sources[number]
            return self._number(source._replace(ending=source.name(key))), *where

        for row, key in enumerate(self._rows):
            if not own[row] and (match := background.search(key)) and (name := named.get(match[1])):
                found[row] = shared(name)

    def _complete(self, numbers: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Tell which rows are samples with all their images and a key that can be stored, bool (rows,).

        numbers: of the images' sources, uint32 (rows, components).
        """
        names = np.array(list(self.counts))
        begun, complete = (np.asarray(one) for one in (numbers[:, names != "bg"].any(axis=1), numbers.all(axis=1)))
        for row, key in enumerate(self._rows):
            storable = key.isprintable() and len(key.encode()) <= LONGEST_KEY
            if not begun[row] or (complete[row] and storable):
                continue
            some = self._sources[int(numbers[row][numbers[row] > 0][0])].entry(key).path
            for name in names[numbers[row] == 0].tolist():
                self.left_out.append(LeftOut("missing", key, name, some, f"there is no {name} for it"))
            if not storable:
                why = f"a tar cannot hold this name: {LONGEST_KEY} bytes of printable UTF-8 at most"
                self.left_out.append(LeftOut("bad-name", key, "", some, why))
            complete[row] = False
        return complete
