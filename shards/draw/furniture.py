"""What stands in a room: each piece is a list of boxes about the origin, its back towards z = 0."""

from collections.abc import Callable, Iterator

import numpy as np

from shards.draw.boxes import Box
from shards.draw.surfaces import Material, books, doors, fabric, leaves, painting, panes, plain, planks, stripes
from shards.draw.texture import Colour, any_colour

__all__ = ["AGAINST_WALL", "FREE", "Piece", "hung"]

Piece = Callable[[np.random.Generator], Iterator[Box]]

WOODS = ((0.72, 0.52, 0.32), (0.50, 0.32, 0.18), (0.30, 0.19, 0.12), (0.82, 0.68, 0.48), (0.85, 0.84, 0.80))


def wood(rng: np.random.Generator) -> Material:
    """Any wood, or white paint."""
    colour = WOODS[rng.integers(len(WOODS))]
    dark = (colour[0] * 0.6, colour[1] * 0.55, colour[2] * 0.5)
    return Material(texture=planks, colour=colour, second=dark, size=rng.uniform(0.1, 0.3))


def cloth(rng: np.random.Generator) -> Material:
    """Upholstery or bedding of any colour."""
    return Material(texture=fabric, colour=any_colour(rng, 0.15, 0.9), second=any_colour(rng, 0.1, 0.6))


def block(
    x: float, y: float, z: float, size: tuple[float, float, float], sides: Material, top: Material | None = None
) -> Box:
    """A box of that width, height and length whose underside is centred on (x, y, z)."""
    half = (size[0] / 2, size[1] / 2, size[2] / 2)
    return Box(centre=(x, y + half[1], z), half=half, sides=sides, top=top or sides)


def table(rng: np.random.Generator) -> Iterator[Box]:
    """A table or a desk, with things on it."""
    top, leg = wood(rng), wood(rng)
    width, high, deep = rng.uniform(0.9, 1.8), rng.uniform(0.45, 0.76), rng.uniform(0.6, 0.9)
    yield block(0, high - 0.04, deep / 2, (width, 0.04, deep), top)
    for x in (-width / 2 + 0.05, width / 2 - 0.05):
        for z in (0.05, deep - 0.05):
            yield block(x, 0, z, (0.06, high - 0.04, 0.06), leg)
    for _ in range(rng.integers(0, 4)):
        size = (rng.uniform(0.06, 0.3), rng.uniform(0.02, 0.28), rng.uniform(0.06, 0.25))
        x, z = rng.uniform(-0.5, 0.5) * (width - size[0]), rng.uniform(size[2] / 2, deep - size[2] / 2)
        yield block(x, high, z, size, Material(texture=plain, colour=any_colour(rng)))


def desk(rng: np.random.Generator) -> Iterator[Box]:
    """A table with a screen and a keyboard."""
    boxes = list(table(rng))
    high, black = 2 * boxes[0].half[1] + boxes[0].centre[1] - boxes[0].half[1], (0.05, 0.05, 0.06)
    screen = Material(texture=painting, colour=black, second=black, size=rng.uniform(), glow=0.35)
    yield from boxes[:5]
    yield block(0, high + 0.08, 0.2, (0.56, 0.34, 0.03), screen, Material(texture=plain, colour=black))
    yield block(0, high, 0.2, (0.06, 0.1, 0.04), Material(texture=plain, colour=black))
    yield block(0, high, 0.45, (0.42, 0.02, 0.14), Material(texture=plain, colour=any_colour(rng, 0.1, 0.9, 0.1)))


def sofa(rng: np.random.Generator) -> Iterator[Box]:
    """A sofa or an armchair with cushions."""
    cover, seats = cloth(rng), rng.integers(1, 4)
    width = 0.65 * seats
    yield block(0, 0.1, 0.42, (width, 0.2, 0.8), cover)
    yield block(0, 0.1, 0.12, (width + 0.3, rng.uniform(0.6, 0.8), 0.24), cover)
    for side in (-1, 1):
        yield block(side * (width / 2 + 0.08), 0.05, 0.42, (0.16, rng.uniform(0.48, 0.6), 0.84), cover)
    for seat in range(seats):
        x = (seat - (seats - 1) / 2) * 0.65
        yield block(x, 0.3, 0.52, (0.63, 0.14, 0.6), cover)
        if rng.random() < 0.6:
            yield block(x, 0.44, 0.3, (0.42, 0.36, 0.12), cloth(rng))


def bookcase(rng: np.random.Generator) -> Iterator[Box]:
    """Shelves with books that leave gaps."""
    case, shelves = wood(rng), rng.integers(3, 7)
    width, step, deep = rng.uniform(0.7, 1.6), rng.uniform(0.28, 0.36), 0.3
    high = step * shelves + 0.06
    inner = Material(texture=plain, colour=(0.18, 0.13, 0.1))
    yield block(0, 0, 0.02, (width, high, 0.03), inner)
    for side in (-1, 1):
        yield block(side * width / 2, 0, deep / 2, (0.03, high, deep), case)
    for shelf in range(shelves + 1):
        yield block(0, 0.03 + shelf * step, deep / 2, (width, 0.03, deep), case)
    for shelf in range(shelves):
        share, size = rng.uniform(0.4, 0.95), rng.uniform(0.025, 0.06)
        row = Material(texture=books, colour=inner.colour, second=inner.colour, size=size)
        x = rng.uniform(-0.5, 0.5) * (1 - share) * width
        yield block(x, 0.06 + shelf * step, 0.14, (share * width, step - 0.08, 0.2), row, inner)


