"""The page of a run, and that of several beside each other: what their folders hold, in one HTML file."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray
from PIL import Image

from shards.errors import InputError, masked
from shards.format.fields import parsed
from shards.format.storage import write_bytes
from shards.inspect.html import LINE, SERIES, SOFT, data_uri, render, svg
from tracking.grid import Grid
from tracking.options import options

_HERE = Path(__file__).parent
LABELS = {
    "mask_iou": "mask IoU",
    "mask_dice": "mask Dice",
    "depth_rmse": "depth RMSE",
    "depth_mae": "depth MAE",
    "depth_abs_rel": "depth error / true depth",
    "depth_delta_1.25": "depth within a factor of 1.25",
    "depth_ssim": "depth SSIM",
    "depth_iou_at_half_2020": "depth IoU of 2020",
}
_LOWER = ("depth_rmse", "depth_mae", "depth_abs_rel")
"""of these the lowest is the best, of all others the highest"""
MOST = 1e100
"""that a number on a page can be"""
_POINTS = 500
"""of a curve, at most"""
_DOTS = 30
"""points of a curve up to which each is a dot that tells its value"""

KINDS = "best", "typical", "worst"
"""of the samples that are drawn after each epoch"""

Numbers = Mapping[str, float | None]


class _Chart(NamedTuple):
    title: str
    about: str
    names: dict[str, str]
    """what it shows of metrics.jsonl, and what that is called; beside other runs the first stands for all"""
    logarithmic: bool = False
    """where the values span a factor of ten or more"""
    percent: bool = False
    """whether to show shares as such"""


_CHARTS = (
    _Chart("Loss", "training", {"train/loss": "all", "train/mask_loss": "mask", "train/depth_loss": "depth"}, True),
    _Chart("Mask", "validation; 1 is perfect", {"val/mask_iou": "IoU", "val/mask_dice": "Dice"}),
    _Chart("Depth error", "validation, share of the range", {"val/depth_rmse": "RMSE", "val/depth_mae": "MAE"}),
    _Chart("Relative depth error", "validation, error / true depth", {"val/depth_abs_rel": ""}),
    _Chart(
        "Depth alike",
        "validation; 1 is perfect",
        {"val/depth_ssim": "SSIM", "val/depth_delta_1.25": "within 1.25", "val/depth_iou_at_half_2020": "IoU of 2020"},
    ),
    _Chart("Learning rate", "training", {"train/learning_rate": ""}),
    _Chart("Norm of the gradient", "training, before clipping", {"train/grad_norm": ""}, True),
    _Chart("Throughput", "training, samples a second", {"train/samples_per_second": ""}),
    _Chart("Waiting for data", "training, % of its time", {"train/waiting_share": ""}, percent=True),
)


class Curve(NamedTuple):
    """y over x, float64 (N,) each; y is nan where there is no number."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    label: str = ""

    def thinned(self, count: int) -> "Curve":
        """Return no more than `count` points, each the mean of its neighbours that are numbers."""
        if len(self.x) <= count:
            return self
        begins, known = np.arange(count) * len(self.x) // count, np.isfinite(self.y)
        numbers = np.add.reduceat(known, begins, dtype=np.float64)
        x = np.add.reduceat(self.x, begins) / np.diff([*begins, len(self.x)])
        with np.errstate(invalid="ignore"):  # where none of them is
            return Curve(x, np.add.reduceat(np.where(known, self.y, 0), begins) / numbers, self.label)


@dataclass(frozen=True, kw_only=True)
class Data:
    """The data set that a run is of, as environment.json tells it."""

    where: str
    samples: int
    splits: dict[str, int]
    components: list[str]
    made_from: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Session:
    """The machine, program and time of a session, as environment.json tells them."""

    began: str
    step: int
    seconds: float
    command: str
    commit: str
    host: str
    system: str
    cpu: str
    cores: int
    gpu: str
    processes: int
    decode: Literal["gpu", "cpu", "portable"]
    python: str
    torch: str
    cuda: str
    dali: str


