"""Samples side by side, a column each, with truth and prediction in rows: as a picture that knows whom it shows."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from shards.errors import InputError, printable
from shards.format.fields import parsed
from shards.format.images import BadImage, load_image, open_image
from shards.format.storage import write_bytes

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class _Told:
    """What the picture has in its metadata."""

    title: str
    keys: list[str]
    rows: list[str]
    errors: list[float | None]

    def __post_init__(self) -> None:
        if self.errors and len(self.errors) != len(self.keys):
            raise ValueError(f"{len(self.errors)} errors of {len(self.keys)} samples")


class Grid(NamedTuple):
    """N samples. Kept as a PNG that has their keys, and all else that is known of them, in its metadata."""

    keys: Sequence[str]
    rows: dict[str, Pixels]
    """uint8 (N, H, W, 3), by what is to be seen in the row"""
    title: str = ""
    """where the samples are from, and what predicted"""
    errors: Sequence[float | None] = ()
    """of each sample, where it was measured; None is no number"""

    @property
    def pixels(self) -> Pixels:
        """All rows, one below the other: uint8 (rows H, N W, 3)."""
        return np.concatenate([np.concatenate([*row], 1) for row in self.rows.values()])

    def save(self, path: Path) -> None:
        """Write the PNG, whole or not at all."""
        told = {"title": self.title, "keys": [*self.keys], "rows": [*self.rows], "errors": [*self.errors]}
        (notes := PngInfo()).add_itxt("sluice", json.dumps(told, allow_nan=False))
        Image.fromarray(self.pixels).save(buffer := io.BytesIO(), "PNG", pnginfo=notes)
        write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Grid | None":
        """Read what `save` wrote; None if it is another picture."""
        try:
            load_image(image := open_image(path.read_bytes()))
            if "sluice" not in image.info:
                return None
            told, pixels = parsed(_Told, str(image.info["sluice"])), np.asarray(image.convert("RGB"))
            rows, columns = len(told.rows), len(told.keys)
            cells = pixels.reshape(rows, pixels.shape[0] // rows, columns, pixels.shape[1] // columns, 3)
            named = dict(zip(told.rows, cells.swapaxes(1, 2), strict=True))
        except (BadImage, ValueError, ZeroDivisionError) as error:
            raise InputError(f"{path}: damaged ({error}). Copy it again, or remove it.") from None
        return cls(told.keys, named, told.title, told.errors)

    def part(self, begin: int, end: int) -> "Grid":
        """Return some of the samples, one beside the other."""
        rows = {name: row[begin:end] for name, row in self.rows.items()}
        return Grid(self.keys[begin:end], rows, self.title, self.errors[begin:end])

    def save_large(self, path: Path, columns: int = 10) -> None:
        """Write a PNG to be looked at: `columns` samples abreast, keys and errors over them, the rows named."""
        from matplotlib.figure import Figure  # slowly; training does without

        bands = [self.part(begin, begin + columns) for begin in range(0, len(self.keys), columns)]
        shape, across = next(iter(self.rows.values())).shape, min(columns, len(self.keys))
        cell = 1.25 * shape[1] / shape[2]  # inches; each is 1.25 wide
        left, over = 1.25, 0.55
        width, height = left + 1.25 * across + 0.1, 0.35 + len(bands) * (over + cell * len(self.rows)) + 0.1
        figure = Figure((width, height), dpi=110)
        axes = figure.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[])
        axes.text(width / 2, 0.25, printable(self.title), ha="center", fontsize=10, parse_math=False)
        top = 0.35
        for band in bands:
            top += over
            right, bottom = left + 1.25 * len(band.keys), top + cell * len(band.rows)
            axes.imshow(band.pixels, extent=(left, right, bottom, top), interpolation="nearest", aspect="auto")
            for i, name in enumerate(band.rows):
                axes.text(left - 0.1, top + cell * (i + 0.5), name, ha="right", va="center", fontsize=9)
                axes.plot((left, right), [top + cell * i] * 2, color="white", linewidth=2)
            for i in range(len(band.keys)):
                axes.plot([left + 1.25 * i] * 2, (top, bottom), color="white", linewidth=2)
                centre = left + 1.25 * (i + 0.5)
                axes.text(
                    centre,
                    top - 0.06,
                    band._caption(i),
                    ha="center",
                    fontsize=6.5,
                    family="monospace",
                    parse_math=False,
                )
            top = bottom
        axes.set(xlim=(0, width), ylim=(height, 0))
        figure.savefig(buffer := io.BytesIO(), format="png")
        write_bytes(path, buffer.getvalue())

    def _caption(self, number: int) -> str:
        """Return key and error in lines of 21 characters; of a long key the end, in which keys differ most."""
        key, error = printable(self.keys[number]), self.errors[number]
        key = key if len(key) <= 42 else f"…{key[-41:]}"
        lines = [key[begin : begin + 21] for begin in range(0, len(key), 21)]
        return "\n".join([*lines, "no number" if error is None else f"{error:.3f}"])
