"""`python -m shards convert`: image folders and zips to verified samples, components joined by name."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.depth import ExistingDepthConfig
from shards.format.images import BadImage, ImageFormat, LeftOut, decode_image, encode_image, histogram, scale_image
from shards.format.manifest import Encoding
from shards.format.schema import BY_NAME, COMPONENTS, Sample
from shards.format.splits import COUNTED, DivisionConfig
from shards.ingest.job import LOOKED_AT, Formats, Job, Unit, common_formats, divided, fingerprint, options_of, planned
from shards.ingest.listing import Listing, Samples
from shards.ingest.zips import Entry, Reader

Checked = tuple[bytes, NDArray[np.int64] | None] | BadImage
"""An image as it is stored, and its histogram where it is counted; or why it cannot be used."""

DECODED = 1_000
"""Samples that are decoded for the statistics where the others are not."""


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(ExistingDepthConfig):
    """How image files become samples."""

    component: tuple[str, ...] = ()
    """NAME=GLOB, once for each component that is not where the layout of 2020 has it; zips count as folders"""
    background: str = r"combined_s([^_]+)_"
    """regular expression; its group in a sample's name is the background's name, or the end of that after a _"""
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
    some = list(_some_images(samples, "fg_bg"))
    given = common_formats({name: some if name == "fg_bg" else _some_images(samples, name) for name in BY_NAME})
    if given is None:
        raise InputError("most of the files found are no images; the globs (--component) match something else.")
    stored = _stored_formats(given, config)
    full = config.verify == "full"
    units = [
        ConvertUnit(name=name, size=len(part), entries=part, given=given, stored=stored, counted=counted, full=full)
        for name, part, counted in divided(samples, config.division, COUNTED if full else DECODED)
    ]
    # Files in zips are told apart by their checksums, those in folders by their names and the contents of some: to ask
    # for sizes and times would cost as much as opening them, on a network drive.
    identities = (samples.keys.tobytes(), samples.found["packed"].tobytes(), samples.found["crc"].tobytes(), *some)
    scaled = Encoding(resized_from=given["fg_bg"].size, resized_by="bilinear, antialiased", jpeg_chroma="4:4:4")
    return planned(
        units,
        stored,
        config.division,
        listing.left_out,
        depth=config.depth_range,
        made_from=fingerprint(options_of(config, "component", "background"), identities),
        storage=scaled if config.size else None,
        verified=config.verify,
    )


def _some_images(samples: Samples, component: str) -> Iterator[bytes]:
    """Read one image of about 100 samples, in their order; nothing where it cannot be read."""
    column = list(BY_NAME).index(component)
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
