"""MosaicML Streaming: JPEG bytes in MDS shards."""

# mypy: disable-error-code="import-not-found"

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from bench.race.contenders import BATCH, SHAPES, WORKERS, Batch
from bench.race.decoding import Encoded, Sample
from bench.race.standin import standing_in
from bench.race.turbojpeg import turbo as decode

with standing_in():
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory


def write(samples: Iterator[Encoded], folder: Path) -> None:
    with MDSWriter(out=str(folder), columns=dict.fromkeys(SHAPES, "bytes"), size_limit="64mb") as writer:
        for sample in samples:
            writer.write(sample)


class Decoded(StreamingDataset):  # type: ignore[misc]
    def __getitem__(self, at: Any) -> Sample:
        return decode(super().__getitem__(at))


def turbo(folder: Path) -> Iterator[Batch]:
    """Its defaults, which its guide calls fast as they are."""
    clean_stale_shared_memory()
    dataset = Decoded(local=str(folder), shuffle=True, batch_size=BATCH)
    loader: DataLoader[Sample] = DataLoader(
        dataset, BATCH, num_workers=WORKERS, persistent_workers=True, prefetch_factor=4
    )
    while True:
        yield from loader
