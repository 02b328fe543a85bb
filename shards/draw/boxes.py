"""A pinhole camera and boxes: which box each pixel sees, how far away, and what it looks like there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.draw.surfaces import Material, Spot
from shards.draw.texture import Array

__all__ = ["Box", "Camera", "View", "depth_of", "floor_depth", "placed", "view"]

Vector = tuple[float, float, float]
"""Metres: x to the right, y up, z into the room; the floor is y = 0."""


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

    def pixels(self, points: Array, size: int) -> Array:
        """Column, row and depth (3, N) of points (3, N)."""
        x, y, z = points - np.array(self.position)[:, None]
        ahead, right = x * np.sin(self.yaw) + z * np.cos(self.yaw), x * np.cos(self.yaw) - z * np.sin(self.yaw)
        depth = ahead * np.cos(self.pitch) - y * np.sin(self.pitch)
        down = -y * np.cos(self.pitch) - ahead * np.sin(self.pitch)
        scale = self.focal * size / np.maximum(depth, 1e-6)
        return np.stack([right * scale + size / 2, down * scale + size / 2, depth])


def floor_depth(camera: Camera, size: int) -> NDArray[np.float64]:
    """The depth (size,) of the floor in each row of the picture, metres; infinite from the horizon up.

    A level camera at height h, tilted down by p, sees the floor at h / (sin p + y cos p), where y is the row's place
    below the optical axis over the focal length.
    """
    below = ((np.arange(size) + 0.5) / size - 0.5) / camera.focal
    fall = np.sin(camera.pitch) + below * np.cos(camera.pitch)
    return np.where(fall > 0, camera.position[1] / np.maximum(fall, 1e-9), np.inf)


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
    x, y, z = vectors
    c, s = vectors.dtype.type(np.cos(yaw)), vectors.dtype.type(np.sin(yaw))
    return np.stack([x * c - z * s, y, z * c + x * s])


class Hit(NamedTuple):
    """Where rays meet a box: depth (H, W), infinite where they miss; axis (H, W) of the face; in its own frame."""

    depth: Array
    axis: NDArray[np.intp]
    origin: Array
    rays: Array


def meet(box: Box, position: Vector, rays: Array) -> Hit:
    """Kay and Kajiya's slab test, 1986."""
    offset = np.subtract(position, box.centre).astype(rays.dtype)[:, None, None]
    origin, rays = unturned(offset, box.yaw), unturned(rays, box.yaw)
    inverse = 1 / np.where(rays == 0, rays.dtype.type(1e-9), rays)
    half = np.array(box.half, rays.dtype)[:, None, None] * np.sign(inverse)
    near, far = (-half - origin) * inverse, (half - origin) * inverse
    enter, leave = near.max(0), far.min(0)
    if box.inside:
        return Hit(leave, far.argmin(0), origin, rays)
    depth = np.where((enter < leave) & (enter > 0), enter, rays.dtype.type(np.inf))
    return Hit(depth, near.argmax(0), origin, rays)


def window(box: Box, camera: Camera, size: int) -> tuple[slice, slice]:
    """The rows and columns that can see the box; all of them where part of it is beside or behind the camera."""
    corners = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8) * np.array(box.half)[:, None]
    points = unturned(corners, -box.yaw) + np.array(box.centre)[:, None]
    columns, rows, depth = camera.pixels(points, size)
    if box.inside or depth.min() < 0.05:
        return slice(0, size), slice(0, size)
    left, right = np.clip([columns.min() - 1, columns.max() + 2], 0, size).astype(int)
    top, bottom = np.clip([rows.min() - 1, rows.max() + 2], 0, size).astype(int)
    return slice(top, bottom), slice(left, right)


def depth_of(boxes: Sequence[Box], camera: Camera, size: int) -> NDArray[np.float64]:
    """The distance (size, size) along the optical axis to what each pixel's centre sees, metres."""
    rays, nearest = camera.rays(size), np.full((size, size), np.inf)
    for box in boxes:
        rows, columns = window(box, camera, size)
        hit = meet(box, camera.position, rays[:, rows, columns])
        nearest[rows, columns] = np.minimum(nearest[rows, columns], hit.depth)
    return nearest


class View(NamedTuple):
    """What is seen: depth and glow (H, W), places and normals (3, H, W), colour (H, W, 3)."""

    depth: NDArray[np.float32]
    glow: NDArray[np.float32]
    normal: NDArray[np.float32]
    colour: NDArray[np.float32]


def view(boxes: Sequence[Box], camera: Camera, size: int, noise: NDArray[np.float32]) -> View:
    """The boxes with their surfaces, not yet lit."""
    rays = camera.rays(size).astype(np.float32)
    flat = (size, size)
    seen = View(*(np.zeros(s, np.float32) for s in (flat, flat, (3, *flat), (*flat, 3))))
    seen.depth.fill(np.inf)
    for box in boxes:
        rows, columns = window(box, camera, size)
        hit = meet(box, camera.position, rays[:, rows, columns])
        nearer = hit.depth < seen.depth[rows, columns]
        seen.depth[rows, columns][nearer] = hit.depth[nearer]
        for axis in range(3):
            cover(View(*(layer[..., rows, columns] for layer in seen[:3]), seen.colour[rows, columns]), box, axis, hit, nearer & (hit.axis == axis), noise)
    return seen


def cover(seen: View, box: Box, axis: int, hit: Hit, where: NDArray[np.bool_], noise: NDArray[np.float32]) -> None:
    """Paints the faces of the box across one axis onto the pixels that see them."""
    if not where.any():
        return
    material = box.top if axis == 1 else box.sides
    across, up = ((2, 1), (0, 2), (0, 1))[axis]
    depth = hit.depth[where]
    u, v = (hit.origin[k, 0, 0] + hit.rays[k][where] * depth + box.half[k] for k in (across, up))
    seen.colour[where] = material.texture(Spot(u, v, 2 * box.half[across], 2 * box.half[up]), material, noise)
    seen.glow[where] = material.glow
    normal = np.zeros((3, len(depth)), np.float32)
    normal[axis] = -np.sign(hit.rays[axis][where])
    seen.normal[:, where] = unturned(normal, -box.yaw)
