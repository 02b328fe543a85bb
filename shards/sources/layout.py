"""Which component each image file belongs to: by globs, by the names of folders, or by words in the files' names."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import NamedTuple

from shards.errors import InputError
from shards.format.schema import BY_NAME
from shards.sources.listing import Files
from shards.sources.words import Meaning, label, meaning, remainder

_GIVEN = 9
_SCENES = ("fg_bg", "fg", "bg")
_LOOKED_AT = 200
"""Names of a folder that are looked at to see whether names tell the component."""


class Share(NamedTuple):
    """The files of a group that belong to one component.

    numbers: of the files. context: what their folders add to their names, those of the component left out. folder: the
    one that the component is told by; label: its words. certainty: of the component, 9 where it was given.
    """

    component: str
    group: int
    numbers: Sequence[int]
    context: tuple[str, ...]
    folder: str
    label: str
    certainty: int


class Candidate(NamedTuple):
    """Folders of one name that may hold a component."""

    label: str
    shares: list[Share]

    @property
    def glob(self) -> str:
        """A glob that names these folders and no others of the candidates."""
        folders = {share.folder for share in self.shares}
        first = min(folders)
        return f"**/{first.rpartition('/')[2]}/**" if len(folders) > 1 else f"{first.partition('/')[2] or first}/**"


def find_components(files: Files, globs: Mapping[str, str]) -> list[Share]:
    """Tell which component each file belongs to; files of none are in no share.

    globs: of components whose place is known; "" for one that is not wanted. Raises InputError where several places
    are meant equally well.
    """
    shares, rest = _by_globs(files, {name: glob for name, glob in globs.items() if glob})
    found = _by_names(files, _by_folders(files, rest), globs.keys())
    if not any(share.component == "fg_bg" for share in found):  # then it may be what is called otherwise
        found = [share._replace(component=share.component or "fg_bg") for share in found]
    candidates = {name: _candidates(files, found, name) for name in BY_NAME if name not in globs}
    for name, some in sorted(candidates.items(), key=lambda one: len(one[1])):  # the clear ones first
        shares += _chosen(files, name, some, shares)
    return [share for name in BY_NAME for share in shares if share.component == name]


def stem(name: str) -> str:
    """Return a file's name without its ending, or endings: `a.jpg.jpg` is `a`."""
    shorter = name.rpartition(".")[0]
    return stem(shorter) if shorter.lower().endswith((".jpg", ".jpeg", ".png")) else shorter


def stems(files: Files, share: Share) -> list[str]:
    """Return the names of a share's files without their endings, in the order of their numbers."""
    names, first = files.names(share.group), files.numbers(share.group).start
    return [stem(names[number - first]) for number in share.numbers]


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
            shares.append(Share(component, group, some, context, inside, "", _GIVEN))
    return shares, rest


def _by_folders(files: Files, rest: Mapping[int, Sequence[int]]) -> list[Share]:
    """Share out files by their folders; those whose folders mean nothing have the component ""."""
    shares, telling = list[Share](), _teller([files.groups[group].inside for group in rest])
    for group, numbers in rest.items():
        parts = files.groups[group].inside.split("/")
        told = telling(parts)
        if not told:
            called = label(parts[min(1, len(parts) - 1)])
            shares.append(Share("", group, numbers, tuple(parts), "/".join(parts), called, 0))
            continue
        at, telling_parts = told[-1], [parts[one] for one in told]
        meant = _meaning_of(telling_parts)
        above = (part for one, part in enumerate(parts[:at]) if one not in told)
        below = (_below(part, meant.component) for part in parts[at + 1 :])
        context = tuple(filter(None, (*above, remainder(parts[at]), *below)))
        folder, called = "/".join(parts[: at + 1]), label(" ".join(telling_parts))
        shares.append(Share(meant.component, group, numbers, context, folder, called, meant.certainty))
    return shares


def _below(part: str, component: str) -> str:
    """Return what a folder below the component's adds to names: that it says which component it is adds nothing."""
    left = remainder(part)
    return part if _component(part) is None or (left and _component(part) != component) else left


def _component(name: str) -> str | None:
    meant = meaning(name)
    return meant.component if meant else None


def _meaning_of(parts: Sequence[str]) -> Meaning:
    """Tell what folders in each other mean together: in masks/fg it is the figures' masks, in labels/depth depth."""
    last = max((at for at, part in enumerate(parts) if _component(part) in ("mask", "depth")), default=0)
    meant = meaning(" ".join(part for at, part in enumerate(parts) if at >= last or _component(part) in _SCENES))
    assert meant is not None
    return meant


