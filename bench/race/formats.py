"""The samples of the race, how batches are checked, and the formats: python -m bench.race.formats FORMAT SCRATCH.

The folders of 2020 are there; every other format is made from them, so that all hold the same images, byte for byte.
`shards64` alone holds others: the same images scaled down to training size.
"""

# mypy: disable-error-code="import-not-found"

import io
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.measure import ROOT, shards_command
from shards.errors import InputError
from shards.format.schema import BY_NAME, identity

BATCH, SIZE, WORKERS = 64, 64, 2
"""Samples a batch, height and width in pixels, and worker processes or threads: the same for all."""
SHAPES = {"fg_bg": 3, "mask": 1, "depth": 1, "bg": 3}
"""The four arrays of a batch and their channels."""
Paths = dict[str, str]
"""The paths of a sample's images, by component."""
Encoded = dict[str, bytes]
Images = NDArray[np.uint8]
Sample = dict[str, Images]
"""The images of a sample, (H, W, 3), or (H, W) where grey."""
BOUND = 8.0
"""Levels of 255 that the mean difference of each of the four arrays must stay below; even aliased scaling does."""


def members(folder: Path) -> list[Paths]:
    """Return the samples in the folders of 2020. Raises InputError if they are not there, or not all JPEGs."""
    folders = {name: folder / BY_NAME[name].folder for name in SHAPES}
    samples = []
    for path in sorted(folders["fg_bg"].rglob("*.jpg")):
        paths = {name: str(own / path.relative_to(folders["fg_bg"])) for name, own in folders.items()}
        known = identity(path.stem)
        if known and (shared := folders["bg"] / f"Shelves_{known.bg}.jpg").exists():
            paths["bg"] = str(shared)
        samples.append(paths)
    if not samples or not all(Path(path).exists() for path in samples[0].values()):
        raise InputError(f"{folder}: no JPEGs, or not of all. Some formats of the race know nothing else: give JPEGs.")
    return samples


def read(paths: Paths) -> Encoded:
    images = {}
    for name, path in paths.items():
        with open(path, "rb") as file:  # noqa: PTH123 - a Path's own open is slower
            images[name] = file.read()
    return images


def pillow(encoded: Encoded) -> Sample:
    """Decode and resize by Pillow, antialiased. All others are compared with it."""
    sample = {}
    for name, channels in SHAPES.items():
        image = Image.open(io.BytesIO(encoded[name])).convert("RGB" if channels == 3 else "L")
        sample[name] = np.array(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    return sample


def turbo(encoded: Encoded) -> Sample:
    """Decode by libjpeg-turbo (simplejpeg) and resize by OpenCV's area filter, its way not to alias."""
    import cv2
    from simplejpeg import decode_jpeg

    cv2.setNumThreads(0)  # the workers are the threads
    sample = {}
    for name, channels in SHAPES.items():
        image = decode_jpeg(encoded[name], "RGB" if channels == 3 else "GRAY")
        sample[name] = np.asarray(cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA), np.uint8)
    return sample


class Truth:
    """All samples by Pillow, uint8 (N, 64, 64, C) by name. A contender need not say which of them it hands over."""

    def __init__(self, folder: Path) -> None:
        """Decode all samples in the folders of 2020: a millisecond each."""
        samples = [pillow(read(paths)) for paths in members(folder)]
        self.arrays = {name: _as_nhwc(name, np.stack([sample[name] for sample in samples])) for name in SHAPES}
        self._thumbnails = _thumbnails(self.arrays)

    def difference(self, first: Path) -> float:
        """Return the mean absolute difference of a contender's first batch in levels of 255, over its four arrays.

        Raises ValueError if they are not four arrays of the right shape and type, are not near to any sample, or if
        samples come twice or in the order in which they are stored.
        """
        with np.load(first) as stored:
            arrays = {name: _as_nhwc(name, stored[name]) for name in SHAPES}
        if not 0 < len(arrays["fg_bg"]) <= BATCH:
            raise ValueError(f"{len(arrays['fg_bg'])} samples where at most {BATCH} are due")
        found = [int(np.abs(self._thumbnails - one).sum(axis=1).argmin()) for one in _thumbnails(arrays)]
        if len(set(found)) < len(found) or (len(found) > 1 and found == sorted(found)):
            raise ValueError(f"not a random order of different samples: {found[:8]}")
        means = {name: float(np.abs(self.arrays[name][found] - arrays[name].astype(int)).mean()) for name in SHAPES}
        if max(means.values()) > BOUND:
            raise ValueError(f"pixels differ from Pillow's by {means} levels in the mean; below {BOUND} was expected")
        return float(np.mean(list(means.values())))


def _thumbnails(arrays: dict[str, Images]) -> NDArray[np.float32]:
    """Return 8 x 8 pixels of fg_bg and mask, which suffices to find a sample again, float32 (N, 256)."""
    both = np.concatenate([arrays["fg_bg"], arrays["mask"]], axis=3)
    cells = both.reshape(len(both), 8, SIZE // 8, 8, SIZE // 8, 4).mean(axis=(2, 4), dtype=np.float32)
    return np.reshape(cells, (len(both), -1))


def _as_nhwc(name: str, images: Images) -> Images:
    """Return images as (N, 64, 64, C), whichever order their axes have. Raises ValueError for other shapes."""
    wanted = (SIZE, SIZE, SHAPES[name])
    if images.shape[1:] == (SHAPES[name], SIZE, SIZE):
        images = images.transpose(0, 2, 3, 1)
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.shape[1:] != wanted:
        raise ValueError(f"{name}: {images.dtype} {images.shape} where uint8 (N, {SIZE}, {SIZE}, {wanted[2]}) is due")
    return images


def _shards(folder: Path, out: Path, **options: int) -> None:
    per_shard = max(1, min(1000, len(members(folder)) // 4))
    command = shards_command("convert", folder, out, val_share=0, test_share=0, samples_per_shard=per_shard, **options)
    subprocess.run(command, cwd=ROOT, check=True)


def _mds(folder: Path, out: Path) -> None:
    from bench.race.mds import MDSWriter

    with MDSWriter(out=str(out), columns=dict.fromkeys(SHAPES, "bytes"), size_limit="64mb") as writer:
        for paths in members(folder):
            writer.write(read(paths))


def _litdata(folder: Path, out: Path) -> None:
    from litdata import optimize

    options = {"chunk_bytes": "64MB", "num_workers": 1, "start_method": "fork", "verbose": False}
    optimize(fn=read, inputs=members(folder), output_dir=str(out), **options)


FORMATS: dict[str, Callable[[Path, Path], None]] = {
    "shards": _shards,
    "shards64": partial(_shards, size=SIZE),
    "mds": _mds,
    "litdata": _litdata,
}
"""All formats but the folders, from which they are made."""

if __name__ == "__main__":
    scratch = Path(sys.argv[2])
    FORMATS[sys.argv[1]](scratch / "folders", scratch / sys.argv[1])
