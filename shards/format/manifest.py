"""What is said once of a data set: shards, counts, digests, splits, statistics. `manifest.json` is for people too."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from PIL import Image

from shards.errors import InputError
from shards.format.depth import STORED, DepthRange
from shards.format.fields import Bounds, Count, Share, Side, parsed
from shards.format.images import JPEG_QUALITY, ImageFormat
from shards.format.schema import BY_NAME, SHARED_TAR
from shards.format.splits import SPLITS
from shards.format.storage import Folder, LocalFolder

FORMAT = "sluice 1"
LOCATION = np.dtype([("block", "<u4"), ("bytes", "<u4")])
"""Where an image lies in its tar: data offset in blocks of 512 bytes (so 2 TiB a shard), and size in bytes."""
Digest = Annotated[str, re.compile("([0-9a-f]{64})?")]
"""SHA-256; empty where it is not known."""
Source = Annotated[str, re.compile("[^/]*")]
"""A digest of what something is made of, which is only compared, and part of a file's name while it is built."""
TarName = Annotated[str, re.compile(r"[^./][^/]*\.tar")]
"""A plain name, with which nothing is written or removed outside the data set's folder."""
Rows = Annotated[int, Bounds(0, 2**32 - 1)]
"""A number of samples, whose rows have 32 bits in the index."""


@dataclass(frozen=True, kw_only=True)
class StoredComponent:
    """How the data set keeps one component; `shared` is its number of images in shared.tar, 0 if it is not shared."""

    extension: str
    channels: int
    shared: Rows = 0
    bits: int = 8


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What was done to the pixels before they were stored.

    resized_from: height and width of the files that were scaled to `image_size`, or of most; None where none were.
    resized_by: the filter that scaled them, or what images were composed of; empty where neither was done.
    jpeg_quality, jpeg_chroma: how images of the components stored as jpg were encoded; those stored as png are exact.
    converted: by component, in words, what was done to its files besides; none where they are kept or only scaled.
    """

    resized_from: tuple[Side, Side] | None
    resized_by: str
    jpeg_quality: Annotated[int, Bounds(1, 100)] = JPEG_QUALITY
    jpeg_chroma: str
    converted: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Shard:
    """One tar file: its name, how many samples are in it, its size in bytes, and the digests of it and its .idx.

    made_from: digest of the options and of its own sources; "" where it is not known.
    """

    name: TarName
    samples: Rows = 0
    bytes: Annotated[int, Bounds(0, 2**50)] = 0
    sha256: Digest = ""
    index_sha256: Digest = ""
    made_from: Source = ""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Mean and standard deviation of each channel over all pixels of all samples, in [0, 1]."""

    mean: list[Share]
    std: list[Share]


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
    image_size: tuple[Side, Side]
    components: dict[str, StoredComponent]
    depth: DepthRange
    samples: Rows = 0
    splits: dict[str, Rows] = field(default_factory=dict)
    split_by: Literal["key", "identity"]
    statistics: dict[str, Statistics] = field(default_factory=dict)
    left_out: dict[str, Rows] = field(default_factory=dict)
    shards: list[Shard]
    shared: Shard | None = None
    index: dict[str, Digest] = field(default_factory=dict)
    sources: dict[str, list[str]] = field(default_factory=dict)
    made_from: Source = ""
    storage: Encoding | None = None
    verified: Literal["full", "header"] = "full"
    counted: Count | None = None
    command: Source = ""

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
    def from_json(cls, text: str | bytes) -> "Manifest":
        """Raises ValueError where `text` is not a manifest: which field is not as it must be."""
        manifest: Manifest = parsed(cls, text)
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

        Raises InputError if it is none, one of another version, or one that contradicts itself or names files that are
        not in the data set's folder, where a download would overwrite them.
        """
        try:
            manifest = cls.from_json(data)
        except ValueError as error:
            raise InputError(f"{where}: not a manifest that this version reads: {error}. Convert again.") from None
        if manifest.format != FORMAT:
            raise InputError(f"{where}: format {manifest.format!r}, but this version reads {FORMAT!r}. Convert again.")
        if wrong := next(manifest._contradictions(), None):
            raise InputError(f"{where}: damaged or edited: {wrong}. Copy the data set again, or convert again.")
        return manifest

    def _contradictions(self) -> Iterator[str]:
        """Say what cannot be in the manifest of a finished data set, though each field alone could be as it is."""
        height, width = self.image_size
        if height * width > 2 * (Image.MAX_IMAGE_PIXELS or 0):  # which are not decoded
            yield f"image_size is {height} x {width}, which no image of a data set has"
        yield from self._of_components()
        yield from self._of_files()
        if self.samples != (held := sum(shard.samples for shard in self.shards)):
            yield f"samples is {self.samples}, but the shards hold {held}"
        if self.splits.keys() - set(SPLITS) or sum(self.splits.values()) > self.samples:
            yield f"splits is {self.splits}, but there are {', '.join(SPLITS)}, of {self.samples} samples in all"
        if self.depth.unit == "relative" and (self.depth.near, self.depth.far) != (0, 1):
            yield f"depth is relative from {self.depth.black} to {self.depth.white}, not from 0 to 1 or from 1 to 0"
        if self.counted and self.counted > self.samples:
            yield f"counted is {self.counted}, but there are {self.samples} samples"

    def _of_components(self) -> Iterator[str]:
        if "fg_bg" not in self.components:
            yield "components has no fg_bg"
        if self.statistics.keys() != self.components.keys():
            yield f"statistics is of {', '.join(self.statistics)}, components of {', '.join(self.components)}"
        for name, one in self.components.items():
            known, found = BY_NAME.get(name), self.statistics.get(name)
            if not known or one.channels != known.channels:
                had = ", ".join(f"{name} ({one.channels})" for name, one in BY_NAME.items())
                yield f"components.{name} has {one.channels} channels; there can be {had}"
                return
            if (one.extension, one.bits) not in STORED.values() or (one.bits == 16 and name != "depth"):
                yield f"components.{name} is {one.extension!r} of {one.bits} bits, which is not stored"
            if one.shared > (self.samples if known.shared else 0):
                yield f"components.{name}.shared is {one.shared}, of {self.samples} samples"
            if found and not len(found.mean) == len(found.std) == one.channels:
                yield f"statistics.{name} is not of {one.channels} channels"

    def _of_files(self) -> Iterator[str]:
        distinct = sum(one.shared for one in self.components.values())
        if (self.shared.name, self.shared.samples) != (SHARED_TAR, distinct) if self.shared else distinct:
            yield f"shared is not {SHARED_TAR} with the {distinct} images that components has there"
        names = [tar.name for tar in self.tars]
        if not self.shards or len(set(names)) < len(names):
            yield "shards has none, or one twice"
        for tar in self.tars:
            if not (tar.samples and tar.bytes and tar.sha256 and tar.index_sha256):
                yield f"of {tar.name}, samples, bytes, sha256 or index_sha256 is not known"
        arrays = ["keys", "samples", *(f"shared_{name}" for name, one in self.components.items() if one.shared)]
        arrays += self.splits
        if self.index.keys() != {f"{name}.npy" for name in arrays} or not all(self.index.values()):
            yield f"index has {', '.join(self.index)}, where a digest of each of {', '.join(arrays)} is expected"
