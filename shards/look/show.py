"""What a data set holds: in words, and as a contact sheet."""

from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

from shards.dataset import Dataset
from shards.folder import Folder
from shards.images import save
from shards.look.survey import evenly, pictures
from shards.manifest import Manifest

__all__ = ["contact_sheet", "describe", "storage_words"]


def describe(folder: Folder, console: Console) -> None:
    """Prints sizes, splits, components and statistics of the data set in a folder."""
    manifest = Manifest.read(folder)
    size = sum(shard.bytes for shard in manifest.shards)
    height, width = manifest.image_size
    console.print(f"[bold]{folder}[/]: {manifest.samples:,} samples of {width}x{height} pixels")
    console.print(
        f"  {len(manifest.shards)} shards, {size / 1e6:,.1f} MB, {size / manifest.samples / 1e3:.1f} KB a sample"
    )
    if manifest.storage:
        console.print(f"  {storage_words(manifest)}")
    splits = ", ".join(f"{name} {count:,}" for name, count in manifest.splits.items())
    console.print(f"  splits by {manifest.split_by}: {splits}")
    has_depth = "depth" in manifest.components
    console.print(f"  depth: {manifest.depth if has_depth else 'none yet; `python -m shards depth` adds it'}")
    left_out = ", ".join(f"{count:,} {kind}" for kind, count in manifest.left_out.items())
    console.print(f"  left out: {left_out or 'nothing'}" + (" (left-out.tsv)" if left_out else ""))
    table = Table("component", "stored as", "distinct", "mean", "std")
    for name, component in manifest.components.items():
        distinct = f"{component.shared or manifest.samples:,}"
        found = manifest.statistics[name]
        table.add_row(name, component.extension, distinct, _numbers(found.mean), _numbers(found.std))
    console.print(table)


def storage_words(manifest: Manifest) -> str:
    """What was done to the pixels before they were stored; empty if they are the very files that were given."""
    storage = manifest.storage
    if storage is None:
        return ""
    size = storage.resized_from
    how = f"scaled down from {size[1]}x{size[0]}" if size else "composed"
    exact = [name for name, component in manifest.components.items() if component.extension == "png"]
    jpeg = f"JPEG quality {storage.jpeg_quality}, chroma {storage.jpeg_chroma}"
    return f"{how} ({storage.resized_by}); {jpeg}" + (f"; lossless: {', '.join(exact)}" if exact else "")


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def contact_sheet(dataset: Dataset, path: Path, samples: int = 12) -> None:
    """Draws samples spread evenly, a column each: fg_bg, mask, depth, bg; written to `path` as PNG."""
    rows = evenly(len(dataset), samples)
    height, width = dataset.manifest.image_size
    names = list(dataset.manifest.components)
    sheet = Image.new("RGB", (len(rows) * (width + 2), len(names) * (height + 2)), "white")
    for line, name in enumerate(names):
        for column, image in enumerate(pictures(dataset, name, rows)):
            sheet.paste(image, (column * (width + 2), line * (height + 2)))
    save(path, sheet)
