"""What is pasted, and on what: cut-outs, backgrounds and depth maps, checked and brought into the form of the work."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from shards.compose.paste import SIZE_2020, Background
from shards.depth import load_millimetres
from shards.errors import InputError
from shards.images import BadImage, encoded
from shards.sources.files import IMAGES
from shards.work.record import LeftOut

__all__ = ["load_background", "load_figure", "usable"]


def usable(what: str, folder: Path, left_out: list[LeftOut], load: Callable[[Path], object]) -> list[Path]:
    """The images of a folder that `load` accepts, in the order of their names; the others are added to `left_out`.

    Raises InputError if there are none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. --{what} names the folder that holds the images.")
    found: list[Path] = []
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES):
        try:
            load(path)
            found.append(path)
        except BadImage as bad:
            left_out.append(LeftOut(bad.kind, "", what, str(path), bad.detail))
    if not found:
        reasons = "; ".join(f"{Path(one.source).name}: {one.detail}" for one in left_out[:3])
        raise InputError(f"{folder}: no usable image for {what}. {reasons or 'There is no .png or .jpg in it.'}")
    return found


def load_figure(path: Path) -> Image.Image:
    """A cut-out of any size, RGBA, cropped to what can be seen.

    Made RGBA where there is one way: palettes and single colours that are transparent, grey with alpha, and 16 bits per
    channel, of which the upper 8 are kept. Raises BadImage if there is no alpha, if nothing can be seen, or if one
    colour of 16 bits is transparent, which the upper 8 cannot tell from its neighbours.
    """
    image = _loaded(path)
    if not image.has_transparency_data:
        raise BadImage("no-alpha", f"mode {image.mode}; a cut-out needs an alpha channel")
    if "transparency" in image.info and image.format == "PNG" and _png_bits(path) == 16:
        raise BadImage("wide-alpha", "one colour of 16 bits per channel is transparent; save it with an alpha channel")
    figure = image.convert("RGBA")
    box = figure.getchannel("A").getbbox()
    if box is None:
        raise BadImage("empty-alpha", "all of it is transparent")
    return figure.crop(box)


def load_background(path: Path, depth: Path | None, size: int, bits: int = 8) -> Background:
    """A background, and its depth map if there is a folder `depth`, both `size` x `size`.

    `bits` are of a value of the depth images that are to be made. Raises BadImage if either cannot be used.
    A JPEG of that size already is stored as it is: encoding it again would only lose.
    """
    image = _loaded(path)
    metres = _measured(depth / f"{path.stem}.png", image.size, size) if depth else None
    as_it_is = image.size == (size, size) and image.format == "JPEG" and image.mode == "RGB"
    fitted = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    data = path.read_bytes() if as_it_is else encoded(fitted, "jpg", full_chroma=size < SIZE_2020)
    channels = (*Image.open(io.BytesIO(data)).convert("RGB").split(), Image.new("L", (size, size)))
    return Background(data, Image.merge("RGBX", channels), metres, bits)


def _measured(path: Path, framed: tuple[int, int], size: int) -> NDArray[np.float32]:
    """The depth map of a background of width and height `framed`, metres, float32 (size, size)."""
    millimetres = load_millimetres(path)
    if millimetres.size != framed:
        raise BadImage("wrong-size", f"{framed}, but its depth map has {millimetres.size}")
    return _fitted_metres(millimetres, size)


def _fitted_metres(millimetres: Image.Image, size: int) -> NDArray[np.float32]:
    """Depth cropped and scaled as its background is, metres, float32 (size, size).

    A pixel is the mean of what was measured in it, as the loader makes it of larger images: 11 mm from the loader's on
    300 rooms scaled from 160 to 64 px, where NEAREST is 69 mm from it (RMSE). Zeros mean that nothing was measured:
    they are no part of the mean, and a pixel that is mostly such stays 0.
    """
    values = np.asarray(millimetres, np.float32)
    total, known = (
        np.asarray(ImageOps.fit(Image.fromarray(one), (size, size), Image.Resampling.BILINEAR))
        for one in (values, np.float32(values > 0))
    )
    return np.where(known >= 0.5, total / np.maximum(known, 0.5), 0) * np.float32(1e-3)


def _loaded(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadImage("not-an-image", str(error)) from error


def _png_bits(path: Path) -> int:
    """Of a value, as the header says."""
    with path.open("rb") as file:
        return file.read(25)[24]
