"""These tests need the data set and the device that `make gpu` names in the environment; else none is collected."""

import json
import os
from pathlib import Path

import pytest
import torch

from bench.gpu.scale import DRY, FULL, Scale
from pipeline.loader import LoaderConfig
from train import TrainConfig

collect_ignore_glob = [] if "SLUICE_DATA" in os.environ else ["test_*.py"]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Adds a line of JSON to the file that `make gpu` names, so that what was measured survives whatever comes next."""
    if report.when == "call" or not report.passed:
        result = {"test": report.nodeid.partition("::")[2], "outcome": report.outcome, "seconds": report.duration}
        error = {} if report.passed else {"error": report.longreprtext}
        with Path(os.environ["SLUICE_ROWS"]).open("a") as file:
            file.write(json.dumps(result | {"measured": dict(report.user_properties)} | error) + "\n")


@pytest.fixture(scope="session")
def scale() -> Scale:
    return DRY if os.environ["SLUICE_DEVICE"] == DRY.device.type else FULL


@pytest.fixture(scope="session")
def data() -> Path:
    """The data set that `make gpu` composed."""
    return Path(os.environ["SLUICE_DATA"])


@pytest.fixture(scope="session")
def device(scale: Scale) -> torch.device:
    return scale.device


@pytest.fixture(scope="session")
def config(scale: Scale, data: Path) -> LoaderConfig:
    """Batches decoded on the GPU, several of them at once."""
    return LoaderConfig(data=data, size=scale.size, batch_size=scale.test_batch, decode=scale.decode, num_threads=4)


@pytest.fixture
def training_config(config: LoaderConfig, scale: Scale, tmp_path: Path) -> TrainConfig:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    return TrainConfig(loader=config, unet=scale.unet, out=run, epochs=2, wandb="off", log_every=5)
