"""The commands of `python -m shards`: what each is given, and what it says."""

import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from tyro.conf import Positional, arg

from shards.build.build import BuildConfig, build_dataset, merge
from shards.build.run import RunConfig
from shards.errors import InputError, say
from shards.format.dataset import open_dataset
from shards.format.depth import ExistingDepthConfig
from shards.format.left_out import write_left_out
from shards.format.splits import SplitConfig
from shards.format.storage import LocalFolder, folder_at, refuse_url
from shards.ingest.compose import ComposeConfig, plan_composition
from shards.ingest.convert import ConvertConfig, plan_conversion
from shards.ingest.depth import plan_depth
from shards.ingest.index import plan_index
from shards.ingest.job import Job
from shards.ingest.teacher import DepthConfig
from shards.inspect.export import export
from shards.inspect.show import contact_sheet, describe
from shards.inspect.verify import verify
from shards.sources.listing import NoSampleError

Paths = Positional[tuple[str, ...]]
console = Console(highlight=False, soft_wrap=True)
SHOWN = 10_000
"""Samples that a page and a contact sheet can have: with more no browser opens them."""
app = tyro.extras.SubcommandApp()


def _build(job: Job, out: str, config: BuildConfig) -> None:
    say(*job.notes)
    if build_dataset(job, folder_at(out), config):
        describe(folder_at(out), console)
    else:
        say(f"{out}: part {config.part} is there. When all parts are: python -m shards merge {out}")


@app.command
def compose(out: str, config: Annotated[ComposeConfig, arg(name="")], build: BuildConfig) -> None:
    """Paste cut-outs on backgrounds: each figure on each background, at random places and sizes.

    Without --depth the data set has no depth yet; `python -m shards depth` adds it.

    Args:
        out: folder to write, or its URL
    """
    _build(plan_composition(config), out, build)


@app.command
def convert(
    paths: Annotated[Paths, arg(metavar="SOURCE... OUT", help_behavior_hint="(required)")],
    config: Annotated[ConvertConfig, arg(name=""), tyro.conf.UseAppendAction],
    build: BuildConfig,
) -> None:
    """Turn image folders and zips into shards. What their names do not tell, options do.

    Args:
        paths: folders and zips that hold the images, then the folder to write, or its URL
    """
    if len(paths) < 2:
        raise InputError("convert needs at least one SOURCE and, last, the folder OUT.")
    *sources, out = paths
    try:
        job = plan_conversion([Path(source) for source in sources], config)
    except NoSampleError as error:
        folder = folder_at(out)
        if error.left_out and not folder.exists("manifest.json"):
            write_left_out(folder, error.left_out)
            raise InputError(*error.args, f"{out}/left-out.tsv lists what was not used.") from error
        raise
    _build(job, out, build)


@app.command
def index(
    folder: Positional[Path], depth: ExistingDepthConfig, split: SplitConfig, run: RunConfig, again: bool = False
) -> None:
    """Make the manifest and indexes for tars that were made elsewhere, which stay as they are.

    Members are named KEY.fg_bg.jpg, KEY.mask.jpg, KEY.depth.jpg and KEY.bg.jpg, or .png, in folders or not. All but
    fg_bg may be absent; the data set has what most of the first samples have.

    Args:
        folder: folder that holds the tars
        again: index them again if they, or the options, have changed since
    """
    _build(plan_index(folder, depth, split), str(folder), BuildConfig(**vars(run), again=again))


@app.command
def depth(
    dataset: Positional[str], out: Positional[str], config: Annotated[DepthConfig, arg(name="")], build: BuildConfig
) -> None:
    """Predict the depth of a data set's samples with a teacher, into another data set that is the same but for it.

    Args:
        dataset: folder or URL that holds the data set, with depth or without
        out: folder to write, or its URL
    """
    with open_dataset(folder_at(dataset)) as opened:
        _build(plan_depth(opened, config), out, build)


@app.command(name="merge")
def merge_parts(paths: Annotated[Paths, arg(metavar="[PART...] OUT", help_behavior_hint="(required)")]) -> None:
    """Join the parts of a data set that were built with `--part`.

    Args:
        paths: folders or URLs of the parts, if each has its own, then the one to write
    """
    if not paths:
        raise InputError("merge needs the folder OUT that the parts were written to, or folders PART... and then OUT.")
    *parts, out = map(folder_at, paths)
    merge(parts, out)
    describe(out, console)


@app.command(name="verify")
def verify_dataset(dataset: Positional[str], run: RunConfig) -> None:
    """Check every byte against the manifest and decode every image; exit code 1 and a list if anything is wrong.

    Args:
        dataset: folder or URL that holds the data set
    """
    problems = verify(folder_at(dataset), run)
    say(*(f"{problem.where}: {problem.what}" for problem in problems))
    if problems:
        say(f"{dataset}: {len(problems)} problems")
        sys.exit(1)
    say(f"{dataset}: every file is as the manifest says, and every image decodes")


@app.command
def show(dataset: Positional[str], page: Path | None = None, sheet: Path | None = None, samples: int = 12) -> None:
    """Say what a data set holds; write it as a page for the browser, and draw a contact sheet.

    Args:
        dataset: folder or URL that holds the data set
        page: HTML to write; if not given, show.html beside the manifest, or here if that is at a URL
        sheet: PNG to draw; if not given, sheet.png beside the manifest, or here if that is at a URL
        samples: how many samples to draw
    """
    from shards.inspect.page import write_page  # the other commands do without Matplotlib

    if not 1 <= samples <= SHOWN:
        raise InputError(f"samples is {samples}, where a number from 1 to {SHOWN:,} is expected.")
    folder = folder_at(dataset)
    beside = folder.path if isinstance(folder, LocalFolder) else Path()
    sheet, page = sheet or beside / "sheet.png", page or beside / "show.html"
    describe(folder, console)
    with open_dataset(folder) as opened:
        contact_sheet(opened, sheet, samples)
        write_page(opened, page, samples)
    say(f"contact sheet: {sheet}", f"page: {page}")


@app.command(name="export")
def export_files(dataset: Positional[str], out: Positional[Path], run: RunConfig) -> None:
    """Write a data set's images as files again, in the folders of 2020; `convert` makes them a data set again.

    Args:
        dataset: folder or URL that holds the data set
        out: folder to write
    """
    refuse_url(out)
    with open_dataset(folder_at(dataset)) as opened:
        export(opened, out, run)
        manifest = opened.manifest
    depth = f"; depth is {manifest.depth}" if "depth" in manifest.components else ""
    say(f"{out}: {manifest.samples:,} samples{depth}")


def main() -> None:
    conf = tyro.conf
    config = (conf.OmitArgPrefixes, conf.DisallowNone, conf.FlagCreatePairsOff, conf.PositionalMetavarFromFieldName)
    app.cli(prog="python -m shards", config=config)
