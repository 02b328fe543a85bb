"""The drawn data set: figures and rooms that a seed fixes, and depth that agrees with geometry worked out by hand."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo.draw import FAR, NEAR, Box, Camera, Material, draw_cutout, draw_data, draw_room, meet, plan_room, trace

PAINT = Material(first=(0.5, 0.5, 0.5))
EMPTY = [
    Box((x, y, z), (a, b, c), PAINT)
    for x, y, z, a, b, c in (
        (2.0, -0.1, 3.0, 2.1, 0.1, 3.1),
        (2.0, 3.1, 3.0, 2.1, 0.1, 3.1),
        (-0.1, 1.5, 3.0, 0.1, 1.6, 3.1),
        (4.1, 1.5, 3.0, 0.1, 1.6, 3.1),
        (2.0, 1.5, 6.1, 2.1, 1.6, 0.1),
    )
]
"""A room 4 m wide, 3 m high and 6 m long: floor, ceiling, left, right and far wall."""


def depth_of(boxes: Sequence[Box], camera: Camera, size: int) -> np.ndarray:
    return trace(boxes, camera, camera.rays(size))[0]


def camera(yaw: float = 0.0, pitch: float = 0.0) -> Camera:
    return Camera(position=(2.0, 1.2, 1.0), yaw=yaw, pitch=pitch, focal=0.9)


def places(size: int) -> np.ndarray:
    """Where the pixels lie off the optical axis, over the focal length 0.9."""
    return ((np.arange(size) + 0.5) / size - 0.5) / 0.9


def floor(position: float, pitch: float, focal: float, size: int) -> np.ndarray:
    """The depth of the floor in each row: height over how far the row's ray falls; infinite from the horizon up."""
    below = ((np.arange(size) + 0.5) / size - 0.5) / focal
    fall = np.sin(pitch) + below * np.cos(pitch)
    return np.where(fall > 0, position / np.maximum(fall, 1e-9), np.inf)


@pytest.mark.parametrize("number", range(1, 25))
def test_a_cutout_is_soft_and_tightly_cropped(number: int) -> None:
    image = draw_cutout(number)
    alpha = np.asarray(image)[..., 3]
    assert image.mode == "RGBA"
    assert 94 <= image.height <= 96
    assert image.getchannel("A").getbbox() == (0, 0, *image.size)
    assert (alpha.min(), alpha.max()) == (0, 255)
    assert ((alpha > 0) & (alpha < 255)).mean() > 0.01


def test_seed_and_number_fix_the_figure() -> None:
    assert draw_cutout(3, seed=5).tobytes() == draw_cutout(3, seed=5).tobytes()
    assert len({draw_cutout(n, seed=s).tobytes() for n in range(4) for s in range(2)}) == 8


def test_seed_and_number_fix_the_room() -> None:
    image, depth = draw_room(3, seed=5, size=64)
    again, depth_again = draw_room(3, seed=5, size=64)
    assert image.tobytes() == again.tobytes()
    assert np.array_equal(depth, depth_again)
    assert len({draw_room(n, seed=s, size=32)[0].tobytes() for n in range(3) for s in range(2)}) == 6


def test_an_empty_room_has_the_depth_of_its_nearest_plane() -> None:
    x, y = np.meshgrid(places(40), places(40))
    height = np.where(y > 0, 1.2, 1.8)
    expected = np.minimum(np.minimum(2.0 / np.abs(x), height / np.abs(y)), 5.0)
    np.testing.assert_allclose(depth_of(EMPTY, camera(), 40), expected, rtol=1e-12)


def test_a_tilted_camera_sees_floor_and_wall_where_geometry_puts_them() -> None:
    wall = 5 / (np.cos(0.3) - places(40) * np.sin(0.3))
    found = depth_of(EMPTY, camera(pitch=0.3), 40)
    np.testing.assert_allclose(found[:, 20], np.minimum(floor(1.2, 0.3, 0.9, 40), wall), rtol=1e-12)


def test_the_depth_of_the_floor_does_not_hang_on_where_the_camera_is_turned() -> None:
    found = depth_of(EMPTY, camera(yaw=0.2, pitch=0.3), 40)
    np.testing.assert_allclose(found[-8:, 20], floor(1.2, 0.3, 0.9, 40)[-8:], rtol=1e-12)


