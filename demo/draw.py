"""Draw a small data set where there is none, cut-outs and rooms with their exact depth: python -m demo.draw OUT."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from shards.errors import report_errors, say
from shards.format.fields import Bounds, Checked, Count, Seed
from shards.format.storage import replacing

Array = NDArray[np.floating]
Index = NDArray[np.intp]
Rng = np.random.Generator
Colour = tuple[float, ...]  # red, green and blue, 0..1

NEAR, FAR = 0.8, 9.9  # the depths, metres, that every room lies between
_CLEARANCE = 1.1  # between camera and walls, metres: at 40 degrees off the axis that is deeper than NEAR
_CORNERS = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 1, 8)
_FREQUENCY = np.maximum(np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)), 1 / 256)
_NOISE = np.fft.irfft2(np.exp(2j * np.pi * np.random.default_rng(0).random((256, 129))) / _FREQUENCY**1.3)
_NOISE = (0.5 + 0.25 * _NOISE / _NOISE.std()).astype(np.float32)  # a tile that repeats without a seam, about 0..1


class Material(NamedTuple):
    """A surface of two colours mixed by noise, in cells with joints between them; without a cell the face is one."""

    first: Colour = ()  # none: one of _COLOURS, or any
    second: Colour = ()  # none: darker than the first
    edge: Colour = ()  # of the joints; none: darker than the second
    cell: tuple[float, float] = (np.inf, np.inf)  # width and height, metres; made to fit the face
    joint: float = 0.0  # half its width, metres
    tone: float = 0.0  # how much the cells differ
    grain: float = 0.2  # how much noise there is
    rise: float = 0.0  # how fast the second colour takes over from below
    ragged: float = 0.0  # 1: the cells are not filled quite to the top


Tube = tuple[Array, Material, list[float]]  # ends (2, 3): x to the right, y up, z to the viewer; radii; metres
_COLOURS = {
    "white": ((0.9, 0.9, 0.88),),
    "black": ((0.05, 0.05, 0.06),),
    **dict.fromkeys(["wood", "panel"], ((0.7, 0.5, 0.3), (0.4, 0.25, 0.15), (0.8, 0.7, 0.5), (0.9, 0.88, 0.84))),
    "skin": ((0.96, 0.8, 0.7), (0.88, 0.68, 0.55), (0.78, 0.57, 0.43), (0.6, 0.41, 0.29), (0.42, 0.28, 0.2)),
    "hair": ((0.08, 0.06, 0.05), (0.2, 0.12, 0.07), (0.38, 0.24, 0.13), (0.75, 0.58, 0.32), (0.62, 0.6, 0.58)),
}
_MATERIALS = {
    "wood": Material(cell=(1.6, 0.14), joint=0.003, tone=0.6, grain=0.4),
    "panel": Material(joint=0.012, grain=0.4),
    "tiles": Material(cell=(0.4, 0.4), joint=0.008, tone=0.3),
    "bricks": Material(cell=(0.24, 0.08), joint=0.005, tone=0.7),
    "stripes": Material(cell=(0.1, np.inf), tone=0.8),
    "bands": Material(cell=(np.inf, 0.08), joint=0.015, grain=0.8),
    "fabric": Material(grain=1.0),
    "books": Material((), (0.8, 0.72, 0.5), (0.1, 0.08, 0.07), (0.045, np.inf), 0.003, tone=1.5, ragged=1),
    "picture": Material((), (0.8, 0.85, 0.9), (0.1, 0.08, 0.06), joint=0.03, grain=1.6, rise=2),
    "pane": Material((0.4, 0.6, 0.25), (1.5, 1.7, 2.0), (1.8, 1.8, 1.75), (0.5, np.inf), 0.025, grain=1.2, rise=4),
    "lit": Material((1.7, 1.5, 1.15)),
    "leaf": Material((0.2, 0.5, 0.15), grain=1.2),
}

_SHELL = """lit 0 .1 .87 .92 .5 .54 | wall 0 1.1 -.02 1.02 1 1.03 | wall*2 .52 .04 -.02 1.02 0 1.03 |
    floor 0 1.1 -.05 0 0 1.1 | white 0 1.1 1 1.1 0 1.1 | trim*2 .5 .012 0 .04 0 1 | trim 0 1 0 .04 .997 1 |
    rug 0 .55 0 .004 .35 .75"""
_SEAT = "fabric 0 1 .12 1 0 .27 | fabric 0 .8 .12 .42 .1 .95 | fabric*2 .45 .1 .06 .7 0 1"
_FURNITURE = {
    "table": """.9 1.8 .45 .76 .6 .9 0 0 | wood 0 1 .9 1 0 1 | wood*2 .47 .06 0 .9 .02 .1 | wood*2 .47 .06 0 .9 .9 .98 |
        thing .3 .2 1 1.3 .4 .6 | thing -.1 .3 1 1.1 .3 .8 | thing -.4 .12 1 1.4 .2 .4""",
    "sofa": f"1.6 2.2 .7 .85 .8 .9 0 0 | {_SEAT} | fabric*2 .2 .39 .42 .6 .27 .98 | thing*2 .25 .26 .6 1.05 .27 .4",
    "armchair": f".8 1 .7 .9 .75 .85 0 0 | {_SEAT} | fabric 0 .78 .42 .6 .27 .98 | thing 0 .5 .6 1 .27 .4",
    "shelves": ".7 1.6 1.2 2.1 .3 .3 0 0 | black 0 1 0 1 0 .1 | wood*2 .485 .03 0 1 0 1 | wood 0 1 .98 1 0 1 | "
    + "|".join(f"wood 0 1 .{y} .{y}2 0 1 | books 0 .94 .{y}2 .{y + 1}7 .1 .8" for y in (0, 2, 4, 6, 8)),
    "chest": """.6 1.6 .6 1 .45 .5 0 0 | wood 0 1 0 1 0 .94 | panel*2 .245 .48 .04 .49 .9 1 |
        panel*2 .245 .48 .52 .97 .9 1 | black*4 .38 .06 .3 .34 1 1.06 | thing .3 .25 1 1.25 .3 .7""",
    "wardrobe": ".9 1.6 1.7 2 .5 .6 0 0 | wood 0 1 0 1 0 .97 | panel*2 .25 .48 0 1 .9 1 | black*2 .03 .02 .4 .5 1 1.1",
    "bed": """1 1.7 .75 1.1 2 2.1 0 0 | wood 0 1 0 1 0 .03 | wood 0 .94 .05 .35 .03 .99 | white 0 .92 .3 .5 .03 .98 |
        fabric 0 .98 .25 .54 .35 1 | thing*2 .23 .38 .5 .64 .05 .22""",
    "window": ".6 1.3 1 1.3 .08 .08 .7 1 | pane 0 1 0 1 0 .4 | stripes*2 .5 .28 -.25 1.1 .2 1",
    "painting": ".5 1.1 .4 .9 .03 .03 1.1 1.5 | picture 0 1 0 1 0 1",
    "door": ".95 1 2.05 2.1 .08 .08 0 0 | trim 0 1 0 1 0 .5 | wood 0 .88 0 .96 0 .8 | panel*2 .21 .3 .5 .9 0 1",
    "chair": """.42 .47 .8 .95 .42 .47 0 0 | fabric 0 1 .47 .54 0 1 | wood*2 .45 .09 0 .47 .02 .1 |
        wood*2 .45 .09 0 .47 .9 .98 | fabric 0 .96 .66 1 0 .09 | wood*2 .43 .08 .53 .66 .01 .08""",
}
"""Ranges of width, height, depth and height above the floor, metres; then boxes: material, how many side by side,
middle and width as shares of the whole width, lowest and highest of the height, back and front of the depth."""

_FIGURES = {
    "body": """skin 0 .5 -.01 0 .66 .01 .05 | skin 0 .68 .02 0 .8 .01 .065 .09 .09 | skin 0 .72 .09 0 .75 .09 .017 .01 |
        hair 0 .76 -.03 0 .82 -.02 .09 .1 .1 | hair*2 .02 .78 .09 .05 .78 .09 .008 | skin*2 .09 .73 0 .09 .76 0 .02 |
        black*2 .02 .675 .09 0 .673 .094 .004 | black*2 .036 .76 .09 .04 .76 .09 .012 |
        top*7 .06 .11 0 .09 .5 0 .08 .08 .08 .09 .095 .08 .055 | bottom*7 .06 0 0 .06 .08 0 .09""",
    "long hair": "hair 0 .82 -.04 0 .5 -.075 .1 .115 .1 .06",
    "skirt": "bottom*7 .08 .06 0 .1 -.42 0 .105 .115 .12 .12 .12 .12 .12 .12 0",
    "stand": "leg .08 0 0 .1 -.42 .02 .1 .07 | leg .1 -.42 .02 .1 -.8 0 .07 .05 | shoes .1 -.83 0 .13 -.87 .1 .05 .04",
    "sit": "leg .08 0 0 .1 0 .4 .1 .07 | leg .1 0 .4 .1 -.44 .4 .07 .05 | shoes .1 -.46 .4 .13 -.48 .5 .05 .04",
    "hang": "top .17 0 0 .2 -.27 0 .06 .05 | sleeve .2 -.27 0 .22 -.52 .02 .05 .04 | skin .22 -.53 .03 .21 -.6 .05 .03",
    "bend": "top .17 0 0 .21 -.27 0 .06 .05 | sleeve .21 -.27 0 .14 -.26 .23 .05 .04 | skin .13 -.26 .25 .1 -.2 .3 .03",
    "chair": """seat*20 .21 -.1 -.2 .21 -.1 .22 .035 | seat*18 .19 .03 -.24 .19 .53 -.3 .03 |
        metal*2 .17 -.1 -.2 .17 .1 -.2 .02 | metal*2 .2 -.1 -.2 .22 -.5 -.22 .02 | metal*2 .2 -.1 .2 .22 -.5 .22 .02""",
    "dog": """hair 0 .5 -.3 0 .5 .26 .11 .115 .14 | hair 0 .55 .28 0 .74 .42 .1 .075 | black 0 .745 .67 0 .74 .68 .02 |
        hair 0 .77 .44 0 .73 .64 .09 .055 .042 | hair 0 .55 -.38 0 .75 -.6 .04 .02 | hair*2 .08 .83 .42 .1 .7 .42 .03 |
        hair*2 .08 .48 .25 .08 .04 .22 .085 .04 .032 | hair*2 .08 .48 -.3 .08 .04 -.36 .085 .04 .032""",
    "plant": """pot 0 0 0 0 .34 0 0 .12 .13 .14 .15 .16 .17 0 | leaf*7 .02 .33 0 .12 .8 .05 .01 .03 |
        leaf*7 .12 .8 .05 .4 .9 0 .03 0 | leaf*6 .03 .33 .1 .2 .6 .2 .01 .03 | leaf*6 .2 .6 .2 .4 .5 .3 .03 0""",
    "lamp": "metal*9 .1 0 0 .1 0 .01 .02 | metal 0 0 0 0 1.4 0 .015 | lit 0 1.3 0 0 1.6 0 0 .2 .19 .18 .17 .16 .15 0",
}
"""Tubes: material, how many side by side, start, end, and the radii at even steps between them, metres."""


def draw_data(
    fg_dir: Path, bg_dir: Path, depth_dir: Path, *, figures: int, rooms: int, seed: int = 0, size: int = 160
) -> None:
    """Write `fgNNN.png`, `roomNNNN.jpg` and their depths `roomNNNN.png`, numbered from 1.

    figures, rooms: how many of each. size: the side of a room, pixels; a figure is 0.6 of it high.
    Depths are 16-bit, in millimetres. Existing files are left as they are, and each file appears whole or not at all,
    so a run that was stopped can be started again. Raises ValueError for a count below 1.
    """
    if figures < 1 or rooms < 1:
        raise ValueError(f"{figures} figures and {rooms} rooms: draw at least one of each")
    for number in range(1, figures + 1):
        if not (path := fg_dir / f"fg{number:03d}.png").exists():
            _save(draw_cutout(number, seed=seed, height=round(0.6 * size)), path)
    for number in range(1, rooms + 1):
        photograph, measured = bg_dir / f"room{number:04d}.jpg", depth_dir / f"room{number:04d}.png"
        if not (photograph.exists() and measured.exists()):
            image, depth = draw_room(number, seed=seed, size=size)
            _save(image, photograph)
            _save(Image.fromarray(depth), measured)


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with replacing(path) as temporary:
            image.save(temporary, quality=95)


def _coloured(name: str, rng: Rng, low: float = 0.1, saturation: float = 0.6) -> Material:
    """Return the material of that name, or a plain one; if it has no colour, any: low..0.9 bright, not too strong."""
    material, strength = _MATERIALS.get(name, Material()), rng.uniform(0, saturation)
    anything = rng.uniform(low, 0.9) * (1 - strength * rng.permutation([0.0, rng.uniform(), 1.0]))
    first = material.first or tuple(rng.choice(_COLOURS.get(name, [anything])).tolist())
    second = material.second or tuple(0.65 * light for light in first)
    return material._replace(first=first, second=second, edge=material.edge or tuple(0.75 * light for light in second))


def _rows(table: str, made: dict[str, Material], rng: Rng) -> Iterator[tuple[float, Material, list[float]]]:
    """Yield side (1 to -1), material and numbers of each copy in a table, some left out; `made` keeps the materials."""
    for row in table.split("|"):
        name, *numbers = row.split()
        name, _, count = name.partition("*")
        if name in ("thing", "stripes", "rug") and rng.random() < 0.3:
            continue
        if name not in made or name in ("thing", "books"):
            made[name] = _coloured(name, rng)
        for side in np.linspace(1, -1, int(count or 1)).tolist():
            yield side, made[name], [float(number) for number in numbers]


def paint(materials: Sequence[Material], which: Index, u: Array, v: Array, wide: Array, high: Array) -> Array:
    """Return the colours (3, N) of materials[which] at u, v: metres (N,) from a corner of faces so wide and high."""
    numbers = np.array([np.hstack(material) for material in materials], np.float32).T[:, which]
    cell_u, cell_v, joint, tone, grain, rise, ragged = numbers[9:]
    cell_u, cell_v = wide / np.maximum(np.rint(wide / cell_u), 1), high / np.maximum(np.rint(high / cell_v), 1)
    row = np.floor(v / cell_v)
    across = u / cell_u + row / 2  # laid in running bond
    column = np.floor(across)
    x, y = across - column, v / cell_v - row
    fine_u, fine_v = u * np.maximum(20 / cell_u, 60), v * np.maximum(20 / cell_v, 60)
    cells = np.array([[row * 97 + column * 29, fine_v], [row * 31 + column * 53, fine_u]]).astype(np.int32) & 255
    chance, noise = _NOISE[tuple(cells)]
    share = np.clip(0.1 + tone * chance + grain * (noise - 0.5) + rise * (v / high - 0.4), 0, 1)
    colour = numbers[:3] + (numbers[3:6] - numbers[:3]) * share
    joints = np.minimum(np.minimum(x, 1 - x) * cell_u, np.minimum(y, 1 - y) * cell_v) < joint
    return np.where(joints | (ragged * (y + 0.25 * chance) > 1), numbers[6:9], colour)


def _turned(vectors: Array, yaw: ArrayLike) -> Array:
    """Return vectors (3, ...) turned about the upright axis by yaw, radians: z towards x."""
    (x, y, z), c, s = vectors, np.cos(yaw).astype(vectors.dtype), np.sin(yaw).astype(vectors.dtype)
    return np.stack([x * c + z * s, y, z * c - x * s])


class Box(NamedTuple):
    """A box that stands upright, turned by yaw, radians; x is to the right, y up, z into the room, metres."""

    centre: ArrayLike
    half: ArrayLike  # of its width, height and length
    material: Material
    yaw: float = 0.0


class Camera(NamedTuple):
    """A pinhole camera, level from left to right, that sees a square."""

    position: ArrayLike
    yaw: float  # to the right, radians
    pitch: float  # down, radians
    focal: float  # the focal length over the side of the picture

    def axes(self) -> Array:
        """Return the unit vectors (3, 3) to the right, down and ahead."""
        (sy, sp), (cy, cp) = np.sin([self.yaw, self.pitch]), np.cos([self.yaw, self.pitch])
        return np.array([[cy, 0, -sy], [-sy * sp, -cp, -cy * sp], [sy * cp, -sp, cy * cp]])

    def rays(self, size: int) -> Array:
        """Return the direction (3, size, size) through each pixel's centre, of length 1 along the optical axis."""
        place = ((np.arange(size) + 0.5) / size - 0.5) / self.focal
        right, down, ahead = self.axes()[..., None, None]
        return np.asarray(right * place + down * place[:, None] + ahead)

    def windows(self, boxes: Sequence[Box], size: int) -> Index:
        """Return the rows and columns (B, 2, 2), start and end, outside which nothing of a box beyond NEAR is seen."""
        centre, half, yaw = (np.array([box[k] for box in boxes]).T[..., None] for k in (0, 1, 3))
        corners = _turned(_CORNERS * half, yaw) + centre - np.reshape(self.position, (3, 1, 1))
        right, down, ahead = np.tensordot(self.axes(), corners, 1)
        far = np.maximum(ahead, NEAR)
        near = np.where(ahead.min(1, keepdims=True) < NEAR, NEAR, far)  # too wide for what reaches behind the camera
        places = (np.stack([down, right]) / np.stack([far, near])[:, None] * self.focal + 0.5) * size
        ends: Array = np.stack([places.min((0, 3)) - 1, places.max((0, 3)) + 2]) * (ahead.max(1) > NEAR)
        return ends.clip(0, size).astype(np.intp).T


