"""What a data set holds: in words, and as a contact sheet."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shards.errors import InputError, printable
from shards.format.dataset import Dataset
from shards.format.images import BadImage, eight_bit, load_image, open_image, save_image
from shards.format.manifest import Manifest
from shards.format.storage import Folder


def describe(folder: Folder, console: Console) -> None:
    """Print sizes, splits, components and statistics of the data set in a folder."""
    manifest = Manifest.read(folder)
    shards, samples, (height, width) = manifest.shards, manifest.samples, manifest.image_size
    size = sum(shard.bytes for shard in shards)
    splits = ", ".join(f"{name} {count:,}" for name, count in manifest.splits.items())
    depth = manifest.depth if "depth" in manifest.components else "none yet; `python -m shards depth` adds it"
    left_out = ", ".join(f"{count:,} {kind}" for kind, count in manifest.left_out.items())
    lines = [
        f"{folder}: {samples:,} samples of {width}x{height} pixels",
        f"  {len(shards)} shards, {size / 1e6:,.1f} MB, {size / samples / 1e3:.1f} KB a sample",
        *([f"  {storage_words(manifest)}"] if manifest.storage else []),
        f"  splits by {manifest.split_by}: {splits}",
        f"  depth: {depth}",
        f"  left out: {f'{left_out} (left-out.tsv)' if left_out else 'nothing'}",
    ]
    for line in lines:
        console.print(Text(printable(line)))
    table = Table("component", "stored as", "distinct", "mean", "std")
    for name, component in manifest.components.items():
        found = manifest.statistics[name]
        numbers = (" ".join(f"{value:.3f}" for value in values) for values in (found.mean, found.std))
        table.add_row(name, component.extension, f"{component.shared or samples:,}", *numbers)
    console.print(table)


def storage_words(manifest: Manifest) -> str:
    """Say what was done to the pixels before they were stored; empty if they are the very files that were given."""
    storage = manifest.storage
    if storage is None:
        return ""
    size = storage.resized_from
    how = (
        "composed" if not size else f"scaled down from {size[1]}x{size[0]}" if size != manifest.image_size else "scaled"
    )
    done = [f"{how} ({storage.resized_by})"] if storage.resized_by else []
    done += [f"{name}: {text}" for name, text in storage.converted.items()]
    exact = ", ".join(name for name, component in manifest.components.items() if component.extension == "png")
    jpeg = f"JPEG quality {storage.jpeg_quality}, chroma {storage.jpeg_chroma}"
    return "; ".join([*done, jpeg, *([f"lossless: {exact}"] if exact else [])])


def contact_sheet(dataset: Dataset, path: Path, samples: int) -> None:
    """Draw samples spread evenly, a column each, a component a row; written to `path` as PNG."""
    rows, names = evenly(len(dataset), samples), list(dataset.manifest.components)
    height, width = dataset.manifest.image_size
    sheet = Image.new("RGB", (len(rows) * (width + 2), len(names) * (height + 2)), "white")
    for line, name in enumerate(names):
        for column, image in enumerate(pictures(dataset, name, rows)):
            sheet.paste(image, (column * (width + 2), line * (height + 2)))
    save_image(path, sheet)


def evenly(total: int, at_most: int) -> NDArray[np.int64]:
    """Return rows spread evenly over `total`, the first and the last among them, int64 (min(total, at_most),)."""
    return np.linspace(0, total - 1, min(total, at_most)).astype(np.int64)


def pictures(dataset: Dataset, name: str, rows: NDArray[np.integer]) -> Iterator[Image.Image]:
    """Decode one component of some samples: RGB, or grey of 8 bits. Raises InputError if one does not decode."""
    mode = "RGB" if dataset.manifest.components[name].channels == 3 else "L"
    for row, data in zip(rows, dataset.read(dataset.locate(name, rows)), strict=True):
        try:
            load_image(image := open_image(data))
        except BadImage as bad:
            raise InputError(
                f"{dataset.folder}: {name} of {dataset.key(int(row))} does not decode ({bad.detail}). "
                f"`python -m shards verify {dataset.folder}` lists all that is damaged."
            ) from bad
        yield eight_bit(image).convert(mode)
