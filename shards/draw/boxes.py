"""A pinhole camera and boxes: which box each pixel sees, how far away, and what it looks like there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.draw.surfaces import Material, Spot
from shards.draw.texture import Array

__all__ = ["Box", "Camera", "View", "depth_of", "meet", "placed", "unturned", "view"]

Vector = tuple[float, float, float]
"""Metres: x to the right, y up, z into the room; the floor is y = 0."""

CORNERS = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8)
EDGES = np.nonzero((CORNERS[:, :, None] != CORNERS[:, None, :]).sum(0) == 1)
"""The corners that each edge joins, from either end."""
CLIP = 0.05
"""What is nearer than this, metres, is not looked for."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera, level from left to right, that sees a square."""

    position: Vector
    yaw: float
    """Turned to the right, radians."""
    pitch: float
    """Tilted down, radians."""
    focal: float
    """The focal length over the side of the picture."""

    def rays(self, size: int) -> NDArray[np.float64]:
        """The direction (3, size, size) through each pixel's centre, of length 1 along the optical axis."""
        place = ((np.arange(size) + 0.5) / size - 0.5) / self.focal
        right, down = place[None, :], place[:, None]
        forward = np.cos(self.pitch) - down * np.sin(self.pitch)
        x = right * np.cos(self.yaw) + forward * np.sin(self.yaw)
        z = forward * np.cos(self.yaw) - right * np.sin(self.yaw)
        y = -np.sin(self.pitch) - down * np.cos(self.pitch)
        return np.stack([x, np.broadcast_to(y, x.shape), z])

    def seen(self, points: Array) -> Array:
        """Points (3, ...) in the camera's own frame: right, down and depth, metres."""
        x, y, z = (points[k] - self.position[k] for k in range(3))
        ahead, right = x * np.sin(self.yaw) + z * np.cos(self.yaw), x * np.cos(self.yaw) - z * np.sin(self.yaw)
        down = -y * np.cos(self.pitch) - ahead * np.sin(self.pitch)
        return np.stack([right, down, ahead * np.cos(self.pitch) - y * np.sin(self.pitch)])


@dataclass(frozen=True, kw_only=True)
class Box:
    """A box that stands upright."""

    centre: Vector
    half: Vector
    """Half of its width, height and length."""
    sides: Material
    top: Material
    """Also of the underside."""
    yaw: float = 0.0
    inside: bool = False
    """The room itself, seen from within."""


def placed(box: Box, x: float, z: float, yaw: float) -> Box:
    """The box turned about the upright axis through the origin, then moved."""
    (cx, cy, cz), c, s = box.centre, np.cos(yaw), np.sin(yaw)
    return replace(box, centre=(float(x + cx * c + cz * s), cy, float(z + cz * c - cx * s)), yaw=box.yaw + yaw)


def unturned(vectors: Array, yaw: float) -> Array:
    """Vectors (3, ...) in the frame of a box that is turned by yaw."""
    if yaw == 0:
        return vectors
    x, y, z = vectors
    c, s = vectors.dtype.type(np.cos(yaw)), vectors.dtype.type(np.sin(yaw))
    return np.stack([x * c - z * s, y, z * c + x * s])


class Hit(NamedTuple):
    """Where rays meet a box: depth (H, W), infinite where they miss; the rest in the frame of the box."""

    depth: Array
    planes: Array
    """The depths (3, H, W) of the faces across each axis; the face that is hit has the depth of the hit."""
    origin: Array
    rays: Array


def meet(box: Box, position: Vector, rays: Array) -> Hit:
    """Kay and Kajiya's slab test, 1986."""
    offset = np.subtract(position, box.centre).astype(rays.dtype)[:, None, None]
    origin, rays = unturned(offset, box.yaw), unturned(rays, box.yaw)
    inverse = 1 / np.where(rays == 0, rays.dtype.type(1e-9), rays)
    middle, reach = -origin * inverse, np.array(box.half, rays.dtype)[:, None, None] * np.abs(inverse)
    near, far = middle - reach, middle + reach
    leave = np.minimum(np.minimum(far[0], far[1]), far[2])
    if box.inside:
        return Hit(leave, far, origin, rays)
    enter = np.maximum(np.maximum(near[0], near[1]), near[2])
    enter[(enter >= leave) | (enter <= 0)] = np.inf
    return Hit(enter, near, origin, rays)


