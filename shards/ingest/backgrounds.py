"""Which background a sample has, where it has none of its own name: what its path says of it."""

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from random import Random
from typing import Any, NamedTuple, NoReturn

from shards.errors import InputError
from shards.ingest.joining import Affix, Joined, affixes
from shards.ingest.layout import Share, stem
from shards.ingest.listing import Files
from shards.ingest.words import meaning

_LOOKED_AT = 1000
_FIG, _BG = "(?:fg|foreground)s?", "(?:bg|background)s?"
_BOTH = re.compile(f"(?<![a-z])(?:{_FIG}[_-]?{_BG}|{_BG}[_-]?{_FIG})(?![a-z])", re.IGNORECASE)
"""Names the component, not a background: fg_bg_7 is image 7, whatever it was pasted on."""
_OF_2020 = re.compile(r"combined_s([^_/]+)_|(?:^|[_/-])s(\d+)(?=[_/-])")
_AFTER = re.compile(rf"(?:^|[^a-z]){_BG}[_-]?(\d+)", re.IGNORECASE)
_BEFORE = re.compile(rf"(\d+)[_-]?{_BG}(?![a-z])", re.IGNORECASE)
_NUMBER_FIRST = re.compile(rf"\d+[_-]?(?:{_BG}|{_FIG})(?![a-z0-9])", re.IGNORECASE)
_SEPARATED = re.compile(r"[_/\s.-]+")
_NEARLY_ALL = 0.9

Find = Callable[[str], str | None]
"""Reads in a sample's path, without the folders of its component, which background it has."""


class Way(NamedTuple):
    """A way to tell a sample's background. option: what asks for it. bare: by a number alone, without a word for it."""

    said: str
    option: str
    find: Find
    bare: bool = False


class Backgrounds:
    """The backgrounds by what they may be called: their name, the end of it after a _, or the number at its end."""

    def __init__(self, files: Files, shares: Sequence[Share]) -> None:
        self.names: dict[str, int] = {}
        self._tails: dict[str, int] = {}
        self._numbers: dict[int, int] = {}
        for share in shares:
            names, first = files.names(share.group), files.numbers(share.group).start
            for number in share.numbers:
                name = _normal(stem(names[number - first]))
                if meaning(name) and not re.search(r"\d", name) and share.context:
                    name = _normal(share.context[-1])  # bg.jpg in a folder for each scene
                _add(self.names, name, number)
                _add(self._tails, name.rpartition("_")[2], number)
                if digits := re.search(r"(\d+)$", name):
                    _add(self._numbers, int(digits[1]), number)

    def number(self, called: str | None) -> int:
        """Return the number of the file that is called so, counted from 1; 0 if none is, or several are."""
        if not called:
            return 0
        name = _normal(called)
        found = self.names.get(name, self._tails.get(name))
        if found is None and name.isdecimal():
            found = self._numbers.get(int(name))
        return 0 if found is None else found + 1

    def ways(self) -> Iterator[Way]:
        yield Way("the number after s", "combined_s([^_]+)_", _group(_OF_2020))
        yield Way("the number after bg", "bg[_-]?([0-9]+)", lambda text: None if _first(text) else _group(_AFTER)(text))
        yield Way("the number before bg", "([0-9]+)[_-]?bg", lambda text: _first(text) and _group(_BEFORE)(text))
        for up, said in ((1, "the folder"), (2, "the folder above the folder")):
            yield Way(said, "([^/]+)" + up * "/[^/]+" + "$", partial(self._folder, up), bare=True)
        yield Way("the background's name in the path", "", self._contained)

    def _folder(self, up: int, text: str) -> str | None:
        parts = text.split("/")
        return parts[-1 - up] if len(parts) > up and _normal(parts[-1 - up]) in self.names else None

    def _contained(self, text: str) -> str | None:
        words = _SEPARATED.split(text)
        runs = ("_".join(words[begin:end]) for begin, end in combinations(range(len(words) + 1), 2))
        found = [run for run in runs if run in self.names and not run.isdecimal()]
        return max(found, key=len, default=None)


def _add(names: dict[Any, int], name: object, number: int) -> None:
    names[name] = -1 if name in names else number  # of two, neither is meant


def _normal(name: str) -> str:
    return _SEPARATED.sub("_", name)


def _group(pattern: re.Pattern[str]) -> Find:
    def find(text: str) -> str | None:
        found = pattern.search(text)
        return next(filter(None, found.groups()), None) if found else None

    return find


def _first(text: str) -> str | None:
    found = _NUMBER_FIRST.match(text.rpartition("/")[2])
    return found[0] if found else None


