"""`python -m shards convert`: image folders and zips to verified samples, components joined by name."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.depth import ExistingDepthConfig
from shards.format.images import (
    JPEG_QUALITY,
    BadImage,
    ImageFormat,
    LeftOut,
    decode_image,
    encode_image,
    extension_of,
    histogram,
    read_header,
    scale_image,
    size_and_bits,
)
from shards.format.manifest import Encoding, Manifest, Shard, StoredComponent
from shards.format.schema import BY_NAME, COMPONENTS, Sample, shard_name
from shards.format.splits import COUNTED, DivisionConfig, counted_samples
from shards.ingest.job import Job, Plan, fingerprint, options_of
from shards.ingest.listing import Entry, Listing, Samples, read
from shards.ingest.zips import Zips

T = TypeVar("T")
Formats = dict[str, ImageFormat]

DECODED = 1_000
"""Samples that are decoded for the statistics where the others are not."""
LOOKED_AT = 100
"""Samples, about, of which images are opened to find out what most of them are."""


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(ExistingDepthConfig):
    """How image files become samples."""

    component: tuple[str, ...] = ()
    """NAME=GLOB, once for each component (fg_bg, mask, depth, bg) that is not where the layout of 2020 has it; zips
    count as folders"""
    background: str = r"combined_s([^_]+)_"
    """regular expression whose group, found in a sample's name, is the name of its background or what follows the
    last _ in it; a background named like the sample comes first"""
    size: int | None = None
    """height and width to which all images are scaled down and encoded again; without it the files stay as they are"""
    lossless: bool = False
    """with size: mask and depth as PNG, which no second encoding blurs"""
    verify: Literal["full", "header"] = "full"
    """full: every image is decoded. header: its header must say what it should, and its end be there; those of 1,000
    samples are decoded, for the statistics"""
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
    some = _some_images(samples, "fg_bg")
    given = _given_formats(samples, some)
    stored = _stored_formats(given, config)
    units = _units(samples, given, stored, config)
    # Files in zips are told apart by their checksums, those in folders by their names and the contents of some: to ask
    # for sizes and times would cost as much as opening them, on a network drive.
    identities = (samples.keys.tobytes(), samples.found["packed"].tobytes(), samples.found["crc"].tobytes(), *some)
    manifest = Manifest(
        image_size=stored["fg_bg"].size,
        components={
            name: StoredComponent(extension=form.extension, channels=form.channels, bits=form.bits)
            for name, form in stored.items()
        },
        depth=config.depth_range,
        split_by=config.division.split_by,
        shards=[Shard(unit.name) for unit in units],
        made_from=fingerprint(options_of(config, "component", "background"), identities),
        storage=_encoding(given["fg_bg"]) if config.size else None,
        verified=config.verify,
    )
    return Job(Plan(manifest=manifest, left_out=listing.left_out, split=config.division), units)


def _encoding(given: ImageFormat) -> Encoding:
    return Encoding(
        resized_from=given.size, resized_by="bilinear, antialiased", jpeg_quality=JPEG_QUALITY, jpeg_chroma="4:4:4"
    )


def _units(samples: Samples, given: Formats, stored: Formats, config: ConvertConfig) -> list["ConvertUnit"]:
    step, full = config.division.samples_per_shard, config.verify == "full"
    return [
        ConvertUnit(
            name=shard_name(i // step),
            entries=samples.part(i, i + step),
            given=given,
            stored=stored,
            counted=counted_samples(i, step, len(samples), COUNTED if full else DECODED),
            decode_all=full,
        )
        for i in range(0, len(samples), step)
    ]


def _some_images(samples: Samples, component: str) -> list[bytes]:
    """Read one image of about 100 samples, in their order; nothing where it cannot be read."""
    column, every = list(BY_NAME).index(component), max(1, len(samples) // LOOKED_AT)
    with Zips() as zips:
        return [_read_or_nothing(samples.entry(i, column), zips) for i in range(0, len(samples), every)]


def _read_or_nothing(entry: Entry, zips: Zips) -> bytes:
    try:
        return read(entry, zips)
    except OSError:
        return b""


def _given_formats(samples: Samples, some: list[bytes]) -> Formats:
    """Find what most images of each component are: by their names, and the headers of `some` of fg_bg and depth."""
    found = _most_common(map(size_and_bits, some))
    if found is None:
        raise InputError("most of the files found are no images; the globs (--component) match something else.")
    size, _ = found
    given = {
        one.name: ImageFormat(extension, size, 8, one.channels)
        for one, extension in zip(COMPONENTS, samples.extensions(), strict=True)
    }
    if given["depth"].extension == "png":
        depths = [found[1] for found in map(size_and_bits, _some_images(samples, "depth")) if found]
        given["depth"] = given["depth"]._replace(bits=_most_common(depths or [8]))
    return given


def _stored_formats(given: Formats, config: ConvertConfig) -> Formats:
    """Decide what becomes of each component: of the size wanted, in the format that it has unless it is lossless."""
    if config.size is None:
        return given
    size = given["fg_bg"].size
    wanted = (config.size, config.size)
    if wanted == size or config.size > min(size):
        raise InputError(
            f"size {config.size}: the images are {size[1]}x{size[0]}. Give a smaller size, or none to keep them."
        )
    exact = {one.name for one in COMPONENTS if extension_of(one, config.lossless) == "png"}
    return {
        name: form._replace(size=wanted, extension="png" if name in exact else form.extension)
        for name, form in given.items()
    }


def _most_common(values: Iterable[T]) -> T:
    return Counter(values).most_common(1)[0][0]


class _Image(NamedTuple):
    data: bytes
    histogram: NDArray[np.int64] | None
    """None where it is not counted."""


@dataclass(frozen=True, kw_only=True)
class ConvertUnit:
    """The images of one shard.

    counted: numbers of the samples whose pixels are counted. decode_all: else of the others only headers are read.
    """

    name: str
    entries: Samples
    given: Formats
    stored: Formats
    counted: range
    decode_all: bool

    @property
    def size(self) -> int:
        return len(self.entries)

    def samples(self) -> Iterator[Sample | LeftOut]:
        with Zips() as zips:
            own = partial(_image, zips)
            ways = [
                (name, _shared_image if BY_NAME[name].shared else own, form, self.stored[name])
                for name, form in self.given.items()
            ]
            for number, (key, entries) in enumerate(self.entries):
                count = number in self.counted
                images, histograms = {}, {}
                for (name, load, given, stored), entry in zip(ways, entries, strict=True):
                    image = load(entry, given, stored, count or self.decode_all, count)
                    if isinstance(image, BadImage):
                        yield LeftOut(image.kind, key, name, entry.path, image.detail)
                        continue
                    images[name] = image.data
                    if image.histogram is not None:
                        histograms[name] = image.histogram
                if len(images) == len(ways):
                    yield Sample(key, images, histograms)


def _image(
    zips: Zips, entry: Entry, given: ImageFormat, stored: ImageFormat, decode: bool, count: bool
) -> _Image | BadImage:
    """Read and check an image, and make it what is stored. Its statistics are those of the pixels before encoding."""
    try:
        data = read(entry, zips)
        if not decode and read_header(data) == given.header:
            return _Image(data, None)
        image = decode_image(data, given)
        if stored != given:
            image = scale_image(image, stored.size)
            data = encode_image(image, stored.extension, full_chroma=True)
        return _Image(data, histogram(image) if count else None)
    except BadImage as bad:
        return bad
    except OSError as error:
        return BadImage("unreadable", str(error))


@lru_cache(maxsize=1024)
def _shared_image(
    entry: Entry, given: ImageFormat, stored: ImageFormat, decode: bool, count: bool
) -> _Image | BadImage:
    with Zips() as zips:
        return _image(zips, entry, given, stored, decode, count)
