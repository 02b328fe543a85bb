"""The page of a run, and of several: opened in a browser, it needs nothing, and tells what the folder holds."""

import base64
import io
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_runs import train_command, trained
from test_page import EVIL, Page

from evaluate import EvaluateConfig
from evaluate import main as evaluate_command
from shards.format.dataset import Dataset
from tracking.__main__ import compare, report
from tracking.grid import Grid
from tracking.page import Curve, draw_curves, write_comparison, write_report

ROOT = Path(__file__).parent.parent
PASSWORD = "geheim"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FRAME = """
<iframe src="probed.html" style="border: 0; width: {}px; height: 900px"></iframe>
<script>onmessage = told => {{ document.body.innerHTML = "<pre>" + btoa(told.data) + "</pre>" }};</script>
"""
"""Because a window is 500 pixels wide or more."""
PROBE = """
<script>
addEventListener("load", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
  const images = [...document.images];
  const found = {
    errors: window.errors, scripts: document.scripts.length, images: images.length,
    broken: images.filter(one => !one.naturalWidth).length,
    requests: performance.getEntriesByType("resource").map(one => one.name).filter(one => !one.startsWith("data:")),
    width: innerWidth, needed: document.documentElement.scrollWidth,
    charts: [...document.querySelectorAll(".chart svg")].map(one => one.getBoundingClientRect().width),
    background: getComputedStyle(document.body).backgroundColor,
    line: getComputedStyle(document.querySelector(".chart svg path[style*=series]")).stroke,
  };
  parent.postMessage(JSON.stringify(found), "*");
});
</script>
"""


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, gone on with for another one, and measured on test."""
    out = tmp_path_factory.mktemp("runs") / "first"
    trained(dataset, out, "--cache-dir", f"{out}/https:/me:{PASSWORD}@host/x")
    shutil.copytree(out, out.with_name("earlier"))
    train_command("--resume", out, "--epochs", 2)
    evaluate_command(EvaluateConfig(checkpoint=out / "checkpoints" / "best.pt", split="test", device="cpu"))
    return out


@pytest.fixture(scope="module")
def second(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as it was after one epoch, with another option."""
    out = Path(shutil.copytree(run.with_name("earlier"), tmp_path_factory.mktemp("runs") / "second"))
    config = json.loads((out / "config.json").read_text()) | {"learning_rate": 0.125}
    (out / "config.json").write_text(json.dumps(config))
    write_report(out)
    return out


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, for a test to change."""
    return Path(shutil.copytree(run, tmp_path / "first"))


def opened(page: Path, folder: Path, width: int, *options: str) -> dict[str, Any]:
    """What the page says of itself in a browser of this width that reaches no network."""
    if not BROWSER:
        pytest.skip("no Chromium here")
    first = "<script>errors = []; onerror = error => { errors.push(error) };</script>"
    html = page.read_text().replace("<head>", f"<head>{first}", 1).replace("</body>", f"{PROBE}</body>")
    (folder / "probed.html").write_text(html)
    (folder / "frame.html").write_text(FRAME.format(width))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--user-data-dir={folder}/browser", "--virtual-time-budget=5000", "--window-size=1400,900", *options]
    command += ["--dump-dom", f"file://{folder}/frame.html"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    found = re.search("<pre>([^<]*)</pre>", said.stdout)
    assert found, said.stderr
    return dict(json.loads(base64.b64decode(found[1])))


@pytest.mark.parametrize(("kind", "width"), [("report", 400), ("report", 1280), ("compare", 400)])
def test_in_a_browser_it_is_whole_and_asks_for_nothing(
    run: Path, second: Path, tmp_path: Path, kind: str, width: int
) -> None:
    page = run / "report.html"
    if kind == "compare":
        compare((run, second), page := tmp_path / "compare.html")
    found = opened(page, tmp_path, width, *(["--blink-settings=preferredColorScheme=0"] if width == 1280 else []))
    assert found["width"] == width
    assert found["needed"] <= width
    assert found["errors"] == found["requests"] == []
    assert found["scripts"] == 2  # those that the test has put in
    assert found["images"] > 20
    assert found["broken"] == 0
    assert min(found["charts"]) > 250
    dark = width == 1280
    assert found["background"] == ("rgb(21, 23, 26)" if dark else "rgb(251, 250, 248)")
    assert found["line"] == ("rgb(111, 180, 214)" if dark else "rgb(43, 115, 151)")


def test_nothing_in_it_leads_elsewhere(run: Path, second: Path, tmp_path: Path) -> None:
    compare((run, second), tmp_path / "compare.html")
    for path in (run / "report.html", tmp_path / "compare.html"):
        page = Page(path)
        assert not page.tags.keys() & {"script", "link", "iframe", "object", "embed", "base", "form"}
        assert not {name for name, _ in page.attributes} & {"href", "srcset", "action", "data"}
        sources = [value for name, value in page.attributes if name in ("src", "xlink:href")]
        assert sources
        assert all(value.startswith("data:image/jpeg;base64,") for value in sources)
        styles = [page.style, *(value for name, value in page.attributes if not name.startswith("xmlns"))]
        assert not re.search(r"url\(|@import|http", "\n".join(styles))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_tells_what_the_folder_holds(run: Path, dataset: Path) -> None:
    text, manifest = Page(run / "report.html").text, Dataset.open(dataset).manifest
    metrics = [lines(run)[-1][f"val/{name}"] for name in ("mask_iou", "depth_rmse", "depth_ssim")]
    metrics += json.loads((run / "evaluation-test.json").read_text()).values()
    assert all(f"{value:.4f}" in text for value in metrics)
    own, folded = re.split(r"\d+ more, with their defaults", text)
    assert all(f"--{name}\n" in own for name in ("data", "batch-size", "epochs", "width"))
    assert all(f"--{name}\n" in folded for name in ("learning-rate", "seed", "blocks"))
    for said in (platform.python_version(), torch.__version__, "Pillow", manifest.made_from, "from step 5 on"):
        assert said in text
    assert "train 120, val 15, test 15" in " ".join(text.split())
    assert f"train.py --data {dataset}" in text
    assert f"best.pt of step {lines(run)[-1]['step']} on {dataset}, test (15 samples)" in text


def test_no_password_is_in_it(run: Path, second: Path, tmp_path: Path) -> None:
    write_comparison([run, second], tmp_path / "compare.html")
    for path in (run / "report.html", run / "environment.json", tmp_path / "compare.html"):
        assert PASSWORD not in path.read_text()
    assert "https:/me:***@host/x" in (run / "report.html").read_text()


def strips(page: Path) -> dict[str, list[Image.Image]]:
    """The images of a page by what they show."""
    found = dict[str, list[Image.Image]]()
    for data, name in re.findall(r'<img src="data:image/jpeg;base64,([^"]*)" alt="([^"]*)"', page.read_text()):
        found.setdefault(name, []).append(Image.open(io.BytesIO(base64.b64decode(data))))
    return found


def test_the_samples_on_it_are_those_of_the_pictures(run: Path) -> None:
    shown, kinds = strips(run / "report.html"), ("best", "typical", "worst")
    for step in (5, 10):
        grids = [Grid.load(run / "pictures" / f"val-{kind}-{step:07d}.png") for kind in kinds]
        for name in ("predicted mask", "predicted depth"):
            for grid, image in zip(grids, shown[f"{name}, step {step}"], strict=True):
                assert grid
                expected = np.concatenate([*grid.rows[name]], 1).astype(float)
                assert np.abs(np.asarray(image, float) - expected).mean() < 8
    drawn = Grid.load(run / "pictures" / "evaluation-test-worst.png")
    assert drawn
    assert all(key in shown for key in drawn.keys)


def test_the_best_the_typical_and_the_worst_are_drawn_and_stay_the_same_when_the_run_goes_on(
    run: Path, dataset: Path, tmp_path: Path
) -> None:
    opened_set = Dataset.open(dataset)
    chosen = json.loads((run / "pictures" / "chosen.json").read_text())
    keys = [key for some in chosen.values() for key in some]
    assert len(set(keys)) == 3 * 4
    assert {opened_set.key(row) for some in chosen.values() for row in some.values()} == set(keys)
    errors = {}
    for kind, some in chosen.items():
        for step in (5, 10):
            grid = Grid.load(run / "pictures" / f"val-{kind}-{step:07d}.png")
            assert grid
            assert list(grid.keys) == list(some)
            errors[kind, step] = [error or 0 for error in grid.errors]
    assert max(errors["best", 5]) <= min(errors["typical", 5]) <= max(errors["typical", 5]) <= min(errors["worst", 5])
    assert errors["best", 10] != errors["best", 5]


def test_a_run_that_begins_again_chooses_and_draws_anew(run: Path, dataset: Path, tmp_path: Path) -> None:
    """As one does whose checkpoints were removed."""
    again = Path(shutil.copytree(run, tmp_path / "again"))
    shutil.rmtree(again / "checkpoints")
    (again / "pictures" / "chosen.json").write_text("{}")
    trained(dataset, again, "--batch-size", 60)
    assert {path.name for path in (again / "pictures").glob("val-*")} == {
        f"val-{kind}-0000002.png" for kind in ("best", "typical", "worst")
    }
    assert len(json.loads((again / "environment.json").read_text())["sessions"]) == 1


def test_it_can_be_made_again_at_any_time(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = copied / "report.html"
    before = page.read_bytes()
    page.unlink()
    report((copied,))
    assert page.read_bytes() == before
    assert capsys.readouterr().out == f"page: {page}\n"
    for path in copied.iterdir():  # what runs of other versions may lack
        if path.name not in ("metrics.jsonl", "pictures"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(copied / "pictures")
    report((copied,))
    (copied / "metrics.jsonl").write_text("")
    report((copied,))
    assert "no epoch has ended" in page.read_text()


def test_what_is_no_number_leaves_a_gap(copied: Path) -> None:
    some = lines(copied)
    for line in some:
        line |= {name: None for name in line if name not in ("step", "val/epoch") and line["step"] == 5}
    (copied / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in some) + '{"step": 11, "tra')
    text = Page(write_report(copied)).text
    assert "nan" not in text.lower()
    svg = draw_curves({0: Curve(np.arange(5.0), np.array([1, 2, np.nan, 3, 4]))})
    curve = re.findall(r'<path d="([^"]*)" style="[^"]*series-1[^"]*"', svg)[0]
    assert curve.count("M") == 2
    assert len(re.findall("<title>", svg)) == 4


@given(st.lists(st.one_of(st.floats(-1e3, 1e3), st.just(math.nan)), min_size=1, max_size=400), st.integers(1, 40))
def test_a_thinned_curve_has_the_means_of_its_parts(values: list[float], count: int) -> None:
    y = np.array(values)
    thin = Curve(np.arange(len(y), dtype=float), y).thinned(count)
    assert len(thin.x) == len(thin.y) == min(count, len(y))
    ends = np.arange(len(thin.x) + 1) * len(y) // len(thin.x)
    parts = [y[begin:end] for begin, end in pairwise(ends)]
    means = [np.mean(part[np.isfinite(part)]) if np.isfinite(part).any() else np.nan for part in parts]
    assert thin.y == pytest.approx(means, nan_ok=True, abs=1e-9)
    assert (np.diff(thin.x) > 0).all()


def test_a_long_run_has_a_small_page_soon(copied: Path) -> None:
    some = [line for line in lines(copied) if "train/loss" in line]
    rest = [line for line in lines(copied) if "val/epoch" in line]
    path = copied / "metrics.jsonl"
    write_report(copied)
    short = (copied / "report.html").stat().st_size
    many = [some[i % len(some)] | {"step": i} for i in range(20_000)] + [rest[i % 2] | {"step": i} for i in range(900)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in many))
    begin = time.perf_counter()
    write_report(copied)
    assert time.perf_counter() - begin < 5
    assert (copied / "report.html").stat().st_size < short + 300_000


def test_names_are_shown_and_not_obeyed(run: Path, second: Path, tmp_path: Path) -> None:
    name = EVIL.replace("/", "|") + " $x_1$"
    evil = Path(shutil.copytree(run, tmp_path / name))
    config = json.loads((evil / "config.json").read_text()) | {"mask_loss": EVIL}
    (evil / "config.json").write_text(json.dumps(config))
    compare((evil, second), tmp_path / "compare.html")
    for path in (write_report(evil), tmp_path / "compare.html"):
        page = Page(path)
        assert "script" not in page.tags
        assert not {name for name, _ in page.attributes if name.startswith("on")}
        assert name in page.text
        assert EVIL in page.text


def test_beside_each_other_the_best_of_each_is_marked_and_what_differs_is_told(
    run: Path, second: Path, tmp_path: Path
) -> None:
    compare((run, second), tmp_path / "compare.html")
    html = (tmp_path / "compare.html").read_text()
    best = {name: [lines(folder)[-1][f"val/{name}"] for folder in (run, second)] for name in ("mask_iou", "depth_rmse")}
    for name, label in (("mask_iou", "mask IoU"), ("depth_rmse", "depth RMSE")):
        chosen = min(best[name]) if name == "depth_rmse" else max(best[name])
        cells = [f"<b>{value:.4f}</b>" if value == chosen else f"{value:.4f}" for value in best[name]]
        row = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        assert f"<td>{label}</td>{row}" in html
    text = Page(tmp_path / "compare.html").text
    told = text.partition("Options that differ")[2].partition("Curves")[0].split()
    assert told == ["first", "second", "--epochs", "2", "1", "--learning-rate", "0.002", "0.125"]
    shown = strips(tmp_path / "compare.html")
    assert {"predicted mask, first", "predicted mask, second"} <= shown.keys()
    assert "Over epochs" in text


def test_a_folder_that_is_no_run_is_told_in_one_line(run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tracking", "compare", str(run), str(tmp_path / "nothing")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: {tmp_path}/nothing: no run here (no metrics.jsonl)")
    assert len(ended.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
