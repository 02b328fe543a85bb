"""Which component each image file belongs to: by globs, by the names of folders, or by words in the files' names."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from shards.errors import InputError
from shards.format.schema import BY_NAME
from shards.ingest.listing import Files
from shards.ingest.words import label, meaning, remainder

_LOOKED_AT = 200
"""Names of a folder that are looked at to see whether names tell the component."""


class Share(NamedTuple):
    """The files of a group that belong to one component.

    numbers: of the files. context: what their folders add to their names, those of the component left out.
    """

    component: str
    group: int
    numbers: Sequence[int]
    context: tuple[str, ...]
    folder: str


class Candidate(NamedTuple):
    """Folders of one name that may hold a component."""

    component: str
    label: str
    certainty: int
    shares: list[Share]

    @property
    def folder(self) -> str:
        return self.shares[0].folder


def find_components(files: Files, globs: Mapping[str, str]) -> list[Share]:
    """Tell which component each file belongs to; files of none are in no share.

    globs: of components whose place is known; "" for one that is not wanted. Raises InputError where several places
    are meant equally well.
    """
    shares, rest = _by_globs(files, {name: glob for name, glob in globs.items() if glob})
    candidates = list(_by_folders(files, rest))
    candidates += _by_names(files, {one.component for one in candidates} | globs.keys(), candidates)
    if "fg_bg" not in {one.component for one in candidates}:  # then it may be what is called otherwise
        candidates = [one._replace(component=one.component or "fg_bg") for one in candidates]
    meant = {name: _surest(one for one in candidates if one.component == name) for name in BY_NAME if name not in globs}
    for sure in sorted(meant.values(), key=len):  # the clear ones first
        shares += _chosen(files, sure, shares)
    return [
        share._replace(component=name) for name in BY_NAME for share in shares if (share.component or "fg_bg") == name
    ]


def stem(name: str) -> str:
    """Return a file's name without its ending, or endings: `a.jpg.jpg` is `a`."""
    shorter = name.rpartition(".")[0]
    return stem(shorter) if shorter.lower().endswith((".jpg", ".jpeg", ".png")) else shorter


class Matcher:
    """Tells by a file's path which component it is. A pattern is a glob, with or without the source's own name."""

    def __init__(self, globs: Mapping[str, str]) -> None:
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


def _by_globs(files: Files, globs: Mapping[str, str]) -> tuple[list[Share], dict[int, Sequence[int]]]:
    """Share out what the globs match; return also the numbers of the other files by group."""
    groups = {group: files.numbers(group) for group in range(len(files.groups))}
    if not globs:
        return [], dict(groups)
    matcher, shares, rest = Matcher(globs), list[Share](), dict[int, Sequence[int]]()
    literal = {name: set(glob.split("/")) for name, glob in globs.items()}
    for group, numbers in groups.items():
        inside = files.groups[group].inside
        of = defaultdict[str | None, list[int]](list)
        for number, component in zip(numbers, matcher.components(inside, files.names(group)), strict=True):
            of[component].append(number)
        if None in of:
            rest[group] = of.pop(None)
        for component, some in of.items():
            assert component is not None
            # A folder that only this component's glob names is the component's; the others are of the sample.
            own = literal[component].difference(*(parts for name, parts in literal.items() if name != component))
            context = tuple(part for part in inside.split("/") if part not in own)
            shares.append(Share(component, group, some, context, inside))
    return shares, rest


def _by_folders(files: Files, rest: Mapping[int, Sequence[int]]) -> Iterator[Candidate]:
    """Yield the folders, of one name each, that mean a component; with "" for one the files whose folders mean none."""
    found, certainty = defaultdict[tuple[str, str], list[Share]](list), dict[tuple[str, str], int]()
    deciding = _decider([files.groups[group].inside for group in rest])
    for group, numbers in rest.items():
        parts = files.groups[group].inside.split("/")
        at = deciding(parts)
        if at is None:
            found["", label(parts[min(1, len(parts) - 1)])].append(
                Share("", group, numbers, tuple(parts), "/".join(parts))
            )
            continue
        meant = meaning(parts[at])
        assert meant is not None
        component = meant.component
        below = (remainder(part) if _component(part) == component else part for part in parts[at + 1 :])
        context = filter(None, (*parts[:at], remainder(parts[at]), *below))
        folder = "/".join(parts[: at + 1])
        found[component, label(parts[at])].append(Share(component, group, numbers, tuple(context), folder))
        certainty[component, label(parts[at])] = meant.certainty
    for (component, name), shares in found.items():
        yield Candidate(component, name, certainty.get((component, name), 0), shares)


