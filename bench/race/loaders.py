"""The loaders that race, as their documentation has them: from the folder of a format to batches of epochs without end.

A batch is the four arrays, uint8, NumPy or torch, (N, H, W, C) or (N, C, H, W); grey ones also (N, H, W).

    python -m bench.race.loaders FUNCTION FOLDER SECONDS WARM_UP WARM_SAMPLES FIRST MODULE...

runs one and prints one line of JSON. The modules are imported first, and start-up is from then to the first batch; the
rate is measured after WARM_UP seconds and at least WARM_SAMPLES. The first batch is written to FIRST, to be looked at.
"""

# mypy: disable-error-code="import-not-found"

import itertools
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.measure import count_for, cpu_seconds, endless
from bench.race.formats import BATCH, SHAPES, SIZE, WORKERS, Encoded, Paths, members, pillow, read, turbo

Batch = dict[str, Any]
KEPT: dict[str, Any] = {"num_workers": WORKERS, "persistent_workers": True, "prefetch_factor": 4}


def _by_turbo(samples: list[Encoded]) -> Any:
    from torch.utils.data import default_collate

    return default_collate([turbo(sample) for sample in samples])


def _by_pillow(samples: list[Paths]) -> Any:
    from torch.utils.data import default_collate

    return default_collate([pillow(read(paths)) for paths in samples])


def folders(folder: Path) -> Iterator[Batch]:
    from torch.utils.data import DataLoader

    files: Any = members(folder)
    return endless(DataLoader(files, BATCH, shuffle=True, collate_fn=_by_pillow, **KEPT))


def webdataset(folder: Path) -> Iterator[Batch]:
    """Read the shards as they are; batches are made in the workers."""
    import webdataset as wds

    shards = sorted(str(path) for path in folder.glob("shard-*.tar"))
    samples = wds.WebDataset(shards, shardshuffle=len(shards)).shuffle(1000)
    named = samples.rename(**{name: f"{name}.jpg" for name in SHAPES})
    return endless(wds.WebLoader(named.batched(BATCH, collation_fn=_by_turbo), batch_size=None, **KEPT))


def streaming(folder: Path) -> Iterator[Batch]:
    """Read MDS with the library's defaults, which its guide calls fast as they are."""
    from torch.utils.data import DataLoader

    from bench.race.mds import StreamingDataset, clean_stale_shared_memory

    clean_stale_shared_memory()
    samples = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)
    return endless(DataLoader(samples, BATCH, collate_fn=_by_turbo, **KEPT))


def litdata(folder: Path) -> Iterator[Batch]:
    from litdata import StreamingDataLoader, StreamingDataset

    samples = StreamingDataset(str(folder), shuffle=True, drop_last=False)
    return endless(StreamingDataLoader(samples, batch_size=BATCH, collate_fn=_by_turbo, **KEPT))


def spdl(folder: Path) -> Iterator[Batch]:
    """Read the folders, as the library has no format of its own, in a pipeline of threads."""
    from spdl.pipeline import PipelineBuilder

    def load(samples: list[Paths]) -> Batch:
        decoded = [turbo(read(paths)) for paths in samples]
        return {name: np.stack([one[name] for one in decoded]) for name in SHAPES}

    samples = members(folder)
    orders = (random.sample(samples, len(samples)) for _ in itertools.count())
    batches = (order[i : i + BATCH] for order in orders for i in range(0, len(order), BATCH))
    stages = PipelineBuilder().add_source(batches).pipe(load, concurrency=WORKERS).add_sink(4)
    with (pipeline := stages.build(num_threads=WORKERS)).auto_stop():
        yield from pipeline


def dali(folder: Path) -> Iterator[Batch]:
    """Read, decode and resize in one pipeline, whose batches DALI's own iterator hands to PyTorch."""
    from nvidia.dali import Pipeline, fn, types
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    shards = sorted(str(path) for path in folder.glob("shard-*.tar"))
    stored: dict[str, Any] = {"paths": shards, "index_paths": [f"{path.removesuffix('.tar')}.idx" for path in shards]}
    stored |= {"ext": [f"{name}.jpg" for name in SHAPES], "missing_component_behavior": "error"}
    with Pipeline(BATCH, WORKERS, device_id=None, prefetch_queue_depth=2, exec_dynamic=True) as pipeline:
        encoded: Any = fn.readers.webdataset(**stored, random_shuffle=True, name="reader")
        kinds = [types.RGB if channels == 3 else types.GRAY for channels in SHAPES.values()]
        decoded = [fn.decoders.image(data, output_type=kind) for data, kind in zip(encoded, kinds, strict=True)]
        pipeline.set_outputs(*(fn.resize(images, size=[SIZE, SIZE]) for images in decoded))
    reading = {"reader_name": "reader", "last_batch_policy": LastBatchPolicy.PARTIAL, "auto_reset": True}
    return itertools.chain.from_iterable(endless(DALIGenericIterator(pipeline, list(SHAPES), **reading)))


