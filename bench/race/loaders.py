"""Who runs: loaders as their documentation has them, from the folder of a format to batches of epochs without end.

A batch is the four arrays, uint8, NumPy or torch, (N, H, W, C) or (N, C, H, W); grey ones also (N, H, W).
"""

# mypy: disable-error-code="import-not-found"

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bench.race.formats import BATCH, SHAPES, SIZE, WORKERS, Encoded, Paths, Sample, members, pillow, read

Batch = dict[str, Any]
One = TypeVar("One")
KEPT: dict[str, Any] = {"num_workers": WORKERS, "persistent_workers": True, "prefetch_factor": 4}


def _epochs(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def _shuffled(values: list[One]) -> Iterator[list[One]]:
    while True:
        random.shuffle(values)
        yield from (values[i : i + BATCH] for i in range(0, len(values), BATCH))


def _collate(samples: list[Sample]) -> Batch:
    """Put together a batch, in a worker into shared memory."""
    from torch.utils.data import default_collate

    batch: Batch = default_collate(samples)
    return batch


def _by_turbo(samples: list[Encoded]) -> Batch:
    from bench.race.turbojpeg import turbo

    return _collate([turbo(sample) for sample in samples])


def _by_pillow(folder: Path, samples: list[Paths]) -> Batch:
    return _collate([pillow(read(folder, paths)) for paths in samples])


def folders(folder: Path) -> Iterator[Batch]:
    from torch.utils.data import DataLoader

    files: Any = members(folder)
    return _epochs(DataLoader(files, BATCH, shuffle=True, collate_fn=partial(_by_pillow, folder), **KEPT))


def webdataset(folder: Path) -> Iterator[Batch]:
    """The shards as they are; batches are made in the workers."""
    import webdataset as wds

    shards = sorted(str(path) for path in folder.glob("shard-*.tar"))
    samples = wds.WebDataset(shards, shardshuffle=len(shards)).shuffle(1000)
    named = samples.rename(**{name: f"{name}.jpg" for name in SHAPES})
    return _epochs(wds.WebLoader(named.batched(BATCH, collation_fn=_by_turbo), batch_size=None, **KEPT))


def streaming(folder: Path) -> Iterator[Batch]:
    """Its defaults, which its guide calls fast as they are."""
    from torch.utils.data import DataLoader

    from bench.race.mds import StreamingDataset, clean_stale_shared_memory

    clean_stale_shared_memory()
    samples = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)
    return _epochs(DataLoader(samples, BATCH, collate_fn=_by_turbo, **KEPT))


def litdata(folder: Path) -> Iterator[Batch]:
    from litdata import StreamingDataLoader, StreamingDataset

    samples = StreamingDataset(str(folder), shuffle=True, drop_last=False)
    return _epochs(StreamingDataLoader(samples, batch_size=BATCH, collate_fn=_by_turbo, **KEPT))


def spdl(folder: Path) -> Iterator[Batch]:
    """A pipeline of threads; it has no format of its own and reads the folders."""
    from spdl.pipeline import PipelineBuilder

    from bench.race.turbojpeg import turbo

    def load(samples: list[Paths]) -> Batch:
        decoded = [turbo(read(folder, paths)) for paths in samples]
        return {name: np.stack([one[name] for one in decoded]) for name in SHAPES}

    stages = PipelineBuilder().add_source(_shuffled(members(folder))).pipe(load, concurrency=WORKERS).add_sink(4)
    with (pipeline := stages.build(num_threads=WORKERS)).auto_stop():
        yield from pipeline