def find_backgrounds(
    joined: Joined, images: Sequence[Share], bg: Sequence[Share], given: str | None
) -> tuple["array[int]", str]:
    """Find each row's background: the number of its file, counted from 1, 0 if it has none; and say by what rule.

    images: the shares of fg_bg. given: a regular expression for its path. One rule is for all. Raises InputError where
    no rule, or several that differ, find backgrounds.
    """
    files, column, known = joined.files, joined.found["fg_bg"], Backgrounds(joined.files, bg)
    if given is not None:
        find = _group(re.compile(given))
        numbers = array("I", [known.number(find(stem(files.inside(one - 1)))) if one else 0 for one in column])
        return numbers, f"what {given!r} finds in the path of fg_bg"
    whole = [row for row in range(len(joined.rows)) if all(of[row] for of in joined.found.values())]
    own = _own(joined, bg, whole)
    if all(own[row] for row in whole):
        return own, "the one of the sample's own name"
    some = Random(0).sample(whole, min(len(whole), _LOOKED_AT))  # every hundredth may have the same one
    wanted = {column[row] - 1 for row in some}
    paths = {number: path for number, path in _paths(joined, images) if number in wanted}
    best = _best(known, [paths[column[row] - 1] for row in some], len(files_of(bg)))
    if not best:
        _refuse(joined, bg, own, whole)
    if any(numbers != best[0][1] for _, numbers in best):
        lines = [f"the background of {list(joined.rows)[some[0]]} may be told by"]
        for way, leads_to in best:
            path = files.path(leads_to[0] - 1) if leads_to[0] else "none"
            lines.append(f"  {way.said}: {path}" + (f" (--background '{way.option}')" if way.option else ""))
        raise InputError("\n".join([*lines, "Say which."]))
    way, _ = best[0]
    of_file = array("I", [0] * (len(files) + 1))
    for number, path in _paths(joined, images):
        of_file[number + 1] = known.number(way.find(path))
    return array("I", [of_file[one] for one in column]), way.said


def _best(known: Backgrounds, paths: Sequence[str], count: int) -> list[tuple[Way, list[int]]]:
    """Return the ways that find a background, of `count`, for the most of these paths, and what they find.

    No way is one that finds few, or always the same. One that goes by numbers alone must use nearly all backgrounds:
    folders are numbered for many reasons.
    """
    tried = []
    for way in known.ways():
        numbers = [known.number(way.find(path)) for path in paths]
        found, different = sum(map(bool, numbers)), len(set(numbers) - {0})
        alone = way.bare and different < _NEARLY_ALL * count
        if 2 * found >= len(paths) and (different > 1 or count == 1) and not alone:
            tried.append((found, not way.bare, way, numbers))
    most = max((one[:2] for one in tried), default=None)
    return [(way, numbers) for *rank, way, numbers in tried if tuple(rank) == most]


def files_of(shares: Sequence[Share]) -> list[int]:
    return [number for share in shares for number in share.numbers]


def _paths(joined: Joined, shares: Sequence[Share]) -> Iterator[tuple[int, str]]:
    """Yield the number of each file and its path below the source, without what tells its component."""
    for share in shares:
        names, first = joined.files.names(share.group), joined.files.numbers(share.group).start
        source = joined.files.groups[share.group].inside.partition("/")[0]
        above = "".join(f"{one}/" for one in share.context[share.context[:1] == (source,) :])
        affix = joined.rule.affixes.get(share.component, Affix())
        for number in share.numbers:
            yield number, _BOTH.sub("", above + affix.cut(stem(names[number - first])))


def _own(joined: Joined, bg: Sequence[Share], whole: Sequence[int]) -> "array[int]":
    """Find the backgrounds that have the key of a sample, with or without what all names of backgrounds begin with."""
    keys, best = list(joined.rows), array("I", [0] * len(joined.rows))
    some = [keys[row] for row in whole[:_LOOKED_AT]]
    stems = [stem(joined.files.entry(number).name) for number in files_of(bg)[:_LOOKED_AT]]
    found = affixes({"key": some, "bg": stems}) if some else {}
    for affix in (Affix(), found.get("bg", Affix())):
        rule, named = replace(joined.rule, affixes={"bg": affix}), dict[str, int]()
        for share in bg:
            for key, number in zip(rule.keys(joined.files, share), share.numbers, strict=True):
                _add(named, key, number)
        numbers = array("I", [named.get(key, -1) + 1 for key in keys])
        best = max(best, numbers, key=lambda one: sum(map(bool, one)))
    return best


def _refuse(joined: Joined, bg: Sequence[Share], own: "array[int]", whole: Sequence[int]) -> NoReturn:
    files, count = joined.files, sum(bool(own[row]) for row in whole)
    row = next(row for row in whole if not own[row])
    image, some = files.path(joined.found["fg_bg"][row] - 1), files.path(files_of(bg)[0])
    by_name = (
        f" {count:,} of {len(whole):,} samples have one of their own name, which counts if all have." if count else ""
    )
    raise InputError(
        f"no rule is known that leads from images such as {image} to backgrounds such as {some}.{by_name} "
        "Give --background REGEX, whose group finds the name or number of the background in the path of fg_bg, or "
        "--list FILE; or --component bg= for a data set without backgrounds."
    )
