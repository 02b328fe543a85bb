"""What a sample costs the loader in Python, which is what bounds it where there are many cores.

    python -m bench.interpreter

Threads share one interpreter, so a second divided by this time is as many samples a second as a process can load, on
any number of cores. Measured is the user time of a thread that makes batches of images of 16 x 16 pixels: the kernel
reads files, and DALI decodes on a thread of its own, while the interpreter is free. Some of what is left is done with
the interpreter free too, such as copying pixels, so the figures are upper bounds.
"""

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from resource import RUSAGE_THREAD, getrusage

import torch

from bench import measure
from pipeline.batches import BatchMaker
from pipeline.config import LoaderConfig
from pipeline.order import Order
from pipeline.reader import Reader, local_tars
from shards.errors import report_errors
from shards.format.dataset import Dataset

SIZE = 16
COLUMNS = ("batch", "decoded, us a sample", "samples/s at most", "from the cache, us a sample", "samples/s at most")


def python_time(config: LoaderConfig, rounds: int = 5) -> float:
    """Return microseconds of user time a sample, the median of so many epochs; one before them fills caches."""
    dataset = Dataset.open(Path(config.data))
    order = Order(samples=len(dataset.split(config.split)), batch_size=config.batch_size)
    maker, times = BatchMaker(dataset, Reader(dataset, local_tars(dataset)), order, config, torch.device("cpu")), []
    maker.open_cache()
    for epoch in range(rounds + 1):
        begin = getrusage(RUSAGE_THREAD).ru_utime
        for step in range(order.steps):
            maker.make(epoch, step, rank=0)
        times.append((getrusage(RUSAGE_THREAD).ru_utime - begin) / order.samples * 1e6)
    return statistics.median(times[1:])


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="sluice-interpreter-") as folder:
        before = measure.machine("torch", "nvidia-dali-cuda120", "numpy")
        data = measure.drawn_data(Path(folder), figures=20, rooms=20, samples=8000, size=SIZE).root
        rows = [COLUMNS, ("---:",) * len(COLUMNS)]
        for batch_size in (32, 64, 256, 1024):
            config = LoaderConfig(data=data, size=0, batch_size=batch_size, decode="cpu", num_threads=1)
            times = [python_time(replace(config, cache=cache)) for cache in ("none", "host")]
            rows.append((str(batch_size), *(cell for us in times for cell in (f"{us:.1f}", f"{1e6 / us:,.0f}"))))
    lines = "\n".join("| " + " | ".join(cells) + " |" for cells in rows)
    told = f"`python -m bench.interpreter`, {before}. User time of one thread, images of {SIZE} px, 8,000 samples."
    measure.write_section(measure.RESULTS, "interpreter", f"## Python a sample\n\n{told}\n\n{lines}")


if __name__ == "__main__":
    with report_errors():
        main()
