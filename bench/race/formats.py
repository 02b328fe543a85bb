"""The samples of the race, and the formats that hold them: python -m bench.race.formats FORMAT SCRATCH writes one.

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
"""The paths of a sample's images, by component, below the folder."""
Encoded = dict[str, bytes]
Sample = dict[str, NDArray[np.uint8]]
"""The images of a sample, (H, W, 3), or (H, W) where grey."""


def members(folder: Path) -> list[Paths]:
    """Return the samples in the folders of 2020. Raises InputError if they are not there, or not all JPEGs."""
    folders = {name: BY_NAME[name].folder for name in SHAPES}
    samples = []
    for path in sorted((folder / folders["fg_bg"]).rglob("*.jpg")):
        paths = {name: f"{own}/{path.relative_to(folder / folders['fg_bg'])}" for name, own in folders.items()}
        if known := identity(path.stem):
            shared = f"{folders['bg']}/Shelves_{known.bg}.jpg"
            paths["bg"] = shared if (folder / shared).exists() else paths["bg"]
        samples.append(paths)
    if not samples or not all((folder / path).exists() for path in samples[0].values()):
        raise InputError(
            f"{folder}: no JPEGs, or not of all. Some formats of the race know nothing else; give it JPEGs."
        )
    return samples


def read(folder: Path, paths: Paths) -> Encoded:
    images = {}
    for name, path in paths.items():
        with open(f"{folder}/{path}", "rb") as file:  # noqa: PTH123 - a Path's own open is slower
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


def _shards(folder: Path, out: Path, **options: int) -> None:
    per_shard = max(1, min(1000, len(members(folder)) // 4))
    command = shards_command("convert", folder, out, val_share=0, test_share=0, samples_per_shard=per_shard, **options)
    subprocess.run(command, cwd=ROOT, check=True)


def _mds(folder: Path, out: Path) -> None:
    from bench.race.mds import MDSWriter

    with MDSWriter(out=str(out), columns=dict.fromkeys(SHAPES, "bytes"), size_limit="64mb") as writer:
        for paths in members(folder):
            writer.write(read(folder, paths))


def _litdata(folder: Path, out: Path) -> None:
    from litdata import optimize

    options = {"chunk_bytes": "64MB", "num_workers": 1, "start_method": "fork", "verbose": False}
    optimize(fn=partial(read, folder), inputs=members(folder), output_dir=str(out), **options)


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
