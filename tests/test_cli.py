"""The commands as a user runs them: help, one line for a mistake, exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_data import SIZE, Drawn, flip

COMPOSE = ("compose", "--out", "{tmp}/out")


def run(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    wide = os.environ | {"COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "shards", *map(str, arguments)], capture_output=True, text=True, env=wide
    )


def test_every_command_explains_itself() -> None:
    shown = run("--help").stdout
    for name in ("compose", "convert", "draw", "index", "verify", "show", "export"):
        assert name in shown


def test_show_says_what_is_there_and_draws_it(dataset: Path, tmp_path: Path) -> None:
    shown = run("show", dataset, "--sheet", tmp_path / "sheet.png", "--page", tmp_path / "show.html", "--samples", "5")
    assert shown.returncode == 0, shown.stderr
    assert "150 samples of 48x48 pixels" in shown.stdout
    assert "train 120, val 15, test 15" in shown.stdout
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    assert sheet.shape == (4 * (SIZE + 2), 5 * (SIZE + 2), 3)
    assert all(sheet[line * (SIZE + 2) :][:SIZE].std() > 10 for line in range(4))


def test_show_writes_its_page_and_export_its_files_and_both_say_where(damaged: Path, tmp_path: Path) -> None:
    shown = run("show", damaged)
    assert f"page: {damaged}/show.html" in shown.stdout
    assert (damaged / "show.html").read_text().startswith("<!doctype html>")
    exported = run("export", damaged, tmp_path / "files")
    assert exported.returncode == 0, exported.stderr
    assert "150 samples; depth is" in exported.stdout
    assert len(list((tmp_path / "files" / "OverlayedMasks").rglob("*.jpg"))) == 150


def test_verify_exits_with_1_and_the_list(damaged: Path) -> None:
    flip(damaged / "index" / "train.npy", 200)
    flip(damaged / "index" / "keys.npy", 1)
    shown = run("verify", damaged)
    assert shown.returncode == 1
    assert "index/train.npy: its digest" in shown.stdout
    assert "index/keys.npy: its digest" in shown.stdout
    assert "2 problems" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "{tmp}"], "no data set here"),
        (["convert", "{tmp}/nowhere", "{tmp}/out"], "nowhere: no folder and no zip"),
        (["convert", "{tmp}"], "at least one SOURCE and, last, the folder OUT"),
        (["index", "{tmp}"], "no .tar in it"),
        ([*COMPOSE, "--fg", "{tmp}", "--bg", "{rooms}", "--depth", "{rooms}"], "no usable image for fg"),
        ([*COMPOSE, "--fg", "{tmp}/x", "--bg", "x", "--depth", "x"], "x: no such folder. --fg names"),
    ],
)
def test_a_mistake_is_one_plain_line(arguments: list[str], said: str, drawn: Drawn, tmp_path: Path) -> None:
    result = run(*(argument.format(tmp=tmp_path, rooms=drawn.bg) for argument in arguments))
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert said in result.stderr


def test_an_option_that_cannot_be_is_told_with_the_reason(tmp_path: Path) -> None:
    result = run("convert", tmp_path, tmp_path / "out", "--val-share", "0.5", "--test-share", "0.5")
    assert result.returncode == 2
    assert "val-share 0.5 and test-share 0.5: numbers from 0 with a sum under 1 are needed" in result.stderr
    assert "Traceback" not in result.stderr
