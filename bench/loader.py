"""The rate of the loader on this machine beside decoding alone: `python -m bench.loader [DATA]`, or `make bench`.

Without DATA a small data set is drawn. All are measured in one run, in turns, so that a machine that is busy for a
while is busy for all; the table shows medians.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench.measure import drawn_data, endless, in_turns, table
from pipeline.batch import Batch
from pipeline.decode import Decode, candidates, make_decoder
from pipeline.loader import Loader, LoaderConfig
from pipeline.reader import Reader, local_tars
from shards.errors import report_errors
from shards.format.dataset import Dataset
from shards.machine import cpu_count

BATCH, SECONDS, ROUNDS = 64, 3.0, 3
CPU = torch.device("cpu")


def loader_rate(config: LoaderConfig, device: torch.device, seconds: float) -> dict[str, float]:
    """Return the samples a second that the loader hands over while nobody trains, and the seconds to its first batch.

    Also the 99th percentile of the seconds between batches, because a loader that is fast on average may still stall.
    A cache is filled before.
    """
    begin = time.perf_counter()
    with Loader(config, device=device) as loader:
        batches = endless(loader)
        next(batches)
        first = time.perf_counter() - begin
        for _ in range(len(loader) if config.cache != "none" else 0):
            next(batches)
        _handed_over(batches, seconds / 3)
        return _handed_over(batches, seconds) | {"first_batch_seconds": first}


def _handed_over(batches: Iterator[Batch], seconds: float) -> dict[str, float]:
    moments, samples = [time.perf_counter()], 0
    while moments[-1] - moments[0] < seconds:
        samples += len(next(batches).index)
        moments.append(time.perf_counter())
    rate, between = samples / (moments[-1] - moments[0]), float(np.percentile(np.diff(moments), 99))
    return {"samples_per_second": rate, "p99_seconds": between}


def decode_rate(dataset: Dataset, decode: Decode) -> dict[str, float]:
    """Return the samples a second that one thread reads and decodes, at the stored size and without shared images."""
    own = {name: component for name, component in dataset.manifest.components.items() if not component.shared}
    decoder, reader = make_decoder(decode, own, BATCH, CPU, hw_decoder_load=0), Reader(local_tars(dataset))
    rows = np.asarray(dataset.split("train"), np.int64)
    begin, samples = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < SECONDS:
        some = rows[np.arange(samples, samples + BATCH) % len(rows)]
        decoder.decode(reader.read({name: dataset.locate(name, some) for name in own}))
        samples += BATCH
    return {"samples_per_second": samples / spent}


def main(dataset: Dataset) -> None:
    torch.set_num_threads(1)
    measures: dict[str, Callable[[], dict[str, float]]] = {}
    for decode in dict.fromkeys((candidates("auto", CPU)[0], "portable")):
        measures[f"{decode} decoding alone, threads: 1"] = partial(decode_rate, dataset, decode)
        for threads in sorted({1, cpu_count()}):
            config = LoaderConfig(data=dataset.root, batch_size=BATCH, decode=decode, num_threads=threads)
            measures[f"loader, {decode}, threads: {threads}"] = partial(loader_rate, config, CPU, SECONDS)
    outcomes = in_turns(measures, ROUNDS)
    height, width = dataset.manifest.image_size
    print(f"{height}x{width} to 64x64 pixels, batches of {BATCH}, {cpu_count()} cores\n")
    print(table(outcomes, {"decoding alone": outcomes[next(iter(measures))].median()}))


if __name__ == "__main__":
    with report_errors(), tempfile.TemporaryDirectory() as folder:
        given = [Path(argument) for argument in sys.argv[1:]]
        main(Dataset.open(given[0]) if given else drawn_data(Path(folder), figures=20, rooms=20, samples=4000))