def sluice(folder: Path, **options: Any) -> Iterator[Batch]:
    from pipeline.loader import Loader, LoaderConfig

    config = LoaderConfig(data=folder, size=SIZE, batch_size=BATCH, num_threads=WORKERS, **options)
    with Loader(config) as loader:
        for batch in endless(loader):
            yield {name: getattr(batch, name) for name in SHAPES}


def sluice_cached(folder: Path) -> Iterator[Batch]:
    """Decode in the first epoch alone."""
    return sluice(folder, cache="host")


def floor(folder: Path) -> Iterator[Batch]:
    """Decode from memory by libjpeg-turbo in two processes, as little as must be; nothing is resized or handed over.

    That is fg_bg, mask and depth of every sample in random order, and each distinct bg once, before the first batch.
    """
    from torch.utils.data import DataLoader

    samples: Any = [read(paths) for paths in members(folder)]
    _decode([{"bg": data} for data in {sample.pop("bg") for sample in samples}])
    return endless(DataLoader(samples, BATCH, shuffle=True, collate_fn=_decode, **KEPT))


def _decode(samples: list[Encoded]) -> Batch:
    from simplejpeg import decode_jpeg

    for sample in samples:
        for name, data in sample.items():
            decode_jpeg(data, "RGB" if SHAPES[name] == 3 else "GRAY")
    return {"decoded": [True] * len(samples)}


class Contender(NamedTuple):
    """A row of the table."""

    name: str
    run: Callable[[Path], Iterator[Batch]]
    format: str
    modules: tuple[str, ...]
    """Modules that are imported before the clock of its start runs."""
    kind: str = "peer"
    """One of peer, ours, and floor, which hands over nothing."""
    warm_epoch: bool = False
    """Whether the first epoch differs from those that follow, which are measured."""


_TORCH, _OURS, _TURBO = "torch.utils.data", ("pipeline.loader",), ("cv2", "simplejpeg")

CONTENDERS = (
    Contender("folders, Pillow, DataLoader", folders, "folders", (_TORCH,)),
    Contender("webdataset, turbojpeg", webdataset, "shards", ("webdataset", *_TURBO)),
    Contender("Streaming, turbojpeg", streaming, "mds", ("bench.race.mds", _TORCH, *_TURBO)),
    Contender("LitData, turbojpeg", litdata, "litdata", ("litdata", *_TURBO)),
    Contender("SPDL, turbojpeg", spdl, "folders", ("spdl.pipeline", *_TURBO)),
    Contender("DALI's reader, CPU", dali, "shards", ("nvidia.dali.plugin.pytorch",)),
    Contender("Sluice", sluice, "shards", _OURS, kind="ours"),
    Contender("Sluice, training-size shards", sluice, "shards64", _OURS, kind="ours"),
    Contender("Sluice, decoded cache", sluice_cached, "shards", _OURS, kind="ours", warm_epoch=True),
    Contender("floor: decoding alone", floor, "folders", (_TORCH, "simplejpeg"), kind="floor"),
)


def main(function: str, folder: str, seconds: str, warm_up: str, warm_samples: str, first: str, *modules: str) -> None:
    moments = [time.perf_counter()]
    for module in modules:
        import_module(module)
    moments.append(time.perf_counter())
    batches: Iterator[Batch] = globals()[function](Path(folder))
    batch = next(batches)
    moments.append(time.perf_counter())
    np.savez(first, **batch)
    del batch
    lengths = (len(next(iter(batch.values()))) for batch in batches)
    count_for(float(warm_up), lengths, least=int(warm_samples))
    cpu = cpu_seconds()
    samples, ends = count_for(float(seconds), lengths)
    cpu = cpu_seconds() - cpu
    measured = {"samples_per_second": samples / (ends[-1] - ends[0]), "cpu_us_per_sample": cpu / samples * 1e6}
    measured["import_seconds"], measured["start_seconds"] = np.diff(moments).tolist()
    print(json.dumps(measured), flush=True)
    os._exit(0)  # all is measured; workers may take long to end, or hang


if __name__ == "__main__":
    main(*sys.argv[1:])
