"""What the files of a data set are, told by some of each component that are looked at, and what becomes of all."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shards.errors import InputError
from shards.format.depth import DepthRange, ExistingDepthConfig
from shards.format.fields import Bounds, Square
from shards.format.images import BadImage, ImageFormat, Size, turn_of
from shards.format.manifest import Encoding
from shards.format.schema import BY_NAME
from shards.ingest.pixels import (
    ColourMap,
    Levels,
    Making,
    Metres,
    colour_of,
    colours_of,
    distances_of,
    figure_of,
    grey_of,
    is_deep,
    numbers_of,
    opened_file,
    pixels_of,
)

COLOUR_MAPS = (
    *("jet", "turbo", "viridis", "plasma", "inferno", "magma", "cividis", "hot"),
    *("Spectral", "rainbow", "nipy_spectral", "hsv", "cool"),
)
"""The colour maps of Matplotlib that depth is compared with. What the reverse of one draws has the same colours."""
_SIDEWAYS = {
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
}
_GREY = 16
"""How far a grey pixel's red, green and blue may be apart, for they may have been through JPEG."""
_APART = 16
"""Mean distance, of 442, up to which colours are those of a map that have been through JPEG."""
_FEW = 40
"""Distinct values up to which an image holds numbers of classes rather than shades."""


@dataclass(frozen=True, kw_only=True)
class PixelsConfig(ExistingDepthConfig):
    """What the values of the files mean, and in which size and format images are stored."""

    depth_scale: Annotated[float, Bounds(1e-9, 10**9)] | None = None
    """stored values a metre: 1000 in NYU Depth v2 (millimetres), 5000 in TUM, 256 in KITTI; of floats 1 if not given"""
    depth_colormap: str | None = None
    """turn coloured depth back into grey; name of the colour map that it was drawn with in Matplotlib, such as jet"""
    mask_values: tuple[float, float] | None = None
    """values of background and figure in the masks; 255 0 inverts. If not given, they are recognised"""
    size: Square | None = None
    """height and width to which all images are scaled and encoded again; without it they keep their size"""
    lossless: bool = False
    """with size: mask and depth as PNG, which no second encoding blurs"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lossless and self.size is None:
            raise InputError(
                "lossless needs size. Without it every file is stored as it is, and there is no loss to be spared."
            )
        if self.mask_values and self.mask_values[0] == self.mask_values[1]:
            raise InputError("mask-values: background and figure need two different values, such as 0 1.")
        if self.depth_scale and self.near_is_bright:
            raise InputError("near-is-bright is for relative depth, and depth-scale for metres. Give one of the two.")
        if self.depth_scale and self.depth_colormap:
            raise InputError(
                "depth-scale: what a colour map drew are no metres. Give those of its ends: depth-metres 0 10."
            )
        if self.depth_colormap is not None:
            colours_of(self.depth_colormap)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is to be known of one image that was looked at.

    form: "jpg", "png" or another name of its format. size: height and width, upright. turned: it was not so.
    values: of a mask the distinct ones, ascending, of depth the greatest, float64 (N,). indices: they are those of a
    palette. zeros: the share of pixels that are 0. colours: some pixels of depth in colour, float32 (N, 3); none if it
    is grey.
    """

    form: str
    mode: str
    size: Size
    turned: bool
    values: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    indices: bool = False
    zeros: float = 0.0
    colours: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 3), np.float32))

    @property
    def jpeg(self) -> bool:
        return self.form in ("jpg", "mpo")

    @property
    def storable(self) -> tuple[str, int] | None:
        """Extension and bits, where images of that kind can be stored."""
        if self.form in ("jpg", "png") and self.mode in ("L", "RGB"):
            return self.form, 8
        return ("png", 16) if (self.form, self.mode) == ("png", "I;16") else None

    def __str__(self) -> str:
        return f"{_MODES.get(self.mode, self.mode)} {_FORMS.get(self.form, self.form.upper())}"


_FORMS = {"jpg": "JPEG", "npy": ".npy", "webp": "WebP"}
_MODES = {
    "1": "1-bit",
    "L": "grey",
    "LA": "grey and alpha",
    "P": "palette",
    "RGBA": "RGB and alpha",
    "I;16": "16-bit grey",
    "F": "float",
}


