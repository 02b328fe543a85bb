"""A run loses neither work nor its best network, whatever happens to it, and ends as one that nothing happened to."""

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import ROOT
from trainings import CPU, EPOCHS, SMALL, STEPS, begin, logged, same_weights, state, steps_saved, told, train, trained

import checkpoint


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, for a test to go on with."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(
    options: list[object], whole: Path, tmp_path: Path
) -> None:
    """To the bit, in its weights and in what it logs. The same command begins the run and goes on with it."""
    chance, run = random.Random(12), tmp_path / "run"
    for kill in range(3):
        command = begin(tmp_path, *options, "--out", "run")
        until, delay = len(steps_saved(run)) + chance.randint(1, 3), chance.uniform(0, 0.1)
        while len(steps_saved(run)) < until and command.process.is_alive():
            time.sleep(0.001)
        time.sleep(delay)
        command.signal(signal.SIGKILL)
        assert command.ended().code == -signal.SIGKILL, f"kill {kill}"
    assert 0 < state(run)["step"] < EPOCHS * STEPS
    trained(tmp_path, *options, "--out", "run")
    assert same_weights(tmp_path / "run", whole)
    assert told(tmp_path / "run") == told(whole)
    assert not list((tmp_path / "run").rglob(".partial-*"))


def test_the_newest_checkpoints_stay_and_damaged_ones_are_passed_over_with_a_word(run: Path, tmp_path: Path) -> None:
    trained(tmp_path, "--resume", "run", "--epochs", EPOCHS + 1, "--keep", 3)
    kept = steps_saved(run)
    assert [path.name for path in kept] == ["step-0000068.pt", "step-0000072.pt", "step-0000075.pt"]
    before = state(run)["model"]
    saved = kept[-1].read_bytes()
    middle = len(saved) // 2
    for name, damaged in {
        "last.pt": saved[:-999],
        kept[-1].name: saved[:middle] + bytes(1024) + saved[middle + 1024 :],
    }.items():
        (run / "checkpoints" / name).unlink()
        (run / "checkpoints" / name).write_bytes(damaged)
    said = trained(tmp_path, "--resume", "run")
    assert re.findall(r"passed over: run/checkpoints/(\S+): damaged", said) == ["last.pt", kept[-1].name]
    after = state(run)
    assert after["step"] == (EPOCHS + 1) * STEPS
    assert all(torch.equal(after["model"][name], before[name]) for name in before)
    for path in (run / "checkpoints").glob("*.pt"):
        path.unlink()
        path.write_text("nothing")
    ended = train(tmp_path, "--resume", "run")
    assert ended.code == 2
    assert "no checkpoint to go on from is left" in ended.said


def test_a_run_that_diverges_destroys_nothing(run: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    longer = ["--resume", "run", "--epochs", EPOCHS + 1, "--save-every", 1000, "--log-every", 1000]
    ended = train(tmp_path, *longer, "--learning-rate", "1e18", "--grad-clip", "1e30")
    assert ended.code == 2
    assert "training has diverged" in ended.said.splitlines()[-1]
    assert {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before
    trained(tmp_path, *longer, "--learning-rate", "1e-3", "--grad-clip", "1")
    assert math.isfinite(state(run)["best"])
    assert logged(run)[-1]["val/mask_iou"] is not None


def test_what_an_earlier_version_saved_of_a_diverged_network_is_passed_over(run: Path, tmp_path: Path) -> None:
    diverged = state(run)
    next(iter(diverged["model"].values())).fill_(math.nan)
    (run / "checkpoints" / "last.pt").unlink()
    torch.save(diverged, run / "checkpoints" / "last.pt")
    assert "last.pt: its weights are no numbers" in trained(tmp_path, "--resume", "run")


def test_a_best_score_that_is_no_number_is_forgotten(run: Path, tmp_path: Path) -> None:
    """The first versions took it for one that nothing can beat, or that everything does."""
    for path in (run / "checkpoints").glob("*.pt"):
        found = checkpoint.load(path, CPU) | {"best": math.nan}
        path.unlink()
        torch.save(found, path)
    (run / "checkpoints" / "best.pt").unlink()
    trained(tmp_path, "--resume", "run", "--epochs", EPOCHS + 1)
    assert math.isfinite(state(run, "best")["best"])


def test_a_validation_that_was_cut_off_is_made_up_for(run: Path, whole: Path, tmp_path: Path) -> None:
    """A checkpoint at the end of an epoch is written before its validation, and says that it is due."""
    before = state(run, f"step-{EPOCHS * STEPS - 4:07}")
    due = state(run) | {name: before[name] for name in ("validated", "best")}
    (run / "checkpoints" / "last.pt").unlink()
    torch.save(due, run / "checkpoints" / "last.pt")
    said = trained(tmp_path, "--resume", "run")
    assert said.count("mask IoU") == 1
    assert told(run) == told(whole)
    assert state(run, "best")["step"] == state(whole, "best")["step"]
    assert "finished" in trained(tmp_path, "--resume", "run")
    assert told(run) == told(whole)


def test_a_torn_line_of_the_log_is_dropped(run: Path, whole: Path, tmp_path: Path) -> None:
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'60\n{}\n\xff\0{"step": 60, "train/lo')
    trained(tmp_path, "--resume", "run", "--epochs", EPOCHS + 1)
    assert told(run)[: len(told(whole))] == told(whole)


def test_a_run_goes_on_in_another_precision(run: Path, tmp_path: Path) -> None:
    epochs = EPOCHS
    for precision in ("fp16", "fp32", "bf16"):
        epochs += 1
        trained(tmp_path, "--resume", "run", "--epochs", epochs, "--precision", precision, "--size", 8)
    assert state(run)["step"] == epochs * STEPS


@pytest.mark.parametrize(
    ("small", "said"),
    [
        (
            ["--size", 8, "--levels", 3, "--batch-size", 1],
            "a rank a single sample, and --levels 3 a single pixel of 8x8",
        ),
        (["--size", 5], "images of 5x5 pixels: at least 6"),
    ],
)
def test_what_is_too_small_to_train_on_is_refused_at_once(
    small: list[object], said: str, dataset: Path, tmp_path: Path
) -> None:
    ended = train(tmp_path, "--data", dataset, *SMALL, *small)
    assert ended.code == 2
    assert said in ended.said


def test_a_full_disk_is_told_in_one_line_and_costs_nothing_that_was_saved(whole: Path, tmp_path: Path) -> None:
    """No room for what is written first, none for a checkpoint, and room."""
    shell = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs -o size=8m tmpfs "$0" && "$@"']
    shell.append(str(tmp_path))
    if not shutil.which("unshare") or subprocess.run([*shell, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("nobody may mount a small disk here")
    script = map(str, [sys.executable, ROOT / "tests" / "full_disk.py", whole, tmp_path, 0, 8, 2000])
    importing = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    said = subprocess.run([*shell, *script], env=importing, capture_output=True, text=True, timeout=120)
    ended = json.loads(said.stdout.splitlines()[-1])
    assert [(code, intact) for code, intact in ended] == [(2, True), (2, True), (0, True)], said.stderr
    errors = [line for line in said.stderr.splitlines() if line.startswith("error:")]
    for error, name in zip(errors, ("config.json", "checkpoints/"), strict=True):
        assert "the disk is full" in error
        assert f"/run/{name}" in error
    assert "Traceback" not in said.stderr
