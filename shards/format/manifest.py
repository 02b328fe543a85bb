"""What is said once of a data set: shards, counts, digests, splits, statistics. `manifest.json` is for people too."""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shards.errors import InputError
from shards.format.storage import Folder, LocalFolder

FORMAT = "sluice 1"
SPLITS = ("train", "val", "test")
LOCATION = np.dtype([("block", "<u4"), ("bytes", "<u4")])
"""Where an image lies in its tar: data offset in blocks of 512 bytes (so 2 TiB a shard), and size in bytes"""


@dataclass(frozen=True, kw_only=True)
class DepthRange:
    """What the least and the greatest value of a depth image mean, `black` and `white`; the others lie evenly between.

    Where near is bright, `black` is the greater. The loader hands over depth that begins at `near`, however stored.
    unit: "m" for metres along the optical axis, or "relative" where only the order is known (then 0 and 1).
    """

    black: float = 0.0
    white: float = 1.0
    unit: str = "relative"

    def __post_init__(self) -> None:
        if self.near < 0 or self.near == self.far:
            raise InputError(
                f"depth from {self.black} (black) to {self.white} (white): two different numbers from 0 are needed."
            )

    @classmethod
    def metres(cls, black: float, white: float) -> "DepthRange":
        return cls(black=black, white=white, unit="m")

    @classmethod
    def relative(cls, *, near_is_bright: bool) -> "DepthRange":
        return cls(black=1.0, white=0.0) if near_is_bright else cls()

    @property
    def near(self) -> float:
        return min(self.black, self.white)

    @property
    def far(self) -> float:
        return max(self.black, self.white)

    @property
    def near_is_bright(self) -> bool:
        return self.black > self.white

    @property
    def scale(self) -> tuple[str, float, float]:
        """Equal where a value that the loader hands over means the same: in metres, whichever end is bright.

        Relative depth that is bright where it is near is the inverse of depth as a rule, with other steps.
        """
        return (self.unit, self.near, self.far) if self.unit == "m" else (self.unit, self.black, self.white)

    def __str__(self) -> str:
        if self.unit == "m":
            return f"{self.black:g} m (black) to {self.white:g} m (white)"
        return f"relative, {'near' if self.near_is_bright else 'far'} is bright"


@dataclass(frozen=True, kw_only=True)
class StoredComponent:
    """How the data set keeps one component.

    shared: its number of distinct images in shared.tar, 0 if not shared. bits: of a value; 16 is for depth as PNG.
    """

    extension: str
    channels: int
    shared: int = 0
    bits: int = 8


@dataclass(frozen=True, kw_only=True)
class Storage:
    """What was done to the pixels before they were stored.

    resized_from: height and width of the files that were scaled to `image_size`; None where images were composed in it.
    resized_by: the filter that scaled them, or what they were composed of.
    jpeg_quality, jpeg_chroma: how the components stored as jpg were encoded; those stored as png are exact.
    """

    resized_from: tuple[int, int] | None
    resized_by: str
    jpeg_quality: int
    jpeg_chroma: str

    @classmethod
    def from_json(cls, raw: dict[str, Any] | None) -> "Storage | None":
        if not raw:
            return None
        size = raw["resized_from"]
        return cls(**raw | {"resized_from": tuple(size) if size else None})


@dataclass(frozen=True)
class Shard:
    """One tar file: its name, how many samples are in it, its size in bytes, and the digests of it and its .idx."""

    name: str
    samples: int
    bytes: int
    sha256: str
    index_sha256: str


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Mean and standard deviation of each channel over all pixels of all samples, in [0, 1]."""

    mean: list[float]
    std: list[float]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about a data set that is said once. `image_size` is height, width.

    components: depth may be missing, where it is still to be predicted; then `depth` and its statistics say nothing.
    sources: names of what the numbers in the keys stand for, by component; for depth the teacher that it is from.
    storage: None where the images are the very files that were given (or the data set is older than this field).
    verified: "full" where every image was decoded, "header" where headers and ends were read (see shards.format.images).
    counted: samples that `statistics` are of, or the fewest where components differ; None where they are of all.
    """

    format: str = FORMAT
    image_size: tuple[int, int]
    components: dict[str, StoredComponent]
    depth: DepthRange
    samples: int
    splits: dict[str, int]
    split_by: str
    statistics: dict[str, Statistics]
    left_out: dict[str, int]
    shards: list[Shard]
    shared: Shard | None
    index: dict[str, str] = field(default_factory=dict)
    sources: dict[str, list[str]] = field(default_factory=dict)
    made_from: str = ""
    storage: Storage | None = None
    verified: str = "full"
    counted: int | None = None

    @property
    def tars(self) -> list[Shard]:
        """The shards, then shared.tar if there is one."""
        return [*self.shards, *([self.shared] if self.shared else [])]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Raises KeyError, TypeError or ValueError where `text` is not a manifest."""
        raw: dict[str, Any] = json.loads(text)
        raw["components"] = {name: StoredComponent(**c) for name, c in raw["components"].items()}
        raw["statistics"] = {name: Statistics(**s) for name, s in raw["statistics"].items()}
        raw["shards"] = [Shard(**s) for s in raw["shards"]]
        raw["shared"] = Shard(**raw["shared"]) if raw["shared"] else None
        raw["depth"] = DepthRange(**raw["depth"])
        raw["image_size"] = tuple(raw["image_size"])
        raw["storage"] = Storage.from_json(raw.get("storage"))
        return cls(**raw)

    @classmethod
    def read(cls, root: Path | Folder) -> "Manifest":
        """The manifest of the data set in `root`. Raises InputError if there is none, or one of another version."""
        folder = LocalFolder(root) if isinstance(root, Path) else root
        where = f"{folder}/manifest.json"
        if not folder.exists("manifest.json"):
            raise InputError(
                f"{folder}: no data set here (no manifest.json). Make one with `python -m shards compose` or "
                "`convert`; for tars made elsewhere, `python -m shards index`."
            )
        return cls.parse(folder.read("manifest.json"), where)

    @classmethod
    def parse(cls, data: bytes, where: str) -> "Manifest":
        """The manifest in `data`, which were read from `where`.

        Raises InputError if it is none, one of another version, or if it names files that are not in the data set's
        folder, where a download would overwrite them.
        """
        try:
            manifest = cls.from_json(data.decode())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{where}: not a manifest that this version reads ({error}). Convert again.") from error
        if manifest.format != FORMAT:
            raise InputError(f"{where}: format {manifest.format!r}, but this version reads {FORMAT!r}. Convert again.")
        for name in [*(tar.name for tar in manifest.tars), *manifest.index]:
            if not re.fullmatch(r"[^./][^/]*\.(tar|npy)", str(name)):
                raise InputError(f"{where}: {name!r} is no name for a tar or a part of the index. Convert again.")
        return manifest
