"""Who runs, on which format, with which packages, and what is to be known about it."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BATCH, SIZE, WORKERS = 64, 64, 2
"""samples a batch, height and width in pixels, and worker processes or threads: the same for all"""
SHAPES = {"fg_bg": 3, "mask": 1, "depth": 1, "bg": 3}
"""the four arrays of a batch and their channels"""

Batch = dict[str, Any]
"""the four arrays, uint8, NumPy or torch, (N, H, W, C) or (N, C, H, W); grey ones also (N, H, W)"""
Batches = Callable[[Path], Iterator[Batch]]
"""from the folder of a format to one epoch after the other, without end"""


@dataclass(frozen=True)
class Contender:
    """One row of the table. `runs` is MODULE:FUNCTION, imported only in the process that runs it."""

    name: str
    runs: str
    format: str
    packages: tuple[str, ...]
    """whose versions are told"""
    order: str
    """how random it is: a permutation of the epoch, or shards in random order and a buffer"""
    kind: str = "peer"
    """peer; half, a peer that decodes at half the size, to other pixels; ours; or floor, which hands over nothing"""
    warm_epoch: bool = False
    """its first epoch is another matter than those that follow, which are measured"""


def batches_of(runs: str) -> Batches:
    """The function that MODULE:FUNCTION names. Importing it raises whatever is wrong with its packages."""
    module, _, function = runs.partition(":")
    found: Batches = getattr(importlib.import_module(f"bench.race.{module}"), function)
    return found


PERMUTATION, BUFFER = "permutation", "shards, buffer"
TURBO = ("simplejpeg", "opencv-python-headless")

CONTENDERS = (
    Contender("folders, Pillow, DataLoader", "files:folders", "folders", ("pillow", "torch"), PERMUTATION),
    Contender("zips, Pillow, DataLoader", "files:zips", "zips", ("pillow", "torch"), PERMUTATION),
    Contender("webdataset, Pillow", "wds:pillow", "shards", ("webdataset", "pillow"), BUFFER),
    Contender("webdataset, turbojpeg", "wds:turbo", "shards", ("webdataset", *TURBO), BUFFER),
    Contender("webdataset, turbojpeg, half", "wds:half", "shards", ("webdataset", *TURBO), BUFFER, "half"),
    Contender("Streaming, turbojpeg", "streaming_mds:turbo", "mds", ("mosaicml-streaming", *TURBO), PERMUTATION),
    Contender("LitData, turbojpeg", "lit:turbo", "litdata", ("litdata", *TURBO), "chunks, then within"),
    Contender("LitData, turbojpeg, half", "lit:half", "litdata", ("litdata", *TURBO), "chunks, then within", "half"),
    Contender("FFCV, JPEG", "ffcv_beton:jpeg", "ffcv", ("ffcv",), PERMUTATION),
    Contender("SPDL, its decoder", "spdl_files:own", "folders", ("spdl",), PERMUTATION),
    Contender("SPDL, turbojpeg", "spdl_files:turbo", "folders", ("spdl", *TURBO), PERMUTATION),
    Contender("DALI's reader, CPU", "dali:native", "shards", ("nvidia-dali-cuda120",), BUFFER),
    Contender("Sluice", "ours:stored", "shards", (), PERMUTATION, "ours"),
    Contender("Sluice, training-size shards", "ours:stored", "shards64", (), PERMUTATION, "ours"),
    Contender("Sluice, decoded cache", "ours:cached", "shards", (), PERMUTATION, "ours", warm_epoch=True),
    Contender("floor: decoding alone", "floor:decoding", "shards", ("simplejpeg",), PERMUTATION, "floor"),
)
