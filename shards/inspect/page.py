"""The page that shows a data set: samples, charts and facts in one HTML file that needs nothing from elsewhere."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from markupsafe import Markup
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from shards.format.dataset import Dataset
from shards.format.images import LeftOut
from shards.format.left_out import read_left_out
from shards.format.manifest import Manifest
from shards.format.schema import identity
from shards.format.storage import write_bytes
from shards.inspect.html import ACCENT, LINE, MEDIAN, SOFT, data_uri, render, svg
from shards.inspect.show import evenly, pictures, storage_words
from shards.machine import cpu_count


def write_page(dataset: Dataset, path: Path, samples: int) -> None:
    """Write the page: `samples` samples, the distributions of 2,000, and the manifest's figures of all.

    The same data set gives the same bytes. Raises InputError if an image does not decode.
    """
    manifest, rows = dataset.manifest, evenly(len(dataset), samples)
    thumbnail = partial(data_uri, at_most=160)
    strips = zip(*(map(thumbnail, pictures(dataset, name, rows)) for name in manifest.components), strict=True)
    found, met = survey(dataset), coverage(dataset)
    page = render(
        Path(__file__).with_suffix(".html.jinja"),
        name=Path(str(dataset.folder)).resolve().name,  # of a URL, its last part
        manifest=manifest,
        storage=storage_words(manifest),
        sheet=[(dataset.key(row), strip) for row, strip in zip(rows.tolist(), strips, strict=True)],
        surveyed=len(found["fg_bg"]),
        distributions=_distributions(found, manifest),
        coverage=met,
        heat_map=met and heat_map(met["cells"]),
        examples=_examples(dataset.root),
    )
    write_bytes(path, page)


def survey(dataset: Dataset, at_most: int = 2000) -> dict[str, NDArray[np.int64]]:
    """Count the grey values in fg_bg (its luma), mask and depth of N samples, spread evenly: int64 (N, 256) each.

    Of mask and depth only where the data set has them. Decodes in threads, as Pillow releases the GIL. Raises
    InputError if an image does not decode.
    """

    def count(name: str, rows: NDArray[np.int64]) -> list[list[int]]:
        return [image.convert("L").histogram() for image in pictures(dataset, name, rows)]

    rows, names = evenly(len(dataset), at_most), dataset.manifest.components.keys() - {"bg"}
    parts = [rows[i : i + 100] for i in range(0, len(rows), 100)]
    with ThreadPoolExecutor(cpu_count()) as pool:
        return {name: np.concatenate([*pool.map(partial(count, name), parts)]) for name in names}


def _distributions(found: dict[str, NDArray[np.int64]], manifest: Manifest) -> dict[str, tuple[Markup, str]]:
    """Return a chart and its words for brightness and, if there are such, mask area and depth from near to far."""
    luma, depth = found["fg_bg"], manifest.depth
    charts = {"brightness": chart(luma @ np.arange(256) / luma.sum(1) / 255, 0, 1)}
    if "mask" in found:
        mask = found["mask"]
        area = 100 * mask[:, 128:].sum(1) / mask.sum(1)  # a pixel of half the greatest value or more is the figure's
        charts["area"] = chart(area, 0, area.max() or 1, " %")
    if "depth" in found:
        levels, unit = np.linspace(depth.black, depth.white, 256), " m" if depth.unit == "m" else ""
        charts["depth"] = chart(levels, depth.near, depth.far, unit, found["depth"].sum(0))
    return charts


def chart(
    values: NDArray[np.float64], low: float, high: float, unit: str = "", pixels: NDArray[np.int64] | None = None
) -> tuple[Markup, str]:
    """Draw the histogram of N values, with a line at the median and each bar's share as its tooltip; say it in words.

    pixels: how many pixels have each value, int64 (N,); without it, each value is a sample's.
    """
    of, bins = ("samples", 40) if pixels is None else ("pixels", 64)
    method: Literal["linear", "inverted_cdf"] = "linear" if pixels is None else "inverted_cdf"
    counts, edges = np.histogram(values, bins, (low, high), weights=pixels)
    least, median, most = np.percentile(values, [5, 50, 95], weights=pixels, method=method)
    figure = Figure((352 / 72, 154 / 72), frameon=False)
    axes = figure.add_axes((16 / 352, 22 / 154, 320 / 352, 128 / 154), frameon=False, xlim=(low, high), yticks=[])
    bars = axes.bar(edges[:-1], counts, 0.93 * np.diff(edges), align="edge", color=ACCENT, clip_on=False)
    for bar, left, right, share in zip(bars, edges, edges[1:], counts / counts.sum(), strict=False):
        bar.set_gid(f"tip: {left:.3g} to {right:.3g}{unit}: {share:.1%}")
    axes.set_ylim(0, counts.max())
    axes.axhline(0, color=LINE, linewidth=1, clip_on=False)
    axes.axvline(median, 0, 1.04, color=MEDIAN, linewidth=1.5, dashes=(2.5, 1.5), clip_on=False)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.4g}{unit}")
    axes.tick_params(length=0, pad=6, labelsize=11.5, labelcolor=SOFT)
    words = f"Median {median:.3g}{unit}. 90 % of the {of} lie between {least:.3g} and {most:.3g}{unit}."
    return svg(figure), words


def heat_map(cells: NDArray[np.float64]) -> Markup:
    """Draw cells (rows, columns): clear where there is nothing, full where there is the most."""
    figure = Figure((8, 8 * np.clip(cells.shape[0] / cells.shape[1], 0.1, 0.7)), frameon=False)
    axes = figure.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[])
    colours = LinearSegmentedColormap.from_list("heat", ["#388cb400", "#388cb4"])
    axes.imshow(cells, colours, vmin=0, interpolation="none", aspect="auto", clip_on=False)
    return svg(figure)


def coverage(dataset: Dataset, at_most: int = 400_000, cells: tuple[int, int] = (60, 120)) -> dict[str, Any] | None:
    """Count how often figures and backgrounds meet, by `at_most` keys. Returns None if a key does not name them.

    Else: the number of rounds; the samples per_figure, per_background and per_pair of each that occurs, int64; and the
    mean samples of a pair as cells, float64 (rows, columns), no more than `cells`. Figures go down and backgrounds
    across in the order of their names, one a cell or, where there are more, neighbours together.
    """
    found = [identity(dataset.key(row)) for row in evenly(len(dataset), at_most).tolist()]
    known = [one for one in found if one]
    if len(known) < len(found):
        return None
    count = partial(np.unique, return_inverse=True, return_counts=True)
    _, figure, per_figure = count([one.fg.rjust(20) for one in known])  # aligned, so that 2 comes before 10
    _, background, per_background = count([one.bg.rjust(20) for one in known])
    figures, backgrounds = len(per_figure), len(per_background)
    rows, columns = min(figures, cells[0]), min(backgrounds, cells[1])
    row, column = np.arange(figures) * rows // figures, np.arange(backgrounds) * columns // backgrounds
    samples = np.bincount(row[figure] * columns + column[background], minlength=rows * columns)
    return {
        "rounds": len({one.round for one in known}),
        "per_figure": per_figure,
        "per_background": per_background,
        "per_pair": count(figure * backgrounds + background)[2],
        "cells": samples.reshape(rows, columns) / np.outer(np.bincount(row), np.bincount(column)),
    }


def _examples(folder: Path) -> dict[str, list[LeftOut]]:
    """Return the first three lines of each kind in the list of what was left out, if it is beside the data set."""
    rows = groupby(read_left_out(folder), attrgetter("kind"))  # the list is sorted by it
    return {kind: list(islice(some, 3)) for kind, some in rows}
