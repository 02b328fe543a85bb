"""Image folders and zips to verified shards. Components are joined by name, the background is found from the name."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from shards.build import BuildConfig
from shards.errors import InputError
from shards.images import JPEG_QUALITY, BadImage, Size, checked, encoded, formats, histogram, image_size, resized
from shards.manifest import DepthRange, Storage
from shards.record import LeftOut, Record, Sample, write_shard
from shards.schema import BY_NAME, COMPONENTS, LONGEST_KEY, shard_name
from shards.sources import Entry, Matcher, list_files, read
from shards.splits import unit_interval
from shards.work import Work

__all__ = ["ConvertConfig", "conversion"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """How image files become samples."""

    component: tuple[str, ...] = ()
    """NAME=GLOB, once for each component that is not where the layout of 2020 has it; zips count as folders"""
    background: str = r"combined_s([^_]+)_"
    """regular expression whose group, found in a sample's name, is the name of its background or what follows the
    last _ in it; a background named like the sample comes first"""
    depth_metres: tuple[float, float] | None = None
    """metres that black and white stand for in the depth images; without it depth counts as relative"""
    size: int | None = None
    """height and width to which all images are scaled down and encoded again; without it the files stay as they are"""
    lossless: bool = False
    """with size: mask and depth as PNG, which no second encoding blurs"""
    build: BuildConfig = field(default_factory=BuildConfig)

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 16:
            raise InputError(f"size {self.size}: at least 16 is needed.")
        if self.lossless and self.size is None:
            raise InputError(
                "lossless needs size. Without it every file is stored as it is, and there is no loss to be spared."
            )
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


class Source(NamedTuple):
    """Where the images of one sample are, by component."""

    key: str
    images: dict[str, Entry]


class Form(NamedTuple):
    """How an image is encoded ("jpg" or "png"), and its height and width."""

    extension: str
    size: Size


def conversion(sources: Iterable[Path], config: ConvertConfig) -> Work:
    """Lists the sources and plans the work; opens 100 images at most. Raises InputError if no sample is complete."""
    listing = _Listing(sources, config)
    samples = sorted(listing.samples(), key=lambda source: (unit_interval(source.key, 0), source.key))
    if not samples:
        raise InputError(f"no complete sample among {listing.files} files: {listing.describe()}. See `convert --help`.")
    extensions = {name: _most_common(s.images[name].format or "" for s in samples) for name in config.globs}
    size = _most_common(_size(s.images["fg_bg"]) for s in samples[:: max(1, len(samples) // 100)])
    if size is None:
        raise InputError("most of the files found are no images; the globs (--component) match something else.")
    given = {name: Form(extension, size) for name, extension in extensions.items()}
    stored = _scaled(given, size, config)
    step = config.build.samples_per_shard
    units = [
        ConvertUnit(shard_name(i // step), samples[i : i + step], given, stored) for i in range(0, len(samples), step)
    ]
    depth = DepthRange.metres(*config.depth_metres) if config.depth_metres else DepthRange()
    done = Storage(
        resized_from=size, resized_by="bilinear, antialiased", jpeg_quality=JPEG_QUALITY, jpeg_chroma="4:4:4"
    )
    return Work(
        units,
        components={name: form.extension for name, form in stored.items()},
        image_size=stored["fg_bg"].size,
        depth=depth,
        left_out=listing.left_out,
        fingerprint=_fingerprint(samples, config),
        sources={},
        storage=done if config.size else None,
    )


def _scaled(given: dict[str, Form], size: Size, config: ConvertConfig) -> dict[str, Form]:
    """What becomes of each component: of the size wanted, in the format that it has unless that is to be lossless."""
    if config.size is None:
        return given
    wanted = (config.size, config.size)
    if wanted == size or config.size > min(size):
        raise InputError(
            f"size {config.size}: the images are {size[1]}x{size[0]}. Give a smaller size, or none to keep them."
        )
    lossless = {name for name, extension in formats(config.lossless).items() if extension == "png"}
    return {name: Form("png" if name in lossless else form.extension, wanted) for name, form in given.items()}


class _Listing:
    """All image files of the sources by component and name."""

    def __init__(self, sources: Iterable[Path], config: ConvertConfig) -> None:
        self.left_out: list[LeftOut] = []
        self.files = 0
        self._background = re.compile(config.background)
        self._found: dict[str, dict[str, Entry]] = {name: {} for name in config.globs}
        matcher = Matcher(config.globs)
        for source in sources:
            for path, entry in list_files(source):
                self._add(matcher.component(path), entry)
        self._by_tail = defaultdict(list)
        for stem in self._found["bg"]:
            self._by_tail[stem.rpartition("_")[2]].append(stem)

    def _add(self, component: str | None, entry: Entry) -> None:
        self.files += 1
        if component is None or entry.format is None:
            self.left_out.append(
                LeftOut("litter", "", component or "", entry.path, "no image of any component by its name")
            )
            return
        key = re.sub(r"[\s.]", "_", entry.stem)
        if key in self._found[component]:
            first = self._found[component][key].path
            self.left_out.append(LeftOut("duplicate", key, component, entry.path, f"{first} has the same name"))
        else:
            self._found[component][key] = entry

    def samples(self) -> Iterator[Source]:
        """The complete samples; the others join `left_out`."""
        own = [name for name in self._found if name != "bg"]
        for key in sorted({key for name in own for key in self._found[name]}):
            found = {name: self._found[name].get(key) for name in own} | {"bg": self._background_of(key)}
            images = {name: entry for name, entry in found.items() if entry}
            for name in found.keys() - images.keys():
                some = next(iter(images.values())).path
                self.left_out.append(LeftOut("missing", key, name, some, f"there is no {name} for it"))
            if not _storable(key):
                some = next(iter(images.values())).path
                detail = f"a tar cannot hold this name: {LONGEST_KEY} bytes of printable UTF-8 at most"
                self.left_out.append(LeftOut("bad-name", key, "", some, detail))
            elif len(images) == len(found):
                yield Source(key, {name: images[name] for name in self._found})

    def _background_of(self, key: str) -> Entry | None:
        backgrounds = self._found["bg"]
        if key in backgrounds:
            return backgrounds[key]
        named = self._background.search(key)
        if not named:
            return None
        stems = [named[1]] if named[1] in backgrounds else self._by_tail.get(named[1], [])
        return backgrounds[stems[0]] if len(stems) == 1 else None

    def describe(self) -> str:
        return ", ".join(f"{len(found)} {name}" for name, found in self._found.items())


def _storable(key: str) -> bool:
    return key.isprintable() and len(key.encode()) <= LONGEST_KEY


class _Image(NamedTuple):
    data: bytes
    histogram: NDArray[np.int64]


@dataclass(frozen=True)
class ConvertUnit:
    """The images of one shard."""

    name: str
    samples: list[Source]
    given: dict[str, Form]
    stored: dict[str, Form]

    @property
    def size(self) -> int:
        return len(self.samples)

    def run(self, folder: Path) -> Record:
        extensions = {name: form.extension for name, form in self.stored.items()}
        return write_shard(folder / self.name, extensions, (one for s in self.samples for one in self._checked(s)))

    def _checked(self, source: Source) -> list[Sample | LeftOut]:
        """The sample, or what is wrong with each of its bad images."""
        read_ = {name: self._image(name, entry) for name, entry in source.images.items()}
        bad = [
            LeftOut(image.kind, source.key, name, source.images[name].path, image.detail)
            for name, image in read_.items()
            if isinstance(image, BadImage)
        ]
        good = {name: image for name, image in read_.items() if not isinstance(image, BadImage)}
        sample = Sample(source.key, {n: i.data for n, i in good.items()}, {n: i.histogram for n, i in good.items()})
        return [*bad] or [sample]

    def _image(self, name: str, entry: Entry) -> _Image | BadImage:
        read_image = _shared_image if BY_NAME[name].shared else _image
        return read_image(entry, name, self.given[name], self.stored[name])


def _image(entry: Entry, name: str, given: Form, stored: Form) -> _Image | BadImage:
    """The image as it is stored. Its statistics are those of the pixels before they were encoded again."""
    try:
        data = read(entry)
        image = checked(data, replace(BY_NAME[name], formats=(given.extension,)), given.size).image
        if stored != given:
            image = resized(image, stored.size)
            data = encoded(image, stored.extension, full_chroma=True)
        return _Image(data, histogram(image))
    except BadImage as bad:
        return bad
    except OSError as error:
        return BadImage("unreadable", str(error))


def _size(entry: Entry) -> Size | None:
    try:
        return image_size(read(entry))
    except OSError:
        return None


_shared_image = lru_cache(maxsize=1024)(_image)


def _most_common(values: Iterable[T]) -> T:
    return Counter(values).most_common(1)[0][0]


def _fingerprint(samples: list[Source], config: ConvertConfig) -> str:
    """Depends on what would be built and from which files, not on how many workers build it."""
    options = (config.depth_metres, config.size, config.lossless, replace(config.build, workers=1))
    digest = hashlib.sha256(repr(options).encode())
    for sample in samples:
        digest.update(repr(sample).encode())
    return digest.hexdigest()
