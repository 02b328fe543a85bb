"""What ingest hands to build: the data set that is to be, and the work of each of its shards."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from typing import Any, NamedTuple

from shards.format.fields import parsed
from shards.format.images import ImageFormat, LeftOut, read_any_header
from shards.format.manifest import Manifest, Shard, StoredComponent
from shards.format.schema import BY_NAME, Sample, shard_name
from shards.format.splits import DivisionConfig, counted_samples

Formats = dict[str, ImageFormat]
"""How the images of each component are encoded."""
LOOKED_AT = 100
"""Samples, about, of which images are opened to find out what most of them are."""


@dataclass(frozen=True, kw_only=True)
class Unit(ABC):
    """The work of one shard: small enough to be sent to another process or machine.

    name: the shard's file name. size: how many samples it tries, for the progress bar. made_from: digest of all that
    decides what is in the shard, so that one whose digest is the same need not be made again.
    """

    name: str
    size: int
    made_from: str

    @abstractmethod
    def samples(self) -> Iterator[Sample | LeftOut]:
        """Make the shard's samples, in their order, and say what is wrong with those that cannot be made."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A data set to be built, but for what its shards hold.

    manifest: counts and digests are still open; `made_from`, its own and its shards', is equal for two plans exactly
    when they build the same, and `command` is when the same command made them.
    left_out: what was left out before any image was opened.
    split: how samples are divided, unless `splits` holds the rows of each split already.
    """

    manifest: Manifest
    left_out: list[LeftOut]
    split: DivisionConfig
    splits: dict[str, list[int]] | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Raises ValueError where `text` is no plan."""
        plan: Plan = parsed(cls, text)
        return plan


class Job(NamedTuple):
    """A plan, and the units that build its shards, one each.

    in_place: the tars are there already and stay as they are. exclusive: a unit uses all cores of a machine.
    gpu: a unit uses a GPU where there is one. notes: what a person should know before the work begins.
    """

    plan: Plan
    units: Sequence[Unit]
    in_place: bool = False
    exclusive: bool = False
    gpu: bool = False
    notes: Sequence[str] = ()


def divided(samples: Any, division: DivisionConfig, at_most: int) -> Iterator[tuple[str, Any, range]]:
    """Divide samples into shards; yield each one's name, its samples, and the numbers of those that are counted.

    samples: anything that has a length and slices. at_most: samples counted in all, spread evenly.
    """
    step = division.samples_per_shard
    for number, begin in enumerate(range(0, len(samples), step)):
        counted = counted_samples(begin, step, len(samples), at_most)
        yield shard_name(number), samples[begin : begin + step], counted


def planned(
    units: Sequence[Unit], formats: Formats, split: DivisionConfig, left_out: list[LeftOut], **about: Any
) -> Job:
    """Plan the data set of these units, whose images are encoded as `formats` says. about: more of its manifest."""
    manifest = Manifest(
        image_size=formats["fg_bg"].size,
        components={
            name: StoredComponent(extension=form.extension, channels=form.channels, bits=form.bits)
            for name, form in formats.items()
        },
        split_by=split.split_by,
        shards=[Shard(unit.name, made_from=unit.made_from) for unit in units],
        **about,
    )
    return Job(Plan(manifest=manifest, left_out=left_out, split=split), units)


def fingerprint(options: dict[str, Any], sources: Iterable[bytes]) -> str:
    """Digest what something is made of: the options that differ from their defaults, and the sources' own digests.

    Defaults are left out, so that an option that is new does not refuse a data set of yesterday.
    """
    digest = hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode())
    for one in sources:
        digest.update(one)
    return digest.hexdigest()


def options_of(config: Any, *without: str) -> dict[str, Any]:
    """List the fields of a configuration that differ from their defaults, but for those named in `without`."""
    options = {}
    for field in fields(config):
        value = getattr(config, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if field.name not in without and value != default:
            options[field.name] = options_of(value) if is_dataclass(value) else value
    return options


def common_formats(images: Mapping[str, Iterable[bytes]]) -> Formats | None:
    """Find how most images of each component are encoded, by their headers; all have the size of most of `fg_bg`.

    images: some of each component. None where most of `fg_bg` are neither JPEG nor PNG.
    """
    headers = {name: list(map(read_any_header, some)) for name, some in images.items()}
    size = Counter(header and header[1] for header in headers["fg_bg"]).most_common(1)[0][0]
    if size is None:
        return None
    formats: Formats = {}
    for name, one in BY_NAME.items():
        if name in headers:
            # Only depth may have 16 bits. Where there is no image at all, each is left out, and told, when it is read.
            kinds = [(header[0], header[2] if name == "depth" else 8) for header in headers[name] if header]
            extension, bits = Counter(kinds or [("jpg", 8)]).most_common(1)[0][0]
            formats[name] = ImageFormat(extension, size, bits, one.channels)
    return formats
