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
from shards.sources.joining import Affix, Joined, affixes
from shards.sources.layout import Share, stem, stems
from shards.sources.listing import Files
from shards.sources.words import label, meaning

_LOOKED_AT = 1000
_NEARLY_ALL = 0.9
_FIG, _BG = "(?:fg|foreground)s?", "(?:bg|background)s?"
_BOTH = re.compile(f"(?<![a-z])(?:{_FIG}[_-]?{_BG}|{_BG}[_-]?{_FIG})(?![a-z])", re.IGNORECASE)
"""Names the component, not a background: fg_bg_7 is image 7, whatever it was pasted on."""
_OF_2020 = re.compile(r"combined_s([^_/]+)_")
_AFTER = re.compile(rf"(?:^|[^a-z]){_BG}[_-]?(\d+)", re.IGNORECASE)
_BEFORE = re.compile(rf"(\d+)[_-]?{_BG}(?![a-z])", re.IGNORECASE)
_LETTER = {one: re.compile(rf"(?:^|[_/-]){one}(\d+)(?=[_/-]|$)", re.IGNORECASE) for one in "sb"}
_NUMBER_FIRST = re.compile(rf"\d+[_-]?(?:{_BG}|{_FIG})(?![a-z0-9])", re.IGNORECASE)
_BARE = re.compile(r"(?<![a-zA-Z\d])\d+(?![a-zA-Z\d])")
_SEPARATED = re.compile(r"[_/\s.-]+")

Find = Callable[[str], str | None]
"""Reads in a sample's path, without the folders of its component, which background it has."""


class Way(NamedTuple):
    """A way to tell a sample's background. option: what asks for it.

    rank: 3 where a word says that it is the background, 2 where a letter does, 1 where a folder's place does. 0: there
    are numbers in names for many reasons; they count only as a doubt about letters and places.
    """

    said: str
    option: str
    find: Find
    rank: int = 3


class Backgrounds:
    """The backgrounds by what they may be called: their name, the end of it after a _, or the number at its end.

    Where several are called the same, it is the one that lies in a folder as the sample does, such as train.
    """

    def __init__(self, files: Files, shares: Sequence[Share]) -> None:
        self.files, self.count = files, sum(len(share.numbers) for share in shares)
        self.names = dict[str, int]()
        self._called = dict[str | int | tuple[str, str | int], int]()  # also by the folders that they lie in
        for share in shares:
            for number, name in zip(share.numbers, map(_normal, stems(files, share)), strict=True):
                if meaning(name) and not re.search(r"\d", name) and share.context:
                    name = _normal(share.context[-1])  # bg.jpg in a folder for each scene
                _add(self.names, name, number)
                digits = re.search(r"(\d+)$", name)
                for called in {name, name.rpartition("_")[2], *([int(digits[1])] if digits else [])}:
                    _add(self._called, called, number)
                    for part in share.context:
                        _add(self._called, (part, called), number)

    def number(self, called: str | None, path: str) -> int:
        """Return the number of the file that is called so, counted from 1; 0 if none is, or several are."""
        if not called:
            return 0
        name, folders = _normal(called), path.split("/")[:-1]
        exact = self.names.get(name, -1)
        if exact >= 0:
            return exact + 1
        for one in (name, int(name)) if name.isdecimal() else (name,):
            if one in self._called:
                here = [self._called.get((folder, one), -1) for folder in folders]
                return max(self._called[one], *here, -1) + 1
        return 0

    def ways(self) -> Iterator[Way]:
        yield Way("the number after combined_s", "combined_s([^_]+)_", _group(_OF_2020))
        yield Way("the number after bg", "bg[_-]?([0-9]+)", lambda text: None if _first(text) else _last(_AFTER, text))
        yield Way("the number before bg", "([0-9]+)[_-]?bg", lambda text: _first(text) and _last(_BEFORE, text))
        yield Way("the background's name in the path", "", self._contained)
        for one, pattern in _LETTER.items():
            yield Way(f"the number after {one}", f"[_/-]{one}([0-9]+)", _group(pattern), rank=2)
        for up, said in ((1, "the folder"), (2, "the folder above the folder")):
            yield Way(said, "([^/]+)" + up * "/[^/]+" + "$", partial(self._folder, up), rank=1)
        for at in range(4):
            option = at * "[0-9]+[^0-9/]+" + "([0-9]+)[^/]*$"
            yield Way(f"number {at + 1} in the name", f"/[^0-9/]*{option}", partial(_bare, at), rank=0)

    def _folder(self, up: int, text: str) -> str | None:
        parts = text.split("/")
        return parts[-1 - up] if len(parts) > up and _normal(parts[-1 - up]) in self.names else None

    def _contained(self, text: str) -> str | None:
        """Find a background's name among the words of the path; None where there are several, none in another."""
        words = _SEPARATED.split(text)
        runs = ("_".join(words[begin:end]) for begin, end in combinations(range(len(words) + 1), 2))
        found = {run for run in runs if run in self.names and not run.isdecimal() and label(run)}
        longest = max(found, key=len, default=None)
        return longest if longest and all(one in longest for one in found) else None


