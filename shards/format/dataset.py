"""An opened data set: the manifest, and its index, which says where every image of every sample lies.

`index/*.npy` are checked against their digests and held in memory, for what is mapped and becomes shorter ends the
process. Opening takes about 0.1 s and 50 MB a million samples:

    samples.npy          a record a sample in shard order: for each component the block and the bytes of its image,
                         or, for a shared component, the number of its image in shared_NAME.npy
    shared_NAME.npy      block and bytes in shared.tar of every distinct image of the shared component NAME
    keys.npy             a fixed-width name a sample; read only to name a sample to a person
    SPLIT.npy            the rows of samples.npy that are in the split; a row in none is left out
"""

import hashlib
import io
import mmap
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError
from shards.format.images import ImageFormat
from shards.format.manifest import LOCATION, Manifest, Shard
from shards.format.schema import SHARED_TAR
from shards.format.storage import Folder, LocalFolder, RemoteFolder, replacing, write_bytes
from shards.format.tar import BLOCK

_MAPPED = 1 << 28
"""bytes of a file of the index from which on it is mapped all the same: its 9 million samples would take too much"""
_AT_ONCE = 256
"""shards whose samples' places are checked at a time"""
_ADVICE = "Copy the data set again, or convert again."


class Locations(NamedTuple):
    """Where some images lie: number of the tar in `Dataset.tars`, offset and size in bytes; int64 (N,) each."""

    file: NDArray[np.int64]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]


