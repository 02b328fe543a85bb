"""Runs one contender and prints one line of JSON.

    python -m bench.race.one FUNCTION MODULES FOLDER SECONDS WARM_UP WARM_SAMPLES [FIRST]

MODULES are imported first, and start-up is from then to the first batch; the rate is measured after WARM_UP seconds and
at least WARM_SAMPLES. The first batch is written to FIRST, for its pixels to be looked at.
"""

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np

from bench.measure import cpu_seconds
from bench.race import loaders


def save(batch: loaders.Batch, path: Path) -> None:
    """Write a batch's arrays as they are."""
    arrays = {name: np.asarray(images) for name, images in batch.items()}
    np.savez(path, **arrays)  # type: ignore[arg-type]  # stub takes all names for options


def main(function: str, modules: str, folder: str, seconds: str, warm_up: str, warm_samples: str, first: str) -> None:
    moments = [time.perf_counter()]
    for module in modules.split():
        import_module(module)
    moments.append(time.perf_counter())
    batches = getattr(loaders, function)(Path(folder))
    batch = next(batches)
    moments.append(time.perf_counter())
    if first:
        save(batch, Path(first))

    def run(seconds: float, least: int) -> tuple[int, float]:
        samples, begin = 0, time.perf_counter()
        while (spent := time.perf_counter() - begin) < seconds or samples < least:
            samples += len(next(iter(next(batches).values())))
        return samples, spent

    run(float(warm_up), int(warm_samples))
    cpu = cpu_seconds(os.getpid())
    samples, spent = run(float(seconds), 1)
    measured = {"samples": samples, "seconds": spent, "samples_per_second": samples / spent}
    measured["cpu_us_per_sample"] = (cpu_seconds(os.getpid()) - cpu) / samples * 1e6
    measured["import_seconds"], measured["start_seconds"] = np.diff(moments).tolist()
    print(json.dumps(measured), flush=True)
    os._exit(0)  # what matters is measured; how long workers take to end, or whether they hang, is not


if __name__ == "__main__":
    main(*sys.argv[1:])
