"""Draws furnished rooms with their exact depth, by casting rays at boxes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.draw.boxes import Box, Camera, View, depth_of, placed, unturned, view
from shards.draw.furniture import AGAINST_WALL, FREE, WOODS, Piece, block, hung
from shards.draw.surfaces import Material, bricks, fabric, plain, planks, stripes, tiles
from shards.draw.texture import Array, Colour, any_colour, fractal, stream

__all__ = ["FAR", "NEAR", "Room", "draw_room", "plan_room"]

OVERSAMPLING = 2

NEAR, FAR = 0.8, 9.9
"""The depths, metres, that every room lies between."""

CLEARANCE = 1.1
"""How far the camera keeps from the walls, metres: at 40 degrees off the axis that is deeper than NEAR."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """A room, its furniture and who looks at it."""

    width: float
    height: float
    length: float
    boxes: list[Box]
    """The walls, the floor, and what is in the room."""
    solids: list[Box]
    """The outlines of the pieces of furniture, which cast shadows."""
    camera: Camera
    lamp: tuple[float, float, float]
    lights: Colour
    exposure: float


def plan_room(number: int, *, seed: int = 0) -> Room:
    """Room `number` of the data set `seed`."""
    rng = stream("room", seed, number)
    width, height, length = rng.uniform(3.2, 6.4), rng.uniform(2.5, 3.1), rng.uniform(4.2, 9.0)
    camera = any_camera(rng, width, length)
    shell = list(any_shell(rng, width, height, length))
    pieces = list(furnish(rng, width, length, camera))
    hangings = list(decorate(rng, width, height, length))
    lamp = (width * rng.uniform(0.25, 0.75), height - 0.15, length * rng.uniform(0.3, 0.8))
    warm = rng.uniform(0, 1)
    return Room(
        width=width,
        height=height,
        length=length,
        boxes=shell + hangings + [box for piece in pieces for box in piece],
        solids=[outline(piece) for piece in pieces],
        camera=camera,
        lamp=lamp,
        lights=(1.0 + 0.12 * warm, 1.0, 1.06 - 0.3 * warm),
        exposure=rng.uniform(0.8, 1.4),
    )


def any_camera(rng: np.random.Generator, width: float, length: float) -> Camera:
    """Held at the height of a chest or a head, near one end of the room."""
    x, z = rng.uniform(CLEARANCE, width - CLEARANCE), rng.uniform(CLEARANCE, CLEARANCE + 0.25 * (length - 3))
    aside = np.arctan2(width / 2 - x, 0.6 * length)
    return Camera(
        position=(x, rng.uniform(1.15, 1.75), z),
        yaw=float(aside + rng.uniform(-0.4, 0.4)),
        pitch=rng.uniform(0.08, 0.36),
        focal=rng.uniform(0.85, 1.2),
    )


def any_shell(rng: np.random.Generator, width: float, height: float, length: float) -> Iterator[Box]:
    """Walls with the ceiling, the floor, skirting boards, and sometimes a rug."""
    paint = any_colour(rng, 0.55, 0.95, 0.2)
    other = (paint[0] * 0.85, paint[1] * 0.82, paint[2] * 0.8)
    walls = (plain, plain, plain, stripes, bricks)[rng.integers(5)]
    wall = Material(texture=walls, colour=paint, second=other, size=rng.uniform(0.15, 0.3))
    ceiling = Material(texture=plain, colour=(0.93, 0.93, 0.91), second=(0.5, 0.5, 0.5))
    half = (width / 2, height / 2 + 0.05, length / 2)
    middle = (width / 2, height / 2 - 0.05, length / 2)
    yield Box(centre=middle, half=half, sides=wall, top=ceiling, inside=True)
    ground = any_floor(rng)
    yield block(width / 2, -0.1, length / 2, (width, 0.1, length), ground)
    board = Material(texture=plain, colour=any_colour(rng, 0.3, 0.95, 0.2))
    yield block(width / 2, 0, length, (width, 0.1, 0.03), board)
    for x in (0.0, width):
        yield block(x, 0, length / 2, (0.03, 0.1, length), board)
    if rng.random() < 0.4:
        rug = Material(
            texture=(fabric, tiles, stripes)[rng.integers(3)], colour=any_colour(rng), second=any_colour(rng)
        )
        size = (rng.uniform(0.4, 0.6) * width, 0.012, rng.uniform(0.3, 0.5) * length)
        yield placed(block(0, 0, 0, size, rug), width / 2, 0.55 * length, rng.uniform(-0.2, 0.2))


def any_floor(rng: np.random.Generator) -> Material:
    """Planks, tiles or carpet."""
    texture = (planks, planks, tiles, fabric)[rng.integers(4)]
    colour = WOODS[rng.integers(len(WOODS))] if texture is planks else any_colour(rng, 0.25, 0.85, 0.4)
    dark = (colour[0] * 0.55, colour[1] * 0.5, colour[2] * 0.48)
    size = rng.uniform(0.09, 0.2) if texture is planks else rng.uniform(0.25, 0.6)
    return Material(texture=texture, colour=colour, second=dark, size=size)


def decorate(rng: np.random.Generator, width: float, height: float, length: float) -> Iterator[Box]:
    """Windows, doors and pictures along the three walls in view, and lamps in the ceiling."""
    frame = any_colour(rng, 0.4, 0.95, 0.3)
    for x, z, yaw, along in (
        (0.0, length, np.pi, width),
        (0.0, 0.0, np.pi / 2, length),
        (width, 0.0, -np.pi / 2, length),
    ):
        slots = max(round(along / 1.7), 1)
        for slot in range(slots):
            step = along * (slot + 0.5) / slots
            at = (step, z) if yaw == np.pi else (x, step)
            yield from (placed(box, *at, yaw) for box in hung(rng, along / slots, height, frame))
    glow = Material(texture=plain, colour=(1.0, 0.98, 0.92), glow=1.0)
    for step in np.arange(rng.integers(1, 4)) + 0.5:
        yield block(width / 2, height - 0.06, 1.5 + step * length / 4, (rng.uniform(0.3, 1.2), 0.04, 0.3), glow)


def furnish(rng: np.random.Generator, width: float, length: float, camera: Camera) -> Iterator[list[Box]]:
    """Pieces of furniture that stand along the walls or in the room, apart from each other and from the camera."""
    taken: list[tuple[float, float, float, float]] = []
    for _ in range(rng.integers(8, 30)):
        piece = stood(rng, width, length)
        box = outline(piece)
        x, z, a, b = box.centre[0], box.centre[2], box.half[0], box.half[2]
        inside = a - 0.02 <= x <= width - a + 0.02 and b - 0.02 <= z <= length - b + 0.02
        clear = np.hypot(max(abs(x - camera.position[0]) - a, 0), max(abs(z - camera.position[2]) - b, 0))
        apart = all(abs(x - p) > a + c + 0.05 or abs(z - q) > b + d + 0.05 for p, q, c, d in taken)
        if inside and apart and clear > CLEARANCE + 0.1:
            taken.append((x, z, a, b))
            yield piece


def stood(rng: np.random.Generator, width: float, length: float) -> list[Box]:
    """A piece somewhere along one of three walls, or anywhere, turned at will."""
    wall, step = rng.choice(4, p=(0.3, 0.25, 0.25, 0.2)), rng.uniform()
    kinds: tuple[Piece, ...] = FREE if wall == 3 else AGAINST_WALL
    x, z, yaw = (
        (step * width, length - 0.03, np.pi),
        (0.03, step * length, np.pi / 2),
        (width - 0.03, step * length, -np.pi / 2),
        (step * width, length * rng.uniform(0.45, 0.8), rng.uniform(-3.1, 3.1)),
    )[wall]
    return [placed(box, x, z, yaw) for box in kinds[rng.integers(len(kinds))](rng)]


def outline(piece: list[Box]) -> Box:
    """The upright box, not turned, about a piece of furniture."""
    corners = []
    for box in piece:
        reach = np.abs(
            unturned(np.array([[box.half[0], box.half[0]], [0, 0], [box.half[2], -box.half[2]]]), box.yaw)
        ).max(1)
        reach[1] = box.half[1]
        corners.append((np.array(box.centre) - reach, np.array(box.centre) + reach))
    low, high = np.min([c[0] for c in corners], 0), np.max([c[1] for c in corners], 0)
    x, y, z = ((low + high) / 2).tolist()
    a, b, c = ((high - low) / 2).tolist()
    return Box(centre=(x, y, z), half=(a, b, c), sides=piece[0].sides, top=piece[0].top)


def openness(room: Room, places: Array) -> Array:
    """The share of the light (H, W) that reaches places (3, H, W): less in corners, beside and behind furniture."""
    x, y, z = places
    corner = [x, room.width - x, room.length - z, y, room.height - y]
    share: Array = np.prod([1 - 0.28 * np.exp(-np.maximum(d, 0) / 0.22) for d in corner], axis=0) / (1 - 0.28)
    ray = np.array(room.lamp, places.dtype)[:, None, None] - places
    inverse = 1 / np.where(np.abs(ray) < 1e-4, places.dtype.type(1e-4), ray)
    for box in room.solids:
        offset = places - np.array(box.centre, places.dtype)[:, None, None]
        half = np.array(box.half, places.dtype)[:, None, None]
        outside = np.sqrt((np.maximum(np.abs(offset) - half, 0) ** 2).sum(0))
        share = share * (1 - 0.4 * np.exp(-outside / 0.12))
        near, far = (-np.sign(inverse) * half - offset) * inverse, (np.sign(inverse) * half - offset) * inverse
        through = np.clip(far.min(0), 0, 1) - np.clip(near.max(0), 0, 1)
        share = share * (1 - 0.4 * np.clip(through * 4, 0, 1))
    return share


def lit(room: Room, seen: View, share: Array) -> Array:
    """The picture (H, W, 3), linear: the lamp and the sky, as much as reaches, on the colours."""
    rays = room.camera.rays(len(seen.depth)).astype(np.float32)
    places = np.array(room.camera.position, np.float32)[:, None, None] + rays * seen.depth
    towards = np.array(room.lamp, np.float32)[:, None, None] - places
    distance2 = (towards**2).sum(0)
    lambert = np.clip(np.einsum("chw,hwc->hw", towards, seen.normal) / np.sqrt(distance2), 0, 1)
    direct = lambert * 3.2 / (1.5 + distance2)
    ambient = 0.5 + 0.1 * seen.normal[..., 1] + 0.06 * seen.normal[..., 0]
    light = (direct + ambient) * share * (1 - seen.glow) + 1.2 * seen.glow
    picture: Array = seen.colour * light[..., None] * np.array(room.lights, np.float32)
    return picture


def exposed(picture: Array, exposure: float, rng: np.random.Generator) -> Image.Image:
    """What a camera makes of it: dark corners, soft highlights, noise."""
    place = np.linspace(-1, 1, len(picture), dtype=np.float32)
    vignette = 1 - 0.12 * (place[:, None] ** 2 + place**2)
    value = 1 - np.exp(-1.6 * exposure * picture * vignette[..., None])
    value = np.clip(value, 0, 1) ** 0.95 + rng.normal(0, 0.01, picture.shape).astype(np.float32)
    return Image.fromarray(np.rint(np.clip(value, 0, 1) * 255).astype(np.uint8))


def draw_room(number: int, *, seed: int = 0, size: int = 160) -> tuple[Image.Image, NDArray[np.uint16]]:
    """Room `number` of the data set `seed` as an RGB photograph, and its depth (size, size) in millimetres.

    Depth is the distance along the optical axis to what the centre of each pixel sees, rounded to the millimetre and
    never blended across an edge; it lies within 0.8-9.9 m. The same arguments give the same pixels.
    """
    room, rng = plan_room(number, seed=seed), stream("photograph", seed, number)
    depth = depth_of(room.boxes, room.camera, size)
    assert NEAR <= depth.min() <= depth.max() <= FAR
    places = np.array(room.camera.position)[:, None, None] + room.camera.rays(size) * depth
    share = openness(room, places.astype(np.float32)).repeat(OVERSAMPLING, 0).repeat(OVERSAMPLING, 1)
    picture = lit(room, view(room.boxes, room.camera, OVERSAMPLING * size, fractal(rng)), share)
    picture = picture.reshape(size, OVERSAMPLING, size, OVERSAMPLING, 3).mean((1, 3))
    return exposed(picture, room.exposure, rng), np.rint(depth * 1000).astype(np.uint16)
