"""`python -m shards convert`: image folders and zips to verified samples, components joined by name."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.images import BadImage, LeftOut, Size, histogram
from shards.format.schema import BY_NAME, Sample
from shards.format.splits import COUNTED, DivisionConfig
from shards.ingest.job import LOOKED_AT, Job, Unit, divided, fingerprint, options_of, planned
from shards.ingest.looks import PixelsConfig, plan_pixels
from shards.ingest.pixels import Making, same_shape
from shards.sources.listing import Samples
from shards.sources.samples import Layout, find_samples
from shards.sources.zips import Entry, Reader

_OF_LAYOUT = ("component", "key", "background", "list", "columns")
"""Options that say which files are meant. What they find is digested itself."""
DECODED = 1_000
"""Samples that are decoded for the statistics where the others are not."""


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(PixelsConfig):
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
    verify: Literal["full", "header"] = "full"
    """full decodes every image; header reads headers and ends, and decodes 1,000 samples for the statistics"""
    division: DivisionConfig = field(default_factory=DivisionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
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
    looked_at = {name: _some_images(samples, column) for column, name in enumerate(found.components)}
    made = plan_pixels(looked_at, config)
    full = config.verify == "full"
    # What was recognised in some files, and which are counted, is decided by all samples; both decide what becomes of
    # each.
    options = options_of(config, *_OF_LAYOUT) | {"makings": repr(made.makings)}
    units = [
        ConvertUnit(
            name=name,
            size=len(part),
            made_from=fingerprint(options | {"counted": counted}, [part.digest()]),
            entries=part,
            makings=made.makings,
            counted=counted,
            full=full,
        )
        for name, part, counted in divided(samples, config.division, COUNTED if full else DECODED)
    ]
    return planned(
        units,
        {name: making.stored for name, making in made.makings.items()},
        config.division,
        found.left_out,
        depth=made.depth,
        made_from=fingerprint(options, (unit.made_from.encode() for unit in units)),
        command=fingerprint(options_of(config) | {"convert": [source.resolve() for source in sources]}, []),
        storage=made.storage,
        verified=config.verify,
    )._replace(notes=[*found.notes, *made.notes])


def _some_images(samples: Samples, column: int) -> Iterator[tuple[str, bytes | BadImage]]:
    """Read one image of about 100 samples, in their order; yield its path too, and why where it cannot be read."""
    with Reader() as reader:
        for _, entries in samples[:: max(1, len(samples) // LOOKED_AT)]:
            yield entries[column].path, _read(reader, entries[column])


class Checked(NamedTuple):
    """An image as it is stored, its histogram where it is counted, and height and width of what was in the file."""

    data: bytes
    histogram: NDArray[np.int64] | None
    size: Size


@dataclass(frozen=True, kw_only=True)
class ConvertUnit(Unit):
    """The images of one shard.

    makings: what becomes of them, by component. counted: numbers of the samples whose pixels are counted. full: else of
    the others only headers are read.
    """

    entries: Samples
    makings: dict[str, Making]
    counted: range
    full: bool

    def samples(self) -> Iterator[Sample | LeftOut]:
        with Reader() as reader:
            own = partial(_checked, reader)
            for number, (key, entries) in enumerate(self.entries):
                count = number in self.counted
                found: dict[str, Checked] = {}
                for (name, making), entry in zip(self.makings.items(), entries, strict=True):
                    check = _shared if BY_NAME[name].shared else own
                    one = check(entry, making, count or self.full, count)
                    if not isinstance(one, BadImage) and making.scale and found:
                        one = _of_shape(one, *next(iter(found.items())))
                    if isinstance(one, BadImage):
                        yield LeftOut(one.kind, key, name, entry.path, one.detail)
                    else:
                        found[name] = one
                if found.keys() == self.makings.keys():
                    images = {name: one.data for name, one in found.items()}
                    counts = {name: one.histogram for name, one in found.items() if one.histogram is not None}
                    yield Sample(key, images, counts)


def _of_shape(one: Checked, name: str, first: Checked) -> Checked | BadImage:
    """Return an image, or why not, if it has not the shape of its sample's first one, whose component is `name`."""
    if same_shape(one.size, first.size):
        return one
    (height, width), (high, wide) = one.size, first.size
    return BadImage("wrong-size", f"{width}x{height}, but {name} has {wide}x{high}, which is another shape")


def _checked(reader: Reader, entry: Entry, making: Making, decode: bool, count: bool) -> Checked | BadImage:
    """Read and check an image, and make it what is stored. Its statistics are those of the pixels before encoding."""
    try:
        if isinstance(data := _read(reader, entry), BadImage):
            return data
        if not decode and making.keeps(data):
            return Checked(data, None, making.stored.size)
        data, image, size = making.make(data)
        return Checked(data, histogram(image) if count else None, size)
    except BadImage as bad:
        return bad


def _read(reader: Reader, entry: Entry) -> bytes | BadImage:
    try:
        return reader.read(entry)
    except OSError as error:
        return BadImage("unreadable", str(error))


@lru_cache(maxsize=1024)
def _shared(entry: Entry, making: Making, decode: bool, count: bool) -> Checked | BadImage:
    with Reader() as reader:
        return _checked(reader, entry, making, decode, count)
