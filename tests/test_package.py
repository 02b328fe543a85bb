"""The wheel: outside the checkout the loader and the commands work as in it."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from pipeline.loader import Loader, LoaderConfig
with Loader(LoaderConfig(data=Path(sys.argv[2]), batch_size=16, size=0)) as loader:
    print(sys.modules["pipeline"].__file__, next(iter(loader)).fg_bg.shape)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's contents, and nothing else of the project."""
    root = tmp_path_factory.mktemp("package")
    for name in ("shards", "pipeline", "model"):
        shutil.copytree(ROOT / name, root / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, root / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", root / "installed", root / "source"], check=True)
    return root / "installed"


def test_the_loader_works_from_a_wheel(installed: Path, dataset: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(installed), str(dataset)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ran.stdout == f"{installed}/pipeline/__init__.py torch.Size([16, 3, 48, 48])\n", ran.stderr


def test_the_commands_work_from_a_wheel(installed: Path, damaged: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shards", "show", str(damaged)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(installed)})
    assert ran.returncode == 0, ran.stderr
    assert (damaged / "show.html").exists()


def test_every_room_is_in_the_package() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    rooms = {path.parent for name in ("shards", "pipeline", "model") for path in (ROOT / name).rglob("__init__.py")}
    assert {name.replace(".", "/") for name in packages} == {path.relative_to(ROOT).as_posix() for path in rooms}