@dataclass(frozen=True, kw_only=True)
class Told:
    """What environment.json tells; of an earlier version there is none."""

    data: Data | None = None
    defaults: dict[str, Any] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """What a run's folder holds, as far as it is there: runs of earlier versions tell less."""

    folder: Path
    options: dict[str, str]
    defaults: dict[str, str]
    environment: Told
    lines: list[dict[str, Any]]
    evaluations: dict[str, dict[str, float | None]]
    """metrics by split"""

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Raises InputError if the folder holds no run, or a file of it is damaged."""
        path = folder / "metrics.jsonl"
        if not path.exists():
            raise InputError(
                f"{folder}: no run here (no metrics.jsonl). A run's folder is what --out of train.py named."
            )
        lines = path.read_text().rpartition("\n")[0].splitlines()  # what follows is still being written
        environment = _read(Told, folder / "environment.json")
        return cls(
            folder,
            _flat(_read(dict[str, Any], folder / "config.json")),
            _flat(environment.defaults),
            environment,
            [_line(path, line) for line in lines],
            {
                one.stem.partition("-")[2]: _read(dict[str, float | None], one)
                for one in sorted(folder.glob("evaluation-*.json"))
            },
        )

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def sessions(self) -> list[Session]:
        return self.environment.sessions

    @property
    def seconds(self) -> float:
        return sum(session.seconds for session in self.sessions)

    @property
    def steps(self) -> int:
        return max((int(line["step"]) for line in self.lines), default=0)

    @property
    def validations(self) -> list[dict[str, Any]]:
        """What was measured after each epoch: metrics, `epoch` and `step`."""
        found = [line for line in self.lines if "val/epoch" in line]
        return [{name.removeprefix("val/"): value for name, value in line.items()} for line in found]

    @property
    def best(self) -> dict[str, Any]:
        """The validation that best.pt is of; empty before the first."""

        def score(metrics: Numbers) -> float:  # as train.py does
            iou, rmse = metrics.get("mask_iou"), metrics.get("depth_rmse", 0)
            return -math.inf if rmse is None else (iou or 0) - rmse

        return max(self.validations, key=score, default={})

    def curve(self, name: str, label: str = "") -> Curve:
        """Return what was logged under a name, over the steps."""
        found = [(line["step"], line[name]) for line in self.lines if name in line]
        x, y = np.array(found, np.float64).reshape(-1, 2).T  # null becomes nan
        return Curve(x, np.where(np.isfinite(y), y, np.nan), label)

    @property
    def speed(self) -> dict[str, float]:
        """Return samples_per_second of all training, and the shares of its time spent waiting and in each stage."""
        found = [line for line in self.lines if line.get("train/samples_per_second")]
        if not found:
            return {}
        seconds = [1 / line["train/samples_per_second"] for line in found]  # for a sample; each line is of as many
        names = [name for name in found[0] if name == "train/waiting_share" or name.endswith("_busy")]
        shares = {name: np.average([line.get(name) or 0 for line in found], weights=seconds) for name in names}
        spent = {name.removeprefix("train/").removesuffix("_busy"): float(share) for name, share in shares.items()}
        return {"samples_per_second": len(seconds) / sum(seconds), **spent}

    def drawn(self, kind: str) -> dict[str, Grid]:
        """Return samples of a kind as they were at the first validation, in the middle and at the newest, by step."""
        found = sorted((self.folder / "pictures").glob(f"val-{kind}-*.png"))
        paths = [path for path in found if path.stem.rpartition("-")[2].isdecimal()]
        picked = [paths[i] for i in sorted({0, len(paths) // 2, len(paths) - 1})] if paths else []
        grids = {f"step {int(path.stem.rpartition('-')[2]):,}": Grid.load(path) for path in picked}
        return {step: grid for step, grid in grids.items() if grid}

    def evaluated(self, name: str) -> dict[str, Grid]:
        """Return by split the samples that evaluate.py has drawn under this name, with {} for the split."""
        found = {split: self.folder / name.format(split) for split in self.evaluations}
        grids = {split: Grid.load(path) for split, path in found.items() if path.exists()}
        return {split: grid for split, grid in grids.items() if grid}


def _read(kind: Any, path: Path) -> Any:
    """Return what a file of JSON holds as a `kind`, which is empty where there is no such file."""
    try:
        return parsed(kind, path.read_bytes() if path.exists() else b"{}", others=True)
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}). Copy it again, or remove it.") from None


def _line(path: Path, text: str) -> dict[str, Any]:
    """Return a line of metrics.jsonl: numbers by name, or None, among them the step that they are of."""
    with suppress(AttributeError, LookupError, RecursionError, TypeError, ValueError):
        line = json.loads(text)
        known = [one for one in line.values() if one is not None]
        if all(-MOST < one < MOST for one in known) and line["step"] >= 0 and line.get("val/epoch", 1):
            return dict(line)
    raise InputError(f"{path}: damaged ({text[:100]}). Copy it again, or remove it.")


def _flat(config: Mapping[str, Any]) -> dict[str, str]:
    """Return options as the command line names and writes them, masked."""
    return {name: masked(str(value)) for name, value in options(config).items()}


def write_report(folder: Path) -> Path:
    """Write the page of a run, report.html in its folder, from what lies there, and return its path.

    Raises InputError if the folder holds no run, or a file of it is damaged.
    """
    run = Run.read(folder)
    columns = {f"epoch {line['epoch']}": line for line in (run.best, *run.validations[-1:]) if line} | run.evaluations
    worst = run.evaluated("pictures/evaluation-{}-worst.png")
    own = [name for name, value in run.options.items() if name == "--data" or value != run.defaults.get(name, value)]
    charts = [_drawn(chart, [run.curve(*one) for one in chart.names.items()]) for chart in _CHARTS]
    page = render(
        _HERE / "report.html.jinja",
        _HERE / "page.css",
        run=run,
        best=run.best,
        columns=columns,
        metrics={name: label for name, label in LABELS.items() if any(name in column for column in columns.values())},
        evaluated={split: grid.title for split, grid in worst.items()},
        charts=[chart for chart in charts if chart],
        grown={kind: _grown(run.drawn(kind)) for kind in KINDS},
        worst={split: (grid.rows, _columns(grid)) for split, grid in worst.items()},
        options=[
            {name: value for name, value in run.options.items() if (name in own) is mine} for mine in (True, False)
        ],
        metric=_metric,
        number=_number,
        duration=_duration,
    )
    write_bytes(folder / "report.html", page)
    return folder / "report.html"


def write_comparison(folders: Sequence[Path], out: Path) -> None:
    """Write the page of several runs beside each other to `out`. Raises InputError as `write_report` does."""
    read = [Run.read(folder) for folder in dict.fromkeys(folders)]
    often = Counter(run.name for run in read)
    names = [run.name if often[run.name] == 1 else str(run.folder) for run in read]
    swatch = Markup('<i class="series-{}"></i>{}')
    runs = {
        swatch.format(i % len(SERIES) + 1, name): run for i, (name, run) in enumerate(zip(names, read, strict=True))
    }
    splits = dict.fromkeys(split for run in read for split in run.evaluations)
    tables = {"validation, best epoch": _compared([run.best for run in read])}
    tables |= {split: _compared([run.evaluations.get(split, {}) for run in read]) for split in splits}
    options = {name: [run.options.get(name, "") for run in read] for run in read for name in run.options}
    grids = dict[str, dict[str, Grid]]()
    for kind in KINDS:
        newest = {name: [*run.drawn(kind).values()][-1:] for name, run in runs.items()}
        grids[f"{kind.capitalize()} of validation"] = {name: grid for name, some in newest.items() for grid in some}
    for split in splits:
        first = {name: run.evaluated("evaluation-{}.png").get(split) for name, run in runs.items()}
        grids[f"First of {split}"] = {name: grid for name, grid in first.items() if grid}
    epochs = all(run.validations for run in read)  # steps differ with the size of batches
    page = render(
        _HERE / "compare.html.jinja",
        _HERE / "page.css",
        title=", ".join(names),
        runs=runs,
        tables={title: table for title, table in tables.items() if table},
        options={name: values for name, values in options.items() if len(set(values)) > 1},
        charts=[chart for one in _CHARTS for chart in _beside(one, read, names, epochs)],
        x="epochs" if epochs else "optimiser steps",
        grids={title: _grown(some) for title, some in grids.items()},
        metric=_metric,
        number=_number,
        duration=_duration,
    )
    write_bytes(out, page)


def _beside(chart: _Chart, runs: Sequence[Run], names: Sequence[str], epochs: bool) -> Iterator["Drawn"]:
    """Draw what a chart shows for several runs: each metric of validation by itself, of training's losses the sum."""
    for name in chart.names:
        metric = name.removeprefix("val/")
        curves = [run.curve(name, label) for run, label in zip(runs, names, strict=True)]
        if epochs:
            curves = [_over_epochs(run, curve) for run, curve in zip(runs, curves, strict=True)]
        if drawn := _drawn(chart._replace(title=LABELS.get(metric, chart.title)), curves):
            yield drawn
        if metric == name:
            return


