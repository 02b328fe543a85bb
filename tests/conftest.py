"""Drawn once for all tests: figures and rooms, their samples in the folders of 2020, and the data set made of these."""

import os
import shutil
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # several tests run at a time

import pytest
from hypothesis import settings
from small_data import ONE_WORKER, SIZE, Drawn, built, compose_config, convert
from trainings import options_for, trained

from demo.draw import draw_data
from shards.ingest.compose import plan_composition
from shards.inspect.export import export

LONG = ("test_gpu_dry", "test_cluster", "test_readme", "test_resume", "test_stopping", "test_wandb")
"""Files that take half a minute or more. They come first, so that at the end no worker is left alone with one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONG)


settings.register_profile("sluice", deadline=None, max_examples=50)
settings.load_profile("sluice")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    root = tmp_path_factory.mktemp("drawn")
    drawn = Drawn(root / "fg", root / "bg", root / "depth")
    draw_data(*drawn, figures=6, rooms=8, size=SIZE)
    return drawn


@pytest.fixture(scope="session")
def folders(drawn: Drawn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 samples in OverlayedImages/, OverlayedMasks/, DepthImage/ (a folder for each of 4 rounds) and Background/."""
    root = tmp_path_factory.mktemp("layout")
    export(built(plan_composition(compose_config(drawn)), root / "composed"), root / "folders", ONE_WORKER)
    return root / "folders"


@pytest.fixture(scope="session")
def dataset(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders converted: 6 shards of 25 samples, 8 backgrounds; train 120, val 15, test 15."""
    out = tmp_path_factory.mktemp("converted") / "dataset"
    convert([folders], out)
    return out


@pytest.fixture(scope="session")
def options(dataset: Path) -> list[object]:
    """Those of a small training."""
    return options_for(dataset)


@pytest.fixture(scope="session")
def whole(options: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of one rank that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    trained(folder, *options, "--out", "run")
    return folder / "run"


@pytest.fixture
def damaged(dataset: Path, tmp_path: Path) -> Path:
    """A copy of the data set, for a test to damage."""
    return Path(shutil.copytree(dataset, tmp_path / "damaged"))


@pytest.fixture
def messy(folders: Path, tmp_path: Path) -> Path:
    """A copy of the folders, for a test to put things into."""
    return Path(shutil.copytree(folders, tmp_path / "messy"))
