"""The commands as a user runs them: help, one line for a mistake, exit codes."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from commands import ROOT, python
from PIL import Image
from small_data import SIZE, Drawn, flip

from demo.draw import DrawConfig
from evaluate import EvaluateConfig
from pipeline.loader import LoaderConfig
from shards.build.build import BuildConfig
from shards.errors import InputError
from shards.format.depth import ExistingDepthConfig
from shards.format.fields import Bounds
from shards.format.splits import DivisionConfig
from shards.ingest.compose import ComposeConfig
from shards.ingest.convert import ConvertConfig
from shards.ingest.teacher import DepthConfig
from train import TrainConfig

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


CONFIGS: list[tuple[Any, dict[str, Any]]] = [
    (ComposeConfig, {"fg": Path("fg"), "bg": Path("bg")}),
    (ConvertConfig, {}),
    (ExistingDepthConfig, {}),
    (DivisionConfig, {}),
    (BuildConfig, {}),
    (DepthConfig, {}),
    (LoaderConfig, {"data": "data"}),
    (TrainConfig, {"loader": LoaderConfig(data="data")}),
    (EvaluateConfig, {"checkpoint": Path("best.pt")}),
    (DrawConfig, {"out": Path("out")}),
]


def numbers(kind: Any, bounds: Bounds | None = None) -> Iterator[tuple[type, Bounds | None]]:
    """The numbers that a field of this kind holds, one beside the other, with their bounds."""
    if kind in (int, float):
        yield kind, bounds
    elif get_origin(kind) is Annotated:
        inner, *limits = get_args(kind)
        yield from numbers(inner, next((one for one in limits if isinstance(one, Bounds)), bounds))
    else:
        for one in get_args(kind):
            yield from numbers(one)


@pytest.mark.parametrize(("config", "needed"), CONFIGS, ids=lambda one: getattr(one, "__name__", ""))
def test_a_number_that_cannot_be_is_refused_by_its_name(config: Any, needed: dict[str, Any]) -> None:
    kinds = get_type_hints(config, include_extras=True)
    for field in fields(config):
        found = [*numbers(kinds[field.name])]
        for kind, bounds in found:
            assert bounds or kind is float, f"{config.__name__}.{field.name} has no bounds"
            beyond: list[Any] = (
                [bounds.least - 1, bounds.most + 1 if kind is int else bounds.most * 2] if bounds else []
            )
            for value in [*beyond, math.nan, math.inf, 2**64 if kind is int else "1", True, None, "x", []]:
                given = value if len(found) == 1 else (value,) * len(found)
                if given is not None or field.default is not None:
                    with pytest.raises(InputError, match=rf"^{field.name.replace('_', '-')}.* expected\.$"):
                        config(**needed | {field.name: given})


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "shards", "compose", "--fg", "x", "--bg", "x", "--out", "out", "--seed", "-1"],
        ["-m", "shards", "convert", "x", "out", "--depth-metres", "nan", "nan"],
        ["-m", "shards", "show", "x", "--samples", "10000000000"],
        ["-m", "demo.draw", "out", "--figures", "0"],
        ["train.py", "--data", "x", "--learning-rate", "nan"],
        ["evaluate.py", "x", "--batch-size", "-5"],
    ],
    ids=lambda arguments: " ".join(arguments[-2:]),
)
def test_a_number_that_cannot_be_is_one_line_of_every_command(arguments: list[str], tmp_path: Path) -> None:
    program = [str(ROOT / one) if one.endswith(".py") else one for one in arguments]
    code, said = python(program, tmp_path)
    assert code == 2
    assert re.fullmatch(r"error: [^\n]* expected\.\n", said)
    assert not list(tmp_path.glob("out*"))


def test_names_of_folders_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    name = "[/b][red] :dog: \x1b[2J\r\u202e\udcff"
    (tmp_path / name).mkdir(parents=True)
    for command in ("show", "verify"):
        code, said = python(["-m", "shards", command, name], tmp_path)
        assert (code, said.count("\n")) == (2, 1)
        assert said.startswith(r"error: [/b][red] :dog: \x1b[2J\r\u202e\udcff: no data set here")
