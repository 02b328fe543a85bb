"""The rooms of the house, and which of them may know which."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("shards", "pipeline", "model", "tracking")
ROOMS = ("errors", "machine", "format", "sources", "ingest", "build", "inspect", "commands")
"""of shards/, in the order of the data"""


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            names.add(node.module or "")
    return names


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", modules("shards"), ids=lambda path: path.stem)
def test_shards_know_neither_torch_nor_dali_nor_what_follows_them(path: Path) -> None:
    allowed = {"torch", "transformers"} if path.name == "teacher.py" else set()
    heavy = {"torch", "torchvision", "transformers", "nvidia"}
    assert not packages(path) & ({*heavy, "pipeline", "model", "tracking", "train", "wandb"} - allowed)


def test_a_command_that_needs_no_teacher_imports_no_torch() -> None:
    program = "import sys, shards.commands; sys.exit(not {'torch', 'transformers'}.isdisjoint(sys.modules))"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.parametrize("path", modules("shards"), ids=lambda path: path.stem)
def test_rooms_of_shards_know_only_those_before_them(path: Path) -> None:
    room = path.relative_to(ROOT / "shards").with_suffix("").parts[0]
    if room in ("__init__", "__main__"):
        return
    known = {name.split(".")[1] for name in imported(path) if name.startswith("shards.")}
    assert known <= set(ROOMS[: ROOMS.index(room) + 1])


@pytest.mark.parametrize("path", modules("pipeline"), ids=lambda path: path.stem)
def test_the_pipeline_knows_of_shards_only_what_a_data_set_is(path: Path) -> None:
    of_shards = {".".join(name.split(".")[:2]) for name in imported(path) if name.startswith("shards.")}
    assert of_shards <= {"shards.errors", "shards.machine", "shards.format"}
    assert not packages(path) & {"model", "tracking", "train", "wandb"}


@pytest.mark.parametrize("path", modules("model"), ids=lambda path: path.stem)
def test_the_model_knows_neither_shards_nor_pipeline(path: Path) -> None:
    assert not packages(path) & {"shards", "pipeline", "tracking", "train", "nvidia", "PIL", "wandb"}


@pytest.mark.parametrize("path", modules("tracking"), ids=lambda path: path.stem)
def test_tracking_knows_only_numbers_and_pictures(path: Path) -> None:
    known = packages(path)
    assert not known & {"model", "train", "evaluate", "checkpoint", "nvidia"}
    if path.stem in ("page", "grid"):  # a page is made of what the run's folder holds, in less time than torch takes
        assert not known & {"torch", "pipeline", "wandb"}


@pytest.mark.parametrize("path", [*ROOT.glob("*.py"), *(path for name in PACKAGES for path in modules(name))], ids=str)
def test_all_that_is_said_goes_through_the_door_that_makes_it_printable(path: Path) -> None:
    called = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    if path.name != "errors.py":
        assert not any(isinstance(one, ast.Name) and one.id == "print" for one in called)
    if path.name not in ("show.py", "evaluate.py"):  # which print tables, of names that are known
        assert not any(isinstance(one, ast.Attribute) and one.attr == "print" for one in called)


@pytest.mark.parametrize("name", ["train.py", "evaluate.py", "tracking/report.py", "tracking/grid.py"])
def test_what_draws_pages_is_not_imported_before_there_is_one_to_draw(name: str) -> None:
    body = ast.parse((ROOT / name).read_text()).body
    first = {ast.unparse(node).split()[1] for node in body if isinstance(node, ast.Import | ast.ImportFrom)}
    assert not [one for one in first if one.startswith(("matplotlib", "tracking.page", "shards.inspect"))]


@pytest.mark.parametrize("path", [*ROOT.glob("*.py"), *(path for package in PACKAGES for path in modules(package))])
def test_demo_and_bench_stand_outside(path: Path) -> None:
    assert not packages(path) & {"demo", "bench"}


@pytest.mark.parametrize("path", [*ROOT.glob("*.py"), *(path for package in PACKAGES for path in modules(package))])
def test_the_help_of_an_option_is_one_line(path: Path) -> None:
    """tyro would break it in mid-sentence where the docstring of its field is broken."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config"):
            docs = [one for one in node.body[1:] if isinstance(one, ast.Expr)]
            assert not [ast.unparse(doc) for doc in docs if doc.lineno != doc.end_lineno]


@pytest.mark.parametrize("program", ["train", "evaluate", "predict"])
def test_openmp_is_told_not_to_spin_for_long_before_it_is_loaded(program: str) -> None:
    text = (ROOT / f"{program}.py").read_text()
    assert 0 < text.find('setdefault("GOMP_SPINCOUNT"') < text.find("import torch")


def test_no_module_is_a_grab_bag() -> None:
    stems = {path.stem for package in PACKAGES for path in modules(package)} | {path.stem for path in ROOT.glob("*.py")}
    assert not stems & {"utils", "util", "helpers", "helper", "common", "misc"}


@pytest.mark.parametrize("kind", ["", "-teacher", "-ray", "-dev"])
def test_every_dependency_is_pinned_exactly(kind: str) -> None:
    lines = [line.split("#")[0].strip() for line in (ROOT / f"requirements{kind}.txt").read_text().splitlines()]
    pins = [line for line in lines if line and not line.startswith("-")]
    assert pins
    assert all(re.match(r"[\w.-]+(\[[\w,]+\])?==[\w.]+(\s*;.*)?$", pin) for pin in pins), pins