def look(component: str, data: bytes) -> Look:
    """Look at an image: at the pixels of masks and depth, at the headers of others. Raises BadImage."""
    opened = opened_file(data)
    form, mode = str(opened.format or "NPY").lower(), opened.mode
    image = pixels_of(opened) if component in ("mask", "depth") else opened
    turn = turn_of(opened)
    seen = Look(
        form="jpg" if form == "jpeg" else form,
        mode="I;16" if is_deep(opened) else "F" if mode == "I" else mode,
        size=image.size if image is opened and turn in _SIDEWAYS else image.size[::-1],
        turned=turn is not None,
    )
    if component == "mask":
        indices = image.mode == "P" and not _is_grey_palette(image)
        return replace(seen, values=_distinct(numbers_of(figure_of(image, indices))), indices=indices)
    if component == "depth":
        numbers = distances_of(numbers_of(grey_of(image)))
        greatest, zeros = np.array([numbers.max()], np.float64), float(np.mean(numbers == 0))
        return replace(seen, values=greatest, zeros=zeros, colours=_some_colours(image))
    return seen


def _is_grey_palette(image: Image.Image) -> bool:
    """Tell whether a palette, as far as it is used, has no colours but grey ones."""
    palette = np.reshape(image.getpalette("RGB") or [0, 0, 0], (-1, 3))[: int(np.asarray(image).max()) + 1]
    return bool((np.ptp(palette, axis=1) <= _GREY).all())


