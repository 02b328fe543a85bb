"""`make gpu`: all of it runs on the CPU too, what fails costs only itself, and it says what keeps it from running."""

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bench.gpu.__main__ import STAGES, failures, gpus, rows_of

ROOT = Path(__file__).parent.parent
TESTS = 19
MEASURED = {
    "first": {"data": 2, "resident": 4, "fed": 4, "decode": 10, "loader": 8},
    "second": {"data": 2, "run": 2, "seed": 1, "peers": 6},
}
"""The rows with a rate, by stage and part."""


def run(*arguments: str, out: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"OUT": str(out)} if out else {})
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170)


@pytest.mark.skipif(not find_spec("nvidia"), reason="DALI does not exist for this system")
@pytest.mark.parametrize("stage", STAGES)
def test_a_dry_run_does_everything(stage: str, tmp_path: Path) -> None:
    finished = run("-m", "bench.gpu", stage, "--dry", out=tmp_path)
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-4000:]
    path = tmp_path / f"gpu-{stage}.json"
    results: dict[str, Any] = json.loads(path.read_text())
    assert list(results.pop("seconds")) == list(results) == list(STAGES[stage])
    rates = {
        part: [row["samples_per_second"] for row in results[part] if "samples_per_second" in row]
        for part in MEASURED[stage]
    }
    assert {part: len(found) for part, found in rates.items()} == MEASURED[stage]
    assert min(map(min, rates.values())) > 0
    assert finished.stdout.splitlines()[-1] == f"dry run: 0 failures; results: {path}"
    if stage == "first":
        assert [row["outcome"] for row in results["tests"]] == ["passed"] * (TESTS + 1)
        assert [row["afterwards"] for row in results["damaged"]] == [0] * 3


WRITE = "import os, sys, time; print('{\"rate\": 1}', file=open(os.environ['SLUICE_ROWS'], 'a'), flush=True); "


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("time.sleep(60)", "stopped after 3 seconds"),
        ("os.kill(os.getpid(), 11)", "its process ended with exit code -11"),
        ("sys.exit(2)", "its process ended with exit code 2"),
    ],
    ids=["hangs", "crashes", "fails"],
)
def test_what_was_measured_before_survives(tmp_path: Path, program: str, error: str) -> None:
    rows = list(rows_of([sys.executable, "-c", WRITE + program], tmp_path / "rows.jsonl", 3))
    assert rows == [{"rate": 1}, {"error": error}]


def test_a_part_that_ends_well_has_its_rows_and_no_error(tmp_path: Path) -> None:
    assert list(rows_of([sys.executable, "-c", WRITE], tmp_path / "rows.jsonl", 60)) == [{"rate": 1}]


def test_when_the_time_is_over_no_part_begins(tmp_path: Path) -> None:
    rows = list(rows_of([sys.executable, "-c", WRITE], tmp_path / "rows.jsonl", -1))
    assert rows == [{"error": "not begun: the time of the stage was over"}]
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc").exists(), reason="only Linux tells the environment of a process")
def test_nothing_of_a_part_is_left(tmp_path: Path) -> None:
    """Not even what is in a session of its own, as the workers of torchrun are."""
    child = [sys.executable, "-c", "import time; time.sleep(60)"]
    program = f"import subprocess; child = subprocess.Popen({child}, start_new_session=True); "
    program += "print(child.pid, file=open(os.environ['SLUICE_ROWS'], 'a'), flush=True)"
    (pid,) = list(rows_of([sys.executable, "-c", "import os; " + program], tmp_path / "rows.jsonl", 60))
    deadline = time.monotonic() + 10
    stat = Path(f"/proc/{pid}/stat")
    while stat.exists() and " Z " not in stat.read_text():  # a zombie is dead
        assert time.monotonic() < deadline
        time.sleep(0.05)


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
    well: dict[str, list[dict[str, Any]]] = {"machine": [{"cores": 2}], "tests": [{"test": "a", "outcome": "passed"}]}
    badly: dict[str, list[dict[str, Any]]] = {"tests": [{"test": "b", "outcome": "skipped"}], "data": [{"error": "x"}]}
    assert failures(well) == []
    assert failures(badly) == ["tests, test b: skipped", "data, all of it: x"]
