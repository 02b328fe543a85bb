"""The whole way, from nothing: draws a small data set, converts it twice, trains on it, and shows what came of it.

Every step is a command that works just so on data of your own. What is there from an earlier run is used again.
"""

import json
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench.measure import loader_rate
from pipeline.loader import LoaderConfig
from shards.format.dataset import Dataset
from shards.format.schema import COMPONENTS
from shards.format.storage import replacing

DEMO = Path("demo")
DRAWN, FOLDERS, ZIPS, SHARDS, RUN = (DEMO / name for name in ("drawn", "folders", "zips", "shards", "run"))
SAMPLES, EPOCHS = 4000, 4

console = Console(highlight=False, soft_wrap=True)


def run(command: str) -> None:
    """Shows a command and runs it; ends the demo with its exit code if it fails."""
    console.print(f"\n[bold]$ {command}[/]")
    finished = subprocess.run([sys.executable, *shlex.split(command)[1:]])
    if finished.returncode:
        sys.exit(finished.returncode)


def zip_folders() -> None:
    """One zip a tree, as the 2020 system kept them; images are not packed again."""
    ZIPS.mkdir(parents=True, exist_ok=True)
    for component in COMPONENTS:
        path = ZIPS / f"{component.folder}.zip"
        if path.exists():
            continue
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for image in sorted((FOLDERS / component.folder).rglob("*.jpg")):
                archive.write(image, image.relative_to(FOLDERS))
    console.print(f"\n{ZIPS}: one zip a tree")


def same_samples(one: Path, other: Path) -> bool:
    """Whether two data sets hold the same bytes."""
    shards = [[shard.sha256 for shard in Dataset.open(path).manifest.shards] for path in (one, other)]
    return shards[0] == shards[1]


def summary() -> Table:
    metrics = json.loads((RUN / "evaluation-val.json").read_text())
    logged = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in logged if "train/loss" in line]
    loader = loader_rate(LoaderConfig(data=SHARDS), torch.device("cpu"), seconds=2.0)
    table = Table("demo", "", title="what came of it")
    table.add_row("mask IoU (validation)", f"{metrics['mask_iou']:.3f}")
    table.add_row("depth RMSE (validation)", f"{metrics['depth_rmse']:.4f} of 10 m")
    table.add_row("loader alone", f"{loader['samples_per_second']:,.0f} samples/s")
    table.add_row("training", f"{_mean(training, 'train/samples_per_second'):,.0f} samples/s")
    table.add_row("training waited for data", f"{_mean(training, 'train/waiting_share'):.1%} of the time")
    return table


def _mean(lines: list[dict[str, float]], name: str) -> float:
    return sum(line[name] for line in lines) / len(lines)


def main() -> None:
    python = "python"
    run(f"{python} -m shards draw {DRAWN} --figures 40 --rooms 40")
    run(
        f"{python} -m shards compose --fg {DRAWN}/fg --bg {DRAWN}/bg --depth {DRAWN}/depth --places 2 --mirror "
        f"--scale 0.5 0.9 --samples {SAMPLES} --layout folders --out {FOLDERS}"
    )
    zip_folders()
    run(f"{python} -m shards convert {FOLDERS} {SHARDS} --depth-metres 0 10")
    run(f"{python} -m shards convert {ZIPS} {SHARDS}-from-zips --depth-metres 0 10")
    if not same_samples(SHARDS, Path(f"{SHARDS}-from-zips")):
        sys.exit("the shards from folders and from zips differ")
    run(f"{python} -m shards verify {SHARDS}")
    run(f"{python} -m shards show {SHARDS}")
    last = RUN / "checkpoints" / "last.pt"
    run(
        f"{python} train.py --resume {RUN}"
        if last.exists()
        else f"{python} train.py --data {SHARDS} --out {RUN} --epochs {EPOCHS} --log-every 10"
    )
    best = RUN / "checkpoints" / "best.pt"
    run(f"{python} evaluate.py {best} --split val")
    pair = sorted((FOLDERS / "OverlayedImages" / "0").iterdir())[0]
    background = FOLDERS / "Background" / f"Shelves_{pair.stem.split('_')[1][1:]}.jpg"
    run(f"{python} predict.py {best} {pair} {background} --out {DEMO}/predicted")
    console.print(summary())
    console.print(f"contact sheet of the data set: {SHARDS}/sheet.png")
    console.print(f"fg_bg, true mask, true depth, predicted mask, predicted depth: {RUN}/evaluation-val.png")


if __name__ == "__main__":
    main()
