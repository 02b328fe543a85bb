import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trainings import train

import checkpoint
from model.unet import UNetConfig
from pipeline.loader import LoaderConfig
from ranks import distributed
from shards.errors import InputError
from shards.format.fields import from_json
from train import TrainConfig, scheduled_rate

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nowhere"], "no data set here"),
        (["--data", "nowhere", "--mask-loss", "bec"], "'bec'"),
        (["--resume", "nowhere"], "no run to resume"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], said: str, tmp_path: Path) -> None:
    failed = train(tmp_path, *arguments)
    assert failed.code == 2
    assert said in failed.said
    assert "Traceback" not in failed.said


def test_a_configuration_survives_json() -> None:
    config = TrainConfig(loader=LoaderConfig(data=Path("data"), seed=3), unet=UNetConfig(width=8), out=Path("runs/a"))
    assert from_json(TrainConfig, json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="here a process cannot be held to some cores")
def test_a_training_uses_the_cores_that_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    torch.set_num_threads(7)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with distributed("cpu"):
            assert torch.get_num_threads() == 1
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


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
    with pytest.raises(InputError, match="cannot be read"):
        checkpoint.load(tmp_path, CPU)
    config = TrainConfig(loader=LoaderConfig(data="data")).to_dict() | {"depth": {}}
    for model, told in (
        ({"layer": 3}, "not a checkpoint"),
        ({"layer": torch.ones(1)}, "of another network than it says"),
    ):
        torch.save({"model": model, "config": config, "step": 1}, tmp_path / "odd.pt")
        with pytest.raises(InputError, match=told):
            checkpoint.load_model(tmp_path / "odd.pt", CPU)
