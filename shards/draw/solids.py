"""Draws lofted solids, lit from one side, as an image with soft transparency."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.draw.texture import Array, Colour, fractal, look_up, mix

__all__ = ["Part", "Point", "render", "turned"]

OVERSAMPLING = 4

Point = tuple[float, float, float]
"""Metres: x to the right, y up, z towards the viewer."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A solid lofted along an axis."""

    start: Point
    end: Point
    radii: tuple[float, ...]
    """Metres, at evenly spaced stations from start to end."""
    colour: Colour
    second: Colour = (0.0, 0.0, 0.0)
    """The colour of the stripes."""
    stripes: tuple[float, float] = (0.0, 0.0)
    """How many to the metre, around the part and along it; both make checks."""
    flat: float = 1.0
    """How deep the section is for its width."""
    cap: float = 1.0
    """How far the ends are rounded: 1 is half a ball, 0.1 nearly cut off."""
    rough: float = 0.08
    """How much noise the surface has."""


class Frame(NamedTuple):
    """The picture while it is drawn, OVERSAMPLING times as large: (H, W, 3), (H, W), and its place in the world."""

    colour: NDArray[np.float32]
    nearest: NDArray[np.float32]
    left: float
    top: float
    scale: float


def turned(part: Part, yaw: float, pitch: float) -> Part:
    """The part as seen when the figure is turned by yaw and looked down upon by pitch, radians."""
    across, along = np.hypot(np.cos(yaw), part.flat * np.sin(yaw)), np.hypot(np.sin(yaw), part.flat * np.cos(yaw))

    def seen(point: Point) -> Point:
        x, z = point[0] * np.cos(yaw) + point[2] * np.sin(yaw), point[2] * np.cos(yaw) - point[0] * np.sin(yaw)
        y = point[1]
        return float(x), float(y * np.cos(pitch) - z * np.sin(pitch)), float(z * np.cos(pitch) + y * np.sin(pitch))

    radii = tuple(float(radius * across) for radius in part.radii)
    return replace(part, start=seen(part.start), end=seen(part.end), radii=radii, flat=float(along / across))


def draw_part(frame: Frame, part: Part, light: Array, tile: NDArray[np.float32]) -> None:
    """Draws the part into the frame wherever it is nearer than what is there."""
    start, end = part.start, part.end
    rows, columns = window(frame, part)
    i, j = np.ogrid[: frame.nearest.shape[0], : frame.nearest.shape[1]]
    y = (frame.top - start[1] - (i[rows] + 0.5) / frame.scale).astype(np.float32)
    x = (frame.left - start[0] + (j[:, columns] + 0.5) / frame.scale).astype(np.float32)
    axis, length = seen_axis(part)
    along, across = x * axis[0] + y * axis[1], x * axis[1] - y * axis[0]
    station = np.clip(along / length, 0, 1)
    radius = np.interp(station, np.linspace(0, 1, len(part.radii)), part.radii).astype(np.float32)
    over = (along - station * length) / part.cap
    height = np.sqrt(np.maximum(radius**2 - across**2 - over**2, 0))
    z = start[2] + station * (end[2] - start[2]) + height * part.flat
    hit = (height > 0) & (z > frame.nearest[rows, columns])
    along, across, over, height, radius = (v[hit] for v in (along, across, over, height, radius))
    normal = np.stack([across * axis[1] + over * axis[0], over * axis[1] - across * axis[0], height]) / radius
    grain = look_up(tile, across * 500 + 1000, along * 160 + 1000 * part.radii[0])
    frame.nearest[rows, columns][hit] = z[hit]
    frame.colour[rows, columns][hit] = pattern(part, along, across) * shade(normal, light, grain * part.rough)[:, None]


def seen_axis(part: Part) -> tuple[Array, float]:
    """The unit vector (2,) and the length of the axis as seen; upwards where the part points at the viewer."""
    axis = np.subtract(part.end[:2], part.start[:2])
    length = float(np.hypot(*axis))
    return (axis / length, length) if length > 1e-4 else (np.array([0.0, 1.0]), 1e-4)


def extent(part: Part) -> tuple[Array, Array]:
    """The lowest and the highest x and y (2,) of the part."""
    axis, _ = seen_axis(part)
    radii = part.radii if len(part.radii) > 1 else part.radii * 2
    centres = np.linspace(part.start[:2], part.end[:2], len(radii))
    reach = np.array(radii)[:, None] * np.hypot(axis * part.cap, axis[::-1])
    return (centres - reach).min(0), (centres + reach).max(0)


def window(frame: Frame, part: Part) -> tuple[slice, slice]:
    """The rows and columns that a part can touch."""
    low, high = extent(part)
    top, left = (frame.top - high[1]) * frame.scale, (low[0] - frame.left) * frame.scale
    bottom, right = (frame.top - low[1]) * frame.scale, (high[0] - frame.left) * frame.scale
    return slice(max(int(top), 0), int(bottom) + 1), slice(max(int(left), 0), int(right) + 1)


def pattern(part: Part, along: Array, across: Array) -> NDArray[np.float32]:
    """The cloth's colour (N, 3): plain, striped or checked."""
    bands = sum(((v * f) % 1 > 0.5) * 0.5 for v, f in zip((along, across), part.stripes, strict=True) if f)
    return mix(part.colour, part.second, bands + np.zeros_like(along))


def shade(normal: Array, light: Array, grain: Array) -> Array:
    """How bright a surface is: light from one side that reaches a little round the edge, and a darker outline."""
    lambert = np.clip(light @ normal + 0.15, 0, None)
    bright: Array = (0.34 + 0.66 * lambert) * (0.78 + 0.22 * normal[2]) * (1 + grain)
    return bright


def render(parts: list[Part], height: int, rng: np.random.Generator) -> Image.Image:
    """The parts as an RGBA image about `height` pixels high, cropped to what is not wholly transparent."""
    corners = np.array([extent(part) for part in parts])
    low, high = corners[:, 0].min(0), corners[:, 1].max(0)
    scale = OVERSAMPLING * height / (high[1] - low[1])
    shape = (OVERSAMPLING * height, OVERSAMPLING * int(np.ceil((high[0] - low[0]) * scale / OVERSAMPLING)))
    frame = Frame(np.zeros((*shape, 3), np.float32), np.full(shape, -np.inf, np.float32), low[0], high[1], scale)
    light = np.array([rng.choice([-1, 1]) * rng.uniform(0.5, 0.9), rng.uniform(0.3, 0.8), 0.7])
    tile = fractal(rng)
    for part in parts:
        draw_part(frame, part, (light / np.linalg.norm(light)).astype(np.float32), tile)
    return reduced(frame, rng)


def reduced(frame: Frame, rng: np.random.Generator) -> Image.Image:
    """The frame at its final size: colours averaged over what is covered, alpha the share that is covered."""
    height, width = (n // OVERSAMPLING for n in frame.nearest.shape)
    blocks = (height, OVERSAMPLING, width, OVERSAMPLING)
    alpha = np.isfinite(frame.nearest).reshape(blocks).mean((1, 3), dtype=np.float32)
    colour = frame.colour.reshape(*blocks, 3).mean((1, 3)) / np.maximum(alpha, 1e-3)[..., None]
    colour = colour + rng.normal(0, 0.012, colour.shape).astype(np.float32)
    rgba = np.dstack([np.clip(colour, 0, 1) ** 0.85, alpha]) * 255
    image = Image.fromarray(np.rint(rgba).astype(np.uint8))
    return image.crop(image.getchannel("A").getbbox())
