"""Draws cut-outs: people, and now and then a dog, a plant, a lamp or a chair."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from shards.draw.solids import Part, Point, render, turned
from shards.draw.texture import Colour, any_colour, stream

__all__ = ["draw_cutout"]

SKINS = ((0.96, 0.80, 0.70), (0.88, 0.68, 0.55), (0.78, 0.57, 0.43), (0.60, 0.41, 0.29), (0.42, 0.28, 0.20))
HAIRS = ((0.08, 0.06, 0.05), (0.20, 0.12, 0.07), (0.38, 0.24, 0.13), (0.75, 0.58, 0.32), (0.62, 0.60, 0.58))
CLOTHS = ((0.10, 0.11, 0.14), (0.13, 0.17, 0.30), (0.35, 0.36, 0.38), (0.88, 0.87, 0.84), (0.45, 0.38, 0.30))


def jointed(origin: Point, side: float, *bones: tuple[float, float, float]) -> list[Point]:
    """The joints of a limb from its origin on; a bone is (length, swing forward, splay outward), radians."""
    joints = [origin]
    for length, swing, splay in bones:
        x, y, z = joints[-1]
        down, out = length * np.cos(splay), length * np.sin(splay) * side
        joints.append((float(x + out), float(y - down * np.cos(swing)), float(z + down * np.sin(swing))))
    return joints


@dataclass(frozen=True, kw_only=True)
class Outfit:
    """How a person looks."""

    skin: Colour
    hair: Colour
    top: Part
    bottom: Colour
    shoes: Colour
    girth: float
    skirt: bool
    short_sleeves: bool
    long_hair: bool
    jacket: bool


def any_cloth(rng: np.random.Generator) -> Colour:
    """The sober colours that people wear, or any other."""
    return CLOTHS[rng.integers(len(CLOTHS))] if rng.random() < 0.6 else any_colour(rng, 0.2, 0.85, 0.55)


def any_outfit(rng: np.random.Generator) -> Outfit:
    """Skin, hair, clothes and build."""
    striped = rng.choice(3, p=(0.6, 0.2, 0.2))
    stripes = ((0.0, 0.0), (rng.uniform(8, 18), 0.0), (rng.uniform(10, 16), rng.uniform(10, 16)))[striped]
    zero = (0.0, 0.0, 0.0)
    return Outfit(
        skin=SKINS[rng.integers(len(SKINS))],
        hair=HAIRS[rng.integers(len(HAIRS))],
        top=Part(start=zero, end=zero, radii=(1,), colour=any_cloth(rng), second=any_cloth(rng), stripes=stripes),
        bottom=any_cloth(rng),
        shoes=any_colour(rng, 0.05, 0.5),
        girth=rng.uniform(0.85, 1.2),
        skirt=bool(rng.random() < 0.25),
        short_sleeves=bool(rng.random() < 0.35),
        long_hair=bool(rng.random() < 0.45),
        jacket=bool(rng.random() < 0.35),
    )


def head(outfit: Outfit, neck: float, size: float) -> Iterator[Part]:
    """Neck, head, hair and face; neck is the height of the collar, size 1 for an adult."""

    def at(x: float, y: float, z: float) -> Point:
        return x * size, neck + y * size, z * size

    def part(start: Point, end: Point, *radii: float, colour: Colour, rough: float = 0.03) -> Part:
        return Part(start=start, end=end, radii=tuple(r * size for r in radii), colour=colour, rough=rough)

    skin, hair = outfit.skin, outfit.hair
    dark = (skin[0] * 0.72, skin[1] * 0.5, skin[2] * 0.48)
    yield part(at(0, -0.06, -0.01), at(0, 0.1, 0.01), 0.055, 0.05, colour=skin)
    yield part(at(0, 0.12, 0.025), at(0, 0.24, 0.01), 0.065, 0.088, 0.09, colour=skin)
    yield part(at(0, 0.2, -0.03), at(0, 0.262, -0.022), 0.092, 0.102, 0.1, colour=hair, rough=0.3)
    yield part(at(0, 0.155, 0.09), at(0, 0.19, 0.095), 0.017, 0.01, colour=skin)
    yield part(at(-0.02, 0.115, 0.088), at(0.02, 0.115, 0.088), 0.008, colour=dark)
    for side in (-1, 1):
        yield part(at(side * 0.036, 0.2, 0.091), at(side * 0.04, 0.2, 0.09), 0.012, colour=(0.1, 0.08, 0.08))
        yield part(at(side * 0.022, 0.222, 0.093), at(side * 0.05, 0.222, 0.086), 0.008, colour=hair)
        yield part(at(side * 0.092, 0.17, 0.0), at(side * 0.09, 0.2, 0.0), 0.02, colour=skin)
    if outfit.long_hair:
        yield part(at(0, 0.26, -0.04), at(0, -0.06, -0.075), 0.1, 0.115, 0.1, 0.06, colour=hair, rough=0.3)


def torso(outfit: Outfit, hip: float, neck: float) -> Iterator[Part]:
    """The clothed trunk, with a shirt front and a tie where it wears a jacket."""
    hips = (0.195, 0.185) if outfit.jacket else (0.142,)
    widths = tuple(w * outfit.girth for w in (*hips, 0.14, 0.14, 0.16, 0.178, 0.168, 0.115))
    hem = hip - 0.08 if outfit.jacket else hip + 0.07
    yield replace(outfit.top, start=(0, hem, 0), end=(0, neck - 0.02, 0), radii=widths, flat=0.6, cap=0.2, rough=0.13)
    if not outfit.jacket:
        return
    front = 0.6 * 0.165 * outfit.girth
    shirt, tie = (0.92, 0.92, 0.90), outfit.shoes
    yield Part(start=(0, neck, 0.04), end=(0, neck - 0.3, front), radii=(0.05, 0.04, 0.004), colour=shirt, flat=0.5)
    yield Part(start=(0, neck, 0.085), end=(0, neck - 0.28, front + 0.02), radii=(0.01, 0.02, 0.008), colour=tie)


def leg(outfit: Outfit, side: float, hip: float, swing: float, bend: float) -> Iterator[Part]:
    """Thigh, shin and shoe of a leg that swings forward by `swing` and is bent at the knee by `bend`, radians."""
    origin = (side * 0.082 * outfit.girth, hip, 0.0)
    _, knee, ankle = jointed(origin, side, (0.42, swing, 0.05), (0.40, swing - bend, 0.01))
    g, cloth = outfit.girth, outfit.skin if outfit.skirt else outfit.bottom
    rough = 0.03 if outfit.skirt else 0.14
    thin = 0.75 if outfit.skirt else 1.0
    yield Part(
        start=origin, end=knee, radii=(0.098 * g * thin, 0.09 * g * thin, 0.068 * thin), colour=cloth, rough=rough
    )
    shin = (0.068 * thin, 0.066 * thin, 0.052 * thin, 0.05 * thin)
    yield Part(start=knee, end=ankle, radii=shin, colour=cloth, rough=rough, cap=0.5)
    toe = (ankle[0] + side * 0.03, ankle[1] - 0.055, ankle[2] + 0.15)
    heel = (ankle[0], ankle[1] - 0.045, ankle[2] - 0.02)
    yield Part(start=heel, end=toe, radii=(0.05, 0.045, 0.036), colour=outfit.shoes)


def arm(outfit: Outfit, side: float, neck: float, swing: float, splay: float, bend: float) -> Iterator[Part]:
    """Upper arm, forearm and hand; angles in radians, `bend` lifts the forearm forward."""
    origin = (side * 0.168 * outfit.girth, neck - 0.085, 0.0)
    bones = ((0.28, swing, splay), (0.25, swing + bend, splay * 0.3 - bend * 0.25), (0.09, swing + bend, 0.0))
    _, elbow, wrist, finger = jointed(origin, side, *bones)
    g = outfit.girth
    bare = Part(start=elbow, end=wrist, radii=(0.042, 0.042, 0.03), colour=outfit.skin, rough=0.03)
    yield replace(outfit.top, start=origin, end=elbow, radii=(0.064 * g, 0.056 * g, 0.046 * g), rough=0.13)
    if outfit.short_sleeves:
        yield bare
    else:
        yield replace(outfit.top, start=elbow, end=wrist, radii=(0.047, 0.046, 0.036), rough=0.13)
    yield replace(bare, start=wrist, end=finger, radii=(0.028, 0.04, 0.022))


def person(rng: np.random.Generator) -> Iterator[Part]:
    """An adult or a child, standing, walking or sitting on a chair."""
    outfit, child, sits = any_outfit(rng), rng.random() < 0.15, rng.random() < 0.2
    hip = 0.52 if sits else 0.9
    neck = hip + 0.56
    stride = rng.uniform(-0.45, 0.45) * (rng.random() < 0.6)
    yield from head(outfit, neck, 1.35 if child else rng.uniform(0.95, 1.08))
    yield from torso(outfit, hip, neck)
    for side in (-1, 1):
        swing, bend = (1.45, 1.4 + stride) if sits else (side * stride, 0.05 + max(-side * stride, 0))
        yield from leg(outfit, side, hip, swing, bend)
        bent = rng.uniform(0.9, 1.8) if sits or rng.random() < 0.35 else rng.uniform(0.05, 0.5)
        yield from arm(outfit, side, neck, -side * stride * 0.8, rng.uniform(0.05, 0.35), bent)
    if outfit.skirt:
        knee = (0, hip - 0.05, 0.3) if sits else (0, hip - rng.uniform(0.3, 0.5), 0)
        radii = tuple(w * outfit.girth for w in (0.155, 0.175, 0.2))
        yield Part(start=(0, hip + 0.06, 0), end=knee, radii=radii, colour=outfit.bottom, flat=0.75, cap=0.1, rough=0.2)
    elif not outfit.jacket:
        waist = tuple(w * outfit.girth for w in (0.15, 0.165, 0.15))
        yield Part(
            start=(0, hip - 0.04, 0), end=(0, hip + 0.09, 0), radii=waist, colour=outfit.bottom, flat=0.65, cap=0.2
        )
    if sits:
        yield from chair(rng)


def slab(corner: Point, width: float, other: Point, radius: float, colour: Colour) -> Iterator[Part]:
    """A cushion or a board `width` wide from its left corner, reaching as far as `other` says; of bars side by side."""
    for x in np.arange(0, width, 0.6 * radius):
        start = (float(corner[0] + x), corner[1], corner[2])
        end = (start[0] + other[0], start[1] + other[1], start[2] + other[2])
        yield Part(start=start, end=end, radii=(radius,), colour=colour, rough=0.06)


def chair(rng: np.random.Generator) -> Iterator[Part]:
    """An office chair on a star of castors, or one on four legs."""
    colour, metal = any_cloth(rng), any_colour(rng, 0.15, 0.7, 0.1)
    yield from slab((-0.21, 0.42, -0.2), 0.42, (0, 0, 0.42), 0.035, colour)
    yield from slab((-0.19, 0.55, -0.24), 0.38, (0, rng.uniform(0.35, 0.6), -0.06), 0.03, colour)
    if rng.random() < 0.5:
        yield Part(start=(0, 0.42, 0), end=(0, 0.1, 0), radii=(0.03,), colour=metal)
        for angle in np.arange(5) * 1.2566:
            x, z = float(0.28 * np.cos(angle)), float(0.28 * np.sin(angle))
            yield Part(start=(0, 0.1, 0), end=(x, 0.06, z), radii=(0.03, 0.018), colour=metal)
            yield Part(start=(x, 0.03, z), end=(x, 0.035, z), radii=(0.03,), colour=(0.08, 0.08, 0.08))
    else:
        for x, z in ((-0.2, -0.2), (0.2, -0.2), (-0.2, 0.2), (0.2, 0.2)):
            yield Part(start=(x, 0.4, z), end=(x * 1.1, 0.015, z * 1.1), radii=(0.02, 0.014), colour=metal)
    for side in (-0.17, 0.17):
        yield Part(start=(side, 0.42, -0.2), end=(side, 0.6, -0.25), radii=(0.015,), colour=metal)


def dog(rng: np.random.Generator) -> Iterator[Part]:
    """A dog on its feet, seen from any side."""
    coat = HAIRS[rng.integers(len(HAIRS))]
    fluff, build = rng.uniform(0.1, 0.25), rng.uniform(0.8, 1.3)

    def part(start: Point, end: Point, *radii: float, colour: Colour = coat) -> Part:
        return Part(start=start, end=end, radii=tuple(r * build for r in radii), colour=colour, rough=fluff)

    yield part((0, 0.5, -0.3), (0, 0.5, 0.26), 0.11, 0.115, 0.14)
    yield part((0, 0.55, 0.28), (0, 0.74, 0.42), 0.1, 0.075)
    yield part((0, 0.77, 0.44), (0, 0.73, 0.64), 0.09, 0.055, 0.042)
    yield part((0, 0.745, 0.67), (0, 0.74, 0.68), 0.02, colour=(0.05, 0.05, 0.05))
    yield part((0, 0.55, -0.38), (0, 0.75, -0.6), 0.04, 0.02)
    for side in (-0.085, 0.085):
        yield part((side, 0.83, 0.42), (side * 1.2, 0.7, 0.42), 0.02, 0.035, 0.02)
        for z in (-0.3, 0.25):
            step = float(rng.uniform(-0.08, 0.08))
            yield part((side, 0.48, z), (side, 0.05, z + step), 0.085, 0.04, 0.032)
            yield part((side, 0.03, z + step), (side, 0.025, z + step + 0.05), 0.032)


def plant(rng: np.random.Generator) -> Iterator[Part]:
    """Long leaves that hang over out of a pot."""
    yield Part(start=(0, 0.02, 0), end=(0, 0.32, 0), radii=(0.12, 0.17), colour=any_colour(rng, 0.3, 0.9), cap=0.1)
    yield Part(start=(0, 0.31, 0), end=(0, 0.34, 0), radii=(0.185,), colour=(0.2, 0.14, 0.1), cap=0.1)
    tall, wide = rng.uniform(0.5, 1.1), rng.uniform(0.02, 0.06)
    for _ in range(rng.integers(22, 40)):
        angle, rise, lean = rng.uniform(0, 6.283), tall * rng.uniform(0.4, 1), rng.uniform(0.05, 0.3)
        x, z = float(np.cos(angle) * lean), float(np.sin(angle) * lean)
        green = rng.uniform(0.35, 0.75)
        colour = (float(green * rng.uniform(0.3, 0.7)), float(green), float(green * 0.3))
        middle, tip = (x, 0.33 + rise * 0.8, z), (x * 2.4, 0.33 + rise * rng.uniform(0.6, 1.1), z * 2.4)
        yield Part(start=(x * 0.1, 0.33, z * 0.1), end=middle, radii=(0.008, wide * 0.5), colour=colour)
        yield Part(start=middle, end=tip, radii=(wide * 0.5, wide, wide * 0.7, 0.004), colour=colour, flat=0.4)


def lamp(rng: np.random.Generator) -> Iterator[Part]:
    """A floor lamp, lit."""
    metal, glow = any_colour(rng, 0.1, 0.6, 0.3), (1.25, 1.1, rng.uniform(0.7, 0.95))
    width, top = rng.uniform(0.16, 0.26), rng.uniform(1.3, 1.7)
    yield Part(start=(0, 0.015, 0), end=(0, 0.03, 0), radii=(0.17,), colour=metal, cap=0.25)
    yield Part(start=(0, 0.03, 0), end=(0, top, 0), radii=(0.018,), colour=metal)
    yield Part(
        start=(0, top - 0.12, 0),
        end=(0, top + 0.18, 0),
        radii=(width, width * rng.uniform(0.5, 0.9)),
        colour=glow,
        cap=0.15,
    )


def draw_cutout(number: int, *, seed: int = 0, height: int = 96) -> Image.Image:
    """Figure `number` of the data set `seed`, RGBA: three times in four a person, else a dog, plant, lamp or chair.

    Alpha runs from 0 to 255 with soft edges, and the image is cropped to what is not wholly transparent: at most
    `height` pixels high, and hardly less. The same arguments give the same pixels.
    """
    rng = stream("cutout", seed, number)
    kind = rng.choice(5, p=(0.76, 0.06, 0.06, 0.06, 0.06))
    yaw, pitch = rng.uniform(-1.3, 1.3), rng.uniform(0.0, 0.2)
    parts = (person, dog, plant, lamp, chair)[kind](rng)
    return render([turned(part, yaw, pitch) for part in parts], height, rng)