def meet(box: Box, position: ArrayLike, rays: Array) -> Array:
    """Return the depths (H, W) where rays (3, H, W) meet the box, or infinity: Kay and Kajiya's slab test, 1986."""
    origin = _turned(np.subtract(position, box.centre), -box.yaw).astype(rays.dtype)[:, None, None]
    rays = _turned(rays, -box.yaw) if box.yaw else rays
    inverse = 1 / np.where(rays == 0, rays.dtype.type(1e-9), rays)
    middle, reach = -origin * inverse, np.reshape(box.half, (3, 1, 1)).astype(rays.dtype) * np.abs(inverse)
    enter, leave = np.maximum.reduce(middle - reach), np.minimum.reduce(middle + reach)
    return np.where((enter < leave) & (enter > 0), enter, rays.dtype.type(np.inf))


def trace(boxes: Sequence[Box], camera: Camera, rays: Array) -> tuple[Array, Index]:
    """Return the depth (size, size), metres, of what each of the camera's rays sees, and which box that is."""
    depth, which = np.full_like(rays[0], np.inf), np.zeros(rays.shape[1:], np.intp)
    for number, ends in enumerate(camera.windows(boxes, len(depth))):
        rows, columns = (slice(*end) for end in ends)
        found = meet(boxes[number], camera.position, rays[:, rows, columns])
        nearer = found < depth[rows, columns]
        np.copyto(depth[rows, columns], found, where=nearer)
        np.copyto(which[rows, columns], number, where=nearer)
    return depth, which


