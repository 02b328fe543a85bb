"""Images of several components joined to samples by name: the key is what names have in common, and no more."""

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import NamedTuple

from shards.format.images import LeftOut
from shards.sources.layout import Share, stem, stems
from shards.sources.listing import Files
from shards.sources.words import meaning

_NOT_IN_KEYS = re.compile(r"[\s.]")
_PADDING = re.compile(r"(?<!\d)0+(?=\d)")
_TOKEN = re.compile(r"\d+|[^\W\d_]+|[\W_]+")
_ENOUGH = 0.9
"""share of a component's names that have a word in common, for it to be the component's and not the samples'"""
_FEW = 10
"""names, of which all may have one number by accident"""
_STRAYS = 0.01
"""share of the files that may have the key of another by accident"""
_LOOKED_AT = 1000


def normal(name: str) -> str:
    """Replace what may not be in a key: spaces and dots become _."""
    return _NOT_IN_KEYS.sub("_", name)


class Affix(NamedTuple):
    """What names of a component begin and end with that says which component it is."""

    prefix: str = ""
    suffix: str = ""

    def cut(self, name: str) -> str:
        """Cut it off a name that has it, with what separates it from the rest."""
        if not (name.startswith(self.prefix) and name.endswith(self.suffix)):
            return name
        return name[len(self.prefix) : len(name) - len(self.suffix)].strip("_- .") if any(self) else name


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How the key of a sample is made of a file's path: the last `parts` of it, without its component's affix.

    patterns: regular expressions that were given, by component; what their groups find in the whole path is what a key
    is made of then. exact: as it is written; else in lower case, and numbers without zeros before them.
    """

    parts: int = 1
    exact: bool = True
    affixes: Mapping[str, Affix] = field(default_factory=dict)
    patterns: Mapping[str, re.Pattern[str]] = field(default_factory=dict)

    def keys(self, files: Files, share: Share) -> list[str]:
        """Make the keys of a share's files, in their order; "" where the pattern is not found."""
        names = stems(files, share)
        pattern, affix = self.patterns.get(share.component), self.affixes.get(share.component)
        if pattern:
            inside = files.groups[share.group].inside
            found = (pattern.search(f"{inside}/{one}") for one in names)
            paths = ["_".join(filter(None, one.groups())).split("/") if one else [""] for one in found]
            keys = ["_".join(map(normal, path[-self.parts :])) for path in paths]
        else:
            keys = normal("/".join(map(affix.cut, names) if affix else names)).split("/")  # no name has a / in it
            if self.parts > 1 or not all(keys):
                above = list(map(normal, share.context))
                keys = ["_".join([*above, *filter(None, [key])][-self.parts :]) for key in keys]
        return keys if self.exact else [_PADDING.sub("", key.lower()) for key in keys]

    def __str__(self) -> str:
        last = "the last part" if self.parts == 1 else f"the last {self.parts} parts"
        said = f"{last} of the path" if self.parts > 1 or self.affixes or self.patterns else "the file's name"
        for name, (prefix, suffix) in self.affixes.items():
            ends = [f"{end!r} at its {where}" for end, where in ((prefix, "beginning"), (suffix, "end")) if end]
            said += f", of {name} without {' and '.join(ends)}" if ends else ""
        said += "" if self.exact else ", in lower case, numbers without zeros before them"
        for name, pattern in self.patterns.items():
            said += f", of {name} what {pattern.pattern!r} finds in it"
        return said


@dataclass
class Joined:
    """Files joined to samples: a row for each key, in which each component has the number of its file, counted from 1.

    twice: key, component and the numbers of two files that have one place.
    without: files that no key was found for.
    """

    files: Files
    rule: Rule
    rows: dict[str, int]
    found: dict[str, "array[int]"]
    twice: list[tuple[str, str, int, int]] = field(default_factory=list)
    without: list[int] = field(default_factory=list)

    @property
    def complete(self) -> int:
        """How many rows have a file of every component."""
        return sum(map(all, zip(*self.found.values(), strict=True)))

    @property
    def fewest(self) -> int:
        """How many files the component has that has the fewest."""
        return min(sum(map(bool, column)) for column in self.found.values())

    def left_out(self) -> list[LeftOut]:
        """List the files whose place another one has, and those that no key was found for."""
        path = self.files.path
        twice = [
            LeftOut("duplicate", key, name, path(b), f"{path(a)} has the same key") for key, name, a, b in self.twice
        ]
        return twice + [LeftOut("no-key", "", "", path(one), "--key finds nothing in it") for one in self.without]


