"""The losses of 2020 beside this project's own: `python -m bench.losses [--data DATA_SET] [--architecture seed]`.

Each trains the same network, from the same weights, on the same samples in the same order, for as many steps; all by
the commands that everyone uses. The table replaces its section of bench/RESULTS.md.
"""

import json
import shlex
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import torch
import tyro

from bench import measure
from checkpoint import Architecture, load_model
from demo.__main__ import run
from model.losses import unit_range
from pipeline.loader import Loader, LoaderConfig
from predict import predict
from shards.errors import InputError, report_errors
from shards.format.dataset import Dataset
from shards.format.schema import BY_NAME

BATCH, LOGGED, SHOWN = 32, 5, 3
"""The samples of a batch, as in 2020; the steps between two looks at the losses; the samples of the picture."""


class Criterion(NamedTuple):
    """What is trained with, and what came of it in 2020, as far as it was published."""

    name: str
    loss: str
    """of the mask, and twice of the depth; "" for what train.py has by default"""
    published: tuple[str, ...] = ("",) * 5
    """seconds for 100 batches, loss of mask and of depth, IoU of mask and of depth"""

    @property
    def options(self) -> list[str]:
        return ["--mask-loss", self.loss, "--depth-loss", f"2*{self.loss}"] if self.loss else []

    @property
    def weight(self) -> int:
        """Of the depth loss, which the table gives without it."""
        return 2 if self.loss else 1


CRITERIA = (
    Criterion("SSIM", "ssim", ("55", "0.10", "0.23", "0.70", "0.18")),
    Criterion("smooth L1", "smooth_l1", ("83", "0.004", "0.0130", "0.777", "0.528")),
    Criterion("L1", "l1", ("", "0.002", "0.09", "0.88", "0.61")),
    Criterion("Sluice's own", ""),
)
HEADINGS = ("s / 100 batches", "mask loss", "depth loss", "mask IoU", "depth IoU at half", "depth RMSE")
FORMS = (".1f", ".4f", ".4f", ".3f", ".3f", ".4f")