def cabinet(rng: np.random.Generator) -> Iterator[Box]:
    """A chest of drawers, a cupboard or a wardrobe."""
    body, width, high = wood(rng), rng.uniform(0.6, 1.8), rng.choice([0.5, 0.8, 1.0, 1.9]) * rng.uniform(0.9, 1.1)
    front = Material(texture=doors, colour=body.colour, second=(0.15, 0.12, 0.1), size=rng.uniform(0.35, 0.6))
    yield block(0, 0, 0.25, (width, high, 0.5), front, body)
    for _ in range(rng.integers(0, 4)):
        size = (rng.uniform(0.08, 0.35), rng.uniform(0.08, 0.4), rng.uniform(0.08, 0.3))
        thing = Material(texture=(plain, painting, fabric)[rng.integers(3)], colour=any_colour(rng), size=rng.uniform())
        yield block(rng.uniform(-0.5, 0.5) * (width - size[0]), high, 0.22, size, thing)


def bed(rng: np.random.Generator) -> Iterator[Box]:
    """A bed with a duvet and pillows."""
    timber, width = wood(rng), rng.uniform(0.95, 1.7)
    yield block(0, 0, 0.04, (width + 0.1, rng.uniform(0.7, 1.1), 0.06), timber)
    yield block(0, 0.05, 1.05, (width, 0.3, 2.0), timber)
    yield block(0, 0.35, 1.05, (width - 0.02, 0.12, 1.96), Material(texture=fabric, colour=(0.9, 0.9, 0.88)))
    yield block(0, 0.3, 1.35, (width + 0.06, 0.24, 1.4), cloth(rng))
    for x in (-width / 4, width / 4):
        yield block(x, 0.47, 0.3, (0.4 * width, 0.13, 0.36), cloth(rng))


def potted(rng: np.random.Generator) -> Iterator[Box]:
    """A clipped shrub in a tub."""
    yield block(0, 0, 0.25, (0.32, 0.35, 0.32), Material(texture=plain, colour=any_colour(rng, 0.3, 0.9)))
    green = Material(texture=leaves, colour=(0.08, 0.18, 0.06), second=(0.35, rng.uniform(0.45, 0.6), 0.2))
    for step, size in enumerate(rng.uniform(0.25, 0.5, 4)):
        box = block(0, 0.35 + 0.2 * step, 0.25, (size, 0.22, size), green)
        yield Box(centre=box.centre, half=box.half, sides=green, top=green, yaw=rng.uniform(0, 1.5))


def seat(rng: np.random.Generator) -> Iterator[Box]:
    """A chair or a stool on four legs."""
    frame, cover, high = wood(rng), cloth(rng), rng.uniform(0.42, 0.5)
    yield block(0, high - 0.06, 0.22, (0.44, 0.06, 0.44), cover)
    for x in (-0.19, 0.19):
        for z in (0.03, 0.41):
            yield block(x, 0, z, (0.04, high - 0.06, 0.04), frame)
    if rng.random() < 0.8:
        yield block(0, high + 0.12, 0.02, (0.42, 0.32, 0.04), cover)
        for x in (-0.19, 0.19):
            yield block(x, high, 0.02, (0.04, 0.14, 0.04), frame)


AGAINST_WALL: tuple[Piece, ...] = (table, desk, sofa, bookcase, bookcase, cabinet, cabinet, bed, potted)
FREE: tuple[Piece, ...] = (table, seat, seat, sofa)


def hung(rng: np.random.Generator, width: float, ceiling: float, frame: Colour) -> Iterator[Box]:
    """What hangs on `width` metres of a wall: a window with curtains, a picture, a door, a board, or nothing."""
    kind = rng.choice(5, p=(0.3, 0.3, 0.15, 0.1, 0.15))
    wide = width * rng.uniform(0.35, 0.8)
    if kind == 0:
        high, low = rng.uniform(1.0, ceiling - 1.2), rng.uniform(0.7, 1.0)
        view = Material(texture=panes, colour=(1.8, 1.8, 1.75), size=rng.uniform(0.4, 0.8), glow=0.75)
        yield block(0, low, 0.02, (wide, high, 0.04), view, Material(texture=plain, colour=frame))
        curtain = Material(texture=stripes, colour=any_colour(rng, 0.4, 0.95), second=(0.3, 0.28, 0.26), size=0.13)
        for side in (-1, 1) if rng.random() < 0.5 else ():
            yield block(side * wide / 2, low - 0.3, 0.06, (0.3, high + 0.4, 0.08), curtain)
    elif kind == 1:
        art = Material(texture=painting, colour=frame, second=any_colour(rng, 0.05, 0.5), size=rng.uniform())
        yield block(0, rng.uniform(1.1, 1.5), 0.015, (0.8 * wide, rng.uniform(0.35, 0.9), 0.03), art)
    elif kind == 2:
        yield block(0, 0, 0.02, (1.0, 2.08, 0.04), Material(texture=plain, colour=frame))
        leaf = Material(texture=doors, colour=wood(rng).colour, second=(0.2, 0.18, 0.15), size=0.7)
        yield block(0, 0, 0.03, (0.88, 2.0, 0.06), leaf)
    elif kind == 3:
        board = Material(texture=plain, colour=rng.choice([0.92, 0.2]) * np.ones(3), second=(0.4, 0.5, 0.45))
        yield block(0, 0.9, 0.02, (wide, 1.0, 0.04), board)
