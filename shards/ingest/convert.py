"""`python -m shards convert`: image folders and zips to verified samples, components joined by name."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.images import BadImage, LeftOut, Size, histogram
from shards.format.schema import BY_NAME, COMPONENTS, Sample
from shards.format.splits import COUNTED, DivisionConfig
from shards.ingest.job import LOOKED_AT, Job, Unit, divided, fingerprint, options_of, planned
from shards.ingest.listing import Listing, Samples
from shards.ingest.looks import PixelsConfig, plan_pixels
from shards.ingest.pixels import Making, same_shape
from shards.ingest.zips import Entry, Reader

DECODED = 1_000
"""Samples that are decoded for the statistics where the others are not."""


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(PixelsConfig):
    """How image files become samples."""

    component: tuple[str, ...] = ()
    """NAME=GLOB, once for each component that is not where the layout of 2020 has it; zips count as folders"""
    background: str = r"combined_s([^_]+)_"
    """regular expression; its group in a sample's name is the background's name, or the end of that after a _"""
    verify: Literal["full", "header"] = "full"
    """full decodes every image; header reads headers and ends, and decodes 1,000 samples for the statistics"""
    division: DivisionConfig = field(default_factory=DivisionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and self.verify == "header":
            raise InputError("verify header: with size every image is decoded. Give one of the two.")
        names = [given.partition("=")[0] for given in self.component]
        for given, name in zip(self.component, names, strict=True):
            if name not in BY_NAME or "=" not in given:
                raise InputError(f"component: {given!r} is not NAME=GLOB with a NAME among {', '.join(BY_NAME)}.")
            if names.count(name) > 1:
                raise InputError(f"component: {name} is given {names.count(name)} times; each has one GLOB.")
        try:
            groups = re.compile(self.background).groups
        except re.error as error:
            raise InputError(f"background: {self.background!r} is no regular expression ({error}).") from error
        if groups != 1:
            raise InputError(f"background: {self.background!r} has {groups} groups; one is needed.")

    @property
    def globs(self) -> dict[str, str]:
        """The glob of each component; that of 2020 takes the beginning of a folder's or zip's name."""
        given = dict(one.split("=", 1) for one in self.component)
        return {one.name: given.get(one.name, f"**/{one.folder}*/**") for one in COMPONENTS}


def plan_conversion(sources: Iterable[Path], config: ConvertConfig) -> Job:
    """List the sources and plan the work; opens some hundred images. Raises InputError if no sample is complete."""
    listing = Listing(sources, config.globs)
    samples = listing.samples(config.background)
    if not len(samples):
        counts = ", ".join(f"{count} {name}" for name, count in listing.counts.items())
        raise InputError(f"no complete sample among {listing.files} files: {counts}. See `convert --help`.")
    found = {name: _some_images(samples, column) for column, name in enumerate(listing.counts)}
    some = list(found["fg_bg"])
    made = plan_pixels(found | {"fg_bg": some}, config)
    full = config.verify == "full"
    units = [
        ConvertUnit(name=name, size=len(part), entries=part, makings=made.makings, counted=counted, full=full)
        for name, part, counted in divided(samples, config.division, COUNTED if full else DECODED)
    ]
    # Files in zips are told apart by their checksums, those in folders by their names and the contents of some: to ask
    # for sizes and times would cost as much as opening them, on a network drive.
    identities = [samples.keys.tobytes(), samples.found["packed"].tobytes(), samples.found["crc"].tobytes(), *some]
    if made.storage and made.storage.converted:  # by what was recognised in the files, which may be others tomorrow
        identities.append(repr(made.makings).encode())
    return planned(
        units,
        {name: making.stored for name, making in made.makings.items()},
        config.division,
        listing.left_out,
        depth=made.depth,
        made_from=fingerprint(options_of(config, "component", "background"), identities),
        storage=made.storage,
        verified=config.verify,
    )._replace(notes=made.notes)


def _some_images(samples: Samples, column: int) -> Iterator[bytes]:
    """Read one image of about 100 samples, in their order; nothing where it cannot be read."""
    with Reader() as reader:
        for _, entries in samples[:: max(1, len(samples) // LOOKED_AT)]:
            try:
                yield reader.read(entries[column])
            except OSError:
                yield b""


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
        data = reader.read(entry)
        if not decode and making.keeps(data):
            return Checked(data, None, making.stored.size)
        data, image, size = making.make(data)
        return Checked(data, histogram(image) if count else None, size)
    except BadImage as bad:
        return bad
    except OSError as error:
        return BadImage("unreadable", str(error))


@lru_cache(maxsize=1024)
def _shared(entry: Entry, making: Making, decode: bool, count: bool) -> Checked | BadImage:
    with Reader() as reader:
        return _checked(reader, entry, making, decode, count)