def dali(folder: Path) -> Iterator[Batch]:
    """Reader, decoder and resize in one pipeline, handed to PyTorch by DALI's own iterator."""
    from nvidia.dali import Pipeline, fn, types
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    shards = sorted(folder.glob("shard-*.tar"))
    with Pipeline(BATCH, WORKERS, device_id=None, prefetch_queue_depth=2, exec_dynamic=True) as pipeline:
        encoded: Any = fn.readers.webdataset(
            paths=[str(path) for path in shards],
            index_paths=[str(path.with_suffix(".idx")) for path in shards],
            ext=[f"{name}.jpg" for name in SHAPES],
            missing_component_behavior="error",
            random_shuffle=True,
            name="reader",
        )
        kinds = [types.RGB if channels == 3 else types.GRAY for channels in SHAPES.values()]
        decoded = [fn.decoders.image(data, output_type=kind) for data, kind in zip(encoded, kinds, strict=True)]
        pipeline.set_outputs(*(fn.resize(images, size=[SIZE, SIZE]) for images in decoded))
    reading = {"reader_name": "reader", "last_batch_policy": LastBatchPolicy.PARTIAL, "auto_reset": True}
    for (batch,) in _epochs(DALIGenericIterator(pipeline, list(SHAPES), **reading)):
        yield batch


def sluice(folder: Path, **options: Any) -> Iterator[Batch]:
    from pipeline.loader import Loader, LoaderConfig

    config = LoaderConfig(data=folder, size=SIZE, batch_size=BATCH, num_threads=WORKERS, **options)
    with Loader(config) as loader:
        for batch in _epochs(loader):
            yield {name: getattr(batch, name) for name in SHAPES}


def sluice_cached(folder: Path) -> Iterator[Batch]:
    """Decode in the first epoch alone."""
    return sluice(folder, cache="host")


def floor(folder: Path) -> Iterator[Batch]:
    """libjpeg-turbo in two processes, of only what must be decoded, from memory; nothing is resized or handed over.

    That is fg_bg, mask and depth of every sample in random order, and each distinct bg once, before the first batch.
    """
    paths = members(folder)
    _in_memory[:] = [read(folder, sample) for sample in paths]
    _decode(list({sample["bg"]: number for number, sample in enumerate(paths)}.values()), ("bg",))
    with ProcessPoolExecutor(WORKERS) as pool:
        batches = (pool.submit(_decode, some) for some in _shuffled(list(range(len(paths)))))
        ahead = deque(itertools.islice(batches, 4 * WORKERS))
        while True:
            ahead.append(next(batches))
            yield {"numbers": ahead.popleft().result()}


_in_memory: list[Encoded] = []


def _decode(numbers: list[int], names: tuple[str, ...] = ("fg_bg", "mask", "depth")) -> list[int]:
    from simplejpeg import decode_jpeg

    for number in numbers:
        for name in names:
            decode_jpeg(_in_memory[number][name], "RGB" if SHAPES[name] == 3 else "GRAY")
    return numbers


@dataclass(frozen=True)
class Contender:
    """One row of the table."""

    name: str
    run: Callable[[Path], Iterator[Batch]]
    format: str
    modules: tuple[str, ...]
    """imported before the clock of its start runs"""
    kind: str = "peer"
    """peer; ours; or floor, which hands over nothing"""
    warm_epoch: bool = False
    """its first epoch is another matter than those that follow, which are measured"""


_TORCH, _TURBO, _OURS = "torch.utils.data", "bench.race.turbojpeg", ("pipeline.loader",)

CONTENDERS = (
    Contender("folders, Pillow, DataLoader", folders, "folders", (_TORCH,)),
    Contender("webdataset, turbojpeg", webdataset, "shards", ("webdataset", _TURBO)),
    Contender("Streaming, turbojpeg", streaming, "mds", ("bench.race.mds", _TORCH, _TURBO)),
    Contender("LitData, turbojpeg", litdata, "litdata", ("litdata", _TURBO)),
    Contender("SPDL, turbojpeg", spdl, "folders", ("spdl.pipeline", _TURBO)),
    Contender("DALI's reader, CPU", dali, "shards", ("nvidia.dali.plugin.pytorch",)),
    Contender("Sluice", sluice, "shards", _OURS, kind="ours"),
    Contender("Sluice, training-size shards", sluice, "shards64", _OURS, kind="ours"),
    Contender("Sluice, decoded cache", sluice_cached, "shards", _OURS, kind="ours", warm_epoch=True),
    Contender("floor: decoding alone", floor, "folders", ("simplejpeg",), kind="floor"),
)