def _over_epochs(run: Run, curve: Curve) -> Curve:
    last = run.validations[-1]
    return curve._replace(x=curve.x * last["epoch"] / max(1, last["step"]))


def _compared(runs: Sequence[Numbers]) -> dict[str, list[tuple[float | None, bool]]]:
    """Return by metric each run's value, and whether it is the best of several."""
    found = dict[str, list[tuple[float | None, bool]]]()
    for name, label in LABELS.items():
        values = [run.get(name) for run in runs]
        known = [value for value in values if value is not None]
        if known:
            best = min(known) if name in _LOWER else max(known)
            found[label] = [(value, value == best and len(known) > 1) for value in values]
    return found


class Drawn(NamedTuple):
    """A chart as the page shows it."""

    title: str
    about: str
    legend: list[tuple[int, str, str]]
    """of each curve: number of its colour, label, and its last value"""
    svg: Markup


def _drawn(chart: _Chart, curves: Sequence[Curve]) -> Drawn | None:
    """Draw those curves that there are; None if there is none."""
    curves = [one._replace(y=np.round(100 * one.y, 2)) for one in curves] if chart.percent else curves
    known = [(i, curve) for i, curve in enumerate(curves) if np.isfinite(curve.y).any()]
    if not known:
        return None
    if [curve.label for _, curve in known] in (["all", "mask"], ["all", "depth"]):
        known = known[:1]  # it is the same as the other
    legend = [(i % len(SERIES) + 1, curve.label, _number(curve.y[np.isfinite(curve.y)][-1])) for i, curve in known]
    return Drawn(chart.title, chart.about, legend, draw_curves(dict(known), chart.logarithmic))


