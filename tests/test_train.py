import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import checkpoint
from model.unet import UNetConfig
from pipeline.loader import LoaderConfig
from shards.errors import InputError
from shards.format.manifest import from_json
from train import TrainConfig, scheduled_rate

ROOT = Path(__file__).parent.parent
SMALL = ["--batch-size", "8", "--size", "32", "--width", "4", "--levels", "2", "--log-every", "5", "--num-threads", "1"]
EPOCHS, STEPS = 6, 6 * 15
CPU = torch.device("cpu")


def command(*arguments: object, ranks: int = 1) -> list[str]:
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return [*launcher, str(ROOT / "train.py"), *map(str, arguments)]


def environment(home: Path) -> dict[str, str]:
    """No W&B key to be found, and one thread a process, so that sums are made in one order."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    return kept | {"HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}


def run(home: Path, *arguments: object, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, ranks=ranks), env=environment(home), capture_output=True, text=True, timeout=120
    )


def weights(path: Path) -> dict[str, Any]:
    return dict(checkpoint.load(path, CPU)["model"])


def interrupted(home: Path, *arguments: object) -> int:
    """Starts a training, kills it as soon as there is a checkpoint, and returns at which step that was made."""
    last = home / "killed" / "checkpoints" / "last.pt"
    process = subprocess.Popen(command(*arguments), env=environment(home), stdout=subprocess.DEVNULL)
    try:
        while not last.exists():
            assert process.poll() is None, "it ended before its first checkpoint"
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return int(checkpoint.load(last, CPU)["step"])


def test_a_killed_and_resumed_run_ends_with_bit_identical_weights(dataset: Path, tmp_path: Path) -> None:
    options = ["--data", dataset, *SMALL, "--epochs", EPOCHS, "--save-every", 4, "--wandb", "off"]
    whole = run(tmp_path, *options, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    step = interrupted(tmp_path, *options, "--out", tmp_path / "killed")
    assert 0 < step < STEPS
    resumed = run(tmp_path, "--resume", tmp_path / "killed")
    assert resumed.returncode == 0, resumed.stderr
    one, other = (weights(tmp_path / name / "checkpoints" / "last.pt") for name in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert logged_steps(tmp_path / "whole") == logged_steps(tmp_path / "killed")
    assert not (tmp_path / "whole" / "wandb").exists()


def logged(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def logged_steps(folder: Path) -> list[float]:
    return [line["step"] for line in logged(folder)]


def test_the_first_loss_after_resuming_is_the_mean_of_the_steps_made_since(dataset: Path, tmp_path: Path) -> None:
    """A checkpoint at step 15 is at the edge of a window of 5 steps, and in the middle of one of 10."""
    first = run(tmp_path, "--data", dataset, *SMALL, "--epochs", 1, "--wandb", "off", "--out", tmp_path / "5")
    assert first.returncode == 0, first.stderr
    shutil.copytree(tmp_path / "5", tmp_path / "10")
    for window in ("5", "10"):
        resumed = run(tmp_path, "--resume", tmp_path / window, "--epochs", 2, "--log-every", window)
        assert resumed.returncode == 0, resumed.stderr
    at_20 = [line for window in ("5", "10") for line in logged(tmp_path / window) if line["step"] == 20]
    for name in ("train/loss", "train/mask_loss", "train/depth_loss"):
        assert at_20[0][name] == pytest.approx(at_20[1][name], rel=1e-5)


def test_two_ranks_train_log_offline_to_wandb_and_can_be_resumed_by_one(dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = run(tmp_path, "--data", dataset, *SMALL, "--epochs", 1, "--out", folder, ranks=2)
    assert first.returncode == 0, first.stderr
    assert f"wandb sync {folder / 'wandb'}" in first.stdout
    assert len(list((folder / "wandb").glob("offline-run-*/*.wandb"))) == 1, "only rank 0 logs"
    assert checkpoint.load(folder / "checkpoints" / "last.pt", CPU)["step"] == STEPS / EPOCHS
    more = run(tmp_path, "--resume", folder, "--epochs", 2, "--wandb", "off")
    assert more.returncode == 0, more.stderr
    assert checkpoint.load(folder / "checkpoints" / "last.pt", CPU)["step"] == 2 * STEPS / EPOCHS
    assert len(list((folder / "pictures").glob("val-*.png"))) == 2 * 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nowhere"], "no data set here"),
        (["--data", "nowhere", "--mask-loss", "bec"], "'bec'"),
        (["--resume", "nowhere"], "no run to resume"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    failed = run(tmp_path, *arguments)
    assert failed.returncode == 2
    assert said in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_configuration_survives_json() -> None:
    config = TrainConfig(loader=LoaderConfig(data=Path("data"), seed=3), unet=UNetConfig(width=8), out=Path("runs/a"))
    assert from_json(TrainConfig, json.loads(json.dumps(config.to_dict()))) == config


@given(steps=st.integers(1, 500), warmup=st.floats(0, 1))
def test_the_rate_rises_to_its_highest_and_then_only_falls(steps: int, warmup: float) -> None:
    config = replace(TrainConfig(loader=LoaderConfig(data=Path("data"))), warmup=warmup, learning_rate=1.0)
    rates = [scheduled_rate(config, step, steps) for step in range(steps)]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[0] <= 1
    assert math.isclose(max(rates), 1)


def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(InputError, match="not a checkpoint"):
        checkpoint.load(tmp_path / "text.pt", CPU)
    with pytest.raises(InputError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "none.pt", CPU)
