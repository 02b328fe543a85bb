"""The folders and the zips of 2020, with Pillow and PyTorch's DataLoader."""

import zipfile
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from bench.race.contenders import BATCH, WORKERS, Batch
from bench.race.decoding import Encoded, Sample, pillow
from bench.race.formats import members


class Folders(Dataset[Sample]):
    """A file for each image."""

    def __init__(self, folder: Path, decode: Callable[[Encoded], Sample]) -> None:
        self.folder, self.decode, self.samples = folder, decode, members(folder)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Sample:
        return self.decode({name: self.read(path) for name, path in self.samples[number].items()})

    def read(self, path: str) -> bytes:
        with open(self.folder / path, "rb") as file:  # noqa: PTH123 - a Path's own open is slower
            return file.read()


class Zips(Folders):
    """A zip for each component, opened in each worker."""

    @cached_property
    def opened(self) -> dict[str, zipfile.ZipFile]:
        return {path.stem: zipfile.ZipFile(path) for path in self.folder.glob("*.zip")}

    def read(self, path: str) -> bytes:
        return self.opened[path.partition("/")[0]].read(path)


def loaded(dataset: Folders) -> Iterator[Batch]:
    """Epochs without end by DataLoader, its workers kept; they collate in shared memory."""
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True, prefetch_factor=4)
    while True:
        yield from loader


def folders(folder: Path) -> Iterator[Batch]:
    return loaded(Folders(folder, pillow))


def zips(folder: Path) -> Iterator[Batch]:
    return loaded(Zips(folder, pillow))