def draw_curves(curves: Mapping[int, Curve], logarithmic: bool = False) -> Markup:
    """Draw curves in the colours of their numbers, interrupted where there is no number; where few, as dots that tell.

    logarithmic: where all are above 0 and they span a factor of ten or more.
    """
    figure = Figure((352 / 72, 200 / 72), frameon=False)
    axes = figure.add_axes((46 / 352, 22 / 200, 298 / 352, 170 / 200), frameon=False)
    thin = {number: curve.thinned(_POINTS) for number, curve in curves.items()}
    values = np.concatenate([curve.y[np.isfinite(curve.y)] for curve in thin.values()])
    logarithmic = logarithmic and 0 < 10 * values.min() <= values.max()
    for number, (x, y, label) in thin.items():
        colour, rank = SERIES[number % len(SERIES)], number // len(SERIES)
        style: dict[str, Any] = {"color": colour, "clip_on": False, "solid_capstyle": "round"}
        axes.plot(x, y, linewidth=1.6, linestyle="-" if not rank else (0, (2 + 2 * rank, 2)), **style)
        known = np.isfinite(y)
        alone = known & ~np.r_[False, known[:-1]] & ~np.r_[known[1:], False]  # no line leads there
        for i in np.flatnonzero(known if len(x) <= _DOTS else alone):
            (dot,) = axes.plot(x[[i, i]], y[[i, i]], linewidth=5, **style)
            dot.set_gid(f"tip: {label} {y[i]:.4g} at {x[i]:,.{2 * (x[i] % 1 > 0)}f}".replace("tip:  ", "tip: "))
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if values.max() < 300 * values.min() else (1,)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g}M" if value >= 1e6 else f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}")
    axes.grid(axis="y", color=LINE, linewidth=1, clip_on=False)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=6, labelsize=11.5, labelcolor=SOFT)
    return svg(figure)


class Grown(NamedTuple):
    """The same samples as the page shows them: truth, and below it what has been predicted."""

    keys: Sequence[str]
    rows: list[tuple[str, str, str]]
    """label, what is to be seen, and its image"""


def _grown(grids: Mapping[str, Grid]) -> list[Grown]:
    """Put predictions, by their labels, below the truth; of the same samples together."""
    found = dict[tuple[str, ...], dict[str, Grid]]()
    for label, grid in grids.items():
        found.setdefault(tuple(grid.keys), {})[label] = grid
    return [Grown(keys, [*_rows(some)]) for keys, some in found.items()]


def _rows(grids: Mapping[str, Grid]) -> Iterator[tuple[str, str, str]]:
    truth = {name: images for grid in grids.values() for name, images in grid.rows.items()}
    for name in ("image", "true mask", "predicted mask", "true depth", "predicted depth"):
        if name.startswith("predicted"):
            for label, grid in grids.items():
                if name in grid.rows:
                    yield label, name, _strip(grid.rows[name])
        elif name in truth:
            yield name, name, _strip(truth[name])


def _strip(images: NDArray[np.uint8]) -> str:
    """Return images (N, H, W, 3) beside each other."""
    return data_uri(Image.fromarray(np.concatenate([*images], 1)), 128 * len(images))


def _columns(grid: Grid) -> list[tuple[str, float | None, str]]:
    """Return key, error and image of each sample, its rows below each other."""
    columns = (Image.fromarray(np.concatenate(rows)) for rows in zip(*grid.rows.values(), strict=True))
    uris = [data_uri(column, 128 * len(grid.rows)) for column in columns]
    return list(zip(grid.keys, grid.errors, uris, strict=True))


def _metric(value: float | None) -> str:
    """Write it as evaluate.py does; a dash for what is no number."""
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"


def _number(value: float) -> str:
    """Write a number of any size, such as a rate."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
