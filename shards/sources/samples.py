"""Sources to samples: which files there are, which components they belong to, and which of them belong together."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from re import Pattern

import numpy as np

from shards.format.images import LeftOut
from shards.format.schema import BY_NAME, LONGEST_KEY
from shards.format.splits import unit_interval
from shards.sources.backgrounds import find_backgrounds
from shards.sources.joining import Joined, join
from shards.sources.layout import Share, find_components, stem
from shards.sources.listing import Files, NoSampleError, Samples, list_images
from shards.sources.table import read_table

_TOLD = 3
"""Folders of a component that are told."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What was said of where the images lie; all else is inferred.

    globs: by component, "" for one that is not wanted. keys: patterns of the keys, by component. background: a pattern.
    table: a list of samples, with the components of its columns where it has no header.
    """

    globs: Mapping[str, str]
    keys: Mapping[str, Pattern[str]]
    background: str | None
    table: Path | None
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """Samples, the components that they have, what was left out, and what is to be told of how they were found."""

    components: list[str]
    samples: Samples
    left_out: list[LeftOut]
    notes: list[str]


def find_samples(sources: Sequence[Path], layout: Layout) -> Found:
    """Find the samples in the sources. Raises NoSampleError if there are none, or if files cannot be told apart."""
    left_out: list[LeftOut] = []
    files = list_images(sources, left_out)
    if layout.table:
        joined = read_table(layout.table, layout.columns, files, left_out)
        notes = [f"samples: {len(joined.rows):,} lines of {layout.table}, by their columns {', '.join(joined.found)}"]
    else:
        joined, notes = _joined(files, layout, left_out)
    samples = _complete(joined, left_out)
    notes += [_sample(joined, samples, number) for number in range(min(2, len(samples)))]
    return Found(list(joined.found), samples, left_out, notes)


def _joined(files: Files, layout: Layout, left_out: list[LeftOut]) -> tuple[Joined, list[str]]:
    shares = find_components(files, layout.globs)
    by_name = {name: [one for one in shares if one.component == name] for name in BY_NAME}
    by_name = {name: some for name, some in by_name.items() if some}
    joined, unfit = _fitting(files, by_name, layout)
    used = [share for some in by_name.values() for share in some]
    aside = _aside(files, used)
    left_out += [LeftOut("litter", "", "", files.path(one), "its folder means none of the components") for one in aside]
    _check_components(files, by_name, layout, aside, left_out)
    assert joined
    left_out += joined.left_out()
    notes = [_place(files, name, some) for name, some in by_name.items()]
    notes += [f"key: {joined.rule}"]
    if joined.twice:
        key, name, one, other = joined.twice[0]
        raise NoSampleError(
            f"{len(joined.twice):,} files have the key of another of their component: {files.path(one)} and "
            f"{files.path(other)} would both be the {name} of {key!r}. Remove one of each two, or tell them apart by "
            f"--key {name}=REGEX, whose groups make the key.",
            left_out,
        )
    if not joined.complete:
        raise NoSampleError(_report(joined, by_name, aside), left_out)
    _refuse_few(joined, by_name, layout, left_out)
    if "bg" in by_name:
        joined.found["bg"], said = find_backgrounds(joined, by_name["fg_bg"], by_name["bg"], layout.background)
        notes.append(f"background: {said}")
    notes += [f"left aside: {text}, whose names fit too few of the others" for text in unfit]
    largest = _folders(files, aside).most_common(_TOLD)
    notes += [f"left aside: {folder} ({count:,} images)" for folder, count in largest]
    return joined, notes


def _fitting(files: Files, by_name: dict[str, list[Share]], layout: Layout) -> tuple[Joined | None, list[str]]:
    """Join all components but bg. One that is not sure, such as fg_mask, leaves `by_name` if its names do not fit.

    Returns nothing where there is no fg_bg; and what has left.
    """
    unfit = list[str]()
    while "fg_bg" in by_name:
        joined = join(files, [share for name, some in by_name.items() if name != "bg" for share in some], layout.keys)
        few = [name for name in _few(joined) if name != "fg_bg" and by_name[name][0].certainty == 1]
        if not few:
            return joined, unfit
        unfit += [_place(files, name, by_name.pop(name)) for name in few]
    return None, unfit


def _few(joined: Joined) -> dict[str, int]:
    """Name components that fewer than half of the images have a file of; with how many have."""
    images = joined.found["fg_bg"]
    both = {name: sum(map(bool, map(min, images, column))) for name, column in joined.found.items()}
    return {name: count for name, count in both.items() if 2 * count < both["fg_bg"]}


def _refuse_few(
    joined: Joined, by_name: Mapping[str, Sequence[Share]], layout: Layout, left_out: list[LeftOut]
) -> None:
    """Raise NoSampleError if few images would become samples, or if components are of other folders' numbers.

    Names may be alike by accident, numbers above all. What was given by an option is meant so.
    """
    given = layout.globs.keys() | layout.keys.keys()
    images, files, few = joined.found["fg_bg"], joined.files, _few(joined)
    for name in joined.found.keys() - {"fg_bg"} - given:
        place = _place(files, name, by_name[name])
        if name in few:
            said = f"only {few[name]:,} of {sum(map(bool, images)):,} images have a {name} ({place})."
        elif _are_apart(files, by_name["fg_bg"], by_name[name]):
            said = f"{_place(files, 'fg_bg', by_name['fg_bg'])} and {place} are in folders of other numbers."
        elif _are_shifted(joined, name):
            said = f"the numbers of fg_bg begin at another one than those of {name} ({place})."
        else:
            continue
        glob = f"**/{by_name[name][0].folder.rpartition('/')[2]}/**"
        raise NoSampleError(
            f"{said} Names may be alike by accident. If they do belong together: --component {name}='{glob}'; to go "
            f"without: --component {name}=",
            left_out,
        )


def _are_apart(files: Files, images: Sequence[Share], others: Sequence[Share]) -> bool:
    """Tell whether both are in folders with numbers, of which none is the same."""
    sources = [{files.groups[one.group].inside.partition("/")[0] for one in shares} for shares in (images, others)]
    common = sources[0] & sources[1]
    one, other = (
        set(re.findall(r"\d+", "/".join({part for share in shares for part in share.context} - common)))
        for shares in (images, others)
    )
    return bool(one and other) and not one & other


def _are_shifted(joined: Joined, name: str) -> bool:
    """Tell whether all keys are numbers, and those of one component begin and end so much higher than the other's."""
    if not all(map(str.isdecimal, joined.rows)):
        return False
    keys = list(map(int, joined.rows))
    both = [[key for key, number in zip(keys, joined.found[one], strict=True) if number] for one in ("fg_bg", name)]
    shift = min(both[0]) - min(both[1])
    return len(both[0]) == len(both[1]) and shift == max(both[0]) - max(both[1]) != 0


