"""Image folders and zips to verified shards. Components are joined by name, the background is found from the name."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from shards.build.plan import COUNTED, DivisionConfig, Plan, Work, spread
from shards.build.shard import LeftOut, Record, Sample, write_shard
from shards.errors import InputError
from shards.format.depth import ExistingConfig
from shards.format.images import (
    JPEG_QUALITY,
    BadImage,
    Form,
    checked,
    encoded,
    formats,
    header,
    histogram,
    image_bits,
    image_size,
    resized,
)
from shards.format.manifest import Storage
from shards.format.schema import BY_NAME, COMPONENTS, Component, shard_name
from shards.ingest.listing import Entry, Listing, Samples, read
from shards.ingest.zips import Zips

T = TypeVar("T")

DECODED = 1_000
"""samples that are decoded for the statistics where the others are not"""
FG_BG, DEPTH = (list(BY_NAME).index(name) for name in ("fg_bg", "depth"))


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(ExistingConfig):
    """How image files become samples."""

    component: tuple[str, ...] = ()
    """NAME=GLOB, once for each component that is not where the layout of 2020 has it; zips count as folders"""
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
        for given in self.component:
            if given.partition("=")[0] not in BY_NAME:
                raise InputError(f"component: {given!r} is not NAME=GLOB with a NAME among {', '.join(BY_NAME)}.")
        try:
            groups = re.compile(self.background).groups
        except re.error as error:
            raise InputError(f"background: {self.background!r} is no regular expression ({error}).") from error
        if groups != 1:
            raise InputError(f"background: {self.background!r} has {groups} groups; one is needed.")

    @property
    def globs(self) -> dict[str, str]:
        """The glob of each component."""
        given = dict(one.split("=", 1) for one in self.component)
        return {component.name: given.get(component.name, component.glob) for component in COMPONENTS}


def plan_conversion(sources: Iterable[Path], config: ConvertConfig) -> Work:
    """Lists the sources and plans the work; opens some hundred images. Raises InputError if no sample is complete."""
    listing = Listing(sources, config.globs)
    samples = listing.samples(config.background)
    if not len(samples):
        counts = ", ".join(f"{count} {name}" for name, count in listing.counts.items())
        raise InputError(f"no complete sample among {listing.files} files: {counts}. See `convert --help`.")
    some = _looked_at(samples, FG_BG)
    given = _given(samples, some)
    stored = _scaled(given, config)
    size = given["fg_bg"].size
    done = Storage(
        resized_from=size, resized_by="bilinear, antialiased", jpeg_quality=JPEG_QUALITY, jpeg_chroma="4:4:4"
    )
    units = _units(samples, given, stored, config)
    plan = Plan(
        shards=tuple(unit.name for unit in units),
        components={name: form.extension for name, form in stored.items()},
        image_size=stored["fg_bg"].size,
        depth=config.depth_range,
        split=config.division,
        left_out=listing.left_out,
        fingerprint=_fingerprint(samples, some, config),
        sources={},
        storage=done if config.size else None,
        depth_bits=stored["depth"].bits,
        verified=config.verify,
    )
    return Work(plan, units)


def _units(
    samples: Samples, given: dict[str, Form], stored: dict[str, Form], config: ConvertConfig
) -> list["ConvertUnit"]:
    step, full = config.division.samples_per_shard, config.verify == "full"
    at_most = COUNTED if full else DECODED
    return [
        ConvertUnit(
            name=shard_name(i // step),
            samples=samples.part(i, i + step),
            given=given,
            stored=stored,
            counted=spread(i, step, len(samples), at_most),
            decode_all=full,
        )
        for i in range(0, len(samples), step)
    ]


def _looked_at(samples: Samples, component: int) -> list[bytes]:
    """One image of about 100 samples, in their order; nothing where it cannot be read."""
    with Zips() as zips:
        every = max(1, len(samples) // 100)
        return [_readable(samples.entry(i, component), zips) for i in range(0, len(samples), every)]


def _readable(entry: Entry, zips: Zips) -> bytes:
    try:
        return read(entry, zips)
    except OSError:
        return b""


def _given(samples: Samples, some: list[bytes]) -> dict[str, Form]:
    """What most images of each component are: by their names, by `some` of fg_bg and, if it may have 16 bits, depth."""
    size = _most_common(map(image_size, some))
    if size is None:
        raise InputError("most of the files found are no images; the globs (--component) match something else.")
    given = {name: Form(format_, size, 8) for name, format_ in zip(BY_NAME, samples.formats(), strict=True)}
    if given["depth"].extension == "png":
        given["depth"] = given["depth"]._replace(bits=_most_common(map(image_bits, _looked_at(samples, DEPTH))))
    return given


def _scaled(given: dict[str, Form], config: ConvertConfig) -> dict[str, Form]:
    """What becomes of each component: of the size wanted, in the format that it has unless that is to be lossless."""
    if config.size is None:
        return given
    size = given["fg_bg"].size
    wanted = (config.size, config.size)
    if wanted == size or config.size > min(size):
        raise InputError(
            f"size {config.size}: the images are {size[1]}x{size[0]}. Give a smaller size, or none to keep them."
        )
    lossless = {name for name, extension in formats(config.lossless).items() if extension == "png"}
    return {
        name: Form("png" if name in lossless else form.extension, wanted, form.bits) for name, form in given.items()
    }


class _Image(NamedTuple):
    data: bytes
    histogram: NDArray[np.int64] | None
    """None where it is not counted"""


@dataclass(frozen=True, kw_only=True)
class ConvertUnit:
    """The images of one shard.

    counted: numbers of the samples whose pixels are counted. decode_all: else of the others only headers are read.
    """

    name: str
    samples: Samples
    given: dict[str, Form]
    stored: dict[str, Form]
    counted: range
    decode_all: bool

    @property
    def size(self) -> int:
        return len(self.samples)

    def run(self, folder: Path) -> Record:
        extensions = {name: form.extension for name, form in self.stored.items()}
        with Zips() as zips:
            return write_shard(folder / self.name, extensions, self._checked(zips))

    def _checked(self, zips: Zips) -> Iterator[Sample | LeftOut]:
        """The samples, or what is wrong with each of their bad images."""
        own = partial(_image, zips)
        ways = [
            (name, _shared_image if BY_NAME[name].shared else own, _Way(_expected(name, form), form, self.stored[name]))
            for name, form in self.given.items()
        ]
        for number, (key, entries) in enumerate(self.samples):
            count = number in self.counted
            images, histograms = {}, {}
            for (name, read_image, way), entry in zip(ways, entries, strict=True):
                image = read_image(entry, way, count or self.decode_all, count)
                if isinstance(image, BadImage):
                    yield LeftOut(image.kind, key, name, entry.path, image.detail)
                    continue
                images[name] = image.data
                if image.histogram is not None:
                    histograms[name] = image.histogram
            if len(images) == len(ways):
                yield Sample(key, images, histograms)


class _Way(NamedTuple):
    """What an image is to be, and what becomes of it."""

    expected: Component
    given: Form
    stored: Form


def _expected(name: str, form: Form) -> Component:
    return replace(BY_NAME[name], formats=(form.extension,), bits=form.bits)


def _image(zips: Zips, entry: Entry, way: _Way, decode: bool, count: bool) -> _Image | BadImage:
    """The image as it is stored. Its statistics are those of the pixels before they were encoded again."""
    try:
        data = read(entry, zips)
        if not decode and header(data) == way.given:
            return _Image(data, None)
        image = checked(data, way.expected, way.given.size).image
        if way.stored != way.given:
            image = resized(image, way.stored.size)
            data = encoded(image, way.stored.extension, full_chroma=True)
        return _Image(data, histogram(image) if count else None)
    except BadImage as bad:
        return bad
    except OSError as error:
        return BadImage("unreadable", str(error))


@lru_cache(maxsize=1024)
def _shared_image(entry: Entry, way: _Way, decode: bool, count: bool) -> _Image | BadImage:
    with Zips() as zips:
        return _image(zips, entry, way, decode, count)


def _most_common(values: Iterable[T]) -> T:
    return Counter(values).most_common(1)[0][0]


def _fingerprint(samples: Samples, some: list[bytes], config: ConvertConfig) -> str:
    """Depends on what would be built and from which files, not on where they lie and how many workers build it.

    Files in zips are told apart by their checksums. Those in folders by their names, and by the contents of `some`: to
    ask for sizes and times would cost as much as opening them, on a network drive.
    """
    options = (config.depth_range, config.size, config.lossless, config.verify, config.division)
    digest = hashlib.sha256(repr(options).encode())
    for part in (samples.keys.tobytes(), samples.found["packed"].tobytes(), samples.found["crc"].tobytes(), *some):
        digest.update(part)
    return digest.hexdigest()
