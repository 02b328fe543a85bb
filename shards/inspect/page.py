"""Charts that need nothing but the page they stand in: inline SVG and small embedded images."""

import base64
import csv
import io
import math
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.build.run import RunConfig, run_units
from shards.format.dataset import Dataset
from shards.format.manifest import Manifest
from shards.format.schema import identity
from shards.format.storage import write_bytes
from shards.inspect.show import evenly, pictures, storage_words

WIDTH, HEIGHT, AXIS = 320, 128, 22
"""of a histogram: its width, the height of its highest bar, and what stands below that; units of the SVG"""
HEAT = (56, 140, 180)
"""RGB; how much there is, is told by opacity, so that it does on a light page and on a dark one"""


def embedded(image: Image.Image, format: str) -> str:
    """An image as a data URI; JPEG is of quality 85."""
    buffer = io.BytesIO()
    image.save(buffer, format, quality=85)
    return f"data:image/{format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def histogram_svg(counts: NDArray[np.integer], low: float, high: float, unit: str, median: float, label: str) -> str:
    """Bars of equal width from `low` to `high`, with an axis, and a mark at `median`."""
    shares = (counts / max(1, counts.sum())).tolist()
    highest, width, step = max(shares) or 1, WIDTH / len(shares), (high - low) / len(shares)
    bars = "".join(
        f'<rect x="{i * width:.2f}" y="{HEIGHT * (1 - share / highest):.2f}" width="{width - 0.6:.2f}" '
        f'height="{HEIGHT * share / highest:.2f}"><title>'
        f"{low + i * step:.3g} to {low + (i + 1) * step:.3g}{unit}: {share:.1%}</title></rect>"
        for i, share in enumerate(shares)
        if share
    )
    at = WIDTH * (median - low) / (high - low)
    return (
        f'<svg viewBox="-16 -4 {WIDTH + 32} {HEIGHT + AXIS + 4}" role="img" aria-label="{escape(label)}">'
        f'<g class="bars">{bars}</g><path class="axis" d="M0 {HEIGHT}H{WIDTH}"/>'
        f'<path class="median" d="M{at:.1f} -4V{HEIGHT}"/>{_ticks(low, high, unit)}</svg>'
    )


