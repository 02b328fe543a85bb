"""What a data set holds: in words, and as a contact sheet."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from shards.images import save
from shards.manifest import Dataset, Manifest, Storage

__all__ = ["contact_sheet", "describe"]


def describe(dataset: Dataset, console: Console) -> None:
    """Prints sizes, splits, components and statistics of a data set."""
    manifest = dataset.manifest
    size = sum(shard.bytes for shard in manifest.shards)
    height, width = manifest.image_size
    console.print(f"[bold]{dataset.root}[/]: {manifest.samples:,} samples of {width}x{height} pixels")
    console.print(
        f"  {len(manifest.shards)} shards, {size / 1e6:,.1f} MB, {size / manifest.samples / 1e3:.1f} KB a sample"
    )
    if manifest.storage:
        console.print(f"  {_in_words(manifest.storage, manifest)}")
    splits = ", ".join(f"{name} {count:,}" for name, count in manifest.splits.items())
    console.print(f"  splits by {manifest.split_by}: {splits}")
    depth = manifest.depth
    unit = (
        "relative, unit unknown" if depth.unit == "relative" else f"black {depth.black:g} m to white {depth.white:g} m"
    )
    console.print(f"  depth: {unit}")
    left_out = ", ".join(f"{count:,} {kind}" for kind, count in manifest.left_out.items())
    console.print(f"  left out: {left_out or 'nothing'}" + (" (left-out.tsv)" if left_out else ""))
    table = Table("component", "stored as", "distinct", "mean", "std")
    for name, component in manifest.components.items():
        distinct = f"{component.shared or manifest.samples:,}"
        found = manifest.statistics[name]
        table.add_row(name, component.extension, distinct, _numbers(found.mean), _numbers(found.std))
    console.print(table)


def _in_words(storage: Storage, manifest: Manifest) -> str:
    how = (
        f"scaled down from {storage.resized_from[1]}x{storage.resized_from[0]}" if storage.resized_from else "composed"
    )
    exact = [name for name, component in manifest.components.items() if component.extension == "png"]
    jpeg = f"JPEG quality {storage.jpeg_quality}, chroma {storage.jpeg_chroma}"
    return f"{how} ({storage.resized_by}); {jpeg}" + (f"; lossless: {', '.join(exact)}" if exact else "")


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def contact_sheet(dataset: Dataset, path: Path, samples: int = 12) -> None:
    """Draws the first samples of the first shards, a column each: fg_bg, mask, depth, bg; written to `path` as PNG."""
    rows = np.linspace(0, len(dataset) - 1, min(samples, len(dataset))).astype(int)
    height, width = dataset.manifest.image_size
    names = list(dataset.manifest.components)
    sheet = Image.new("RGB", (len(rows) * (width + 2), len(names) * (height + 2)), "white")
    for line, name in enumerate(names):
        places = dataset.locate(name, rows)
        for column, (file, offset, size) in enumerate(zip(*places, strict=True)):
            with dataset.files[file].open("rb") as tar:
                tar.seek(offset)
                image = Image.open(io.BytesIO(tar.read(size)))
                sheet.paste(image, (column * (width + 2), line * (height + 2)))
    save(path, sheet)
