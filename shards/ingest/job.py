"""What ingest hands to build: the data set that is to be, and the work of each of its shards."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass
from typing import Any, NamedTuple, Protocol

from shards.format.images import LeftOut
from shards.format.manifest import Manifest, from_json
from shards.format.schema import Sample
from shards.format.splits import DivisionConfig


class Unit(Protocol):
    """The work of one shard: small enough to be sent to another process or machine."""

    @property
    def name(self) -> str:
        """The shard's file name."""

    @property
    def size(self) -> int:
        """How many samples it tries, for the progress bar."""

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
        return from_json(cls, json.loads(text))


class Job(NamedTuple):
    """A plan, and the units that build its shards, one each.

    in_place: the tars are there already and stay as they are. exclusive: a unit uses all cores of a machine.
    gpu: a unit uses a GPU where there is one.
    """

    plan: Plan
    units: Sequence[Unit]
    in_place: bool = False
    exclusive: bool = False
    gpu: bool = False


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
    values = {one: getattr(config, one.name) for one in fields(config) if one.name not in without}
    return {
        one.name: options_of(value) if is_dataclass(value) else value
        for one, value in values.items()
        if value != _default(one)
    }


def _default(field: "Field[Any]") -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