def _add(names: dict[Any, int], name: object, number: int) -> None:
    names[name] = -1 if name in names else number  # of two, neither is meant


def _normal(name: str) -> str:
    return _SEPARATED.sub("_", name)


def _group(pattern: re.Pattern[str]) -> Find:
    def find(text: str) -> str | None:
        found = pattern.search(text)
        return next(filter(None, found.groups()), None) if found else None

    return find


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.findall(text)
    return found[-1] if found else None


def _first(text: str) -> str | None:
    found = _NUMBER_FIRST.match(text.rpartition("/")[2])
    return found[0] if found else None


def _bare(at: int, text: str) -> str | None:
    """Find the number at one place among those of the file's name that stand alone, without letters."""
    found = _BARE.findall(text.rpartition("/")[2])
    return found[at] if len(found) > at else None


def find_backgrounds(
    joined: Joined, images: Sequence[Share], bg: Sequence[Share], given: str | None
) -> tuple["array[int]", str]:
    """Find each row's background: the number of its file, counted from 1, 0 if it has none; and say by what rule.

    images: the shares of fg_bg. given: a regular expression for its path. One rule is for all. Raises InputError where
    no rule, or several that differ, find backgrounds.
    """
    files, column, known = joined.files, joined.found["fg_bg"], Backgrounds(joined.files, bg)
    if given is not None:
        return _given(joined, known, given), f"what {given!r} finds in the path of fg_bg"
    whole = [row for row in range(len(joined.rows)) if all(of[row] for of in joined.found.values())]
    own = _own(joined, bg, whole)
    keys = list(joined.rows)
    of_numbers = all(keys[row].isdecimal() for row in whole)  # then names are alike by accident
    if all(own[row] for row in whole) and not (of_numbers and len(whole) < _NEARLY_ALL * known.count):
        return own, "the one of the sample's own name"
    some = Random(0).sample(whole, min(len(whole), _LOOKED_AT))  # every hundredth may have the same one
    wanted = {column[row] - 1 for row in some}
    read = {number: path for number, path in _paths(joined, images) if number in wanted}
    paths = [read[column[row] - 1] for row in some]
    tried = [(way, [known.number(way.find(path), path) for path in paths]) for way in known.ways()]
    tried = [one for one in tried if _is_meant(known, *one)]
    if not any(way.rank for way, _ in tried):
        _refuse(joined, known, bg, own, whole, [way for way, _ in tried])
    way = _surest(known, tried, keys[some[0]])
    of_file, absent = array("I", [0] * (len(files) + 1)), set[str]()
    for number, path in _paths(joined, images):
        called = way.find(path)
        of_file[number + 1] = known.number(called, path)
        if called and called.isdecimal() and not of_file[number + 1]:
            absent.add(called)
    if absent and len(absent) == known.count - len(set(of_file) - {0}):  # so they may be counted from another number
        raise InputError(
            f"paths tell of the backgrounds {', '.join(sorted(absent)[:3])} ({way.said}), which are not there, and as "
            f"many others have no sample. If they are not counted from another number: --background '{way.option}'."
        )
    return array("I", [of_file[one] for one in column]), way.said


def _is_meant(known: Backgrounds, way: Way, numbers: list[int]) -> bool:
    """Tell whether a way may be one: not if it finds few backgrounds, or always the same.

    One that goes by no word finds some more than once, and by no letter either nearly all: folders and names are
    numbered for many reasons.
    """
    found, different = sum(map(bool, numbers)), len(set(numbers) - {0})
    few = 2 * found < len(numbers) or (different < 2 and known.count > 1)
    enough = way.rank >= 2 or different >= _NEARLY_ALL * known.count
    return not few and (way.rank == 3 or (enough and different < found))


