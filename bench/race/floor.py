"""The floor: libjpeg-turbo in two processes, of only the bytes that must be decoded; no resize, nothing handed over."""

# mypy: disable-error-code="import-not-found"

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from simplejpeg import decode_jpeg

from bench.race.contenders import BATCH, SHAPES, WORKERS, Batch
from bench.race.formats import images
from shards.format.dataset import Dataset, Locations

Rows = NDArray[np.int64]


def decoding(folder: Path) -> Iterator[Batch]:
    """fg_bg, mask and depth of every sample in random order; each distinct bg once, before the first batch."""
    rows = np.asarray(_opened(folder).split("train"), np.int64)
    _decode_shared(folder)
    with ProcessPoolExecutor(WORKERS) as pool:
        batches = (pool.submit(_decode, folder, some) for some in _chunks(rows))
        ahead = deque(itertools.islice(batches, 4 * WORKERS))
        while True:
            ahead.append(next(batches))
            yield {"row": ahead.popleft().result()}


@cache
def _opened(folder: Path) -> Dataset:
    return Dataset.open(folder)


def _decode(folder: Path, rows: Rows) -> Rows:
    dataset = _opened(folder)
    for name, channels in SHAPES.items():
        if not dataset.manifest.components[name].shared:
            _decode_at(dataset, dataset.locate(name, rows), channels)
    return rows


def _decode_shared(folder: Path) -> None:
    dataset = _opened(folder)
    for name, channels in SHAPES.items():
        if count := dataset.manifest.components[name].shared:
            _decode_at(dataset, dataset.locate_shared(name, np.arange(count)), channels)


def _decode_at(dataset: Dataset, places: Locations, channels: int) -> None:
    pixels = np.empty((*dataset.manifest.image_size, 3), np.uint8)
    for data in images(dataset, places):
        decode_jpeg(data, "RGB" if channels == 3 else "GRAY", buffer=pixels)


def _chunks(rows: Rows) -> Iterator[Rows]:
    random = np.random.default_rng(0)
    while True:
        order = random.permutation(rows)
        yield from (order[i : i + BATCH] for i in range(0, len(order), BATCH))
