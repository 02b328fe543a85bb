"""Draws a small data set, for machines that have none: figures to paste and rooms with their exact depth."""

from pathlib import Path

from PIL import Image

from shards.draw.cutouts import draw_cutout
from shards.draw.rooms import draw_room

__all__ = ["draw_cutout", "draw_data", "draw_room"]


def draw_data(
    fg_dir: Path, bg_dir: Path, depth_dir: Path, *, figures: int, rooms: int, seed: int = 0, size: int = 160
) -> None:
    """Writes `fgNNN.png`, `roomNNNN.jpg` and their depths `roomNNNN.png`, numbered from 1.

    figures, rooms: how many of each. size: the side of a room, pixels; a figure is 0.6 of it high.
    Depths are 16-bit, in millimetres. What is there already is left as it is, and each file appears whole or not at
    all, so a run that was stopped can be started again. Raises ValueError for a count below 1.
    """
    if figures < 1 or rooms < 1:
        raise ValueError(f"{figures} figures and {rooms} rooms: draw at least one of each")
    for folder in (fg_dir, bg_dir, depth_dir):
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, figures + 1):
        path = fg_dir / f"fg{number:03d}.png"
        if not path.exists():
            save(draw_cutout(number, seed=seed, height=round(0.6 * size)), path)
    for number in range(1, rooms + 1):
        photograph, measured = bg_dir / f"room{number:04d}.jpg", depth_dir / f"room{number:04d}.png"
        if not (photograph.exists() and measured.exists()):
            image, depth = draw_room(number, seed=seed, size=size)
            save(image, photograph)
            save(Image.fromarray(depth), measured)


def save(image: Image.Image, path: Path) -> None:
    """Writes the image under a temporary name, then gives it its own; leaves an existing file as it is."""
    if path.exists():
        return
    part = path.with_name(f".{path.name}.part")
    image.save(part, format="JPEG" if path.suffix == ".jpg" else "PNG", quality=95)
    part.replace(path)
