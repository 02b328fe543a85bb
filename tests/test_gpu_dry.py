"""`make gpu`: everything of it runs on the CPU too, and it says what keeps it from running."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from bench.gpu import failures, gpus

ROOT = Path(__file__).parent.parent
TESTS = 14


def run(*arguments: str, out: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"OUT": str(out)} if out else {})
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170)


@pytest.mark.skipif(not find_spec("nvidia"), reason="DALI does not exist for this system")
def test_a_dry_run_does_everything(tmp_path: Path) -> None:
    finished = run("-m", "bench.gpu", "--dry", out=tmp_path)
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-4000:]
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert list(results) == [
        *("machine", "seconds", "data", "tests", "loader", "cached", "training_step", "training", "whole")
    ]
    assert [row["outcome"] for row in results["tests"]] == ["passed"] * (TESTS + 1)
    measured = ("loader", "cached", "training_step", "training", "whole")
    rates = [row["samples_per_second"] for name in measured for row in results[name]]
    assert len(rates) == 27
    assert min(rates) > 0
    assert finished.stdout.splitlines()[-1] == f"dry run: 0 failures; results: {tmp_path / 'gpu.json'}"


@pytest.mark.skipif(gpus() > 0, reason="there is a GPU here")
def test_without_a_gpu_it_says_so() -> None:
    finished = run("-m", "bench.gpu")
    assert finished.returncode == 3
    assert finished.stderr.startswith("No CUDA GPU here")


def test_it_names_the_packages_that_are_missing() -> None:
    finished = run("-S", "-m", "bench.gpu", "--dry")
    assert finished.returncode == 2
    assert all(package in finished.stderr for package in ("torch", "nvidia-dali-cuda120", "pytest", "tyro"))
    assert len(finished.stderr.splitlines()) == 1


def test_whatever_did_not_go_well_is_a_failure() -> None:
    well = {"machine": {"cores": 2}, "tests": [{"test": "a", "outcome": "passed"}]}
    badly = {"tests": [{"test": "b", "outcome": "skipped"}], "data": {"error": "x"}, "loader": [{"error": "y"}]}
    assert failures(well) == []
    assert failures(badly) == ["tests, test b: skipped", "data, all of it: x", "loader, all of it: y"]
