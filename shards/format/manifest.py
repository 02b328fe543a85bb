"""What is said once of a data set: shards, counts, digests, splits, statistics. `manifest.json` is for people too."""

import json
import re
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from shards.errors import InputError
from shards.format.depth import DepthRange
from shards.format.images import JPEG_QUALITY, ImageFormat, Size
from shards.format.storage import Folder, LocalFolder

FORMAT = "sluice 1"
LOCATION = np.dtype([("block", "<u4"), ("bytes", "<u4")])
"""Where an image lies in its tar: data offset in blocks of 512 bytes (so 2 TiB a shard), and size in bytes."""


def from_json(kind: Any, raw: Any) -> Any:
    """Build a `kind` of what JSON holds: dataclasses, named tuples, lists, tuples, dicts, paths, `| None` of them.

    Raises KeyError, TypeError or ValueError where `raw` is none.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if raw is None else from_json(inner[0], raw)
    if origin is list:
        return [from_json(inner[0], one) for one in raw]
    if origin is dict:
        return {name: from_json(inner[1], one) for name, one in raw.items()}
    if origin is tuple:
        return tuple(from_json(part, one) for part, one in zip(inner, raw, strict=True))
    if is_dataclass(kind) or hasattr(kind, "_fields"):
        types = get_type_hints(kind)
        given = raw if isinstance(raw, dict) else dict(zip(types, raw, strict=True))
        return kind(**{name: from_json(types.get(name), one) for name, one in given.items()})
    if kind in (int, str) and not isinstance(raw, kind):
        raise TypeError(f"{raw!r} where {kind.__name__} is expected")
    return Path(raw) if kind is Path else raw


@dataclass(frozen=True, kw_only=True)
class StoredComponent:
    """How the data set keeps one component; `shared` is its number of images in shared.tar, 0 if it is not shared."""

    extension: str
    channels: int
    shared: int = 0
    bits: int = 8


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What was done to the pixels before they were stored.

    resized_from: height and width of the files that were scaled to `image_size`, or of most; None where none were.
    resized_by: the filter that scaled them, or what images were composed of; empty where neither was done.
    jpeg_quality, jpeg_chroma: how images of the components stored as jpg were encoded; those stored as png are exact.
    converted: by component, in words, what was done to its files besides; none where they are kept or only scaled.
    """

    resized_from: Size | None
    resized_by: str
    jpeg_quality: int = JPEG_QUALITY
    jpeg_chroma: str
    converted: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Shard:
    """One tar file: its name, how many samples are in it, its size in bytes, and the digests of it and its .idx.

    made_from: digest of the options and of its own sources; "" where it is not known.
    """

    name: str
    samples: int = 0
    bytes: int = 0
    sha256: str = ""
    index_sha256: str = ""
    made_from: str = ""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Mean and standard deviation of each channel over all pixels of all samples, in [0, 1]."""

    mean: list[float]
    std: list[float]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about a data set that is said once. `image_size` is height, width.

    components: fg_bg is always there, each of the others may be missing; without depth, `depth` says nothing.
    sources: names of what the numbers in the keys stand for, by component; for depth the teacher that it is from.
    made_from: digest of the options and of what is in the sources. command: digest of the options and of the sources'
    names, the same whatever is in them; "" where it is not known.
    storage: None where the images are the very files that were given (or the data set is older than this field).
    verified: "full" where every image was decoded, "header" where headers and ends were read.
    counted: samples that `statistics` are of, or the fewest where components differ; None where they are of all.

    Of a data set that is still to be built the counts and digests are open, and the splits and statistics that are
    known already are those of the data set that it is made of.
    """

    format: str = FORMAT
    image_size: Size
    components: dict[str, StoredComponent]
    depth: DepthRange
    samples: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    split_by: str
    statistics: dict[str, Statistics] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    shards: list[Shard]
    shared: Shard | None = None
    index: dict[str, str] = field(default_factory=dict)
    sources: dict[str, list[str]] = field(default_factory=dict)
    made_from: str = ""
    storage: Encoding | None = None
    verified: str = "full"
    counted: int | None = None
    command: str = ""

    def image_format(self, name: str) -> ImageFormat:
        """Tell how the images of a component are encoded."""
        component = self.components[name]
        return ImageFormat(component.extension, self.image_size, component.bits, component.channels)

    @property
    def tars(self) -> list[Shard]:
        """The shards, then shared.tar if there is one."""
        return [*self.shards, *([self.shared] if self.shared else [])]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Raises AttributeError, KeyError, TypeError or ValueError where `text` is not a manifest."""
        manifest: Manifest = from_json(cls, json.loads(text))
        return manifest

    @classmethod
    def read(cls, root: Path | Folder) -> "Manifest":
        """Read the manifest of the data set in `root`. Raises InputError if there is none, and as `parse` does."""
        folder = LocalFolder(root) if isinstance(root, Path) else root
        if not folder.exists("manifest.json"):
            raise InputError(
                f"{folder}: no data set here (no manifest.json). Make one with `python -m shards compose` or "
                "`convert`; for tars made elsewhere, `python -m shards index`."
            )
        return cls.parse(folder.read("manifest.json"), f"{folder}/manifest.json")

    @classmethod
    def parse(cls, data: bytes, where: str) -> "Manifest":
        """Parse the manifest in `data`, which was read from `where`.

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
            if not re.fullmatch(r"[^./][^/]*\.(tar|npy)", name):
                raise InputError(f"{where}: {name!r} is no name for a tar or a part of the index. Convert again.")
        return manifest