def _boxes(table: str, size: Array, at: Array, yaw: float, made: dict[str, Material], rng: Rng) -> Iterator[Box]:
    """Yield the boxes of a piece of that size (3,), turned by yaw, with the foot of its back at `at`."""
    for side, material, (x, wide, low, high, back, front) in _rows(table, made, rng):
        middle = np.array([side * x, (low + high) / 2, (back + front) / 2]) * size
        yield Box(_turned(middle, yaw) + at, np.array([wide, high - low, front - back]) * size / 2, material, yaw)


def plan_room(number: int, *, seed: int = 0) -> tuple[list[Box], Camera]:
    """Return what room `number` of the data set `seed` is made of, a lamp first, and who looks at it."""
    rng = np.random.default_rng([seed, number, 0])
    width, _, length = room = rng.uniform((3.2, 2.5, 4.2), (6.4, 3.1, 9.0))
    eye = rng.uniform((_CLEARANCE, 1.15, _CLEARANCE), (width - _CLEARANCE, 1.75, _CLEARANCE + 0.25 * (length - 3)))
    yaw = float(np.arctan2(width / 2 - eye[0], 0.6 * length) + rng.uniform(-0.4, 0.4))
    floor, wall = rng.choice(["wood", "wood", "tiles", "fabric"]), rng.choice(["", "", "stripes", "bricks"])
    made = {"floor": _coloured(floor, rng, 0.25, 0.4), "wall": _coloured(wall, rng, 0.55, 0.2)}
    boxes = list(_boxes(_SHELL, room, np.array([width / 2, 0, 0]), 0.0, made, rng))
    taken: list[tuple[Array, Array]] = []
    for _ in range(40):
        side, step = rng.integers(7) % 4, rng.uniform()
        kinds = ("chair", "chair", "table") if side == 3 else (*_FURNITURE, "window", "painting", "window")
        ranges, table = _FURNITURE[kinds[rng.integers(len(kinds))]].split("|", 1)
        size, lift = np.split(rng.uniform(*np.array(ranges.split(), float).reshape(4, 2).T), [3])
        turn = (np.pi, np.pi / 2, -np.pi / 2, rng.uniform(-3.1, 3.1))[side]
        at = room * ((step, 0, 1), (0, 0, step), (1, 0, step), (step, 0, rng.uniform(0.5, 0.8)))[side] + (0, *lift, 0)
        middle = _turned(size * (0, 0.5, 0.5), turn) + at
        reach = np.abs(_turned(size[:, None] / 2 * [[1, 1], [1, 1], [1, -1]], turn)).max(1)
        inside = (middle - reach > -0.01).all() and (middle + reach < room + 0.01).all()
        clear = np.linalg.norm(np.maximum(np.abs(middle - eye) - reach, 0)[::2]) > _CLEARANCE + 0.1
        if inside and clear and all((np.abs(middle - a) > reach + b + 0.03).any() for a, b in taken):
            taken.append((middle, reach))
            boxes += _boxes(table, size, at, turn, {}, rng)
    return boxes, Camera(eye, yaw, rng.uniform(0.08, 0.36), rng.uniform(0.85, 1.2))


