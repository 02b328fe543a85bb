"""python -m shards draw | compose | depth | convert | index | verify | show | export"""

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from shards.build import BuildConfig, build
from shards.compose import ComposeConfig, compose_folders, composition
from shards.convert import ConvertConfig, conversion
from shards.draw import draw_data
from shards.errors import InputError, told_plainly
from shards.export import export
from shards.foreign import indexing
from shards.label import LabelConfig, labelling
from shards.manifest import Dataset
from shards.page import write_page
from shards.show import contact_sheet, describe
from shards.verify import verify

console = Console(highlight=False, soft_wrap=True)
app = tyro.extras.SubcommandApp()


@app.command(name="draw")
def draw_command(
    out: tyro.conf.Positional[Path], figures: int = 40, rooms: int = 40, size: int = 160, seed: int = 0
) -> None:
    """Draw cut-outs, and rooms with their exact depth, to try things on where there are no photographs.

    Args:
        out: folder to write; it gets fg, bg and depth
        figures: how many cut-outs
        rooms: how many rooms
        size: height and width of the rooms, pixels
        seed: another seed, other images
    """
    draw_data(out / "fg", out / "bg", out / "depth", figures=figures, rooms=rooms, size=size, seed=seed)
    console.print(f"{out}: {figures} cut-outs in fg, {rooms} rooms in bg, their depth in depth")


@app.command(name="compose")
def compose_command(
    out: Path,
    config: Annotated[ComposeConfig, tyro.conf.OmitArgPrefixes],
    layout: Literal["shards", "folders"] = "shards",
) -> None:
    """Paste cut-outs on backgrounds: each figure on each background, at random places and sizes.

    Args:
        out: folder to write
        layout: shards, or the folders of the 2020 system
    """
    work = composition(config)
    if layout == "folders":
        compose_folders(work, out, config.build.workers)
        for one in work.left_out:
            console.print(f"left out: {one.source}: {one.kind}, {one.detail}")
        console.print(f"{out}: {sum(unit.size for unit in work.units):,} samples")
    else:
        describe(build(work, out, config.build), console)


@app.command(name="depth")
def depth_command(
    dataset: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    config: Annotated[LabelConfig, tyro.conf.OmitArgPrefixes],
) -> None:
    """Predict the depth of a data set's samples with a teacher, into another data set that is the same but for it.

    Args:
        dataset: folder that holds the data set, with depth or without
        out: folder to write
    """
    describe(build(labelling(dataset, config), out, BuildConfig(workers=1)), console)


@app.command(name="convert")
def convert_command(
    paths: tyro.conf.Positional[tuple[Path, ...]], config: Annotated[ConvertConfig, tyro.conf.OmitArgPrefixes]
) -> None:
    """Turn image folders and zips into shards: python -m shards convert SOURCE... OUT

    Args:
        paths: folders and zips that hold the images, then the folder to write
    """
    if len(paths) < 2:
        raise InputError("convert needs at least one SOURCE and, last, the folder OUT.")
    *sources, out = paths
    describe(build(conversion(sources, config), out, config.build), console)


@app.command(name="index")
def index_command(
    folder: tyro.conf.Positional[Path],
    config: Annotated[BuildConfig, tyro.conf.OmitArgPrefixes],
    depth_metres: tuple[float, float] | None = None,
) -> None:
    """Make the manifest and indexes for tars that were made elsewhere; the tars stay as they are.

    Members are named KEY.fg_bg.jpg, KEY.mask.jpg, KEY.depth.jpg and KEY.bg.jpg, or .png, in folders or not.

    Args:
        folder: folder that holds the tars
        depth_metres: metres that black and white stand for in the depth images
    """
    describe(build(indexing(folder, depth_metres, config), folder, config), console)


@app.command(name="verify")
def verify_command(dataset: tyro.conf.Positional[Path], workers: int = BuildConfig.workers) -> None:
    """Check every byte against the manifest and decode every image; exit code 1 and a list if anything is wrong.

    Args:
        dataset: folder that holds the data set
        workers: processes
    """
    problems = verify(dataset, workers)
    for problem in problems:
        console.print(f"{problem.where}: {problem.what}", soft_wrap=True)
    if problems:
        console.print(f"{dataset}: {len(problems)} problems")
        sys.exit(1)
    console.print(f"{dataset}: every file is as the manifest says, and every image decodes")


@app.command(name="show")
def show_command(
    dataset: tyro.conf.Positional[Path],
    page: Path | None = None,
    sheet: Path | None = None,
    samples: int = 12,
    workers: int = BuildConfig.workers,
) -> None:
    """Say what a data set holds; write it as a page for the browser, and draw a contact sheet.

    Args:
        dataset: folder that holds the data set
        page: HTML to write; show.html beside the data set's manifest if not given
        sheet: PNG to draw; sheet.png beside the data set's manifest if not given
        samples: how many samples to draw
        workers: processes
    """
    if samples < 1 or workers < 1:
        raise InputError("samples and workers must be at least 1.")
    opened = Dataset.open(dataset)
    describe(opened, console)
    sheet = sheet or dataset / "sheet.png"
    contact_sheet(opened, sheet, samples)
    page = page or dataset / "show.html"
    write_page(opened, page, samples, workers)
    console.print(f"contact sheet: {sheet}\npage: {page}")


@app.command(name="export")
def export_command(
    dataset: tyro.conf.Positional[Path], out: tyro.conf.Positional[Path], workers: int = BuildConfig.workers
) -> None:
    """Write a data set's images as files again, in the folders of the 2020 system; `convert` gives it back.

    Args:
        dataset: folder that holds the data set
        out: folder to write
        workers: processes
    """
    if workers < 1:
        raise InputError("workers must be at least 1.")
    manifest = export(dataset, out, workers).manifest
    depth = f"; depth is {manifest.depth}" if "depth" in manifest.components else ""
    console.print(f"{out}: {manifest.samples:,} samples{depth}")


if __name__ == "__main__":
    with told_plainly():
        app.cli(prog="python -m shards")
