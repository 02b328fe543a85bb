"""How fast the loader is on this machine, beside decoding alone.

    python -m bench.loader [DATA]

Without DATA it draws a small data set. Everything is measured in one run, in turns, so that a machine that is busy for
a while is busy for all; the table shows medians.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.measure import drawn_data, loader_rate
from pipeline.decode import Decode, candidates, make_decoder
from pipeline.loader import LoaderConfig
from pipeline.reader import LocalTars, Reader
from shards.errors import report_errors
from shards.format.dataset import Dataset

BATCH, SECONDS, REPEATS = 64, 3.0, 3
CPU = torch.device("cpu")


def decode_rate(dataset: Dataset, decode: Decode) -> float:
    """Samples a second that one thread decodes: images that are not shared, of the stored size, and nothing else."""
    channels = {name: c.channels for name, c in dataset.manifest.components.items() if not c.shared}
    decoder, reader = make_decoder(decode, channels, BATCH, CPU, hw_decoder_load=0), Reader(LocalTars(dataset))
    rows = np.asarray(dataset.split("train"), np.int64)
    begin, samples = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < SECONDS:
        some = rows[np.arange(samples, samples + BATCH) % len(rows)]
        decoder.decode(reader.read({name: dataset.locate(name, some) for name in channels}))
        samples += BATCH
    return samples / spent


def contenders(dataset: Dataset) -> dict[str, Callable[[], float]]:
    """What is measured, by name: the loader with each decoder on one thread and on all, and decoding alone."""
    fastest, cores = candidates("auto", CPU)[0], os.cpu_count() or 1
    named: dict[str, Callable[[], float]] = {}
    for decode in dict.fromkeys((fastest, "portable")):
        for threads in sorted({1, cores}):
            config = LoaderConfig(data=dataset.root, batch_size=BATCH, decode=decode, num_threads=threads)
            named[f"loader, {decode}, threads: {threads}"] = partial(_rate, config)
        named[f"{decode} decoding alone, threads: 1"] = partial(decode_rate, dataset, decode)
    return named


def _rate(config: LoaderConfig) -> float:
    return loader_rate(config, CPU, SECONDS)["samples_per_second"]


def table(rates: dict[str, list[float]], title: str) -> Table:
    """Medians and spreads, and how many times the slowest each is."""
    medians = {name: statistics.median(several) for name, several in rates.items()}
    shown = Table("what", "samples/s", "least", "most", "ratio", title=title)
    for name, several in rates.items():
        numbers = (medians[name], min(several), max(several))
        shown.add_row(name, *(f"{n:,.0f}" for n in numbers), f"{medians[name] / min(medians.values()):.2f}")
    return shown


def main(dataset: Dataset) -> None:
    torch.set_num_threads(1)
    measured = contenders(dataset)
    rates: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(REPEATS):
        for name, measure in measured.items():
            rates[name].append(measure())
    height, width = dataset.manifest.image_size
    title = f"{height}x{width} to 64x64 pixels, batches of {BATCH}, {os.cpu_count()} cores"
    Console().print(table(rates, title))


if __name__ == "__main__":
    with report_errors(), tempfile.TemporaryDirectory() as folder:
        given = [Path(argument) for argument in sys.argv[1:]]
        main(Dataset.open(given[0]) if given else drawn_data(Path(folder), figures=20, rooms=20, samples=4000))