def draw_room(number: int, *, seed: int = 0, size: int = 160) -> tuple[Image.Image, NDArray[np.uint16]]:
    """Return room `number` of the data set `seed` as an RGB photograph, and its depth (size, size) in millimetres.

    Depth is the distance along the optical axis to what each pixel's centre sees, rounded and never blended across an
    edge; it lies within 0.8-9.9 m. The same arguments give the same pixels.
    """
    (boxes, camera), rng = plan_room(number, seed=seed), np.random.default_rng([seed, number, 1])
    depth, _ = trace(boxes, camera, camera.rays(size))
    assert NEAR <= depth.min() <= depth.max() <= FAR
    rays = camera.rays(2 * size).astype(np.float32)  # the photograph is drawn twice as large
    seen, which = trace(boxes, camera, rays)
    far, seen, which = Image.fromarray(np.log(seen)), seen.ravel(), which.ravel()
    centre, half, yaw = (np.array([box[k] for box in boxes], np.float32).T[..., which] for k in (0, 1, 3))
    place = np.reshape(camera.position, (3, 1)).astype(np.float32) + rays.reshape(3, -1) * seen
    local = _turned(place - centre, -yaw)
    axis = (np.abs(local) - half).argmax(0)  # across which the face lies that is seen
    normal = _turned(np.where(axis == [[0], [1], [2]], np.sign(local), 0), yaw)
    x, y, z = np.stack([local + half, 2 * half], 1)
    (u, wide), (v, high) = np.where(axis == 2, x, z), np.where(axis == 1, x, y)
    colour = paint([box.material for box in boxes], which, u, v, wide, high)
    lamp = np.reshape(boxes[0].centre, (3, 1)).astype(np.float32) - place
    distance2 = (lamp**2).sum(0)
    direct = np.maximum((lamp * normal).sum(0) / np.sqrt(distance2), 0) * 3.2 / (1.5 + distance2)
    blurred = far.resize((size // 8 + 1,) * 2, Image.Resampling.BOX).resize(far.size, Image.Resampling.BICUBIC)
    nook = np.clip(2 * (np.asarray(far) - np.asarray(blurred)).ravel(), 0, 0.5)  # Luft, Colditz and Deussen, 2006
    warm = np.array([[1.1], [1], [0.9]], np.float32) ** rng.uniform(-0.5, 1.5)
    light = rng.uniform(1.3, 2.2) * warm * (direct + 0.5 + 0.1 * normal[1] + 0.06 * normal[0]) * (1 - nook)
    picture = 255 * np.clip(1 - np.exp(-colour * light) + rng.normal(0, 0.02, len(seen)), 0, 1)
    photograph = Image.fromarray(picture.astype(np.uint8).reshape(3, *far.size).transpose(1, 2, 0)).reduce(2)
    return photograph, np.rint(depth * 1000).astype(np.uint16)


def _tubes(name: str, made: dict[str, Material], rng: Rng, up: float, way: float, swing: float) -> Iterator[Tube]:
    """Yield the tubes of a part of a figure, hung `up` metres high, mirrored if `way` is -1, and swung forward."""
    for side, material, numbers in _rows(_FIGURES[name], made, rng):
        x, y, z = np.reshape(numbers[:6], (2, 3)).T
        yield np.stack([x * side * way, y + up, z - swing * y], 1), material, numbers[6:]


def _person(rng: Rng) -> Iterator[Tube]:
    """Yield a person who stands, walks or sits, the hip at height 0."""
    sits, walks, skirt, long, bare = (rng.random(5) < (0.2, 0.6, 0.25, 0.45, 0.35)).tolist()
    made = {name: _coloured("fabric", rng) for name in ("bottom", "shoes")} | {"skin": _coloured("skin", rng)}
    made["top"] = _coloured("bands" if rng.random() < 0.3 else "fabric", rng)
    made["sleeve"], made["leg"] = made["skin" if bare else "top"], made["skin" if skirt else "bottom"]
    for name in ["body"] + ["long hair"] * long + ["skirt"] * (skirt and not sits) + ["chair"] * sits:
        yield from _tubes(name, made, rng, 0, 1, 0)
    stride = rng.uniform(-0.45, 0.45) * walks * (0.5 if skirt else 1)
    for way in (-1, 1):
        yield from _tubes("sit" if sits else "stand", made, rng, 0, way, 0 if sits else way * stride)
        yield from _tubes("bend" if sits or rng.random() < 0.35 else "hang", made, rng, 0.475, way, -way * stride)


def draw_cutout(number: int, *, seed: int = 0, height: int = 96) -> Image.Image:
    """Return figure `number` of the data set `seed`, RGBA: mostly a person, else a dog, plant, lamp or chair.

    Alpha runs from 0 to 255 with soft edges. The image is `height` pixels high and cropped to what is not wholly
    transparent. The same arguments give the same pixels.
    """
    rng = np.random.default_rng([seed, number, 2])
    kind = str(rng.choice(["person", "dog", "plant", "lamp", "chair"], p=(0.76, 0.06, 0.06, 0.06, 0.06)))
    points, materials, radii = zip(*(_person(rng) if kind == "person" else _tubes(kind, {}, rng, 0, 1, 0)), strict=True)
    x, y, z = _turned(np.array(points, np.float32).transpose(2, 0, 1), rng.uniform(-1.3, 1.3))  # (tubes, ends) each
    y = y - z * rng.uniform(0, 0.2)  # seen a little from above
    reach = np.array([max(along) for along in radii], np.float32)[:, None]
    scale = 4 * height / np.ptp([y - reach, y + reach])  # drawn four times as large
    x, y, z, reach = (scale * v for v in (x - (x - reach).min(), (y + reach).max() - y, z, reach))
    nearest = np.full((4 * height + 1, int((x + reach).max()) + 2), -np.inf, np.float32)
    which = np.zeros(nearest.shape, np.intp)
    for k, along in enumerate(radii):
        rows, columns = (slice(int((v[k] - reach[k]).min()), int((v[k] + reach[k]).max()) + 1) for v in (y, x))
        i, j = np.ogrid[rows, columns]
        dx, dy = (j + 0.5 - x[k, 0]).astype(np.float32), (i + 0.5 - y[k, 0]).astype(np.float32)
        run, drop, rise = (v[k, 1] - v[k, 0] for v in (x, y, z))
        share = np.clip((dx * run + dy * drop) / (run**2 + drop**2 + 1e-6), 0, 1)
        radius = scale * np.interp(share, np.linspace(0, 1, len(along)), along).astype(np.float32)
        bulge = radius**2 - (dx - share * run) ** 2 - (dy - share * drop) ** 2
        found = z[k, 0] + share * rise + np.sqrt(np.maximum(bulge, 0))
        nearer = (bulge > 0) & (found > nearest[rows, columns])
        np.copyto(nearest[rows, columns], found, where=nearer)
        np.copyto(which[rows, columns], k, where=nearer)
    seen = np.isfinite(nearest)
    dy, dx = (slope[seen] for slope in np.gradient(np.where(seen, nearest, nearest[seen].min())))
    normal = np.stack([-dx, dy, np.ones_like(dx)]) / np.sqrt(1 + dx**2 + dy**2)
    light = np.array([rng.choice([-1, 1]) * rng.uniform(0.4, 0.75), rng.uniform(0.25, 0.65), 0.6], np.float32)
    bright = (0.34 + 0.66 * np.maximum(light @ normal + 0.15, 0)) * (0.78 + 0.22 * normal[2])
    v, u = ((places / scale + 1).astype(np.float32) for places in np.nonzero(seen))
    colour = (paint(materials, which[seen], u, v, 9 + 0 * u, 9 + 0 * u) * bright) ** 0.85
    pixels = np.zeros((*seen.shape, 4), np.uint8)
    pixels[seen] = 255 * np.vstack([(colour + rng.normal(0, 0.04, len(u))).clip(0, 1), np.ones_like(u)]).T
    image = Image.fromarray(pixels)
    image = image.crop(image.getbbox())
    width = max(round(image.width / image.height * height * rng.uniform(0.9, 1.1)), 1)
    return image.resize((width, height), Image.Resampling.BOX)


@dataclass(frozen=True, kw_only=True)
class DrawConfig(Checked):
    """Draw cut-outs, and rooms with their exact depth, to try things on where there are no photographs."""

    out: tyro.conf.Positional[Path]
    """folder to write; it gets fg, bg and depth"""
    figures: Count = 40
    """how many cut-outs"""
    rooms: Count = 40
    """how many rooms"""
    size: Annotated[int, Bounds(1, 2**14)] = 160
    """height and width of the rooms, pixels"""
    seed: Seed = 0
    """another seed, other images"""


def main(config: DrawConfig) -> None:
    out, figures, rooms = config.out, config.figures, config.rooms
    draw_data(out / "fg", out / "bg", out / "depth", figures=figures, rooms=rooms, size=config.size, seed=config.seed)
    say(f"{out}: {figures} cut-outs in fg, {rooms} rooms in bg, their depth in depth")


if __name__ == "__main__":
    with report_errors():
        main(tyro.cli(DrawConfig))