def figures(folder: Path, weight: int) -> list[float]:
    """Return what the HEADINGS say of the run in `folder`, whose depth loss has this weight."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if "train/loss" in line]
    ends = [0, *(line["step"] for line in lines if "val/epoch" in line)]
    last = [line for line in training if line["step"] > ends[-2]]
    seconds = 100 * BATCH / median(line["train/samples_per_second"] for line in training)
    mask, depth = (mean(line[f"train/{name}_loss"] for line in last) for name in ("mask", "depth"))
    metrics = json.loads((folder / "evaluation-val.json").read_text())
    names = "mask_iou", "depth_iou_at_half_2020", "depth_rmse"
    return [seconds, mask, depth / weight, *(metrics[name] for name in names)]


def table(criteria: tuple[Criterion, ...], found: list[list[float]]) -> str:
    """Return the figures in Markdown, what was published in 2020 beside each of them."""
    headings = [cell for heading in HEADINGS[:-1] for cell in (heading, "2020")]
    rows = [["criterion", *headings, HEADINGS[-1]], ["---", *["---:"] * (len(headings) + 1)]]
    for one, values in zip(criteria, found, strict=True):
        cells = [format(value, form) for value, form in zip(values, FORMS, strict=True)]
        beside = [cell for pair in zip(cells[:-1], one.published, strict=True) for cell in pair]
        rows.append([one.name, *beside, cells[-1]])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def draw(path: Path, data: Path, runs: dict[str, Path]) -> None:
    """Draw samples of the validation split: what is seen, what is true, what each run predicts; mask above depth."""
    from matplotlib.figure import Figure

    models = [load_model(folder / "checkpoints" / "last.pt", torch.device("cpu")) for folder in runs.values()]
    with Loader(LoaderConfig(data=data, split="val", size=0, batch_size=SHOWN)) as loader:
        batch = next(iter(loader))
    figure = Figure(figsize=(1.8 * (2 + len(runs)), 3.7 * SHOWN), layout="constrained")
    axes = figure.subplots(2 * SHOWN, 2 + len(runs))
    shown = [one for one in batch[:4] if one is not None]  # all, see `main`
    for two_rows, fg_bg, bg, mask, depth in zip(axes.reshape(SHOWN, 2, -1), *shown, strict=True):
        seen = fg_bg.permute(1, 2, 0), bg.permute(1, 2, 0)
        found = [predict(model, *seen, size=trained["loader"]["size"]) for model, trained in models]
        true = {"mask": unit_range(mask)[0], "depth": unit_range(depth)[0]}
        for row, image, name in zip(two_rows, seen, true, strict=True):
            colours, most = ("gray", 1) if name == "mask" else ("magma_r", true[name].max().item())
            row[0].imshow(image.numpy())
            for cell, maps in zip(row[1:], (true, *found), strict=True):
                cell.imshow(maps[name].numpy(), cmap=colours, vmin=0, vmax=most)
    for cell in axes.flat:
        cell.axis("off")
    for cell, title in zip(axes[0], ("image, background", "true", *runs), strict=True):
        cell.set_title(title, fontsize=11)
    figure.savefig(path, dpi=100)


def main(
    data: Path | None = None,
    samples: int = 3000,
    epochs: int = 4,
    size: int = 64,
    architecture: Architecture = "unet",
    out: Path = Path("runs/losses"),
) -> None:
    """Train with each of the losses, and write bench/results/losses.png and a section of bench/RESULTS.md.

    Args:
        data: A data set to train on, with mask, depth and backgrounds; one is drawn if not given.
        samples: Samples that are drawn.
        epochs: Passes of each training.
        size: Height and width that the network sees, pixels.
        architecture: unet, or seed: the network of 2020, which a CPU is too slow for at 64 pixels.
        out: Folder for data and runs, which must not be there.
    """
    if out.exists():
        raise InputError(f"{out}: is there already. Delete it, or name another --out.")
    before = measure.machine("torch", "nvidia-dali-cuda120")
    if torch.cuda.is_available():
        before += f", {torch.cuda.get_device_name()}"
    sources = {"figures": min(100, 1 + samples // 20), "rooms": min(80, 1 + samples // 20)}
    dataset = Dataset.open(data) if data else measure.drawn_data(out, **sources, samples=samples)
    counts = dataset.manifest.splits
    if counts["train"] < LOGGED * BATCH or set(BY_NAME) - set(dataset.manifest.components):
        raise InputError(f"{dataset.root}: {LOGGED * BATCH} samples to train on, of {', '.join(BY_NAME)}, are needed.")
    runs = {one.name: out / one.name.lower().replace(" ", "-").replace("'", "") for one in CRITERIA}
    alike = ["--data", dataset.root, "--architecture", architecture, "--size", size, "--epochs", epochs]
    alike += ["--batch-size", BATCH, "--log-every", LOGGED, "--wandb", "off"]
    for one, folder in zip(CRITERIA, runs.values(), strict=True):
        run(shlex.join(map(str, ["train.py", *alike, *one.options, "--out", folder])))
        run(shlex.join(["evaluate.py", f"{folder}/checkpoints/last.pt", "--split", "val"]))
    told = f"{counts['train']:,} samples, {'given' if data else 'drawn'}, at {size}x{size} px; epochs: {epochs}; "
    told += f"network: {architecture}; all else is train.py's default. Losses: of training, mean of the last epoch, "
    told += f"that of depth without its weight. The rest: of {counts['val']:,} other samples, after the last step. "
    told += "2020: as published, of other data and more of it, on another machine; L1 after 10 epochs."
    picture = measure.RESULTS.parent / "results" / "losses.png"
    draw(picture, dataset.root, runs)
    parts = f"## Losses\n\n`python -m bench.losses`, {before}.", told
    text = table(CRITERIA, [figures(runs[one.name], one.weight) for one in CRITERIA])
    measure.write_section(measure.RESULTS, "losses", "\n\n".join([*parts, text, f"![](results/{picture.name})"]))


if __name__ == "__main__":
    with report_errors():
        tyro.cli(main, prog="python -m bench.losses")
