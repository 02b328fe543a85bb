"""A run stops when it is asked to, at once and with its work saved; nobody else comes into its folder; ranks agree."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from commands import ROOT, Command, Ended
from trainings import CPU, EPOCHS, SMALL, STEPS, begin, logged, same_weights, state, steps_saved, told, train, trained

from checkpoint import load_model
from evaluate import evaluate
from pipeline.loader import Loader, LoaderConfig


def under_way(command: Command, run: Path, steps: int) -> Command:
    """The command, once it has saved at so many steps or more."""
    while not any(int(path.stem[-7:]) >= steps for path in steps_saved(run)):
        assert command.process.is_alive(), command.ended().said
        time.sleep(0.002)
    return command


def stopped_by(number: int, command: Command) -> tuple[Ended, int]:
    """How it ended, and the step that it says it has saved."""
    command.signal(number)
    ended = command.ended()
    name, steps = signal.Signals(number).name, EPOCHS * STEPS
    said = re.search(rf"stopped by {name} at step (\d+) of {steps}, which is saved", ended.said)
    assert said, ended.said
    return ended, int(said[1])


def test_a_run_that_is_asked_to_stop_saves_and_says_how_to_go_on(
    options: list[object], whole: Path, tmp_path: Path
) -> None:
    same, run = [*options, "--out", "run"], tmp_path / "run"
    ended, step = stopped_by(signal.SIGTERM, under_way(begin(tmp_path, *same), run, 1))
    assert ended.code == 75
    assert state(run)["step"] == step
    ended, step = stopped_by(signal.SIGINT, under_way(begin(tmp_path, *same), run, step + 5))
    assert ended.code == 130
    assert state(run)["step"] == step
    (how,) = re.findall(r"to go on: python train.py (.*)", ended.said)
    command = under_way(begin(tmp_path, *shlex.split(how)), run, step + 5)
    command.signal(signal.SIGSTOP)  # lest it be done before the others are
    second = train(tmp_path, *same, said="second")
    assert second.code == 2
    assert re.search(r"error: run: process \d+ on .* is training there", second.said)
    command.signal(signal.SIGCONT)
    ended, step = stopped_by(signal.SIGUSR1, command)
    assert ended.code == 75
    other = train(tmp_path, *same, "--learning-rate", "0.1", "--width", 6)
    assert other.code == 2
    assert "(--width 4 then, 6 now, --learning-rate 0.002 then, 0.1 now)" in other.said
    trained(tmp_path, *same)
    assert same_weights(run, whole)
    assert told(run) == told(whole)


def ranks_of_slurm(folder: Path, *arguments: object, second: Sequence[object] = ()) -> list[Command]:
    """Two processes, as srun starts them; one has other arguments behind these."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": str(time.monotonic_ns() % 1000)}
    job |= {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "127.0.0.1"}
    places = [{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in (0, 1)]
    behind = ((), second)
    return [begin(folder, *arguments, *behind[i], said=f"said-{i}", **job, **place) for i, place in enumerate(places)]


@pytest.fixture(scope="module")
def of_two_ranks(options: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks of which one is asked to stop; the other stops at the same step, and both go on."""
    folder = tmp_path_factory.mktemp("two")
    first, second = ranks_of_slurm(folder, *options, "--out", "run")
    under_way(first, folder / "run", 20)
    second.signal(signal.SIGTERM)
    assert [command.ended().code for command in (first, second)] == [75, 75]
    both = ranks_of_slurm(folder, *options, "--out", "run")
    assert [command.ended().code for command in both] == [0, 0], [command.said.read_text() for command in both]
    return folder / "run"


def test_several_ranks_of_slurm_train_one_run(of_two_ranks: Path) -> None:
    lines = logged(of_two_ranks)
    assert [line["step"] for line in lines if "val/epoch" in line] == [STEPS * epoch for epoch in range(1, EPOCHS + 1)]
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(5, EPOCHS * STEPS + 1, 5))


def test_two_ranks_of_which_one_was_stopped_or_killed_end_alike(
    options: list[object], of_two_ranks: Path, tmp_path: Path
) -> None:
    """One that was killed takes the other with it, which says so."""
    first, second = ranks_of_slurm(tmp_path, *options, "--out", "run")
    under_way(first, tmp_path / "run", 1)
    second.signal(signal.SIGKILL)
    ended = first.ended(timeout=20)
    assert ended.code == 2
    assert "error: rank 0: another rank has ended" in ended.said.splitlines()[-1]
    assert "Traceback" not in ended.said
    both = ranks_of_slurm(tmp_path, *options, "--out", "run")
    assert [command.ended().code for command in both] == [0, 0]
    assert same_weights(of_two_ranks, tmp_path / "run")
    assert told(of_two_ranks) == told(tmp_path / "run")


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (["--seed", 3, "--width", 5], r"\(--seed: 0 on rank 0, 3 on rank 1; --width: 4 on rank 0, 5 on rank 1\)"),
        (["--data", "damaged"], r"digest of the data set: \w+ on rank 0, \w+ on rank 1\)"),
    ],
)
def test_ranks_that_are_not_to_do_the_same_are_told(
    other: list[object], told: str, options: list[object], damaged: Path, tmp_path: Path
) -> None:
    """Here of another seed and network, or of data that are as many but others."""
    manifest = json.loads((damaged / "manifest.json").read_text())
    (damaged / "manifest.json").write_text(json.dumps(manifest | {"made_from": "others"}))
    for command in ranks_of_slurm(tmp_path, *options, "--out", "run", second=other):
        ended = command.ended()
        assert ended.code == 2
        assert re.search(told, ended.said), ended.said
        assert len(ended.said.splitlines()) == 1
    assert not list((tmp_path / "run").rglob("*.pt"))


def test_validation_on_ranks_measures_the_network_that_is_saved(of_two_ranks: Path, dataset: Path) -> None:
    model, _ = load_model(of_two_ranks / "checkpoints" / "last.pt", CPU)
    with Loader(LoaderConfig(data=dataset, split="val", size=32, batch_size=8, shuffle=False)) as loader:
        metrics, _ = evaluate(model, loader, torch.float32)
    logged_then = logged(of_two_ranks)[-1]
    for name, value in metrics.items():
        assert logged_then[f"val/{name}"] == pytest.approx(value, rel=1e-5), name


def losses(run: Path) -> dict[int, float]:
    return {line["step"]: line["train/loss"] for line in logged(run) if "train/loss" in line}


def test_other_ranks_see_the_same_batches_and_losses_that_hardly_differ(
    options: list[object], whole: Path, of_two_ranks: Path, tmp_path: Path
) -> None:
    """The one run is begun by one rank and gone on with by two, whose batch norm has statistics of half a batch.

    Those are of four samples here, and make up to 6 % of the loss. That the batches are the same says test_contract.py.
    """
    same, run = [*options, "--out", "run"], tmp_path / "run"
    _, step = stopped_by(signal.SIGTERM, under_way(begin(tmp_path, *same), run, 20))
    assert [command.ended().code for command in ranks_of_slurm(tmp_path, *same)] == [0, 0]
    expected, found = losses(whole), losses(run)
    assert [found[at] for at in range(5, step, 5)] == [expected[at] for at in range(5, step, 5)]
    assert found == pytest.approx(expected, rel=0.1)
    assert losses(of_two_ranks) == pytest.approx(expected, rel=0.1)
    trained(tmp_path, "--resume", "run", "--epochs", EPOCHS + 1)
    assert state(run)["step"] == (EPOCHS + 1) * STEPS


def workers(agent: int) -> dict[str, int]:
    """The processes that torchrun has started, by their ranks."""
    found = {}
    for pid in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
        with suppress(OSError):
            variables = dict(one.partition("=")[::2] for one in Path(f"/proc/{pid}/environ").read_text().split("\0"))
            found[variables.get("RANK", "none")] = int(pid)
    return found


def test_torchrun_completes_a_run_of_which_a_rank_was_killed(dataset: Path, tmp_path: Path) -> None:
    """And only rank 0 of each attempt tells Weights & Biases."""
    options = [*SMALL, "--wandb", "auto", "--epochs", "2", "--save-every", "2", "--keep", "99", "--out", "run"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    variables = kept | {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command: list[str | Path] = [*launcher, ROOT / "train.py", "--data", dataset, *options]
    with (tmp_path / "said").open("w") as said:
        agent = subprocess.Popen(command, env=variables, cwd=tmp_path, stdout=said, stderr=said)
    try:
        while not steps_saved(tmp_path / "run"):
            assert agent.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.01)
        os.kill(workers(agent.pid)["1"], signal.SIGKILL)
        assert agent.wait(timeout=100) == 0, (tmp_path / "said").read_text()
    finally:
        agent.terminate()
    assert state(tmp_path / "run")["step"] == 2 * STEPS
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))) == 2
