"""DALI's own reader of such shards, on the CPU: what one gets without Sluice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nvidia.dali import Pipeline, fn, types
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from bench.race.contenders import BATCH, SHAPES, SIZE, WORKERS, Batch


def native(folder: Path) -> Iterator[Batch]:
    """Reader, decoder and resize in one pipeline of two threads, handed to PyTorch by DALI's own iterator."""
    iterator = DALIGenericIterator(
        _pipeline(folder),
        list(SHAPES),
        reader_name="reader",
        last_batch_policy=LastBatchPolicy.PARTIAL,
        auto_reset=True,
    )
    while True:
        for (batch,) in iterator:
            yield batch


def _pipeline(folder: Path) -> Pipeline:
    shards = sorted(folder.glob("shard-*.tar"))
    pipeline = Pipeline(
        batch_size=BATCH, num_threads=WORKERS, device_id=None, prefetch_queue_depth=2, exec_dynamic=True
    )
    with pipeline:
        encoded: Any = fn.readers.webdataset(
            paths=[str(path) for path in shards],
            index_paths=[str(path.with_suffix(".idx")) for path in shards],
            ext=[f"{name}.jpg" for name in SHAPES],
            missing_component_behavior="error",
            random_shuffle=True,
            name="reader",
        )
        decoded = (
            fn.decoders.image(data, output_type=types.RGB if channels == 3 else types.GRAY)
            for data, channels in zip(encoded, SHAPES.values(), strict=True)
        )
        pipeline.set_outputs(*(fn.resize(images, size=[SIZE, SIZE]) for images in decoded))
    return pipeline