class Dataset:
    """An opened data set: the manifest, and its index as arrays that are what the manifest says.

    root: folder on this machine with the index. folder: where the tars lie, which may be elsewhere.
    """

    def __init__(self, root: Path, manifest: Manifest, folder: Folder | None = None) -> None:
        """Raises InputError where the index is not that of the manifest, or leads to what no tar holds."""
        self.root, self.manifest, self.folder = root, manifest, folder or LocalFolder(root)
        self.tars = manifest.tars
        self.first_row = np.cumsum([0, *(shard.samples for shard in manifest.shards)])
        shared = {name: component.shared for name, component in manifest.components.items() if component.shared}
        kinds = [(name, "<u4" if name in shared else LOCATION) for name in manifest.components]
        self._samples = self._array("samples", np.dtype(kinds), manifest.samples)
        self._keys = self._array("keys", np.bytes_, manifest.samples)
        self._shared = {name: self._array(f"shared_{name}", LOCATION, count) for name, count in shared.items()}
        self._splits = dict[str, NDArray[np.uint32]]()
        if self.first_row[-1] != manifest.samples or (shared and not manifest.shared):
            raise InputError(f"{root}/manifest.json: its shards do not hold its {manifest.samples} samples. {_ADVICE}")
        self._refuse_outside()

    @classmethod
    def open(cls, root: Path, folder: Folder | None = None) -> "Dataset":
        """Raises InputError if `root` holds no data set, one of another version, or one with files missing."""
        return cls(Path(root), Manifest.read(Path(root)), folder)

    def __len__(self) -> int:
        return self.manifest.samples

    def tar_path(self, number: int) -> Path:
        """Tell where the tar of this number in `tars` lies on this machine."""
        return self.root / self.tars[number].name

    def split(self, name: str) -> NDArray[np.uint32]:
        """Return the rows of a split, ascending. Raises InputError if it is empty, does not exist or is damaged."""
        if not self.manifest.splits.get(name):
            have = ", ".join(f"{split} ({count})" for split, count in self.manifest.splits.items())
            raise InputError(f"{self.root}: no samples in split {name!r}; it has {have}.")
        if name not in self._splits:
            rows = self._array(name, np.dtype("<u4"), self.manifest.splits[name])
            if rows[-1] >= len(self) or (rows[1:] <= rows[:-1]).any():
                raise InputError(f"{self.root}/index/{name}.npy: not rows of its samples in ascending order. {_ADVICE}")
            self._splits[name] = rows
        return self._splits[name]

    def key(self, row: int) -> str:
        """Return the sample's key, by which its files are named."""
        return bytes(self._keys[row]).decode(errors="backslashreplace")

    def shard_of(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """Tell the number in `tars` of the one that each sample lies in, int64 (N,)."""
        return np.searchsorted(self.first_row, rows, side="right") - 1

    def locate(self, component: str, rows: NDArray[np.integer]) -> Locations:
        """Tell where the images of one component of the samples in `rows` (N,) lie."""
        if component in self._shared:
            return self.locate_shared(component, self.shared_number(component, rows))
        return Locations(self.shard_of(rows), *extents(self._samples[component][rows]))

    def shared_number(self, component: str, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """Tell which of the shared component's distinct images the samples in `rows` (N,) have, int64 (N,)."""
        return np.asarray(self._samples[component][rows], dtype=np.int64)

    def locate_shared(self, component: str, numbers: NDArray[np.integer]) -> Locations:
        """Tell where the distinct images of these numbers (N,) lie."""
        return Locations(np.full(len(numbers), len(self.manifest.shards)), *extents(self._shared[component][numbers]))

    def read(self, places: Locations) -> Iterator[bytes]:
        """Read the images at `places`; a tar is opened once for all that follow each other in it."""
        names = [self.tars[number].name for number in places.file.tolist()]
        return self.folder.ranges(list(zip(names, places.offset.tolist(), places.size.tolist(), strict=True)))

    def contents(self, number: int) -> "ShardContents":
        """Return one shard, by its number."""
        rows = slice(*self.first_row[number : number + 2].tolist())
        formats = {name: self.manifest.image_format(name) for name in self.manifest.components}
        shard = self.manifest.shards[number]
        return ShardContents(self.folder, shard, formats, self._keys[rows], self._samples[rows], self._shared)

    def _array(self, name: str, dtype: np.dtype[Any] | type[np.bytes_], count: int) -> NDArray[Any]:
        """Return a file of the index, which is to hold `count` values of `dtype`; bytes may be of any length."""
        path, sha256 = self.root / "index" / f"{name}.npy", self.manifest.index.get(f"{name}.npy")
        try:
            with path.open("rb") as file:
                large = os.fstat(file.fileno()).st_size > _MAPPED
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if large else file.read()
            header = io.BytesIO(data[:10_000])
            if np.lib.format.read_magic(header) != (1, 0):
                raise ValueError("not of NumPy's format 1.0")
            shape, _, found = np.lib.format.read_array_header_1_0(header)
            if shape != (count,) or not _has_all(found, dtype):
                raise ValueError(f"{found} {shape} where the manifest says {dtype} {(count,)}")
            array = np.frombuffer(data, found, offset=header.tell())
            if len(array) != count:
                raise ValueError(f"{len(array)} values where {count} are announced")
        except Exception as error:  # of many kinds: a header is Python
            raise InputError(f"{path}: cannot be read ({error}). {_ADVICE}") from error
        if sha256 and hashlib.sha256(data).hexdigest() != sha256:
            raise InputError(
                f"{path}: its digest is not the one in the manifest: it may lead to other images. {_ADVICE}"
            )
        return array

    def _refuse_outside(self) -> None:
        """Raise InputError if an image does not lie within its tar."""
        counts, ends = np.diff(self.first_row), np.array([tar.bytes for tar in self.tars])
        wrong = any(_outside(places, ends[-1:]) for places in self._shared.values())
        for first in range(0, len(counts), _AT_ONCE):
            last = min(first + _AT_ONCE, len(counts))
            samples = self._samples[self.first_row[first] : self.first_row[last]]
            of_tar = np.repeat(ends[first:last], counts[first:last])
            for name in self.manifest.components:
                own, shared = samples[name], self._shared.get(name)
                wrong |= _outside(own, of_tar) if shared is None else bool((own >= len(shared)).any())
        if wrong:
            raise InputError(f"{self.root}/index: not all that it leads to lies within the tars. {_ADVICE}")


@dataclass(frozen=True)
class ShardContents:
    """One shard, its samples, and where their images lie: all that another process or machine needs to work on it.

    formats: by component. samples: as in samples.npy, (N,). shared: shared_NAME.npy by component. The arrays are views
    of the index, and copied only when they are sent.
    """

    folder: Folder
    shard: Shard
    formats: dict[str, ImageFormat]
    encoded_keys: NDArray[np.bytes_]
    samples: NDArray[Any]
    shared: dict[str, NDArray[Any]]

    @property
    def name(self) -> str:
        return self.shard.name

    @property
    def size(self) -> int:
        return len(self.encoded_keys)

    @property
    def made_from(self) -> str:
        """Digest of the shard, for what is made of it."""
        return self.shard.sha256

    @property
    def keys(self) -> list[str]:
        return [key.decode() for key in self.encoded_keys.tolist()]

    def images(self, name: str) -> Iterator[bytes]:
        """Cut one component of every sample, in their order, from the shard, which is read whole."""
        if name in self.shared:
            return self._cut(SHARED_TAR, self.shared[name][self.samples[name]])
        return self._cut(self.name, self.samples[name])

    def distinct(self, name: str) -> Iterator[bytes]:
        """Cut the distinct images of a shared component from shared.tar."""
        return self._cut(SHARED_TAR, self.shared[name])

    def _cut(self, tar: str, places: NDArray[Any]) -> Iterator[bytes]:
        data, columns = read_whole(self.folder, tar), (column.tolist() for column in extents(places))
        return (data[begin : begin + size] for begin, size in zip(*columns, strict=True))


@lru_cache(maxsize=3)
def read_whole(folder: Folder, name: str) -> bytes:
    """Read a file. A shard, its index and the tar that all shards share are remembered until the next shard."""
    return folder.read(name)


@contextmanager
def open_dataset(folder: Folder) -> Iterator[Dataset]:
    """Open the data set in a folder. Of one at a URL, the index is downloaded for as long as this lasts.

    Raises InputError if there is none, or a part of it is missing or damaged.
    """
    if isinstance(folder, LocalFolder):
        yield Dataset.open(folder.path)
        return
    with tempfile.TemporaryDirectory(prefix="sluice-") as temporary:
        root = Path(temporary)
        download_index(folder, folder.read("manifest.json"), root)
        if folder.exists("left-out.tsv"):
            folder.download("left-out.tsv", root / "left-out.tsv")
        yield Dataset.open(root, folder)


def download_index(folder: RemoteFolder, manifest: bytes, root: Path, stopped: threading.Event | None = None) -> None:
    """Write `manifest`, which is the one in `folder`, and what `root` has not of the index, or damaged, to `root`.

    For one process at a time, which may have been killed. Raises InputError if `manifest` is none, or if a part of the
    index is missing or damaged; StoppedError soon after `stopped` is set.
    """
    index = Manifest.parse(manifest, f"{folder}/manifest.json").index
    (root / "index").mkdir(parents=True, exist_ok=True)
    (kept := LocalFolder(root / "index")).sweep(None)
    for name, sha256 in index.items():
        if not kept.holds(name, None, sha256):
            with replacing(root / "index" / name) as path:
                folder.download(f"index/{name}", path, sha256=sha256, stopped=stopped)
    write_bytes(root / "manifest.json", manifest)


def extents(locations: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return offset and size in bytes, int64 (N,) each, of LOCATIONs (N,)."""
    return locations["block"].astype(np.int64) * BLOCK, locations["bytes"].astype(np.int64)


def _outside(locations: NDArray[Any], ends: NDArray[np.int64]) -> bool:
    """Whether an image of LOCATIONs (N,) ends behind its tar, whose bytes are `ends` (N,) or (1,)."""
    offset, size = extents(locations)
    return bool((offset + size > ends).any())


def _has_all(found: np.dtype[Any], wanted: np.dtype[Any] | type[np.bytes_]) -> bool:
    """Whether values of dtype `found` are of `wanted`, too: records may have further fields."""
    if isinstance(wanted, np.dtype) and wanted.names and found.names:
        return all(name in found.names and found[name] == wanted[name] for name in wanted.names)
    return (np.bytes_ if found.type is np.bytes_ else found) == wanted
