"""`python -m shards index`: tars that somebody else made become a data set where they are, and stay as they are."""

import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import combinations, islice
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Self

from shards.errors import InputError
from shards.format.depth import ExistingDepthConfig
from shards.format.images import IMAGE_SUFFIXES, BadImage, LeftOut, decode_image, histogram
from shards.format.schema import BY_NAME, SHARED_TAR, Sample
from shards.format.splits import DivisionConfig, SplitConfig
from shards.format.storage import LARGEST, LFS_POINTER
from shards.format.tar import BLOCK, TarMember
from shards.ingest.job import LOOKED_AT, Formats, Job, Unit, common_formats, fingerprint, options_of, planned

Members = dict[str, TarMember]
"""Where the images of one sample lie, by component; without those that cannot be used."""

_PACKED = re.compile(r"\.(tgz|tar\.(gz|bz2|xz|zst))$")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_PADDING = 1 << 20
"""Bytes read at a time where nothing but zeros is expected."""
_OF_OTHERS = (*tarfile.GNU_TYPES[:2], tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
"""Headers that are followed by a name, or what else is to be known, of the next one."""
_LONGEST = 1 << 20
"""Bytes of that at most."""
_BEGINNING = 16
"""Members in which a tar's first sample is looked for."""


class _Header(tarfile.TarInfo):
    """A header whose size is looked at before it is used: it may lead back, or take all memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.size < 0 or (found.type in _OF_OTHERS and found.size > _LONGEST):
            raise tarfile.ReadError(f"a header says {found.size:,} bytes")
        return found


def plan_index(folder: Path, existing: ExistingDepthConfig, split: SplitConfig) -> Job:
    """Plan the indexing of all tars in `folder`.

    The data set has the components that most of their first samples have, of which fg_bg must be one. Raises InputError
    if none has it.
    """
    found = sorted(path for path in folder.glob("*.tar") if path.name != SHARED_TAR)
    tars = [path for path in found if not path.name.startswith(".")]
    packed = sorted(path.name for path in folder.glob("*") if _PACKED.search(path.name))
    if not tars:
        raise InputError(f"{folder}: no .tar in it." + (f" Unpack {packed[0]} to a plain tar first." if packed else ""))
    if other := next((path for path in tars if not path.is_file()), None):
        raise InputError(f"{other}: no tar but a folder, a pipe, a device or a link that leads nowhere. Remove it.")
    _refuse_repeated(tars)
    formats = _look(tars)
    unpack = "images are read in place: unpack it to a plain tar"
    left_out = [LeftOut("compressed", "", "", name, unpack) for name in packed]
    left_out += [LeftOut("litter", "", "", path.name, "a hidden file") for path in found if path not in tars]
    states = [f"{tar.name} {tar.stat().st_size} {tar.stat().st_mtime_ns}".encode() for tar in tars]
    units = [
        IndexUnit(name=tar.name, size=1, made_from=fingerprint({"formats": formats}, [state]), tar=tar, formats=formats)
        for tar, state in zip(tars, states, strict=True)
    ]
    return planned(
        units,
        formats,
        DivisionConfig(**vars(split)),
        left_out,
        depth=existing.depth_range,
        made_from=fingerprint(options_of(existing) | options_of(split), (unit.made_from.encode() for unit in units)),
        command=fingerprint({}, [b"index"]),  # other options are no other data set, for the tars have no other folder
    )._replace(in_place=True)


def _refuse_repeated(tars: Sequence[Path]) -> None:
    """Raise InputError if two tars begin with one sample: numbered anew in each, as a rule, all others are there twice.

    Whether others are is known once all are read.
    """
    first = dict[str, Path]()
    for tar in tars:
        key = _first_key(tar)
        if key and (other := first.setdefault(key, tar)) != tar:
            raise InputError(
                f"{other} and {tar} both begin with the sample {key!r}. A key names one sample: index them in folders "
                "of their own, or pack them again with other names."
            )


def _first_key(tar: Path) -> str | None:
    try:
        with tarfile.open(tar, "r:", tarinfo=_Header) as archive:
            found = (_named(PurePosixPath(member.name)) for member in islice(archive, _BEGINNING))
            return next((key for key, named in found if named), None)
    except Exception:  # `list_tar` says what is wrong with it
        return None


def _look(tars: list[Path]) -> Formats:
    """Find which components the samples have, and how most images of each are encoded: by the first samples."""
    named, found = set[str](), list[tuple[Path, Members]]()
    for tar in tars:
        samples = list_tar(tar)[0].values()
        named |= {f"KEY.{one[0]}" for sample in samples for one in sample.values()}
        by_name = ({name: one for name, one in sample.items() if _is_image(one)} for sample in samples)
        found += [(tar, sample) for sample in by_name if "fg_bg" in sample]
        if len(found) >= LOOKED_AT:
            break
    which = f"{tars[0]}{f' and {len(tars) - 1} more' if tars[1:] else ''}"
    if not found:
        told = ", ".join(sorted(named)[:8]) or "otherwise (not KEY.fg_bg.jpg)"
        raise InputError(f"{which}: no sample has an image fg_bg; its members are named {told}.")
    names = _held_by_most([sample.keys() for _, sample in found[:LOOKED_AT]])
    whole = [(tar, sample) for tar, sample in found[:LOOKED_AT] if names <= sample.keys()]
    formats = common_formats({name: _images(whole, name) for name in names})
    if formats is None:
        raise InputError(f"{which}: most fg_bg are neither JPEG nor PNG.")
    return formats


def _held_by_most(samples: Sequence[Set[str]]) -> Set[str]:
    """Return the most components that more than half of the samples have together; fg_bg, which all have, is one."""
    others = BY_NAME.keys() - {"fg_bg"}
    sets = [{"fg_bg", *some} for count in range(len(BY_NAME)) for some in combinations(sorted(others), count)]
    held = ((len(some), sum(some <= one for one in samples), some) for some in sets)
    return max((one for one in held if 2 * one[1] > len(samples)), key=itemgetter(0, 1))[2]


def _images(samples: Iterable[tuple[Path, Members]], name: str) -> Iterator[bytes]:
    for tar, members in samples:
        with tar.open("rb") as file:
            yield _read(file, members[name])


def _is_image(member: TarMember) -> bool:
    """Tell whether the member's name is that of a JPEG or PNG, however that is spelled."""
    return "." + member[0].partition(".")[2].lower() in IMAGE_SUFFIXES


def _read(file: BinaryIO, member: TarMember) -> bytes:
    _, offset, size = member
    file.seek(offset)
    return file.read(size)


@dataclass(frozen=True, kw_only=True)
class IndexUnit(Unit):
    """One tar that is there already."""

    tar: Path
    formats: Formats

    def samples(self) -> Iterator[Sample | LeftOut]:
        samples, left_out = list_tar(self.tar)
        yield from left_out
        told = {(one.key, one.component) for one in left_out}
        with self.tar.open("rb") as file:
            for key, members in samples.items():
                for name in [name for name in members if name not in self.formats]:
                    source = f"{self.name}/{key}.{members[name][0]}"
                    yield LeftOut("unused", key, name, source, f"the data set has no {name}, for most samples lack it")
                missing = [name for name in self.formats if name not in members]
                if not missing:
                    yield from self._checked(key, members, file)
                elif not any((key, name) in told for name in missing):
                    detail = f"lacks {', '.join(missing)}; it has {', '.join(members)}"
                    yield LeftOut("missing", key, "", self.name, detail)

    def _checked(self, key: str, members: Members, file: BinaryIO) -> Iterator[Sample | LeftOut]:
        images, histograms = {}, {}
        for name, form in self.formats.items():
            named, *_ = members[name]
            try:
                images[name] = _read(file, members[name])
                histograms[name] = histogram(decode_image(images[name], form))
            except BadImage as bad:
                yield LeftOut(bad.kind, key, name, f"{self.name}/{key}.{named}", bad.detail)
        if histograms.keys() == self.formats.keys():
            yield Sample(key, images, histograms, members)


def list_tar(tar: Path) -> tuple[dict[str, Members], list[LeftOut]]:
    """Read the headers of a USTAR, GNU, PAX or v7 tar.

    Returns the samples by key, in the order of their first members, and what is no part of any. A sample's members need
    not lie side by side: our loader and DALI's reader go by the index. The webdataset library goes by the tar, and sees
    parts of such samples. Other members of a sample (KEY.json) are passed over; those of no sample at all are left out
    as litter. Raises InputError if the tar is compressed, cut short, damaged, or several joined into one.
    """
    with tar.open("rb") as file:
        if file.peek(len(LFS_POINTER)).startswith(LFS_POINTER):
            raise InputError(f"{tar}: Git LFS has the tar, and this points to it: git lfs pull")
        for magic, name in _COMPRESSED.items():
            if file.peek(8).startswith(magic):
                raise InputError(
                    f"{tar}: compressed by {name}. Images are read in place, so unpack it to a plain tar first."
                )
        try:
            with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as archive:
                found = _found(tar.name, archive)
                end = archive.offset
            file.seek(end)
            last = file.read(BLOCK)  # Python's reader stops at anything that it cannot read
            if len(last) < BLOCK:
                raise tarfile.ReadError(f"it ends at byte {end} without the empty block of an end")
            if any(last):
                raise tarfile.ReadError(f"no header can be read at byte {end}")
        except Exception as error:  # of many kinds, for Python's reader trusts the numbers in headers
            raise InputError(f"{tar}: not a whole tar ({error}). Copy it again.") from error
        while padding := file.read(_PADDING):
            if any(padding):
                raise InputError(
                    f"{tar}: goes on after its end at byte {end}; several tars in one? "
                    "`tar --ignore-zeros -xf` unpacks all of them; make it again from that."
                )
    return found


def _found(tar: str, archive: tarfile.TarFile) -> tuple[dict[str, Members], list[LeftOut]]:
    """Sort the members by sample and component. The last of several wins, as it does when the tar is unpacked."""
    samples: dict[str, Members] = {}
    left_out: list[LeftOut] = []
    others: list[tuple[str, str]] = []
    places: dict[PurePosixPath, tuple[int, int]] = {}
    for member in archive:
        if member.isdir():
            continue
        if member.size < 0:  # as extended headers may say, too
            raise tarfile.ReadError(f"{member.name} has {member.size:,} bytes")
        path = PurePosixPath(member.name)
        if member.isreg() and not member.issparse():
            places[path] = member.offset_data, member.size
        key, named = _named(path)
        component = named.partition(".")[0]
        if not named:
            others.append((key, member.name))
            continue
        sample = samples.setdefault(key, {})
        if before := sample.get(component):
            why = f"{member.name} comes after it and is used"
            left_out.append(LeftOut("duplicate", key, component, f"{tar}/{key}.{before[0]}", why))
        place = places.get(PurePosixPath(member.linkname) if member.islnk() else path)
        try:
            sample[component] = (named, *_usable(member, path, place))
        except BadImage as bad:
            sample.pop(component, None)
            left_out.append(LeftOut(bad.kind, key, component, f"{tar}/{member.name}", bad.detail))
    litter = (f"{tar}/{name}" for key, name in others if key not in samples)
    left_out += [LeftOut("litter", "", "", name, "no component of a sample by its name") for name in litter]
    return samples, left_out


def _named(path: PurePosixPath) -> tuple[str, str]:
    """Return the key of a member's sample, and its component with its ending; "" where it is none by its name."""
    stem, _, named = path.name.partition(".")
    key = "/".join([*(part for part in path.parts[:-1] if part != "/"), stem])
    return key, named if stem and named.partition(".")[0] in BY_NAME else ""


def _usable(member: tarfile.TarInfo, path: PurePosixPath, place: tuple[int, int] | None) -> tuple[int, int]:
    """Return offset and size of a member's data, its `place`. Raises BadImage if it cannot be read there."""
    if ".." in path.parts:
        raise BadImage("bad-name", "the name leads out of the folder that it would be unpacked into")
    if member.name.encode(errors="ignore").decode() != member.name:  # what is not UTF-8 has become surrogates
        raise BadImage("bad-name", "the name is not UTF-8")
    if member.issym():
        raise BadImage("link", f"a symbolic link to {member.linkname}; `tar --dereference` stores the image itself")
    if place and place[1] > LARGEST:
        raise BadImage("too-large", f"{place[1]:,} bytes, more than any image has")
    if place:
        return place
    if member.islnk():
        raise BadImage("link", f"a hard link to {member.linkname}, which is not in the tar before it")
    if member.issparse():
        raise BadImage("sparse", "stored without its empty parts; make the tar without --sparse")
    raise BadImage("not-a-file", "a device or a pipe")
