"""`convert --list FILE`: a table of samples, a line each, that names their images by path."""

import csv
import re
from array import array
from collections import defaultdict
from pathlib import Path

from shards.errors import InputError
from shards.format.images import LeftOut
from shards.format.schema import BY_NAME
from shards.sources.joining import Joined, Rule, normal
from shards.sources.layout import stem
from shards.sources.listing import Files, NoSampleError, is_image
from shards.sources.words import meaning

_ORDER = ", ".join(BY_NAME)


def read_table(table: Path, columns: tuple[str, ...], files: Files, left_out: list[LeftOut]) -> Joined:
    """Join files as the lines of a CSV or TSV say; lines that name a file that is not there join `left_out`.

    columns: what its columns are, if it has no header: components, `key`, and anything else for the others. A path may
    have other folders above than the sources have. Without a column `key` the paths of fg_bg name the samples.
    Raises InputError where the table cannot be understood, or if two lines name one sample.
    """
    lines = _lines(table)
    names = _columns(table, lines[0], columns)
    if not (columns or _has_paths(lines[0])):
        lines = lines[1:]
    find, found, keys = _Finder(files), {name: array("I") for name in BY_NAME if name in names}, list[str]()
    for number, line in enumerate(lines, 1):
        cells = dict(zip(names, map(str.strip, line), strict=False))
        numbers = {name: find(cells.get(name, ""), name) for name in found}
        if len(set(numbers.values()) - {0}) < sum(map(bool, numbers.values())):
            raise InputError(
                f"{table}, line {number}: two columns name the same file. Give paths that tell them apart."
            )
        if lacking := [name for name, one in numbers.items() if not one]:
            called = cells.get("key") or cells.get("fg_bg", "")
            left_out += [
                LeftOut(
                    "missing",
                    called,
                    name,
                    f"{table}, line {number}",
                    f"no file is {cells.get(name, '')!r}, or several are",
                )
                for name in lacking
            ]
            continue
        for name, one in numbers.items():
            found[name].append(one)
        keys.append(normal(cells.get("key", "")))
    if not keys:
        raise NoSampleError(f"{table}: none of {len(lines):,} lines names files that are all there.", left_out)
    for name, column in found.items() if names == list(BY_NAME) and not columns else ():
        meant = find.meant(column[0] - 1) & found.keys()
        if meant and name not in meant:
            raise InputError(
                f"{table}: without a header its columns are {_ORDER}, but {files.path(column[0] - 1)}, in that of "
                f"{name}, looks like another. Name them: --columns."
            )
    if "key" not in names:
        keys = _keys([files.inside(one - 1) for one in found["fg_bg"]])
    rows = {key: row for row, key in enumerate(keys)}
    if len(rows) < len(keys):
        twice = next(key for row, key in enumerate(keys) if rows[key] != row)
        raise InputError(f"{table}: several lines are of the sample {twice!r}. A line is a sample.")
    return Joined(files, Rule(), rows, found)


def _lines(table: Path) -> list[list[str]]:
    if not table.is_file():
        raise InputError(f"{table}: no such list.")
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max("\t,;", key=first.count)
            lines = [line for line in csv.reader(file, delimiter=delimiter) if any(line)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: no table of text ({error}). A list is CSV or TSV in UTF-8.") from error
    if not lines:
        raise InputError(f"{table}: empty.")
    return lines


def _has_paths(line: list[str]) -> bool:
    return any(is_image(cell.strip().rpartition("/")[2]) for cell in line)


def _columns(table: Path, first: list[str], given: tuple[str, ...]) -> list[str]:
    """Tell what each column is: by `given`, by the header, or by the order of the components."""
    if given:
        names = list(given)
    elif not _has_paths(first):
        names = [_column(cell.strip()) for cell in first]
    elif len(first) == len(BY_NAME):
        names = list(BY_NAME)
    else:
        raise InputError(
            f"{table}: no header, and not the four columns {_ORDER}. Name its columns: --columns fg_bg mask"
        )
    known = [name for name in names if name in BY_NAME]
    if "fg_bg" not in known or len(known) < 2 or len(set(known)) < len(known):
        raise InputError(
            f"{table}: its columns are {', '.join(names)}; fg_bg and some of {_ORDER} are needed, each once. "
            "Name them in the header, or by --columns."
        )
    return names


def _column(cell: str) -> str:
    meant = meaning(cell)
    return cell if cell in BY_NAME or cell == "key" or not meant else meant.component


class _Finder:
    """Finds files by paths that end as theirs do; of several, the one that is alike in the most folders."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._by_name = defaultdict[str, list[int]](list)
        self._by_folder = defaultdict[str, list[int]](list)
        for number in range(len(files)):
            parts = files.inside(number).split("/")
            self._by_name[parts[-1]].append(number)
            self._by_folder["/".join(parts[-2:])].append(number)

    def __call__(self, path: str, component: str) -> int:
        """Return the number of the file, counted from 1; 0 if there is none, or several are equally alike.

        Of these it is the one in a folder whose name means the component.
        """
        parts = re.sub(r"\.zip[!/]", "/", path.replace("\\", "/")).removeprefix("./").split("/")
        some = self._by_folder.get("/".join(parts[-2:]), []) if len(parts) > 1 else self._by_name.get(parts[-1], [])
        if len(some) > 1:
            alike = [self._alike(parts, number) for number in some]
            some = [number for number, one in zip(some, alike, strict=True) if one == max(alike)]
        if len(some) > 1:
            some = [number for number in some if component in self.meant(number)]
        return some[0] + 1 if len(some) == 1 else 0

    def meant(self, number: int) -> set[str]:
        """Tell which components the folders of a file mean."""
        parts = self._files.inside(number).split("/")[:-1]
        return {meant.component for part in parts if (meant := meaning(part))}

    def _alike(self, parts: list[str], number: int) -> int:
        theirs = self._files.inside(number).split("/")
        if theirs[1:] == parts:  # below the source itself
            return len(theirs)
        pairs = zip(reversed(parts), reversed(theirs), strict=False)
        return next((count for count, (one, other) in enumerate(pairs) if one != other), min(len(parts), len(theirs)))


def _keys(paths: list[str]) -> list[str]:
    """Make keys of the last parts of the paths, as few as tell them apart."""
    split = [[*path.split("/")[:-1], stem(path.rpartition("/")[2])] for path in paths]
    for parts in range(1, max(map(len, split), default=0) + 1):
        keys = ["_".join(map(normal, one[-parts:])) for one in split]
        if len(set(keys)) == len(keys):
            break
    return keys
