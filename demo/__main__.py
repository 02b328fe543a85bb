"""Run the whole way from nothing: draw a small data set, convert it twice, train on it, and show the outcome.

    python -m demo

Each step is a printed command that works just so on data of your own. An earlier run's files are used again.
"""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from checkpoint import load_model
from pipeline.loader import Loader, LoaderConfig
from predict import predict
from shards.format.dataset import Dataset
from shards.format.schema import COMPONENTS
from shards.format.storage import replacing

DEMO = Path("runs/demo")
DRAWN, COMPOSED, FOLDERS, ZIPS = (DEMO / name for name in ("drawn", "composed", "folders", "zips"))
SHARDS, FROM_ZIPS, RUN, PICTURE = (DEMO / name for name in ("shards", "shards-from-zips", "run", "demo.png"))
BEST = RUN / "checkpoints" / "best.pt"

console = Console(highlight=False, soft_wrap=True)


def run(command: str) -> None:
    """Print a command and run it; end the demo with its exit code if it fails."""
    console.print(f"\n[bold]$ python {command}[/]")
    if code := subprocess.run([sys.executable, *shlex.split(command)]).returncode:
        sys.exit(code)


def zip_folders() -> None:
    """Make one zip a folder, as the 2020 system kept them."""
    ZIPS.mkdir(parents=True, exist_ok=True)
    for path in (ZIPS / f"{component.folder}.zip" for component in COMPONENTS):
        if not path.exists():
            with replacing(path) as temporary:
                shutil.make_archive(str(temporary.with_suffix("")), "zip", FOLDERS, path.stem)
    console.print(f"\n{ZIPS}: one zip a folder")


def draw_predictions(samples: int = 4) -> None:
    """Draw some samples of the validation split beside the predictions for them, a sample a row."""
    model, trained = load_model(BEST, torch.device("cpu"))
    with Loader(LoaderConfig(data=SHARDS, split="val", size=0, batch_size=samples)) as loader:
        batch = next(iter(loader))
    figure = Figure(figsize=(9, 1.86 * samples), layout="constrained")
    axes = figure.subplots(samples, 5)
    components = [one for one in batch[:4] if one is not None]  # all, for the demo's data set has them
    for row, fg_bg, bg, mask, depth in zip(axes, *components, strict=True):
        image, far = fg_bg.permute(1, 2, 0), depth.max() / 255
        found = predict(model, image, bg.permute(1, 2, 0), trained["loader"]["size"])
        pictures = image, mask[0] / 255, depth[0] / 255 / far, found["mask"], found["depth"] / far
        for cell, picture, colours in zip(row, pictures, (None, *["gray", "magma_r"] * 2), strict=True):
            cell.imshow(picture, cmap=colours, vmin=0, vmax=1)
            cell.axis("off")
    titles = "image", "true mask", "true depth", "predicted mask", "predicted depth"
    for cell, title in zip(axes[0], titles, strict=True):
        cell.set_title(title, fontsize=11)
    figure.savefig(PICTURE, dpi=100)


def summary() -> Table:
    """Return the table of the demo's figures."""
    metrics = json.loads((RUN / "evaluation-val.json").read_text())
    logged = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in logged if "train/loss" in line]
    names = "train/samples_per_second", "train/waiting_share"
    rate, waiting = (mean(line[name] for line in training) for name in names)
    with Loader(LoaderConfig(data=SHARDS)) as loader:  # while nobody trains
        before = loader.stats
        for _ in (batch for _ in range(5) for batch in loader):
            pass
        alone = loader.stats.since(before)
    table = Table("demo", "", title="the outcome")
    table.add_row("mask IoU (validation)", f"{metrics['mask_iou']:.3f}")
    table.add_row("depth RMSE (validation)", f"{metrics['depth_rmse']:.4f} of 10 m")
    table.add_row("loader alone", f"{alone.samples_per_second:,.0f} samples/s")
    table.add_row("training", f"{rate:,.0f} samples/s")
    table.add_row("training waited for data", f"{waiting:.1%} of the time")
    return table


def main() -> None:
    run(f"-m demo.draw {DRAWN} --figures 40 --rooms 40")
    run(
        f"-m shards compose --fg {DRAWN}/fg --bg {DRAWN}/bg --depth {DRAWN}/depth --places 2 --mirror "
        f"--scale 0.5 0.9 --samples 4000 --out {COMPOSED}"
    )
    run(f"-m shards export {COMPOSED} {FOLDERS}")
    zip_folders()
    run(f"-m shards convert {FOLDERS} {SHARDS} --depth-metres 0 10")
    run(f"-m shards convert {ZIPS} {FROM_ZIPS} --depth-metres 0 10")
    one, other = ([shard.sha256 for shard in Dataset.open(path).manifest.shards] for path in (SHARDS, FROM_ZIPS))
    if one != other:
        sys.exit("the shards from folders and from zips differ")
    run(f"-m shards verify {SHARDS}")
    run(f"-m shards show {SHARDS}")
    begun = (RUN / "checkpoints" / "last.pt").exists()
    run(f"train.py --resume {RUN}" if begun else f"train.py --data {SHARDS} --out {RUN} --epochs 4 --log-every 10")
    run(f"evaluate.py {BEST} --split val")
    image = sorted((FOLDERS / "OverlayedImages" / "0").iterdir())[0]
    background = FOLDERS / "Background" / f"Shelves_{image.stem.split('_')[1][1:]}.jpg"
    run(f"predict.py {BEST} {image} {background} --out {DEMO}/predicted")
    draw_predictions()
    console.print(summary())
    console.print(f"contact sheet of the data set: {SHARDS}/sheet.png\nsamples and predictions: {PICTURE}")


if __name__ == "__main__":
    main()