def _distinct(numbers: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the distinct ones of a mask's values, float64 (N,); of floats some, with the least and the greatest."""
    if numbers.min() < 0 or numbers.max() > 65535 or (numbers != np.floor(numbers)).any():
        some = numbers.reshape(-1)[:: max(1, numbers.size // 4096)]
        return np.unique(np.array([*some, numbers.min(), numbers.max()], np.float64))
    return np.flatnonzero(np.bincount(numbers.astype(np.int64).reshape(-1))).astype(np.float64)


def _some_colours(image: Image.Image) -> NDArray[np.float32]:
    """Return up to 64 x 64 of an image's pixels if it is in colour, float32 (N, 3); none if it is grey."""
    if image.mode in ("L", "LA", "I;16", "F"):
        return np.zeros((0, 3), np.float32)
    some = colour_of(image).resize((min(image.width, 64), min(image.height, 64)), Image.Resampling.NEAREST)
    colours = np.asarray(some, np.float32).reshape(-1, 3)
    return colours if np.mean(np.ptp(colours, axis=1) > _GREY) > 0.01 else colours[:0]


class Made(NamedTuple):
    """What becomes of a data set's files.

    makings: by component. depth: what the values of stored depth mean. storage: what is done to pixels, None if nothing
    is. notes: what a person should know, in sentences.
    """

    makings: dict[str, Making]
    depth: DepthRange
    storage: Encoding | None
    notes: list[str]


def plan_pixels(found: Mapping[str, Iterable[tuple[str, bytes | BadImage]]], config: PixelsConfig) -> Made:
    """Decide by some images of each component, `found`, what becomes of all. fg_bg must be among the components.

    found: the path of each, for a person, and its bytes, or why they cannot be had.
    Raises InputError if that cannot be told, or if it would be of no use.
    """
    bad = {name: list[str]() for name in found}
    looks = {name: _usable(list(_looks(name, images, bad[name]))) for name, images in found.items()}
    for name, some in looks.items():
        if len(some) < len(bad[name]) and (name == "fg_bg" or not some):
            raise InputError(
                f"{name}: most of the files that were looked at are no images that can be read, such as "
                f"{bad[name][0]}. Mend them; or say where others lie: --component {name}=GLOB."
            )
    own = _common_size(looks["fg_bg"])
    size = (config.size, config.size) if config.size else own
    if not config.size:
        _refuse_sizes(looks, own)
    makings, depth, notes, converted = {}, config.depth_range, list[str](), dict[str, str]()
    for name, some in looks.items():
        making, text = _making(name, some, size, config)
        if name == "depth" and some:
            making, depth, text = _depth(making, some, config, text)
            notes += _depth_notes(making, some, depth, config)
        if name == "mask" and some:
            making, text = _mask(making, some, config, text)
            notes += _mask_notes(making, some)
        makings[name] = making
        if text:
            converted[name] = text
    if config.size and (config.size > min(own) or (size == own and not converted and _all_of_size(looks, own))):
        raise InputError(
            f"size {config.size}: the images are {own[1]}x{own[0]}. Give a smaller size, or none to keep them."
        )
    storage = Encoding(
        resized_from=own if config.size else None,
        resized_by="bilinear, antialiased" if config.size else "",
        jpeg_chroma="4:4:4",
        converted=converted,
    )
    notes = [*(f"{name}: {text}" for name, text in converted.items()), *notes]
    return Made(makings, depth, storage if config.size or converted else None, notes)


def _looks(name: str, some: Iterable[tuple[str, bytes | BadImage]], bad: list[str]) -> Iterator[Look]:
    """Look at images; those that cannot be read join `bad`, with the reason."""
    for path, data in some:
        try:
            if isinstance(data, BadImage):
                raise data
            yield look(name, data)
        except BadImage as error:
            bad.append(error.detail if path in error.detail else f"{path} ({error.detail})")


def _usable(looks: list[Look]) -> list[Look]:
    """Leave out floats where they are few: of them nothing is made that fits the others."""
    others = [one for one in looks if one.mode != "F"]
    return others if 2 * len(others) >= len(looks) else looks


def _common_size(looks: list[Look]) -> Size:
    return Counter(one.size for one in looks).most_common(1)[0][0]


def _all_of_size(looks: dict[str, list[Look]], size: Size) -> bool:
    return all(one.size == size for some in looks.values() for one in some)


def _refuse_sizes(looks: dict[str, list[Look]], own: Size) -> None:
    sizes = {name: _common_size(some) for name, some in looks.items() if some}
    if set(sizes.values()) != {own}:
        told = ", ".join(f"{name} {width}x{height}" for name, (height, width) in sizes.items())
        raise InputError(f"the images of a sample differ in size ({told}). Give --size: all are scaled to it then.")


def _making(name: str, looks: list[Look], size: Size, config: PixelsConfig) -> tuple[Making, str]:
    """Decide by its kinds of images how a component is stored, and say in words what is done to them; "" if nothing."""
    kinds = Counter(one.storable if name == "depth" or one.mode != "I;16" else None for one in looks)
    alike = None not in kinds and len(kinds) <= 1
    bits = 16 if name == "depth" and 2 * sum(one.mode == "I;16" for one in looks) > len(looks) else 8
    channels = BY_NAME[name].channels
    jpeg = bits == 8 and 2 * sum(one.jpeg for one in looks) > len(looks) and not (config.lossless and channels == 1)
    stored = ImageFormat("jpg" if jpeg or not looks else "png", size, bits, channels)
    making = Making(component=name, stored=stored, convert=bool(config.size) or not alike, scale=bool(config.size))
    if alike:
        return making, "some are turned, as their EXIF data says" if any(one.turned for one in looks) else ""
    others = Counter(str(one) for one in looks if one.storable != (stored.extension, bits))
    listed = ", ".join(text for text, _ in others.most_common(3))
    colours = "RGB" if channels == 3 else "16-bit grey" if bits == 16 else "grey"
    return making, f"{listed}, converted to {colours} {'JPEG' if stored.extension == 'jpg' else 'PNG'}"


def _mask(making: Making, looks: list[Look], config: PixelsConfig, text: str) -> tuple[Making, str]:
    """Decide what the values of masks mean. Raises InputError if that cannot be told."""
    jpeg = 2 * sum(one.jpeg for one in looks) > len(looks)
    looks = [one for one in looks if one.jpeg == jpeg]
    values = np.unique(np.concatenate([one.values for one in looks]))
    indices, greatest = any(one.indices for one in looks), values[-1]
    modes = {one.mode for one in looks}
    full = 65535 if modes == {"I;16"} else 255
    black, white = config.mask_values or (0, 1)
    if config.mask_values:
        text = f"{black:g} is background, {white:g} is figure"
    elif greatest <= 0:
        raise InputError(
            f"mask: all of {len(looks)} masks that were looked at are black, so there is no figure in them. Check that "
            "they are the masks."
        )
    elif greatest <= 1 and not jpeg:
        text = "0 and 1, stored as 0 and 255" if len(values) <= 2 else "0 to 1, stored as 0 to 255"
    elif len(values) <= _FEW and not jpeg and (greatest < full or indices):
        text = f"classes {max(values[0], 0):g} to {greatest:g}; all above 0 is figure"
    elif 2 * greatest < full or ("F" in modes and greatest > full):
        raise InputError(
            f"mask: the greatest value in {len(looks)} masks that were looked at is {greatest:g}, so which is figure "
            f"cannot be told. Give the values of background and figure: --mask-values 0 {greatest:g}."
        )
    elif "F" in modes:
        white, text = 255, "0 to 255, in PNG"
    else:
        return making, text
    stored = making.stored._replace(extension="png")
    return replace(making, stored=stored, convert=True, values=Levels(black, white, indices)), text


def _mask_notes(making: Making, looks: list[Look]) -> list[str]:
    values = np.unique(np.concatenate([one.values for one in looks]))
    if making.values or making.stored.extension == "jpg" or len(values) < 3 or values[-1] != 255 or values[-2] > _FEW:
        return []
    return [
        f"mask: values 0 to {values[-2]:g}, and 255: only that is figure. If the others are classes, --mask-values 0 1 "
        "makes all above 0 figure"
    ]


def _depth(making: Making, looks: list[Look], config: PixelsConfig, text: str) -> tuple[Making, DepthRange, str]:
    """Decide what the values of depth mean. Raises InputError if that cannot be told."""
    depth, stored = config.depth_range, making.stored
    coloured = [one.colours for one in looks if len(one.colours)]
    if config.depth_colormap:
        if not coloured:
            raise InputError("depth-colormap: the depth images are grey already. Leave it out.")
        making = replace(making, convert=True, values=ColourMap(config.depth_colormap))
        making = replace(making, stored=stored._replace(extension="png", bits=8))
        return making, depth, f"drawn by the colour map {config.depth_colormap}, turned back into grey PNG"
    if 10 * len(coloured) > len(looks):
        _refuse_colours(np.concatenate(coloured))
    numbers = 2 * sum(one.mode == "F" for one in looks) > len(looks)
    if numbers and not config.depth_metres:
        raise InputError(
            "depth: floats or large integers. Give the metres to store them between, such as --depth-metres 0 10, and "
            "--depth-scale if they are no metres (1000 for millimetres)."
        )
    if config.depth_metres and (config.depth_scale or numbers):
        scale = config.depth_scale or 1.0
        making = replace(making, convert=True, values=Metres(scale, depth))
        making = replace(making, stored=stored._replace(extension="png", bits=16))
        black, white = config.depth_metres
        return making, depth, f"{scale:g} a metre, stored as {black:g} m to {white:g} m in 16-bit PNG"
    if config.depth_scale:
        depth = DepthRange.metres(0, (2**stored.bits - 1) / config.depth_scale)
    return making, depth, text


def _refuse_colours(colours: NDArray[np.float32]) -> None:
    """Raise InputError that says by which map colours (N, 3) were drawn."""
    some = colours[:: max(1, len(colours) // 2000)]
    apart = {name: float(_nearest(some, colours_of(name)).mean()) for name in COLOUR_MAPS}
    name = min(apart, key=apart.__getitem__)
    if apart[name] > _APART:
        raise InputError(
            "depth: in colour, but not of a colour map that is known. Give the depth itself, as grey images or .npy; "
            "or its map of Matplotlib: --depth-colormap NAME."
        )
    raise InputError(
        f"depth: drawn in the colours of {name}, which are no depth. Give the depth itself, as grey images or .npy; or "
        f"turn it back: --depth-colormap {name}, or {name}_r if that has near and far the wrong way round."
    )


def _nearest(some: NDArray[np.float32], colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the distance of each of some colours (N, 3) from the nearest of `colours` (M, 3)."""
    apart: NDArray[np.float32] = np.linalg.norm(some[:, None] - colours, axis=2).min(1)
    return apart


def _depth_notes(making: Making, looks: list[Look], depth: DepthRange, config: PixelsConfig) -> list[str]:
    notes, greatest = [], max(one.values[0] for one in looks)
    given = config.depth_metres or config.depth_scale or config.near_is_bright
    if making.stored.bits == 16 and not given and greatest < 65536 / 4:
        notes.append(
            f"depth: of 16 bits, but no value above {greatest:,.0f}: these look like millimetres (--depth-scale 1000) "
            "or KITTI's 256 a metre (--depth-scale 256); without that they count as relative and very near"
        )
    if config.depth_scale and not config.depth_metres and greatest < 2**making.stored.bits / 4:
        reached = greatest / config.depth_scale
        notes.append(
            f"depth: the greatest seen is {reached:.3g} m, and the range {depth.far:.3g} m; --depth-metres 0 "
            f"{np.ceil(reached):g} as well would use all of it, which is better to train on"
        )
    zeros = float(np.mean([one.zeros for one in looks]))
    if depth.unit == "m" and zeros > 0.01 and not isinstance(making.values, ColourMap):
        zero = "0 m" if config.depth_scale or isinstance(making.values, Metres) else f"{depth.black:g} m"
        notes.append(
            f"depth: {zeros:.0%} of the pixels are 0; if that says that nothing was measured, it counts as {zero}"
        )
    return notes