def _teller(folders: Iterable[str]) -> Callable[[list[str]], list[int]]:
    """Return a function that finds in the parts of a path those that tell the component, if any.

    They are those beside which there is a folder of another component: in fg_bg/bg_005 it is fg_bg. Where there is
    none, it is the last one that means any. A source by itself tells nothing.
    """
    beside = defaultdict[tuple[str, ...], set[str]](set)
    for folder in folders:
        parts = folder.split("/")
        for at, part in enumerate(parts):
            beside[tuple(parts[:at])].add(part)
    tells = {above: len({_component(part) for part in below} - {None}) > 1 for above, below in beside.items()}
    first = 0 if len(beside[()]) > 1 else 1

    def telling(parts: list[str]) -> list[int]:
        meant = [at for at in range(first, len(parts)) if _component(parts[at])]
        return [at for at in meant if tells[tuple(parts[:at])]] or meant[-1:]

    return telling


def _by_names(files: Files, shares: Iterable[Share], given: Set[str]) -> list[Share]:
    """Take folders apart in which names tell of components that no folder tells of: `x.jpg`, `x_mask.png`."""
    found, shares = list[Share](), list(shares)
    known = {share.component for share in shares} | given
    for share in shares:
        own = share.component
        telling = ({"mask", "depth"} - {own} if own else {"mask", "depth", "bg"}) - known
        names, first = [stem(name) for name in files.names(share.group)], files.numbers(share.group).start
        some = [_component(name) for name in names[:: max(1, len(names) // _LOOKED_AT)]]
        told = sum(one in telling for one in some)
        if told < 0.1 * len(some) or (own and told == len(some)):
            found.append(share)
            continue
        # What nothing is said of is the folder's own; where it has none the image, if nothing else is surer to be it.
        other = Meaning(own, share.certainty) if own in ("mask", "depth", "fg_bg") else Meaning("fg_bg", 0)
        of = defaultdict[Meaning, list[int]](list)
        for number in share.numbers:
            of[meaning(names[number - first]) or other].append(number)
        images = any(one.component == "fg_bg" for one in of)
        context = tuple(files.groups[share.group].inside.split("/"))
        for one, numbers in of.items():
            if one.component == "bg" and not images and len(of) > 1:  # so bg is in the names of the samples
                one = Meaning("fg_bg", 3)
            found.append(Share(one.component, share.group, numbers, context, share.folder, "", one.certainty))
    return found


def _candidates(files: Files, shares: Iterable[Share], component: str) -> list[Candidate]:
    """List the folders, of one name each, that most surely hold a component; of fg_bg also `images` beside these."""
    own = [share for share in shares if share.component == component]
    most = max((share.certainty for share in own), default=0)
    by_label = defaultdict[str, list[Share]](list)
    for share in own:
        if share.certainty == most or (component == "fg_bg" and share.certainty):
            by_label[share.label].append(share)
    return [Candidate(*one) for one in by_label.items()]


def _chosen(files: Files, component: str, candidates: list[Candidate], others: list[Share]) -> list[Share]:
    """Choose among folders that may hold a component.

    It is the one whose files are named as those of `others`, or all where their names begin alike and no file of one
    has the name of one in another, such as fg_bg and fg_bg_flip. Raises InputError if there are several.
    """
    if len(candidates) > 1:
        known = {stem(name) for share in others for name in files.names(share.group)}
        named = [_stems(files, one) for one in candidates]
        fit = [one for one, stems in zip(candidates, named, strict=True) if len(stems & known) > 0.5 * len(stems)]
        kin = len({one.label.partition(" ")[0] for one in candidates}) == 1
        if kin and sum(map(len, named)) == len(set[str]().union(*named)):
            return [share for one in candidates for share in one.shares]
        candidates = fit or candidates
    if len(candidates) > 1:
        most = max(one.shares[0].certainty for one in candidates)
        if component != "fg_bg" or not fit:
            candidates = [one for one in candidates if one.shares[0].certainty == most]
    if len(candidates) > 1:
        places = " and ".join(one.shares[0].folder for one in candidates)
        ways = " or ".join(f"--component {component}='{one.glob}'" for one in candidates)
        raise InputError(f"{places} may both be {component}. Say which: {ways}")
    return candidates[0].shares if candidates else []


def _stems(files: Files, candidate: Candidate) -> set[str]:
    return {stem(name) for share in candidate.shares for name in files.names(share.group)}
