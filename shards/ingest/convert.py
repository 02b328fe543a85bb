"""`python -m shards convert`: image folders and zips to verified samples, components joined by name."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.depth import ExistingDepthConfig
from shards.format.images import BadImage, ImageFormat, LeftOut, decode_image, encode_image, histogram, scale_image
from shards.format.manifest import Encoding
from shards.format.schema import BY_NAME, Sample
from shards.format.splits import COUNTED, DivisionConfig
from shards.ingest.job import LOOKED_AT, Formats, Job, Unit, common_formats, divided, fingerprint, options_of, planned
from shards.ingest.listing import Samples
from shards.ingest.samples import Layout, find_samples
from shards.ingest.zips import Entry, Reader

Checked = tuple[bytes, NDArray[np.int64] | None] | BadImage
"""An image as it is stored, and its histogram where it is counted; or why it cannot be used."""

_OF_LAYOUT = ("component", "key", "background", "list", "columns")
"""Options that say which files are meant. What they find is digested itself."""
DECODED = 1_000
"""Samples that are decoded for the statistics where the others are not."""


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(ExistingDepthConfig):
    """How image files become samples."""

    component: tuple[str, ...] = ()
    """NAME=GLOB, once for each component that is not found by itself; zips count as folders; NAME= goes without it"""
    key: tuple[str, ...] = ()
    """NAME=REGEX, for components whose files are named otherwise; its groups in a path make the sample's key"""
    background: str | None = None
    """regular expression; its group in the path of fg_bg is the background's name, the end of that, or its number"""
    list: Path | None = None
    """CSV or TSV with a line a sample, which names its images by path; instead of all of the above"""
    columns: tuple[str, ...] = ()
    """what the columns of the list are (fg_bg, mask, depth, bg, key; anything else for others), if it has no header"""
    size: int | None = None
    """height and width to which all images are scaled down and encoded again; without it the files stay as they are"""
    lossless: bool = False
    """with size: mask and depth as PNG, which no second encoding blurs"""
    verify: Literal["full", "header"] = "full"
    """full decodes every image; header reads headers and ends, and decodes 1,000 samples for the statistics"""
    division: DivisionConfig = field(default_factory=DivisionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and self.size < 16:
            raise InputError(f"size {self.size}: at least 16 is needed.")
        if self.lossless and self.size is None:
            raise InputError(
                "lossless needs size. Without it every file is stored as it is, and there is no loss to be spared."
            )
        if self.size is not None and self.verify == "header":
            raise InputError("verify header: with size every image is decoded. Give one of the two.")
        if self.list and (self.component or self.key or self.background):
            raise InputError("list: it names all files, so it does without component, key and background.")
        if self.columns and not self.list:
            raise InputError("columns: they are those of a list. Give --list FILE too.")
        self.layout  # noqa: B018 - says what is wrong with it

    @cached_property
    def layout(self) -> Layout:
        """Where the images lie. Raises InputError where that says nothing."""
        keys = {name: _pattern("key", regex) for name, regex in _by_component("key", "REGEX", self.key).items()}
        if self.background is not None:
            _pattern("background", self.background)
        globs = _by_component("component", "GLOB", self.component)
        return Layout(globs=globs, keys=keys, background=self.background, table=self.list, columns=self.columns)


def _by_component(option: str, kind: str, given: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if name not in BY_NAME or not equals:
            raise InputError(f"{option}: {one!r} is not NAME={kind} with a NAME among {', '.join(BY_NAME)}.")
        if name in found:
            raise InputError(f"{option}: {name} is given more than once; each has one {kind}.")
        found[name] = value
    return found


def _pattern(option: str, given: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(given)
    except re.error as error:
        raise InputError(f"{option}: {given!r} is no regular expression ({error}).") from error
    if not pattern.groups:
        raise InputError(f"{option}: {given!r} has no group; what is wanted goes in parentheses.")
    return pattern


def plan_conversion(sources: Sequence[Path], config: ConvertConfig) -> Job:
    """Find the samples in the sources and plan the work; opens some hundred images.

    Raises NoSampleError if no sample is complete.
    """
    found = find_samples(sources, config.layout)
    samples = found.samples
    given = common_formats({name: _some_images(samples, column) for column, name in enumerate(found.components)})
    if given is None:
        raise InputError("most of the files found are no images; the globs (--component) match something else.")
    stored = _stored_formats(given, config)
    full, options = config.verify == "full", options_of(config, *_OF_LAYOUT)
    units = [
        ConvertUnit(
            name=name,
            size=len(part),
            # What most images are, and which are counted, is decided by all samples, and decides what becomes of these.
            made_from=fingerprint(options | {"given": given, "counted": counted}, [part.digest()]),
            entries=part,
            given=given,
            stored=stored,
            counted=counted,
            full=full,
        )
        for name, part, counted in divided(samples, config.division, COUNTED if full else DECODED)
    ]
    scaled = Encoding(resized_from=given["fg_bg"].size, resized_by="bilinear, antialiased", jpeg_chroma="4:4:4")
    return planned(
        units,
        stored,
        config.division,
        found.left_out,
        depth=config.depth_range,
        made_from=fingerprint(options, (unit.made_from.encode() for unit in units)),
        command=fingerprint(options_of(config) | {"convert": [source.resolve() for source in sources]}, []),
        storage=scaled if config.size else None,
        verified=config.verify,
    )._replace(notes=found.notes)


def _some_images(samples: Samples, column: int) -> Iterator[bytes]:
    """Read one image of about 100 samples, in their order; nothing where it cannot be read."""
    with Reader() as reader:
        for _, entries in samples[:: max(1, len(samples) // LOOKED_AT)]:
            try:
                yield reader.read(entries[column])
            except OSError:
                yield b""


def _stored_formats(given: Formats, config: ConvertConfig) -> Formats:
    """Decide what becomes of each component: scaled, in the format that it has, but mask and depth PNG if lossless."""
    if config.size is None:
        return given
    size, wanted = given["fg_bg"].size, (config.size, config.size)
    if wanted == size or config.size > min(size):
        raise InputError(
            f"size {config.size}: the images are {size[1]}x{size[0]}. Give a smaller size, or none to keep them."
        )
    return {
        name: form._replace(size=wanted, extension="png" if config.lossless and form.channels == 1 else form.extension)
        for name, form in given.items()
    }


@dataclass(frozen=True, kw_only=True)
class ConvertUnit(Unit):
    """The images of one shard.

    counted: numbers of the samples whose pixels are counted. full: else of the others only headers are read.
    """

    entries: Samples
    given: Formats
    stored: Formats
    counted: range
    full: bool

    def samples(self) -> Iterator[Sample | LeftOut]:
        with Reader() as reader:
            own = partial(_checked, reader)
            for number, (key, entries) in enumerate(self.entries):
                count = number in self.counted
                images, histograms = {}, {}
                for (name, given), entry in zip(self.given.items(), entries, strict=True):
                    check = _shared if BY_NAME[name].shared else own
                    found = check(entry, given, self.stored[name], count or self.full, count)
                    if isinstance(found, BadImage):
                        yield LeftOut(found.kind, key, name, entry.path, found.detail)
                    else:
                        images[name], histograms[name] = found
                if images.keys() == self.given.keys():
                    yield Sample(key, images, {name: one for name, one in histograms.items() if one is not None})


def _checked(
    reader: Reader, entry: Entry, given: ImageFormat, stored: ImageFormat, decode: bool, count: bool
) -> Checked:
    """Read and check an image, and make it what is stored. Its statistics are those of the pixels before encoding."""
    try:
        data = reader.read(entry)
        if not decode and given.heads(data):
            return data, None
        image = decode_image(data, given)
        if stored != given:
            image = scale_image(image, stored.size)
            data = encode_image(image, stored.extension, full_chroma=True)
        return data, histogram(image) if count else None
    except BadImage as bad:
        return bad
    except OSError as error:
        return BadImage("unreadable", str(error))


@lru_cache(maxsize=1024)
def _shared(entry: Entry, given: ImageFormat, stored: ImageFormat, decode: bool, count: bool) -> Checked:
    with Reader() as reader:
        return _checked(reader, entry, given, stored, decode, count)
