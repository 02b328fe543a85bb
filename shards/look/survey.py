"""What some of a data set's images say about all of them, and what the keys say about its figures and backgrounds."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.dataset import Dataset
from shards.errors import InputError
from shards.images import eight_bit
from shards.schema import identity
from shards.work.parallel import EngineConfig, run_parallel

__all__ = ["Coverage", "Survey", "coverage", "evenly", "pictures", "survey"]

DECODED = 2000
"""samples: a share that is 10 % of all is then known to 1.3 % of all, in two seconds on two cores"""
AT_ONCE = 100
READ_KEYS = 400_000
COVERED = 128
"""mask value from which a pixel belongs to the figure"""
CELLS = (60, 120)
"""figures and backgrounds at most that coverage is told of one by one"""


def evenly(total: int, at_most: int) -> NDArray[np.int64]:
    """Rows spread evenly over `total`, the first and the last among them, int64 (min(total, at_most),)."""
    return np.linspace(0, total - 1, min(total, at_most)).astype(np.int64)


def pictures(dataset: Dataset, name: str, rows: NDArray[np.integer]) -> Iterator[Image.Image]:
    """One component of some samples, decoded: RGB, or grey of 8 bits. Raises InputError if one does not decode."""
    mode = "RGB" if dataset.manifest.components[name].channels == 3 else "L"
    for row, data in zip(rows, dataset.read(dataset.locate(name, rows)), strict=True):
        try:
            yield eight_bit(Image.open(io.BytesIO(data))).convert(mode)
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(
                f"{dataset.folder}: {name} of {dataset.key(int(row))} does not decode ({error}). "
                f"`python -m shards verify {dataset.folder}` lists all that is damaged."
            ) from error


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was found in `samples` samples, spread evenly over the data set.

    mask_area: share of the image that the figure covers, of each sample, float64 (samples,).
    brightness: mean of the luma of fg_bg in [0, 1], of each sample, float64 (samples,).
    depth: how many pixels have each of the 256 values, int64 (256,); all 0 if the data set has no depth.
    """

    mask_area: NDArray[np.float64]
    brightness: NDArray[np.float64]
    depth: NDArray[np.int64]

    @property
    def samples(self) -> int:
        return len(self.mask_area)


def survey(dataset: Dataset, workers: int, at_most: int = DECODED) -> Survey:
    """Decodes fg_bg, mask and depth of at most `at_most` samples. Raises InputError if one of them does not decode."""
    rows = evenly(len(dataset), at_most)
    units = [_Rows(rows[i : i + AT_ONCE]) for i in range(0, len(rows), AT_ONCE)]
    parts = run_parallel(partial(_survey_rows, dataset), units, EngineConfig(workers=workers), total=len(rows))
    return Survey(
        mask_area=np.concatenate([part.mask_area for part in parts]),
        brightness=np.concatenate([part.brightness for part in parts]),
        depth=np.sum([part.depth for part in parts], axis=0),
    )


@dataclass(frozen=True)
class _Rows:
    rows: NDArray[np.int64]

    @property
    def size(self) -> int:
        return len(self.rows)


def _survey_rows(dataset: Dataset, unit: _Rows) -> Survey:
    depth = np.zeros(256, np.int64)
    if "depth" in dataset.manifest.components:
        for image in pictures(dataset, "depth", unit.rows):
            depth += np.array(image.histogram())
    masks = (np.asarray(image) >= COVERED for image in pictures(dataset, "mask", unit.rows))
    lumas = (np.asarray(image.convert("L")) / 255 for image in pictures(dataset, "fg_bg", unit.rows))
    return Survey(
        mask_area=np.array([mask.mean() for mask in masks]),
        brightness=np.array([luma.mean() for luma in lumas]),
        depth=depth,
    )


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How often figures and backgrounds meet, by the keys.

    samples: how many keys were read. pairs: how many of all pairs occur.
    per_pair, per_figure, per_background: least and most samples of one.
    cells: mean samples of a pair, float64 (rows, columns). Figures go down and backgrounds across in the order of their
    names, one a cell or, where there are many, neighbours together.
    """

    samples: int
    figures: int
    backgrounds: int
    rounds: int
    pairs: int
    per_pair: tuple[int, int]
    per_figure: tuple[int, int]
    per_background: tuple[int, int]
    cells: NDArray[np.float64]


def coverage(dataset: Dataset) -> Coverage | None:
    """Reads 400,000 keys at most. None if one of them does not tell its figure and background."""
    rows = evenly(len(dataset), READ_KEYS)
    found = [identity(dataset.key(row)) for row in rows.tolist()]
    known = [one for one in found if one]
    if len(known) < len(found):
        return None
    figure, figures = _numbered([one.fg for one in known])
    background, backgrounds = _numbered([one.bg for one in known])
    per_pair = np.unique(figure * backgrounds + background, return_counts=True)[1]
    per_figure, per_background = np.bincount(figure), np.bincount(background)
    every = len(per_pair) == figures * backgrounds
    return Coverage(
        samples=len(rows),
        figures=figures,
        backgrounds=backgrounds,
        rounds=len({one.round for one in known}),
        pairs=len(per_pair),
        per_pair=(int(per_pair.min()) if every else 0, int(per_pair.max())),
        per_figure=(int(per_figure.min()), int(per_figure.max())),
        per_background=(int(per_background.min()), int(per_background.max())),
        cells=_cells(figure, figures, background, backgrounds),
    )


def _numbered(names: list[str]) -> tuple[NDArray[np.int64], int]:
    """Each name's place among the distinct ones, numbers in their own order (2 before 10); and how many there are."""
    distinct = sorted(set(names), key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    place = {name: i for i, name in enumerate(distinct)}
    return np.array([place[name] for name in names]), len(distinct)


def _cells(
    figure: NDArray[np.int64], figures: int, background: NDArray[np.int64], backgrounds: int
) -> NDArray[np.float64]:
    rows, columns = min(figures, CELLS[0]), min(backgrounds, CELLS[1])
    samples = np.bincount(
        figure * rows // figures * columns + background * columns // backgrounds, minlength=rows * columns
    )
    down = np.bincount(np.arange(figures) * rows // figures)
    across = np.bincount(np.arange(backgrounds) * columns // backgrounds)
    return samples.reshape(rows, columns) / np.outer(down, across)