def _component(name: str) -> str | None:
    meant = meaning(name)
    return meant.component if meant else None


def _decider(folders: Iterable[str]) -> Callable[[list[str]], int | None]:
    """Return a function that finds in the parts of a path the one that tells the component; None if none does.

    It is the last one beside which there is a folder of another component: in fg_bg/bg_005 it is fg_bg, in images/mask
    it is mask. Where there is none, it is the last one that means any. A source by itself tells nothing.
    """
    beside = defaultdict[tuple[str, ...], set[str]](set)
    for folder in folders:
        parts = folder.split("/")
        for at, part in enumerate(parts):
            beside[tuple(parts[:at])].add(part)
    decides = {above: len({_component(part) for part in below} - {None}) > 1 for above, below in beside.items()}
    first = 0 if len(beside[()]) > 1 else 1

    def deciding(parts: list[str]) -> int | None:
        meant = [at for at in range(first, len(parts)) if _component(parts[at])]
        return max((at for at in meant if decides[tuple(parts[:at])]), default=meant[-1] if meant else None)

    return deciding


def _by_names(files: Files, known: set[str], candidates: list[Candidate]) -> list[Candidate]:
    """Take folders apart in which names tell of components that are not `known`: `x.jpg`, `x_mask.png`.

    What is taken apart leaves `candidates`.
    """
    found = defaultdict[str, list[Share]](list)
    for candidate in list(candidates):
        component = candidate.component
        telling = {"mask", "depth"} - {component} if component else {"mask", "depth", "bg"}
        for share in list(candidate.shares):
            names = [stem(name) for name in files.names(share.group)]
            some = [_component(name) for name in names[:: max(1, len(names) // _LOOKED_AT)]]
            told = sum(one in telling - known for one in some)
            if told < 0.1 * len(some) or (component and told == len(some)):
                continue
            candidate.shares.remove(share)
            of, first = defaultdict[str, list[int]](list), files.numbers(share.group).start
            for number in share.numbers:
                other = component if component in ("mask", "depth") else "fg_bg"
                of[_component(names[number - first]) or other].append(number)
            if "bg" in of and "fg_bg" not in of and len(of) > 1:  # so bg is in the names of the samples
                of["fg_bg"] = of.pop("bg")
            context = tuple(files.groups[share.group].inside.split("/"))
            for name, numbers in of.items():
                found[name].append(Share(name, share.group, numbers, context, share.folder))
    candidates[:] = [one for one in candidates if one.shares]
    return [Candidate(component, "", 4 if component == "fg_bg" else 2, shares) for component, shares in found.items()]


def _surest(candidates: Iterable[Candidate]) -> list[Candidate]:
    found = list(candidates)
    return [one for one in found if one.certainty == max(one.certainty for one in found)]


def _chosen(files: Files, candidates: list[Candidate], others: list[Share]) -> list[Share]:
    """Choose among the folders that may hold a component the one whose files are named as those of `others`."""
    if len(candidates) > 1:
        known = {stem(name) for share in others for name in files.names(share.group)}
        candidates = [one for one in candidates if _share_of(files, one, known) > 0.5] or candidates
    if len(candidates) > 1:
        name, places = candidates[0].component, [one.folder for one in candidates]
        ways = " or ".join(f"--component {name}='{place.partition('/')[2] or place}/**'" for place in places)
        raise InputError(f"{' and '.join(places)} may both be {name}. Say which: {ways}")
    return candidates[0].shares if candidates else []


def _share_of(files: Files, candidate: Candidate, known: set[str]) -> float:
    names = [stem(name) for share in candidate.shares for name in files.names(share.group)]
    return sum(name in known for name in names) / len(names)
