"""What the surfaces of a room are made of: each texture gives a colour for places on a rectangle."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.draw.texture import Array, Colour, look_up, mix

__all__ = [
    "Material",
    "Spot",
    "books",
    "bricks",
    "doors",
    "fabric",
    "leaves",
    "painting",
    "panes",
    "plain",
    "planks",
    "stripes",
    "tiles",
]

Paint = NDArray[np.float32]


class Spot(NamedTuple):
    """Places on a rectangle: u and v (N,) in metres from its lower left corner, and how large it is."""

    u: Array
    v: Array
    width: float
    height: float


@dataclass(frozen=True, kw_only=True)
class Material:
    """A texture with its two colours."""

    texture: Callable[[Spot, "Material", Paint], Paint]
    colour: Colour
    second: Colour = (0.1, 0.1, 0.1)
    size: float = 0.3
    """The period of the pattern, metres."""
    glow: float = 0.0
    """How much light it gives by itself."""


def cell(value: Array, size: float) -> tuple[Array, Array]:
    """The number of the cell that each value lies in, and where in it, 0..1."""
    number = np.floor(value / size)
    return number, value / size - number


def hashed(noise: Paint, column: Array, row: Array | float = 0.0) -> Array:
    """A random number 0..1 for each cell; the same for the same cell."""
    number = 37 * column + 61 * row + 5
    share: Array = np.clip(look_up(noise, number * 53, number * 29) * 0.25 + 0.5, 0, 1)
    return share


def lines(place: Array, width: float) -> Array:
    """1 within `width` (a share of the cell) of either edge of the cell, else 0."""
    edge: Array = (np.abs(place - 0.5) > 0.5 - width).astype(np.float32)
    return edge


def grain(spot: Spot, noise: Paint, across: float, along: float) -> Array:
    """Noise with so many cells to the metre along u and v."""
    return look_up(noise, spot.u * across + 500, spot.v * along + 500)


def plain(spot: Spot, of: Material, noise: Paint) -> Paint:
    """Paint or plaster, a little uneven."""
    return mix(of.colour, of.second, 0.04 + 0.02 * grain(spot, noise, 40, 40))


def fabric(spot: Spot, of: Material, noise: Paint) -> Paint:
    """Cloth or carpet: folds and a weave."""
    weave = 0.06 * grain(spot, noise, 60, 60) + 0.08 * grain(spot, noise, 400, 330)
    return mix(of.colour, of.second, np.clip(0.15 + weave, 0, 1))


def stripes(spot: Spot, of: Material, noise: Paint) -> Paint:
    """Upright stripes: wallpaper, curtains, blinds."""
    _, place = cell(spot.u, of.size)
    return mix(of.colour, of.second, (0.5 + 0.5 * np.sin(place * 6.283)) * 0.5 + 0.03 * grain(spot, noise, 90, 30))


def planks(spot: Spot, of: Material, noise: Paint) -> Paint:
    """Boards along v, each of its own tone, with wood grain."""
    board, across = cell(spot.u, of.size)
    length = 9 * of.size
    joint, along = cell(spot.v + length * hashed(noise, board), length)
    tone = 0.5 * hashed(noise, board, joint) + 0.12 * grain(spot, noise, 220, 14)
    return mix(of.colour, of.second, np.clip(tone + 0.4 * np.maximum(lines(across, 0.03), lines(along, 0.004)), 0, 1))


def tiles(spot: Spot, of: Material, noise: Paint) -> Paint:
    """Square tiles with joints."""
    (column, across), (row, along) = cell(spot.u, of.size), cell(spot.v, of.size)
    joint = np.maximum(lines(across, 0.02), lines(along, 0.02))
    tone = 0.2 * hashed(noise, column, row) + 0.06 * grain(spot, noise, 80, 80)
    return mix(of.colour, of.second, np.clip(tone + 0.6 * joint, 0, 1))


def bricks(spot: Spot, of: Material, noise: Paint) -> Paint:
    """A brick wall in running bond."""
    row, along = cell(spot.v, of.size / 3)
    column, across = cell(spot.u + (row % 2) * of.size / 2, of.size)
    joint = np.maximum(lines(across, 0.03), lines(along, 0.08))
    tone = 0.5 * hashed(noise, column, row) + 0.08 * grain(spot, noise, 130, 130)
    return mix(of.colour, of.second, np.clip(tone * (1 - joint) + 0.9 * joint, 0, 1))


def spectrum(hue: Array, bright: Array) -> Paint:
    """Muted colours (N, 3) of all hues, 0..1 once round."""
    phase = hue[:, None] * 6.283 + np.array([0, 2.1, 4.2], np.float32)
    colour: Paint = ((0.55 + 0.25 * np.cos(phase)) * bright[:, None]).astype(np.float32)
    return colour


def books(spot: Spot, of: Material, noise: Paint) -> Paint:
    """Backs of books side by side, not all of one height; `size` is the thickness of one."""
    book, across = cell(spot.u, of.size)
    colour = spectrum(hashed(noise, book), 0.25 + 0.75 * hashed(noise, book, book + 7))
    title = (np.abs(spot.v / spot.height - 0.55) < 0.08) & (np.abs(across - 0.5) < 0.3)
    colour = np.where(title[:, None], colour * 0.4 + 0.5, colour) * (1 - 0.5 * lines(across, 0.08))[:, None]
    above = spot.v > spot.height * (0.75 + 0.25 * hashed(noise, book + 3))
    return np.where(above[:, None], np.array(of.second, np.float32), colour).astype(np.float32)


def doors(spot: Spot, of: Material, noise: Paint) -> Paint:
    """Doors or drawers, as many as fit at about `size` each way, with joints and knobs."""
    wide = spot.width / max(round(spot.width / of.size), 1)
    high = spot.height / max(round(spot.height / of.size), 1)
    (_, across), (_, along) = cell(spot.u, wide), cell(spot.v, high)
    joint = np.maximum(lines(across, 0.01 / wide), lines(along, 0.01 / high))
    knob = np.hypot((across - 0.5) * wide, (along - 0.75) * high) < 0.022
    return mix(of.colour, of.second, np.clip(0.15 * grain(spot, noise, 150, 12) + 0.15 + joint + knob, 0, 1))


def frame(spot: Spot, width: float) -> Array:
    """1 within `width` metres of the edge of the rectangle, else 0."""
    u, v = np.minimum(spot.u, spot.width - spot.u), np.minimum(spot.v, spot.height - spot.v)
    edge: Array = (np.minimum(u, v) < width).astype(np.float32)
    return edge


def landscape(spot: Spot, noise: Paint, hill: float) -> Paint:
    """Sky over hills, or something like it."""
    u, v = spot.u / spot.width, spot.v / spot.height
    ground = v < hill + 0.12 * look_up(noise, u * 90 + 40, 0 * u)
    sky = mix((0.85, 0.9, 0.95), (0.45, 0.65, 0.92), np.clip(v, 0, 1))
    grass = mix((0.2, 0.32, 0.12), (0.6, 0.55, 0.35), np.clip(0.4 + 0.3 * look_up(noise, u * 120, v * 120), 0, 1))
    return np.where(ground[:, None], grass, sky)


def painting(spot: Spot, of: Material, noise: Paint) -> Paint:
    """A framed picture: a frame, a mount and blots of the colours about `colour`."""
    blot = look_up(noise, spot.u / spot.width * 110 + of.size * 999, spot.v / spot.height * 110)
    other = look_up(noise, spot.v / spot.height * 80 + of.size * 555, spot.u / spot.width * 80)
    inner = spectrum(0.15 * blot + of.size, np.clip(0.75 + 0.3 * other, 0.1, 1.2))
    inner = np.where(frame(spot, 0.09)[:, None] > 0, np.float32(0.9), inner)
    return np.where(frame(spot, 0.03)[:, None] > 0, np.array(of.second, np.float32), inner).astype(np.float32)


def panes(spot: Spot, of: Material, noise: Paint) -> Paint:
    """A window with a view, in panes about `size` wide."""
    wide, high = spot.width / max(round(spot.width / of.size), 1), spot.height / 2
    (_, across), (_, along) = cell(spot.u, wide), cell(spot.v, high)
    bars = np.maximum(lines(across, 0.025 / wide), lines(along, 0.02 / high))
    bars = np.maximum(bars, frame(spot, 0.06))
    return np.where(bars[:, None] > 0, np.array(of.colour, np.float32) * 0.5, landscape(spot, noise, 0.3))


def leaves(spot: Spot, of: Material, noise: Paint) -> Paint:
    """Foliage."""
    return mix(of.colour, of.second, np.clip(0.5 + 0.35 * grain(spot, noise, 150, 150), 0, 1))
