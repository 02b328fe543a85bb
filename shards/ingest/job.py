"""What ingest hands to build: the data set that is to be, and the work of each of its shards."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from typing import Any, NamedTuple

from shards.format.images import ImageFormat, LeftOut, size_and_bits
from shards.format.manifest import Manifest, Shard, StoredComponent, from_json
from shards.format.schema import COMPONENTS, Sample, shard_name
from shards.format.splits import DivisionConfig, counted_samples

Formats = dict[str, ImageFormat]
"""How the images of each component are encoded."""
LOOKED_AT = 100
"""Samples, about, of which images are opened to find out what most of them are."""


@dataclass(frozen=True, kw_only=True)
class Unit(ABC):
    """The work of one shard: small enough to be sent to another process or machine.

    name: the shard's file name. size: how many samples it tries, for the progress bar.
    """

    name: str
    size: int

    @abstractmethod
    def samples(self) -> Iterator[Sample | LeftOut]:
        """Make the shard's samples, in their order, and say what is wrong with those that cannot be made."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A data set to be built, but for what its shards hold.

    manifest: counts and digests are still open; `made_from` is equal for two plans exactly when they build the same.
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
        plan: Plan = from_json(cls, json.loads(text))
        return plan


class Job(NamedTuple):
    """A plan, and the units that build its shards, one each.

    in_place: the tars are there already and stay as they are. exclusive: a unit uses all cores of a machine.
    gpu: a unit uses a GPU where there is one. notes: what a person should know before the work begins, in sentences.
    """

    plan: Plan
    units: Sequence[Unit]
    in_place: bool = False
    exclusive: bool = False
    gpu: bool = False
    notes: list[str] = []  # noqa: RUF012 - nobody adds to it


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
        shards=[Shard(unit.name) for unit in units],
        **about,
    )
    return Job(Plan(manifest=manifest, left_out=left_out, split=split), units)


def fingerprint(options: dict[str, Any], sources: Iterable[bytes]) -> str:
    """Digest what a data set is made of: the options that differ from their defaults, and the sources' own digests.

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


def common_formats(extensions: Iterable[str], fg_bg: Iterable[bytes], depth: Iterable[bytes]) -> Formats | None:
    """Find how most images of each component are encoded: by the names' extensions and the headers of some images.

    None where most of `fg_bg` are no images. `depth` is asked for only where it is PNG, which may have 16 bits.
    """
    found = Counter(map(size_and_bits, fg_bg)).most_common(1)[0][0]
    if found is None:
        return None
    formats = {
        one.name: ImageFormat(extension, found[0], 8, one.channels)
        for one, extension in zip(COMPONENTS, extensions, strict=True)
    }
    if formats["depth"].extension == "png":
        bits = Counter(one[1] for one in map(size_and_bits, depth) if one) or Counter([8])
        formats["depth"] = formats["depth"]._replace(bits=bits.most_common(1)[0][0])
    return formats