def _aside(files: Files, shares: Sequence[Share]) -> list[int]:
    used = np.zeros(len(files), bool)
    for share in shares:
        used[share.numbers] = True
    return np.flatnonzero(~used).tolist()


def _check_components(
    files: Files, by_name: Mapping[str, Sequence[Share]], layout: Layout, aside: Sequence[int], left_out: list[LeftOut]
) -> None:
    for name, glob in layout.globs.items():
        if glob and name not in by_name:
            raise NoSampleError(f"--component {name}={glob!r} matches no image.{_elsewhere(files, aside)}", left_out)
    wanted = "" if "fg_bg" in by_name else "fg_bg, the images that are the input"
    if not wanted and not by_name.keys() & {"mask", "depth"} and not {"mask", "depth"} <= layout.globs.keys():
        wanted = "mask or depth"
    if wanted:
        found = "; ".join(_place(files, name, some) for name, some in by_name.items()) or "nothing"
        raise NoSampleError(
            f"no folder is known to hold {wanted}. Found: {found}.{_elsewhere(files, aside)} "
            "Say where it is: --component NAME=GLOB, such as --component mask='**/alpha/**'.",
            left_out,
        )


def _folders(files: Files, numbers: Sequence[int]) -> Counter[str]:
    """Count the files in each folder."""
    return Counter(files.groups[files.group_of(number)].inside for number in numbers)


