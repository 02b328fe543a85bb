"""The commands of `python -m shards`: what each is given, and what it says."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from shards.build.build import BuildConfig, build, merge
from shards.build.plan import Work
from shards.build.run import RunConfig
from shards.draw import draw_data
from shards.errors import InputError, report_errors
from shards.format.dataset import open_dataset
from shards.format.depth import ExistingConfig
from shards.format.splits import SplitConfig
from shards.format.storage import LocalFolder, folder_at, is_url
from shards.ingest.compose import ComposeConfig, compose_folders, plan_composition
from shards.ingest.convert import ConvertConfig, plan_conversion
from shards.ingest.depth import DepthConfig, plan_depth
from shards.ingest.index import plan_index
from shards.inspect.export import export
from shards.inspect.page import write_page
from shards.inspect.show import contact_sheet, describe
from shards.inspect.verify import verify

console = Console(highlight=False, soft_wrap=True)
app = tyro.extras.SubcommandApp()


def _build(work: Work, out: str, how: BuildConfig) -> None:
    if build(work, folder_at(out), how):
        describe(folder_at(out), console)
    else:
        console.print(f"{out}: part {how.part} is there. When all parts are: python -m shards merge {out}")


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
    out: str,
    config: Annotated[ComposeConfig, tyro.conf.OmitArgPrefixes],
    how: Annotated[BuildConfig, tyro.conf.OmitArgPrefixes],
    layout: Literal["shards", "folders"] = "shards",
) -> None:
    """Paste cut-outs on backgrounds: each figure on each background, at random places and sizes.

    Args:
        out: folder to write, or its URL
        layout: shards, or the folders of the 2020 system
    """
    if layout == "folders" and (is_url(out) or how.part):
        raise InputError("layout folders: it is written to a disk, and not in parts. Leave --layout out.")
    work = plan_composition(config)
    if layout == "shards":
        _build(work, out, how)
        return
    compose_folders(work, Path(out), how)
    for one in work.plan.left_out:
        console.print(f"left out: {one.source}: {one.kind}, {one.detail}")
    console.print(f"{out}: {sum(unit.size for unit in work.units):,} samples")


@app.command(name="depth")
def depth_command(
    dataset: tyro.conf.Positional[str],
    out: tyro.conf.Positional[str],
    config: Annotated[DepthConfig, tyro.conf.OmitArgPrefixes],
    how: Annotated[BuildConfig, tyro.conf.OmitArgPrefixes],
) -> None:
    """Predict the depth of a data set's samples with a teacher, into another data set that is the same but for it.

    Args:
        dataset: folder or URL that holds the data set, with depth or without
        out: folder to write, or its URL
    """
    with open_dataset(folder_at(dataset)) as opened:
        _build(plan_depth(opened, config), out, how)


@app.command(name="convert")
def convert_command(
    paths: tyro.conf.Positional[tuple[str, ...]],
    config: Annotated[ConvertConfig, tyro.conf.OmitArgPrefixes],
    how: Annotated[BuildConfig, tyro.conf.OmitArgPrefixes],
) -> None:
    """Turn image folders and zips into shards: python -m shards convert SOURCE... OUT

    Args:
        paths: folders and zips that hold the images, then the folder to write, or its URL
    """
    if len(paths) < 2:
        raise InputError("convert needs at least one SOURCE and, last, the folder OUT.")
    *sources, out = paths
    _build(plan_conversion([Path(source) for source in sources], config), out, how)


@app.command(name="index")
def index_command(
    folder: tyro.conf.Positional[Path],
    existing: Annotated[ExistingConfig, tyro.conf.OmitArgPrefixes],
    split: Annotated[SplitConfig, tyro.conf.OmitArgPrefixes],
    engine: Annotated[RunConfig, tyro.conf.OmitArgPrefixes],
) -> None:
    """Make the manifest and indexes for tars that were made elsewhere; the tars stay as they are.

    Members are named KEY.fg_bg.jpg, KEY.mask.jpg, KEY.depth.jpg and KEY.bg.jpg, or .png, in folders or not.

    Args:
        folder: folder that holds the tars
    """
    _build(plan_index(folder, existing, split), str(folder), BuildConfig(**vars(engine)))


@app.command(name="merge")
def merge_command(paths: tyro.conf.Positional[tuple[str, ...]]) -> None:
    """Join what `--part` built: python -m shards merge OUT, or, if each part has its own folder, merge PART... OUT

    Args:
        paths: folders or URLs of the parts, then the one to write; this one alone if all parts were written to it
    """
    if not paths:
        raise InputError("merge needs the folder OUT that the parts were written to, or folders PART... and then OUT.")
    *parts, out = map(folder_at, paths)
    merge(parts, out)
    describe(out, console)


@app.command(name="verify")
def verify_command(dataset: tyro.conf.Positional[str], engine: Annotated[RunConfig, tyro.conf.OmitArgPrefixes]) -> None:
    """Check every byte against the manifest and decode every image; exit code 1 and a list if anything is wrong.

    Args:
        dataset: folder or URL that holds the data set
    """
    problems = verify(folder_at(dataset), engine)
    for problem in problems:
        console.print(f"{problem.where}: {problem.what}", soft_wrap=True)
    if problems:
        console.print(f"{dataset}: {len(problems)} problems")
        sys.exit(1)
    console.print(f"{dataset}: every file is as the manifest says, and every image decodes")


@app.command(name="show")
def show_command(
    dataset: tyro.conf.Positional[str],
    page: Path | None = None,
    sheet: Path | None = None,
    samples: int = 12,
    workers: int = RunConfig.workers,
) -> None:
    """Say what a data set holds; write it as a page for the browser, and draw a contact sheet.

    Args:
        dataset: folder or URL that holds the data set
        page: HTML to write; if not given, show.html beside the manifest, or here if that is at a URL
        sheet: PNG to draw; if not given, sheet.png beside the manifest, or here if that is at a URL
        samples: how many samples to draw
        workers: processes
    """
    if samples < 1 or workers < 1:
        raise InputError("samples and workers must be at least 1.")
    folder = folder_at(dataset)
    beside = folder.path if isinstance(folder, LocalFolder) else Path()
    sheet, page = sheet or beside / "sheet.png", page or beside / "show.html"
    describe(folder, console)
    with open_dataset(folder) as opened:
        contact_sheet(opened, sheet, samples)
        write_page(opened, page, samples, workers)
    console.print(f"contact sheet: {sheet}\npage: {page}")


@app.command(name="export")
def export_command(
    dataset: tyro.conf.Positional[Path], out: tyro.conf.Positional[Path], workers: int = RunConfig.workers
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


def main() -> None:
    with report_errors():
        app.cli(prog="python -m shards")