def test_a_turned_box_shows_its_edge() -> None:
    half = np.sqrt(0.5)
    box = Box(centre=(2.0, 1.2, 4.0), half=(half, 0.3, half), material=PAINT, yaw=np.pi / 4)
    found = depth_of([*EMPTY, box], camera(), 41)
    x = places(41)[17:24]
    np.testing.assert_allclose(found[20, 17:24], 2 / (1 - np.abs(x)), rtol=1e-12)


@pytest.mark.parametrize("number", range(1, 5))
def test_looking_only_where_a_box_can_be_changes_nothing(number: int) -> None:
    boxes, camera = plan_room(number)
    rays = camera.rays(48)
    everywhere = np.min([meet(box, camera.position, rays) for box in boxes], axis=0)
    assert np.array_equal(depth_of(boxes, camera, 48), everywhere)
    seen, _ = trace(boxes, camera, rays.astype(np.float32))
    assert np.mean(np.abs(seen - everywhere) < 1e-3) > 0.999


@pytest.mark.parametrize("number", range(1, 9))
def test_nothing_in_a_room_lies_beneath_its_floor(number: int) -> None:
    boxes, seen = plan_room(number)
    image, depth = draw_room(number, size=64)
    ground = floor(np.asarray(seen.position)[1], seen.pitch, seen.focal, 64)[:, None] * 1000
    assert (image.mode, image.size) == ("RGB", (64, 64))
    assert (depth.dtype.name, depth.shape) == ("uint16", (64, 64))
    assert np.abs(depth - 1000 * depth_of(boxes, seen, 64)).max() <= 0.501
    assert (depth <= ground + 0.501).all()
    rug = 30.0  # what its 12 mm of height can take off the depth
    assert np.mean(depth[-16:] >= ground[-16:] - rug) > 0.1


def test_no_ray_slips_between_two_walls() -> None:
    """In float32, in which the photograph is traced, walls that only touch leave a crack."""
    for number in (94, *range(1, 30)):
        boxes, camera = plan_room(number)
        assert np.isfinite(trace(boxes, camera, camera.rays(320).astype(np.float32))[0]).all()


def test_rooms_keep_within_the_depths_promised() -> None:
    depths = [depth_of(*plan_room(number), 16) for number in range(60)]
    assert NEAR <= np.min(depths) < 2
    assert 7 < np.max(depths) <= FAR


def draw(root: Path, figures: int = 3, rooms: int = 2) -> None:
    draw_data(root / "fg", root / "bg", root / "depth", figures=figures, rooms=rooms, seed=1, size=48)


def contents(root: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_data_set_has_the_files_it_should_and_the_depth_that_was_drawn(tmp_path: Path) -> None:
    draw(tmp_path)
    names = {"fg/fg001.png", "fg/fg002.png", "fg/fg003.png", "bg/room0001.jpg", "bg/room0002.jpg"}
    assert set(contents(tmp_path)) == names | {"depth/room0001.png", "depth/room0002.png"}
    with Image.open(tmp_path / "depth/room0002.png") as stored:
        assert stored.mode == "I;16"
        assert np.array_equal(np.asarray(stored), draw_room(2, seed=1, size=48)[1])


def test_a_second_run_leaves_what_is_there_and_adds_what_is_not(tmp_path: Path) -> None:
    draw(tmp_path)
    first = contents(tmp_path)
    (tmp_path / "depth/room0001.png").unlink()
    draw(tmp_path, figures=4)
    second = contents(tmp_path)
    assert second.pop("fg/fg004.png")
    assert second.pop("depth/room0001.png")[1] == first.pop("depth/room0001.png")[1]
    assert second == first


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        draw(tmp_path, rooms=0)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "demo.draw", *arguments], capture_output=True, text=True)


def test_the_command_writes_what_the_function_draws(tmp_path: Path) -> None:
    draw(tmp_path / "here")
    out = str(tmp_path / "there")
    ran = command(out, "--figures", "3", "--rooms", "2", "--size", "48", "--seed", "1")
    assert (ran.returncode, ran.stderr) == (0, "")
    here, there = contents(tmp_path / "here"), contents(tmp_path / "there")
    assert {name: data for name, (_, data) in there.items()} == {name: data for name, (_, data) in here.items()}


def test_the_command_refuses_an_empty_data_set_in_one_line(tmp_path: Path) -> None:
    ran = command(str(tmp_path / "out"), "--figures", "0")
    assert ran.returncode == 2
    assert ran.stderr.splitlines() == ["error: figures is 0, where a number from 1 to 1,000,000,000 is expected."]
    assert not (tmp_path / "out").exists()