def _surest(known: Backgrounds, tried: list[tuple[Way, list[int]]], key: str) -> Way:
    """Return the way that finds most; where any go by a word, of these.

    Raises InputError if others find others.
    """
    worded = any(way.rank == 3 for way, _ in tried)
    tried = [(way, numbers) for way, numbers in tried if way.rank == 3 or not worded]
    most = max(sum(map(bool, numbers)) for _, numbers in tried)
    best = [(way, numbers) for way, numbers in tried if sum(map(bool, numbers)) == most]
    if all(numbers == best[0][1] for _, numbers in best):
        return next(way for way, _ in best if way.rank)
    by_name = [one for one in best if one[0].find == known._contained]
    if by_name and all(_says_more(known.files, by_name[0][1], numbers) for _, numbers in best):
        return by_name[0][0]
    lines = [f"the background of {key} may be told by"]
    for way, leads_to in best:
        path = known.files.path(leads_to[0] - 1) if leads_to[0] else "none"
        lines.append(f"  {way.said}: {path}" + (f" (--background '{way.option}')" if way.option else ""))
    raise InputError(*lines, "Say which.")


def _says_more(files: Files, names: list[int], others: list[int]) -> bool:
    """Tell whether backgrounds found by name are the others', or called as those but for an end: bg_1_flip."""
    pairs = {(one, other) for one, other in zip(names, others, strict=True) if one != other}
    called = {one: stem(files.entry(one - 1).name) if one else "" for pair in pairs for one in pair}
    return all(called[one].startswith(called[other]) for one, other in pairs)


def _given(joined: Joined, known: Backgrounds, given: str) -> "array[int]":
    files, find = joined.files, _group(re.compile(given))
    inside = [stem(files.inside(one - 1)) if one else "" for one in joined.found["fg_bg"]]
    numbers = array("I", [known.number(find(path), path) for path in inside])
    if not any(numbers):
        path = next(filter(None, inside))
        called = find(path)
        what = f"finds {called!r}, which is no background's name or number," if called else "finds nothing"
        raise InputError(f"--background {given!r} {what} in {path} (a path has no ending there).")
    return numbers


def files_of(shares: Sequence[Share]) -> list[int]:
    return [number for share in shares for number in share.numbers]


def _paths(joined: Joined, shares: Sequence[Share]) -> Iterator[tuple[int, str]]:
    """Yield the number of each file and its path below the source, without what tells its component."""
    for share in shares:
        source = joined.files.groups[share.group].inside.partition("/")[0]
        above = "".join(f"{one}/" for one in share.context[share.context[:1] == (source,) :])
        affix = joined.rule.affixes.get(share.component, Affix())
        for number, name in zip(share.numbers, stems(joined.files, share), strict=True):
            yield number, _BOTH.sub("", above + affix.cut(name))


def _own(joined: Joined, bg: Sequence[Share], whole: Sequence[int]) -> "array[int]":
    """Find the backgrounds that have the key of a sample, with or without what all names of backgrounds begin with."""
    keys, best = list(joined.rows), array("I", [0] * len(joined.rows))
    some = [keys[row] for row in whole[:_LOOKED_AT]]
    called = [stem(joined.files.entry(number).name) for number in files_of(bg)[:_LOOKED_AT]]
    found = affixes({"key": some, "bg": called}) if some else {}
    for affix in (Affix(), found.get("bg", Affix())):
        rule, named = replace(joined.rule, affixes={"bg": affix}), dict[str, int]()
        for share in bg:
            for key, number in zip(rule.keys(joined.files, share), share.numbers, strict=True):
                _add(named, key, number)
        numbers = array("I", [named.get(key, -1) + 1 for key in keys])
        best = max(best, numbers, key=lambda one: sum(map(bool, one)))
    return best


def _refuse(
    joined: Joined, known: Backgrounds, bg: Sequence[Share], own: "array[int]", whole: Sequence[int], bare: list[Way]
) -> NoReturn:
    files, count = joined.files, sum(bool(own[row]) for row in whole)
    row = next((row for row in whole if not own[row]), whole[0])
    image, some = files.path(joined.found["fg_bg"][row] - 1), files.path(files_of(bg)[0])
    said = f"no rule is known that leads from images such as {image} to backgrounds such as {some}."
    if count:
        said += f" {count:,} of {len(whole):,} samples have one of their own name, which counts if all have"
        said += (
            f", and where these are numbers if they have nearly all of {known.count:,}." if count == len(whole) else "."
        )
    if bare:
        said += " If it is " + ", or ".join(f"{way.said}: --background '{way.option}'" for way in bare) + "."
    raise InputError(
        f"{said} Give --background REGEX, whose group finds the name or number of the background in the path of fg_bg, "
        "or --list FILE; or --component bg= for a data set without backgrounds."
    )
