"""LitData: JPEG bytes in its optimized chunks."""

# mypy: disable-error-code="import-not-found"

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from litdata import StreamingDataLoader, StreamingDataset, optimize

from bench.race import turbojpeg
from bench.race.contenders import BATCH, SHAPES, WORKERS, Batch
from bench.race.decoding import Encoded, Sample


def write(samples: Iterator[Encoded], folder: Path) -> None:
    optimize(
        fn=_bytes,
        inputs=list(samples),
        output_dir=str(folder),
        chunk_bytes="64MB",
        num_workers=1,
        start_method="fork",
        verbose=False,
    )


def _bytes(sample: Encoded) -> Encoded:
    return sample


class Decoded(StreamingDataset):  # type: ignore[misc]
    def __init__(self, folder: Path, decode: Callable[[Encoded], Sample]) -> None:
        super().__init__(str(folder), shuffle=True, drop_last=False)
        self.decode = decode

    def __getitem__(self, at: Any) -> Sample:
        sample = super().__getitem__(at)
        return self.decode({name: sample[name] for name in SHAPES})


def _epochs(folder: Path, decode: Callable[[Encoded], Sample]) -> Iterator[Batch]:
    loader = StreamingDataLoader(
        Decoded(folder, decode), batch_size=BATCH, num_workers=WORKERS, persistent_workers=True, prefetch_factor=4
    )
    while True:
        yield from loader


def turbo(folder: Path) -> Iterator[Batch]:
    return _epochs(folder, turbojpeg.turbo)


def half(folder: Path) -> Iterator[Batch]:
    return _epochs(folder, turbojpeg.half)