def _elsewhere(files: Files, aside: Sequence[int]) -> str:
    largest = _folders(files, aside).most_common(8)
    said = ", ".join(f"{folder} ({count:,}, such as {_example(files, folder)})" for folder, count in largest)
    return f" Other images lie in {said}." if said else ""


def _example(files: Files, folder: str) -> str:
    return next(files.names(i)[0] for i, group in enumerate(files.groups) if group.inside == folder)


def _place(files: Files, name: str, shares: Sequence[Share]) -> str:
    folders, count = list(dict.fromkeys(share.folder for share in shares)), sum(len(one.numbers) for one in shares)
    more = f" and {len(folders) - _TOLD:,} more" if len(folders) > _TOLD else ""
    return f"{name}: {', '.join(folders[:_TOLD])}{more} ({count:,} images)"


def _sample(joined: Joined, samples: Samples, number: int) -> str:
    (key, entries), *_ = samples[number : number + 1]
    return f"{key}: " + ", ".join(f"{name} <- {one.path}" for name, one in zip(joined.found, entries, strict=True))


def _report(joined: Joined, by_name: Mapping[str, Sequence[Share]], aside: Sequence[int]) -> str:
    files, lines = joined.files, [f"no complete sample among {len(joined.files):,} images:"]
    for name, shares in by_name.items():
        lines.append(f"  {_place(files, name, shares)}, such as {files.entry(shares[0].numbers[0]).name}")
    if not joined.rows:
        path = stem(files.inside(joined.without[0]))
        return f"--key finds nothing in paths such as {path} (which have no ending there)."
    key, row = next(iter(joined.rows.items()))
    has = next(name for name, column in joined.found.items() if column[row])
    lacks = ", ".join(name for name, column in joined.found.items() if not column[row])
    lines.append(
        f"  {files.path(joined.found[has][row] - 1)} has the key {key!r}, and {lacks} has no file of that key."
    )
    lines.append(f"  The key is {joined.rule}.{_elsewhere(files, aside)}")
    lines.append(
        "If names differ, --key NAME=REGEX says what they have in common, such as --key mask='(.+)_mask'; if a"
    )
    lines.append("folder is another component, --component NAME=GLOB; else --list FILE names the files of each sample.")
    return "\n".join(lines)


def _complete(joined: Joined, left_out: list[LeftOut]) -> Samples:
    """Return the rows that have all their images, in the order of a hash of their keys; others join `left_out`."""
    files, names = joined.files, list(joined.found)
    found = np.stack([np.frombuffer(column, np.uint32) for column in joined.found.values()], 1)
    whole = np.asarray(found.all(1))
    kept: list[bytes] = []
    for row, key in enumerate(joined.rows):
        storable = key.isprintable() and len(key.encode()) <= LONGEST_KEY
        if whole[row] and storable:
            kept.append(key.encode())
            continue
        whole[row] = False
        some = files.path(int(found[row][found[row] > 0][0]) - 1)
        missing = np.array(names)[found[row] == 0].tolist()
        left_out += [LeftOut("missing", key, name, some, f"there is no {name} for it") for name in missing]
        if not storable:
            why = f"a tar cannot hold this name: {LONGEST_KEY} bytes of printable UTF-8 at most"
            left_out.append(LeftOut("bad-name", key, "", some, why))
    if not kept:
        lacks = Counter(one.component for one in left_out if one.kind == "missing").most_common()
        said = ", ".join(f"{count:,} lack {name}" for name, count in lacks) or "no name can be stored"
        raise NoSampleError(f"no complete sample among {len(joined.rows):,}: {said}.", left_out)
    joined.rows.clear()
    keys = np.array(kept, np.bytes_)
    order = np.lexsort((keys, np.fromiter((unit_interval(key.decode(), 0) for key in kept), np.float64, len(kept))))
    return Samples(keys[order], found[np.flatnonzero(whole)[order]] - np.uint32(1), files)
