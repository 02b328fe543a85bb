"""Charts that need nothing but the page they stand in: inline SVG and small embedded images."""

import base64
import io
import math
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["embedded", "heat_map", "histogram_svg", "spread_svg"]

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
