"""SPDL: its pipeline of threads over the files of the folders, with its own decoder (FFmpeg) or with libjpeg-turbo."""

# mypy: disable-error-code="import-not-found"

import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import spdl.io
from spdl.pipeline import PipelineBuilder

from bench.race.contenders import BATCH, SHAPES, SIZE, WORKERS, Batch
from bench.race.formats import members

Paths = dict[str, str]


def own(folder: Path) -> Iterator[Batch]:
    return _piped(folder, _by_ffmpeg)


def turbo(folder: Path) -> Iterator[Batch]:
    return _piped(folder, _by_turbo)


def _piped(folder: Path, load: Callable[[Path, list[Paths]], Batch]) -> Iterator[Batch]:
    pipeline = (
        PipelineBuilder()
        .add_source(_batches(members(folder)))
        .pipe(partial(load, folder), concurrency=WORKERS)
        .add_sink(4)
        .build(num_threads=WORKERS)
    )
    with pipeline.auto_stop():
        yield from pipeline


def _batches(samples: list[Paths]) -> Iterator[list[Paths]]:
    while True:
        random.shuffle(samples)
        for i in range(0, len(samples), BATCH):
            yield samples[i : i + BATCH]


def _by_ffmpeg(folder: Path, paths: list[Paths]) -> Batch:
    """Bilinear in FFmpeg's scaler weighs all pixels under an output pixel when it makes images smaller."""
    batch = {}
    for name, channels in SHAPES.items():
        form = "rgb24" if channels == 3 else "gray"
        scaled = f"scale=width={SIZE}:height={SIZE}:flags=bilinear,format=pix_fmts={form}"
        sources = [str(folder / sample[name]) for sample in paths]
        buffer = spdl.io.load_image_batch(sources, width=None, height=None, pix_fmt=None, filter_desc=scaled)
        batch[name] = spdl.io.to_numpy(buffer)
    return batch


def _by_turbo(folder: Path, paths: list[Paths]) -> Batch:
    from bench.race.turbojpeg import turbo as decode

    samples = [decode({name: _read(folder / path) for name, path in sample.items()}) for sample in paths]
    return {name: np.stack([sample[name] for sample in samples]) for name in SHAPES}


def _read(path: Path) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - a Path's own open is slower
        return file.read()
