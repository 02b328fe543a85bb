"""`python -m shards index`: tars that somebody else made become a data set where they are, and stay as they are."""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from shards.errors import InputError
from shards.format.depth import ExistingDepthConfig
from shards.format.images import IMAGE_SUFFIXES, BadImage, LeftOut, decode_image, histogram
from shards.format.schema import BY_NAME, SHARED_TAR, Sample
from shards.format.splits import DivisionConfig, SplitConfig
from shards.format.tar import BLOCK, TarMember
from shards.ingest.job import LOOKED_AT, Formats, Job, Unit, common_formats, fingerprint, options_of, planned

Members = dict[str, TarMember]
"""Where the images of one sample lie, by component; without those that cannot be used."""

_PACKED = re.compile(r"\.(tgz|tar\.(gz|bz2|xz|zst))$")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_PADDING = 1 << 20
"""Bytes read at a time where nothing but zeros is expected."""


def plan_index(folder: Path, existing: ExistingDepthConfig, split: SplitConfig) -> Job:
    """Plan the indexing of all tars in `folder`.

    Raises InputError if none of them holds a complete sample.
    """
    found = sorted(path for path in folder.glob("*.tar") if path.name != SHARED_TAR)
    tars = [path for path in found if not path.name.startswith(".")]
    packed = sorted(path.name for path in folder.glob("*") if _PACKED.search(path.name))
    if not tars:
        raise InputError(f"{folder}: no .tar in it." + (f" Unpack {packed[0]} to a plain tar first." if packed else ""))
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


def _look(tars: list[Path]) -> Formats:
    """Find how most images of each component are encoded: by the first complete samples."""
    named: set[str] = set()
    for tar in tars:
        samples = list_tar(tar)[0].values()
        named |= {f"KEY.{one[0]}" for sample in samples for one in sample.values()}
        complete = [one for one in samples if one.keys() == BY_NAME.keys() and all(map(_extension, one.values()))]
        if complete:
            with tar.open("rb") as file:
                fg_bg, depth = ([_read(file, one[name]) for one in complete[:LOOKED_AT]] for name in ("fg_bg", "depth"))
            if formats := common_formats([_extension(complete[0][name]) for name in BY_NAME], fg_bg, depth):
                return formats
            raise InputError(f"{tar}: its fg_bg components are no images.")
    raise InputError(
        f"{tars[0]}{f' and {len(tars) - 1} more' if tars[1:] else ''}: no sample has all of {', '.join(BY_NAME)} as "
        f"images; its members are named {', '.join(sorted(named)[:8]) or 'otherwise (not KEY.fg_bg.jpg)'}."
    )


def _extension(member: TarMember) -> str:
    """Return "jpg" or "png" by the member's name, however that is spelled; "" if it is neither."""
    return IMAGE_SUFFIXES.get("." + member[0].partition(".")[2].lower(), "")


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
                if _extension(members[name]) != form.extension:
                    raise BadImage("wrong-format", f"{named} where {name}.{form.extension} is expected")
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
        for magic, name in _COMPRESSED.items():
            if file.peek(8).startswith(magic):
                raise InputError(
                    f"{tar}: compressed by {name}. Images are read in place, so unpack it to a plain tar first."
                )
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                found = _found(tar.name, archive)
                end = archive.offset
            file.seek(end)
            last = file.read(BLOCK)  # Python's reader stops at anything that it cannot read
            if len(last) < BLOCK:
                raise tarfile.ReadError(f"it ends at byte {end} without the empty block of an end")
            if any(last):
                raise tarfile.ReadError(f"no header can be read at byte {end}")
        except (tarfile.TarError, ValueError, OverflowError) as error:
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
        path = PurePosixPath(member.name)
        if member.isreg() and not member.issparse():
            places[path] = member.offset_data, member.size
        stem, _, named = path.name.partition(".")
        key = "/".join([*(part for part in path.parts[:-1] if part != "/"), stem])
        component = named.partition(".")[0]
        if not stem or component not in BY_NAME:
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


def _usable(member: tarfile.TarInfo, path: PurePosixPath, place: tuple[int, int] | None) -> tuple[int, int]:
    """Return offset and size of a member's data, its `place`. Raises BadImage if it cannot be read there."""
    if ".." in path.parts:
        raise BadImage("bad-name", "the name leads out of the folder that it would be unpacked into")
    if member.name.encode(errors="ignore").decode() != member.name:  # what is not UTF-8 has become surrogates
        raise BadImage("bad-name", "the name is not UTF-8")
    if member.issym():
        raise BadImage("link", f"a symbolic link to {member.linkname}; `tar --dereference` stores the image itself")
    if place:
        return place
    if member.islnk():
        raise BadImage("link", f"a hard link to {member.linkname}, which is not in the tar before it")
    if member.issparse():
        raise BadImage("sparse", "stored without its empty parts; make the tar without --sparse")
    raise BadImage("not-a-file", "a device or a pipe")
