"""Sluice's own loader."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.race.contenders import BATCH, SHAPES, SIZE, WORKERS, Batch
from pipeline.loader import Loader, LoaderConfig


def stored(folder: Path) -> Iterator[Batch]:
    return _epochs(folder)


def cached(folder: Path) -> Iterator[Batch]:
    """Decodes in the first epoch alone."""
    return _epochs(folder, cache="host")


def _epochs(folder: Path, **options: Any) -> Iterator[Batch]:
    config = LoaderConfig(data=folder, size=SIZE, batch_size=BATCH, num_threads=WORKERS, **options)
    with Loader(config) as loader:
        while True:
            for batch in loader:
                yield {name: getattr(batch, name) for name in SHAPES}
