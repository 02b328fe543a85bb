"""The webdataset library, on the shards as they are."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import webdataset
from torch.utils.data import default_collate

from bench.race import decoding
from bench.race.contenders import BATCH, SHAPES, WORKERS, Batch
from bench.race.decoding import Encoded, Sample


def pillow(folder: Path) -> Iterator[Batch]:
    return _epochs(folder, decoding.pillow)


def turbo(folder: Path) -> Iterator[Batch]:
    from bench.race import turbojpeg

    return _epochs(folder, turbojpeg.turbo)


def half(folder: Path) -> Iterator[Batch]:
    from bench.race import turbojpeg

    return _epochs(folder, turbojpeg.half)


class _Decoded:
    """The library's sample, its members named KEY.NAME.jpg, decoded."""

    def __init__(self, decode: Callable[[Encoded], Sample]) -> None:
        self.decode = decode

    def __call__(self, sample: dict[str, Any]) -> Sample:
        return self.decode({name: sample[f"{name}.jpg"] for name in SHAPES})


def _epochs(folder: Path, decode: Callable[[Encoded], Sample]) -> Iterator[Batch]:
    """As its documentation has it: batches are made in the workers, and WebLoader only hands them over."""
    shards = sorted(str(path) for path in folder.glob("shard-*.tar"))
    dataset = (
        webdataset.WebDataset(shards, shardshuffle=len(shards))
        .shuffle(1000)
        .map(_Decoded(decode))
        .batched(BATCH, collation_fn=default_collate)
    )
    loader = webdataset.WebLoader(
        dataset, batch_size=None, num_workers=WORKERS, persistent_workers=True, prefetch_factor=4
    )
    while True:
        yield from loader