def _join(files: Files, shares: Iterable[Share], names: Sequence[str], rule: Rule) -> Joined:
    joined = Joined(files, rule, {}, {name: array("I") for name in names})
    rows = joined.rows
    for share in shares:
        column = joined.found[share.component]
        for key, number in zip(rule.keys(files, share), share.numbers, strict=True):
            if not key:
                joined.without.append(number)
                continue
            row = rows.setdefault(key, len(rows))
            if row >= len(column):
                column.extend([0] * (row + 1 - len(column)))
            if column[row]:
                joined.twice.append((key, share.component, column[row] - 1, number))
            else:
                column[row] = number + 1
    for column in joined.found.values():
        column.extend([0] * (len(rows) - len(column)))
    return joined


def join(files: Files, shares: Sequence[Share], patterns: Mapping[str, re.Pattern[str]]) -> Joined:
    """Join the files of all components but backgrounds by the shortest key that tells the samples apart, if one does.

    Names are taken as they are where that makes samples of half the files; else without what tells their component.
    """
    names = list(dict.fromkeys(share.component for share in shares))
    plain = _shortest(files, shares, names, Rule(patterns=patterns))
    if 2 * plain.complete >= plain.fewest:
        return plain
    some = {name: _some(files, [one for one in shares if one.component == name]) for name in names}
    found = affixes({name: called for name, called in some.items() if name not in patterns})
    for exact in (True, False):
        cut = _shortest(files, shares, names, Rule(exact=exact, affixes=found, patterns=patterns))
        if 2 * cut.complete >= cut.fewest:  # a few names are alike by accident
            return cut
    return plain


def _shortest(files: Files, shares: Sequence[Share], names: Sequence[str], rule: Rule) -> Joined:
    """Join by as many parts of the path as are needed for no two files of a component to have one key.

    A few files that have the key of another are strays, and folders do not belong to the names. Nor do they where fewer
    samples would be complete.
    """
    first = _join(files, shares, names, rule)
    if len(first.twice) > _STRAYS * sum(len(share.numbers) for share in shares):
        for parts in range(2, 2 + max(len(share.context) for share in shares)):
            joined = _join(files, shares, names, replace(rule, parts=parts))
            if not joined.twice and joined.complete >= first.complete:
                return joined
    return first


def _some(files: Files, shares: Sequence[Share]) -> list[str]:
    """Return the names, without endings, of about 1,000 files, evenly."""
    step = max(1, sum(len(share.numbers) for share in shares) // _LOOKED_AT)
    numbers = (number for share in shares for number in share.numbers)
    return [stem(files.entry(number).name) for i, number in enumerate(numbers) if i % step == 0]


def affixes(named: Mapping[str, Sequence[str]]) -> dict[str, Affix]:
    """Find what the names of each component begin and end with, but for what all components have there.

    Nothing is found where that tells samples apart rather than components: other numbers, or bg here and fg there.
    """
    prefixes = {name: _common([_TOKEN.findall(one) for one in names]) for name, names in named.items()}
    suffixes = {}
    for name, names in named.items():
        rest = [_TOKEN.findall(one)[len(prefixes[name]) :][::-1] for one in names]
        suffixes[name] = _common(rest)[::-1]
    kept_before = _alike([prefix[::-1] for prefix in prefixes.values()])
    kept_after = _alike(list(suffixes.values()))
    found = {
        name: Affix("".join(prefixes[name][: len(prefixes[name]) - kept_before]), "".join(suffixes[name][kept_after:]))
        for name in named
    }
    numbers = {frozenset(re.findall(r"\d+", " ".join(affix))) for affix in found.values()} - {frozenset()}
    meant = {one.component for affix in found.values() if (one := meaning(" ".join(affix)))}
    return {} if len(numbers) > 1 or {"bg", "fg"} <= meant else found


def _common(names: Sequence[Sequence[str]]) -> list[str]:
    """Return the words that nearly all of these names begin with; numbers only where there are names enough."""
    found: list[str] = []
    rest = list(names)
    while True:
        at = len(found)
        counts = Counter(name[at] for name in rest if len(name) > at)
        token, count = counts.most_common(1)[0] if counts else ("", 0)
        if count < _ENOUGH * len(names) or not token or (token.isdigit() and len(names) < _FEW):
            return found
        found.append(token)
        rest = [name for name in rest if len(name) > at and name[at] == token]


def _alike(lists: Sequence[Sequence[str]]) -> int:
    """Count the words that all of these begin with, from the first that is one: a separator alone is none."""
    count = len(list(takewhile(lambda tokens: len({one.lower() for one in tokens}) == 1, zip(*lists, strict=False))))
    while count and not lists[0][count - 1][0].isalnum():
        count -= 1
    return count