def window(box: Box, camera: Camera, size: int) -> tuple[slice, slice]:
    """The rows and columns that can see the box: about its edges, as far as they are in front of the camera."""
    corners = unturned(CORNERS * np.array(box.half)[:, None], -box.yaw) + np.array(box.centre)[:, None]
    seen = camera.seen(corners)
    start, end = seen[:, EDGES[0]], seen[:, EDGES[1]]
    start, end = start[:, end[2] >= CLIP], end[:, end[2] >= CLIP]
    if end.size == 0:
        return slice(0, 0), slice(0, 0)
    share = np.maximum(CLIP - start[2], 0) / np.where(start[2] < CLIP, end[2] - start[2], 1)
    points = np.hstack([start + (end - start) * share, end])
    places = (points[:2] / points[2] * camera.focal + 0.5) * size
    left, top = np.clip(places.min(1) - 1, 0, size).astype(int).tolist()
    right, bottom = np.clip(places.max(1) + 2, 0, size).astype(int).tolist()
    return slice(top, bottom), slice(left, right)


def in_view(boxes: Sequence[Box], camera: Camera, size: int) -> Iterator[tuple[Box, slice, slice]]:
    """The boxes that the camera can see, each with its rows and columns."""
    for box in boxes:
        rows, columns = window(box, camera, size)
        if rows.start < rows.stop and columns.start < columns.stop:
            yield box, rows, columns


def depth_of(boxes: Sequence[Box], camera: Camera, size: int) -> NDArray[np.float64]:
    """The distance (size, size) along the optical axis to what each pixel's centre sees, metres."""
    rays, nearest = camera.rays(size), np.full((size, size), np.inf)
    for box, rows, columns in in_view(boxes, camera, size):
        hit = meet(box, camera.position, rays[:, rows, columns])
        nearest[rows, columns] = np.minimum(nearest[rows, columns], hit.depth)
    return nearest


class View(NamedTuple):
    """What is seen: depth and glow (H, W), normals and colours (H, W, 3)."""

    depth: NDArray[np.float32]
    glow: NDArray[np.float32]
    normal: NDArray[np.float32]
    colour: NDArray[np.float32]

    def part(self, rows: slice, columns: slice) -> "View":
        """A window of it, that shares its memory."""
        return View._make(layer[rows, columns] for layer in self)


def view(boxes: Sequence[Box], camera: Camera, size: int, noise: NDArray[np.float32]) -> View:
    """The boxes with their surfaces, not yet lit."""
    rays = camera.rays(size).astype(np.float32)
    seen = View._make(np.zeros((size, size, *rest), np.float32) for rest in ((), (), (3,), (3,)))
    seen.depth.fill(np.inf)
    for box, rows, columns in in_view(boxes[::-1], camera, size):  # walls come first: painted last, they cost less
        hit, part = meet(box, camera.position, rays[:, rows, columns]), seen.part(rows, columns)
        nearer = hit.depth < part.depth
        part.depth[nearer] = hit.depth[nearer]
        for axis in range(3):
            if (where := nearer & (hit.planes[axis] == hit.depth)).any():
                cover(part, box, axis, hit, where, noise)
    return seen


def cover(seen: View, box: Box, axis: int, hit: Hit, where: NDArray[np.bool_], noise: NDArray[np.float32]) -> None:
    """Paints the faces of the box across one axis onto the pixels that see them."""
    at = np.nonzero(where)  # once: a boolean mask would be searched anew at each of the uses below
    material = box.top if axis == 1 else box.sides
    across, up = ((2, 1), (0, 2), (0, 1))[axis]
    depth = hit.depth[at]
    u, v = (hit.origin[k, 0, 0] + hit.rays[k][at] * depth + box.half[k] for k in (across, up))
    seen.colour[at] = material.texture(Spot(u, v, 2 * box.half[across], 2 * box.half[up]), material, noise)
    seen.glow[at] = material.glow
    normal = np.zeros((3, len(depth)), np.float32)
    normal[axis] = -np.sign(hit.rays[axis][at])
    seen.normal[at] = unturned(normal, -box.yaw).T
