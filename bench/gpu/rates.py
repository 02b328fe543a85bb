"""What the parts of both stages have in common: their data sets, and how a rate is measured."""

import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.measure import count_for, drawn_data, endless
from pipeline.loader import Loader, LoaderConfig

Result = dict[str, Any]

MEMORY_TRAFFIC = 37e6
"""Bytes that training on a sample moves between the GPU and its memory, at width 32 in eager bf16 (estimated)."""


def attempt(label: Result, measure: Callable[..., Result], *arguments: Any) -> Result:
    """Return `label` and what was measured, or the error: one failure must not cost the measurements after it."""
    try:
        return label | measure(*arguments)
    except Exception as error:
        traceback.print_exc()
        return label | {"error": f"{type(error).__name__}: {error}"}


def data_at(work: Path, pixels: int) -> Path:
    """Return the folder of the stage's data set with images of `pixels` height and width."""
    return work / f"{pixels} px" / "data"


def composed(work: Path, sources: int, samples: int, pixels: int) -> Result:
    """Draw figures and rooms, and compose a data set of them."""
    begin = time.perf_counter()
    dataset = drawn_data(data_at(work, pixels).parent, figures=sources, rooms=sources, samples=samples, size=pixels)
    size, seconds = sum(shard.bytes for shard in dataset.manifest.shards), time.perf_counter() - begin
    return {"bytes": size, "seconds": seconds, "samples_per_second": samples / seconds}


def memory_share(samples_per_second: float, device: torch.device) -> Result:
    """Return the share of the GPU's memory bandwidth that such a training takes, if PyTorch tells the bandwidth."""
    about = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    bytes_a_clock = 2 * getattr(about, "memory_bus_width", 0) / 8
    peak = getattr(about, "memory_clock_rate", 0) * 1000 * bytes_a_clock
    return {"memory_share": samples_per_second * MEMORY_TRAFFIC / peak} if peak else {}


def loader_rate(config: LoaderConfig, device: torch.device, seconds: float) -> Result:
    """Return the samples a second that the loader hands over while nobody trains, and the seconds to its first batch.

    Also the 99th percentile of the seconds between batches, because a loader that is fast on average may still stall;
    and the cores that it keeps busy.
    """
    begin = time.perf_counter()
    with Loader(config, device=device) as loader:
        lengths = (len(batch.index) for batch in endless(loader))
        next(lengths)
        first = time.perf_counter() - begin
        count_for(seconds / 3, lengths)
        cpu = time.process_time()
        samples, moments = count_for(seconds, lengths)
        cpu, spent = time.process_time() - cpu, moments[-1] - moments[0]
    rates = {"samples_per_second": samples / spent, "cores_busy": cpu / spent}
    return rates | {"p99_seconds": float(np.percentile(np.diff(moments), 99)), "first_batch_seconds": first}
