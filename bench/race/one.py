"""Runs one contender and prints one line of JSON.

    python -m bench.race.one MODULE:FUNCTION FOLDER SECONDS WARM_UP WARM_SAMPLES [FIRST]

The first batch is written to FIRST, for its pixels to be looked at.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from bench.race.contenders import Batch, batches_of
from bench.race.watch import cpu_seconds


def measure(
    runs: str, folder: Path, seconds: float, warm_up: float, warm_samples: int, first: Path | None
) -> dict[str, float]:
    """Start-up, then the rate over `seconds`, after `warm_up` seconds and at least `warm_samples`.

    Start-up is from before the loader is made to its first batch; the imports are told apart.
    """
    begin = time.perf_counter()
    batches = batches_of(runs)
    imported = time.perf_counter()
    endless = batches(folder)
    batch = next(endless)
    started = time.perf_counter()
    if first:
        save(batch, first)
    seen, begun = _samples(batch), time.perf_counter()
    while time.perf_counter() - begun < warm_up or seen < warm_samples:
        seen += _samples(next(endless))
    samples, cpu, now = 0, cpu_seconds(os.getpid()), time.perf_counter()
    while (spent := time.perf_counter() - now) < seconds:
        samples += _samples(next(endless))
    return {
        "samples": samples,
        "seconds": spent,
        "samples_per_second": samples / spent,
        "cpu_us_per_sample": (cpu_seconds(os.getpid()) - cpu) / samples * 1e6,
        "import_seconds": imported - begin,
        "start_seconds": started - imported,
    }


def save(batch: Batch, path: Path) -> None:
    """Writes a batch's arrays as they are."""
    arrays = {name: np.asarray(images) for name, images in batch.items()}
    np.savez(path, **arrays)  # type: ignore[arg-type]  # stub takes all names for options


def _samples(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def main(runs: str, folder: str, seconds: str, warm_up: str, warm_samples: str, first: str = "") -> None:
    path = Path(first) if first else None
    print(json.dumps(measure(runs, Path(folder), float(seconds), float(warm_up), int(warm_samples), path)), flush=True)
    os._exit(0)  # what matters is measured; how long workers take to end, or whether they hang, is not


if __name__ == "__main__":
    main(*sys.argv[1:])