def _ticks(low: float, high: float, unit: str) -> str:
    """Labels at round numbers, seven at most."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    numbers = np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step
    return "".join(
        f'<path class="axis" d="M{x:.1f} {HEIGHT}v4"/><text x="{x:.1f}" y="{HEIGHT + 17}">{number:.4g}{unit}</text>'
        for number in numbers.tolist()
        for x in [WIDTH * (number - low) / (high - low)]
    )


def spread_svg(spreads: list[tuple[float, float]]) -> str:
    """Mean and standard deviation, one below the other on the same line from 0 to 1: a dot, and a bar to both sides."""
    marks = "".join(
        f'<g class="spread{i}"><path d="M{200 * max(0, mean - std):.1f} {6 + 9 * i}H{200 * min(1, mean + std):.1f}"/>'
        f'<circle cx="{200 * mean:.1f}" cy="{6 + 9 * i}" r="3"/></g>'
        for i, (mean, std) in enumerate(spreads)
    )
    ends = '<path class="axis" d="M0 0V21M200 0V21"/>'
    return f'<svg class="spread" viewBox="-4 0 208 21" aria-hidden="true">{ends}{marks}</svg>'


def heat_map(cells: NDArray[np.float64]) -> str:
    """A data URI of a PNG, a pixel a cell: clear where there is nothing, full where there is the most."""
    pixels = np.empty((*cells.shape, 4), np.uint8)
    pixels[..., :3] = HEAT
    pixels[..., 3] = np.round(255 * cells / max(cells.max(), 1e-9))
    return embedded(Image.fromarray(pixels), "PNG")


DECODED = 2000
"""samples: a share that is 10 % of all is then known to 1.3 % of all, in two seconds on two cores"""
AT_ONCE = 100
READ_KEYS = 400_000
COVERED = 128
"""mask value from which a pixel belongs to the figure"""
CELLS = (60, 120)
"""figures and backgrounds at most that coverage is told of one by one"""


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
    parts = run_units(partial(_survey_rows, dataset), units, RunConfig(workers=workers), total=len(rows))
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


THUMBNAIL = 160
"""pixels of the longer side, at most"""
EXAMPLES = 3
"""of each kind of what was left out"""
STATISTICS_2020 = {
    "fg_bg": ([0.455, 0.378, 0.323], [0.239, 0.230, 0.225]),
    "mask": ([0.079], [0.254]),
    "depth": ([0.294], [0.156]),
}
"""mean and standard deviation of each channel in the data set of 2020; those of its backgrounds are not known"""
_CHECKED = {
    "full": "every image was decoded",
    "header": "every image's header and end; few were decoded (<code>python -m shards verify</code> decodes all)",
}
_CHANNELS = {3: (" red", " green", " blue"), 1: ("",)}


def write_page(dataset: Dataset, path: Path, samples: int, workers: int) -> None:
    """Writes the page: a contact sheet of `samples` samples, and charts of 2,000 and the manifest's figures of all.

    The same data set gives the same bytes. Raises InputError if an image does not decode.
    """
    name, manifest = escape(dataset.folder.name), dataset.manifest
    body = [
        _header(name, manifest),
        _sheet(dataset, samples),
        _distributions(manifest, survey(dataset, workers)),
        _coverage(coverage(dataset)),
        _statistics(manifest),
        _splits(manifest),
        _storage(manifest),
        _left_out(dataset),
    ]
    style = Path(__file__).with_suffix(".css").read_text()
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}: {manifest.samples:,} samples</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n<footer>Made by <code>python -m shards show</code>.</footer>\n</body>\n</html>\n"
    )
    write_bytes(path, page.encode(errors="replace"))


def _section(title: str, note: str, body: str) -> str:
    return f'<section>\n<h2>{title}</h2>\n<p class="note">{note}</p>\n{body}\n</section>'


def _facts(facts: dict[str, str], kind: str) -> str:
    rows = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    return f'<dl class="{kind}">{rows}</dl>'


def _table(head: list[str], rows: list[list[str]], numbers: set[int]) -> str:
    """`numbers` are the columns to be aligned at the right."""

    def line(cells: list[str], tag: str) -> str:
        kinds = [' class="number"' if i in numbers else "" for i in range(len(cells))]
        return (
            "<tr>" + "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)) + "</tr>"
        )

    lines = "".join(line(row, "td") for row in rows)
    return f'<div class="wide"><table><thead>{line(head, "th")}</thead><tbody>{lines}</tbody></table></div>'


def _header(name: str, manifest: Manifest) -> str:
    size = sum(shard.bytes for shard in manifest.shards)
    height, width = manifest.image_size
    totals = {
        "samples": f"{manifest.samples:,}",
        "pixels": f"{width} × {height}",
        "shards": f"{len(manifest.shards):,}",
        "on disk": f"{size / 1e9:,.2f} GB" if size > 1e9 else f"{size / 1e6:,.1f} MB",
        "a sample": f"{size / manifest.samples / 1e3:.1f} KB",
        "left out": f"{sum(manifest.left_out.values()):,}",
    }
    return f"<header>\n<h1>{name}</h1>\n{_facts(totals, 'totals')}\n</header>"


def _sheet(dataset: Dataset, samples: int) -> str:
    rows, names = evenly(len(dataset), samples), list(dataset.manifest.components)
    images = zip(*([_thumbnail(image) for image in pictures(dataset, name, rows)] for name in names), strict=True)
    strips = "\n".join(
        f'<figure><div class="strip">{"".join(map(_img, strip, names))}</div>'
        f"<figcaption>{escape(dataset.key(row))}</figcaption></figure>"
        for row, strip in zip(rows.tolist(), images, strict=True)
    )
    note = f"{len(rows):,} of {len(dataset):,}, spread evenly. From left to right: {', '.join(names)}."
    return _section("Samples", note, f'<div class="sheet">\n{strips}\n</div>')


def _thumbnail(image: Image.Image) -> str:
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return embedded(image, "JPEG")


def _img(data: str, name: str) -> str:
    return f'<img src="{data}" alt="{name}" title="{name}">'


def _distributions(manifest: Manifest, found: Survey) -> str:
    area = 100 * found.mask_area
    charts = [
        _values("Mask area", "the figure's share of the image", area, area.max(), " %"),
        _depth(manifest, found.depth) if found.depth.any() else "",
        _values("Brightness", "mean luma of fg_bg; 1 is white", found.brightness, 1.0, ""),
    ]
    which = "all samples" if found.samples == manifest.samples else f"{found.samples:,} samples, spread evenly"
    note = f"Of {which}, decoded. The dashed line is the median."
    return _section("Distributions", note, f'<div class="charts">{"".join(charts)}</div>')


def _values(title: str, about: str, values: NDArray[np.float64], high: float, unit: str) -> str:
    counts, edges = np.histogram(values, bins=40, range=(0, high or 1))
    low, median, most = np.percentile(values, [5, 50, 95])
    return _chart(title, about, counts, (0, float(edges[-1])), (low, median, most), unit, "samples")


def _depth(manifest: Manifest, counts: NDArray[np.int64]) -> str:
    """Near at the left, whichever end of the stored values that is."""
    depth = manifest.depth
    ordered = counts[::-1] if depth.near_is_bright else counts
    reached = np.searchsorted(np.cumsum(ordered), np.array([0.05, 0.5, 0.95]) * ordered.sum())
    low, median, most = depth.near + (depth.far - depth.near) * reached / 255
    about = "by pixel, in metres" if depth.unit == "m" else "by pixel, relative; 0 is near"
    unit = " m" if depth.unit == "m" else ""
    bins = ordered.reshape(64, 4).sum(1)
    return _chart("Depth", about, bins, (depth.near, depth.far), (low, median, most), unit, "pixels")


def _chart(
    title: str,
    about: str,
    counts: NDArray[np.int64],
    ends: tuple[float, float],
    percentiles: tuple[float, float, float],
    unit: str,
    what: str,
) -> str:
    low, median, high = percentiles
    words = f"Median {median:.3g}{unit}. 90 % of the {what} lie between {low:.3g} and {high:.3g}{unit}."
    chart = histogram_svg(counts, *ends, unit=unit, median=float(median), label=f"{title}: {words}")
    return f'<div class="card"><h3>{title}</h3><p>{about}</p>{chart}<p>{words}</p></div>'


def _coverage(found: Coverage | None) -> str:
    title = "Figures and backgrounds"
    if found is None:
        return _section(title, "The keys do not tell which figure and background a sample is made of.", "")
    pairs, (rows, columns) = found.figures * found.backgrounds, found.cells.shape
    facts = {
        "Figures": f"{found.figures:,}",
        "Backgrounds": f"{found.backgrounds:,}",
        "Rounds": f"{found.rounds:,}",
        "Pairs that occur": f"{found.pairs:,} of {pairs:,} ({found.pairs / pairs:.1%})",
        "Samples a pair": _range(found.per_pair),
        "Samples a figure": _range(found.per_figure),
        "Samples a background": _range(found.per_background),
    }
    one_by_one = (rows, columns) == (found.figures, found.backgrounds)
    cell = "A cell is a pair" if one_by_one else "A cell is the mean of neighbouring pairs"
    note = f"By {found.samples:,} keys. {cell}: clear where there is no sample, full at {found.cells.max():.3g} a pair."
    image = f'<img src="{heat_map(found.cells)}" style="aspect-ratio: {columns} / {rows}" alt="samples of each pair">'
    picture = f'<span class="down">figures</span>{image}<span class="across">backgrounds</span>'
    return _section(
        title, note, f'<div class="coverage"><div class="heat">{picture}</div>{_facts(facts, "facts")}</div>'
    )


def _range(ends: tuple[int, int]) -> str:
    return f"{ends[0]:,}" if ends[0] == ends[1] else f"{ends[0]:,} to {ends[1]:,}"


def _statistics(manifest: Manifest) -> str:
    rows = []
    for name, found in manifest.statistics.items():
        then = STATISTICS_2020.get(name, ([], []))
        for i, channel in enumerate(_CHANNELS[len(found.mean)]):
            now = [(found.mean[i], found.std[i])]
            past = [(then[0][i], then[1][i])] if then[0] else []
            numbers = [f"{value:.3f}" for pair in now for value in pair]
            numbers += [f"{value:.3f}" for pair in past for value in pair] or ["", ""]
            rows.append([name + channel, *numbers, spread_svg(now + past)])
    head = ["", "mean", "std", "mean 2020", "std 2020", "0 to 1"]
    which = f"{manifest.counted:,} samples, spread evenly" if manifest.counted else "all samples"
    note = (
        f'Each channel over all pixels of {which}, in [0, 1]: <span class="now">this data set</span> and '
        '<span class="then">that of 2020</span>. The bar is one standard deviation to each side of the mean.'
    )
    return _section("Mean and deviation", note, _table(head, rows, {1, 2, 3, 4}))


def _splits(manifest: Manifest) -> str:
    none = manifest.samples - sum(manifest.splits.values())
    counts = manifest.splits | ({"none": none} if none else {})
    how = {
        "key": "Divided sample by sample, as in 2020: a figure or a background may be in several splits.",
        "identity": "Divided by identity: no figure and no background of one split occurs in another. "
        "Samples whose two belong to different splits are in none.",
    }
    parts = "".join(
        f'<i style="flex: {count}"{" class=none" if name == "none" else ""}></i>' for name, count in counts.items()
    )
    rows = [[name, f"{count:,}", f"{count / manifest.samples:.1%}"] for name, count in counts.items()]
    table = _table(["split", "samples", "share"], rows, {1, 2})
    return _section(
        "Splits", how.get(manifest.split_by, ""), f'<div class="bar" aria-hidden="true">{parts}</div>{table}'
    )


def _storage(manifest: Manifest) -> str:
    formats = ", ".join(
        f"{name} {stored.extension}{f' of {stored.bits} bits' if stored.bits > 8 else ''}"
        for name, stored in manifest.components.items()
    )
    shared = [
        f"{stored.shared:,} distinct {name}, kept once more in shared.tar"
        for name, stored in manifest.components.items()
        if stored.shared
    ]
    facts = {
        "Images": escape(formats),
        "Pixels": escape(storage_words(manifest) or "the files as they were given"),
        "Depth": escape(str(manifest.depth)) if "depth" in manifest.components else "not there yet",
        "Shared": "; ".join(shared) or "nothing: hardly any image recurs",
        "Checked": _checked(manifest),
    }
    teacher = manifest.sources.get("depth")
    if teacher:
        facts["Depth from"] = escape(", ".join(teacher))
    return _section("Storage", "", _facts(facts, "facts"))


def _checked(manifest: Manifest) -> str:
    if manifest.storage and manifest.storage.resized_from is None:
        return "composed here; <code>python -m shards verify</code> decodes every image"
    return _CHECKED.get(manifest.verified, escape(manifest.verified))


def _left_out(dataset: Dataset) -> str:
    counts = dataset.manifest.left_out
    if not counts:
        return _section("Left out", "Nothing: every image that was found is in the data set.", "")
    examples = _examples(dataset.root / "left-out.tsv", counts)
    rows = [
        [escape(kind), f"{count:,}", "<br>".join(_example(one) for one in examples.get(kind, []))]
        for kind, count in sorted(counts.items(), key=lambda item: -item[1])
    ]
    note = f"Counted by kind, with the first {EXAMPLES} of each. left-out.tsv lists all."
    return _section("Left out", note, _table(["why", "how many", "such as"], rows, {1}))


def _examples(path: Path, kinds: dict[str, int]) -> dict[str, list[dict[str, str]]]:
    """The first of each kind; nothing if the list is not beside the data set. Reads no further than it must."""
    if not path.exists():
        return {}
    found: dict[str, list[dict[str, str]]] = {kind: [] for kind in kinds}
    with path.open(newline="", errors="replace") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            examples = found.get(row["kind"], [])
            if len(examples) < EXAMPLES:
                examples.append(row)
            if all(len(found[kind]) >= min(EXAMPLES, count) for kind, count in kinds.items()):
                break
    return found


def _example(row: dict[str, str]) -> str:
    where = f"{row['key']} {row['component']}".rstrip() if row["key"] else row["source"]
    return f"<code>{escape(where)}</code> <span class=soft>{escape(row['detail'] or '')}</span>"
