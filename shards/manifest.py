"""What a data set is: shards, counts, digests, splits, statistics, and where every image of every sample lies.

`manifest.json` is for people and holds what is said once; `index/*.npy` are memory-mapped and hold what is said for
every sample, so that opening a data set costs milliseconds whatever its size:

    samples.npy          a record a sample in shard order: for each component the block and the bytes of its image,
                         or, for a shared component, the number of its image in shared.npy
    shared_NAME.npy      block and bytes in shared.tar of every distinct image of the shared component NAME
    keys.npy             a fixed-width name a sample; read only to name a sample to a person
    SPLIT.npy            the rows of samples.npy that are in the split; a row in none is left out
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.schema import SHARED_TAR
from shards.tar import BLOCK

__all__ = [
    "LOCATION",
    "SPLITS",
    "Dataset",
    "DepthRange",
    "Files",
    "Locations",
    "Manifest",
    "Shard",
    "Statistics",
    "Storage",
    "StoredComponent",
]

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
    verified: "full" where every image was decoded, "header" where headers and ends were read (see shards.headers).
    counted: samples that `statistics` are of; None where they are of all.
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
        raw["storage"] = _storage(raw.get("storage"))
        return cls(**raw)

    @classmethod
    def read(cls, root: Path) -> "Manifest":
        """The manifest of the data set in `root`. Raises InputError if there is none, or one of another version."""
        path = root / "manifest.json"
        try:
            manifest = cls.from_json(path.read_text())
        except FileNotFoundError:
            raise InputError(
                f"{root}: no data set here (no manifest.json). Make one with `python -m shards compose` or `convert`; "
                "for tars made elsewhere, `python -m shards index`."
            ) from None
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: not a manifest that this version reads ({error}). Convert again.") from error
        if manifest.format != FORMAT:
            raise InputError(f"{path}: format {manifest.format!r}, but this version reads {FORMAT!r}. Convert again.")
        return manifest


def _storage(raw: dict[str, Any] | None) -> Storage | None:
    if not raw:
        return None
    size = raw["resized_from"]
    return Storage(**raw | {"resized_from": tuple(size) if size else None})


class Locations(NamedTuple):
    """Where some images lie: number of the file in `Dataset.files`, offset and size in bytes; int64 (N,) each."""

    file: NDArray[np.int64]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]


class Files:
    """The paths of a data set's tars, by number. Kept as paths, 100,000 of them would take 0.4 s and 17 MB."""

    def __init__(self, root: Path, names: list[str]) -> None:
        self._root, self._names = root, names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, number: int) -> Path:
        return self._root / self._names[number]

    def __iter__(self) -> Iterator[Path]:
        return (self._root / name for name in self._names)


class Dataset:
    """An opened data set: the manifest, and its index as memory-mapped arrays."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root, self.manifest = root, manifest
        self.files = Files(root, [*(shard.name for shard in manifest.shards), SHARED_TAR])
        self._samples = self._array("samples")
        self._keys = self._array("keys")
        self._shared = {name: self._array(f"shared_{name}") for name, c in manifest.components.items() if c.shared}
        self.first_row = np.cumsum([0, *(shard.samples for shard in manifest.shards)])

    @classmethod
    def open(cls, root: Path) -> "Dataset":
        """Raises InputError if `root` holds no data set, one of another version, or one with files missing."""
        return cls(Path(root), Manifest.read(Path(root)))

    def __len__(self) -> int:
        return self.manifest.samples

    def split(self, name: str) -> NDArray[np.uint32]:
        """The rows of a split, ascending, memory-mapped. Raises InputError if it is empty or does not exist."""
        if not self.manifest.splits.get(name):
            have = ", ".join(f"{split} ({count})" for split, count in self.manifest.splits.items())
            raise InputError(f"{self.root}: no samples in split {name!r}; it has {have}.")
        return self._array(name)

    def key(self, row: int) -> str:
        """The sample's key, by which its files are named."""
        return bytes(self._keys[row]).decode()

    def shard_of(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """The number in `files` of the tar that each sample lies in, int64 (N,)."""
        return np.searchsorted(self.first_row, rows, side="right") - 1

    def locate(self, component: str, rows: NDArray[np.integer]) -> Locations:
        """Where the images of one component of the samples in `rows` (N,) lie."""
        if component in self._shared:
            return self.locate_shared(component, self.shared_number(component, rows))
        found = self._samples[component][rows]
        return Locations(self.shard_of(rows), *_bytes(found))

    def shared_number(self, component: str, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """Which of the shared component's distinct images the samples in `rows` (N,) have, int64 (N,)."""
        return np.asarray(self._samples[component][rows], dtype=np.int64)

    def locate_shared(self, component: str, numbers: NDArray[np.integer]) -> Locations:
        """Where the distinct images of these numbers (N,) lie."""
        found = self._shared[component][numbers]
        return Locations(np.full(len(numbers), len(self.files) - 1), *_bytes(found))

    def read(self, places: Locations) -> Iterator[bytes]:
        """The bytes of the images at `places`; a tar is opened once for all that follow each other in it."""
        for file, images in groupby(zip(*places, strict=True), key=lambda place: int(place[0])):
            with self.files[file].open("rb") as tar:
                for _, offset, size in images:
                    tar.seek(offset)
                    yield tar.read(size)

    def _array(self, name: str) -> NDArray[Any]:
        path = self.root / "index" / f"{name}.npy"
        try:
            array: NDArray[Any] = np.load(path, mmap_mode="r")
            return array
        except (OSError, ValueError, EOFError, SyntaxError, TokenError) as error:  # the last two: a header's Python
            raise InputError(f"{path}: cannot be read ({error}). Copy the data set again, or convert again.") from error


def _bytes(found: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return found["block"].astype(np.int64) * BLOCK, found["bytes"].astype(np.int64)
