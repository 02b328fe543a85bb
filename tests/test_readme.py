"""Every command on the README's and the docs' pages is run as it stands, and all that the pages lead to is there.

Each page has a folder of its own, in which the names that the pages use exist: small sources, a data set, and teachers
of random weights under the names that the real ones have on the hub. The lines of a page run in the order of the text.
What a line makes is removed before, for a page may give several ways to make the same thing.
"""

import dataclasses
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import pytest
from commands import ROOT, Ended, python

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

REPLACED = {
    "s3://bucket/": "s3://{page}/",  # on a server here, a bucket a page
    "$SLURM_ARRAY_TASK_ID/20": "{task}/2",  # such a line runs twice, as the jobs 1 and 2
    "head:6379": "127.0.0.1:1",  # where nobody listens; tests/test_cluster.py has a cluster
    "--nproc-per-node 4": "--nproc-per-node 1",
    'device="cuda"': 'device="cpu"',
}
"""What the pages take for granted, and what takes its place here."""
_TRAINING = {"--epochs": "1", "--width": "8", "--size": "16", "--wandb": "off"}
ADDED = {
    "python -m shards compose": {"--samples": "40", "--samples-per-shard": "10", "--workers": "1"},
    "python -m shards convert": {"--samples-per-shard": "10", "--workers": "1"},
    "python -m shards verify": {"--workers": "1"},
    "python -m shards export": {"--workers": "1"},
    "python train.py --data": _TRAINING,
    "torchrun": _TRAINING,
    "python train.py --resume": {"--wandb": "off"},
}
"""Options that keep lines small that begin so, where they do not give them themselves."""
FAILING = {"--ray-address": "no Ray cluster there"}
"""What lines with these options say and end with exit code 2; all others end with exit code 0."""
OTHERS = {"--array", "--help", "--max-restarts", "--nproc-per-node", "--signal"}
"""Options on the pages that are sbatch's, every command's, and torchrun's."""


class Step(NamedTuple):
    """A command line on a page, or a block of Python."""

    page: str
    text: str


def blocks(page: Path) -> list[tuple[str, str]]:
    """List language and text of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def steps() -> Iterator[Step]:
    for page in PAGES:
        for language, text in blocks(page):
            if language == "python":
                yield Step(page.stem.lower(), text)
            elif language == "sh":
                whole = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.replace("\\\n", " ").splitlines())
                yield from (Step(page.stem.lower(), line) for line in whole if line)


STEPS = list(steps())
RUN = [
    step
    for step in STEPS
    if "\n" in step.text or re.match(r"torchrun |python (-m (shards|tracking)|\w+\.py) ", step.text)
]


def arguments(step: Step, task: int, folder: Path) -> list[str]:
    """Give what follows `python` on the command line that this step becomes."""
    text = step.text
    for given, own in REPLACED.items():
        text = text.replace(given, own.format(page=step.page, task=task))
    if "\n" in text:
        (folder / "example.py").write_text(text)
        return ["example.py"]
    words = shlex.split(text)
    for begin, options in ADDED.items():
        for option, value in options.items():
            if text.startswith(begin) and option not in words:
                words += [option, value] if value else [option]
    return ["-m", "torch.distributed.run", *words[1:]] if words[0] == "torchrun" else words[1:]


def made_by(argv: list[str]) -> str:
    """Name what a line makes anew; "" if nothing, or if it is a part."""
    if "--out" in argv:
        return "" if "--part" in argv else argv[argv.index("--out") + 1]
    given = list(takewhile(lambda word: not word.startswith("--"), argv))  # -m shards COMMAND FROM... TO
    return given[-1] if len(given) > 4 else ""


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything exists that the pages' commands are given by name."""
    from test_teacher import depth_anything, glpn

    from demo.draw import draw_data
    from shards.format.dataset import Dataset

    root = tmp_path_factory.mktemp("laid-out")
    draw_data(root / "cutouts", root / "rooms", root / "depth", figures=4, rooms=5, size=80)
    sources = "--fg cutouts --bg rooms --depth depth --size 80 --places 2 --samples 40 --samples-per-shard 10"
    for line in (f"compose {sources} --out data", "export data folder"):
        ended = python(["-m", "shards", *line.split()], root)
        assert ended.code == 0, ended.said
    photos = {"OverlayedImages": "with", "OverlayedMasks": "alpha", "DepthImage": "depth"}
    for tree, own in photos.items():
        (root / "photos" / own).mkdir(parents=True)
        for path in (root / "folder" / tree).rglob("*.jpg"):
            shutil.copy(path, root / "photos" / own)
    (root / "photos" / "without").mkdir()
    for path in (root / "photos" / "with").iterdir():
        background = re.search(r"_s(\d+)_", path.name)
        assert background
        shutil.copy(
            root / "folder" / "Background" / f"Shelves_{background[1]}.jpg", root / "photos/without" / path.name
        )
    for name in ("with", "without"):
        shutil.copy(min((root / "photos" / name).iterdir()), root / f"{name}.jpg")
    for tree in photos:  # half of them in a zip
        (root / "more" / tree).mkdir(parents=True)
        (root / "folder" / tree / "1").rename(root / "more" / tree / "1")
    shutil.make_archive(str(root / "more"), "zip", root / "more")
    (root / "tars").mkdir()
    for shard in Dataset.open(root / "data").manifest.shards:
        shutil.copy(root / "data" / shard.name, root / "tars")
    depth_anything(root / "depth-anything" / "Depth-Anything-V2-Small-hf", depth_estimation_type="relative")
    glpn(root / "vinvino02" / "glpn-nyu")
    for name in ("train.py", "evaluate.py", "predict.py"):
        (root / name).symlink_to(ROOT / name)
    return root


@pytest.fixture(scope="module")
def ended(laid_out: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Step, Ended]:
    """How each step ended. Two pages run at a time."""
    from s3fs import S3FileSystem
    from servers import s3_bucket

    def run(page: str) -> dict[Step, Ended]:
        folder, outcomes = tmp_path_factory.mktemp("pages") / page, {}
        shutil.copytree(laid_out, folder, symlinks=True)
        for step in (step for step in RUN if step.page == page):
            for task in (1, 2) if "$SLURM_ARRAY_TASK_ID" in step.text else (1,):
                argv = arguments(step, task, folder)
                if (made := made_by(argv)) and "://" not in made:
                    shutil.rmtree(folder / made, ignore_errors=True)
                outcomes[step] = python(argv, folder, **keys)
        return outcomes

    pages = dict.fromkeys(step.page for step in RUN)
    with s3_bucket(), ThreadPoolExecutor(2) as pool:
        store, keys = S3FileSystem(), {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        for page in pages:
            store.mkdir(page)
            if not any("--out s3://bucket/data" in step.text for step in RUN if step.page == page):
                store.put(str(laid_out / "data"), f"{page}/data", recursive=True)
        found = {step: outcome for outcomes in pool.map(run, pages) for step, outcome in outcomes.items()}
        for page in pages:  # what is stored is kept for the next server
            store.rm(page, recursive=True)
    return found


@pytest.mark.parametrize("step", RUN, ids=lambda step: f"{step.page}: {step.text.splitlines()[0]}")
def test_what_a_page_says_works(step: Step, ended: dict[Step, Ended]) -> None:
    said = [said for option, said in FAILING.items() if option in step.text]
    assert ended[step].code == (2 if said else 0), ended[step].said
    assert all(one in ended[step].said for one in said)


@pytest.mark.parametrize("step", [step for step in STEPS if step not in RUN], ids=lambda step: step.text)
def test_what_is_not_run_is_there(step: Step) -> None:
    words = shlex.split(step.text)
    if words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
    elif words[:2] == ["pip", "install"]:
        assert words[2] == "-r"
        assert (ROOT / words[3]).exists()
    else:
        assert words == ["source", ".venv/bin/activate"], "no test knows what to do with this line"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_stand_in_blocks_that_are_run_and_make_targets_exist(page: Path) -> None:
    for language, text in blocks(page):
        assert language in ("sh", "python", "text", "mermaid")
        assert language in ("sh", "python") or not re.search(r"^\s*(python|torchrun|make|pip) ", text, re.MULTILINE)
    for target in re.findall(r"`make ([\w-]+)", page.read_text()):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()


def test_every_option_on_the_pages_exists(tmp_path: Path) -> None:
    commands = {
        "shards": ("compose", "convert", "index", "depth", "merge", "verify", "show", "export"),
        "tracking": ("report", "compare", "workspace"),
    }
    lines = [["-m", package, one] for package, some in commands.items() for one in some]
    lines += [[str(ROOT / f"{one}.py")] for one in ("train", "evaluate", "predict")]
    helped = "".join(python([*line, "--help"], tmp_path).said for line in lines)
    for package, some in commands.items():
        named = {name for page in PAGES for name in re.findall(rf"python -m {package} (\w+)", page.read_text())}
        assert named <= set(some)
    options = {option for page in PAGES for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", page.read_text())}
    assert options - OTHERS <= set(re.findall(r"--[a-z][\w-]*", helped))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)", path.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles], anchor


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_the_specification_names_every_field_and_the_loader_page_every_option() -> None:
    from pipeline.config import LoaderConfig
    from shards.format.manifest import Manifest

    pages = {page.stem: page.read_text() for page in PAGES}
    assert all(f"| `{field.name}` |" in pages["data"] for field in dataclasses.fields(Manifest))
    options = [f"`--{field.name.replace('_', '-')}`" for field in dataclasses.fields(LoaderConfig)]
    assert all(option in pages["loader"] for option in options)


def test_the_reader_of_the_specification_reads_every_image(laid_out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from small_data import images

    from shards.format.dataset import Dataset

    monkeypatch.chdir(laid_out)
    names: dict[str, object] = {}
    exec(next(text for _, text in blocks(ROOT / "docs" / "data.md") if "def read(" in text), names)
    dataset, read = Dataset.open(laid_out / "data"), names["read"]
    assert callable(read)
    assert len(dataset) == 40
    assert dataset.manifest.components["bg"].shared
    found = {dataset.key(row): {name: read(name, row) for name in dataset.manifest.components} for row in range(40)}
    assert found == images(dataset)


def test_four_components_given_one_by_one_are_all_used(laid_out: Path, tmp_path: Path) -> None:
    from small_data import images

    from shards.format.dataset import Dataset

    line = next(step for step in RUN if step.text.count("--component") == 4)
    globs = dict(re.findall(r"--component (\w+)='(\w+)/", line.text))
    assert len(globs) == 4
    (tmp_path / "photos").symlink_to(laid_out / "photos")
    ended = python(arguments(line, 1, tmp_path), tmp_path)
    assert ended.code == 0, ended.said
    dataset = Dataset.open(tmp_path / "data")
    assert len(dataset) == 40
    for key, parts in images(dataset).items():
        files = {name: (laid_out / "photos" / folder / f"{key}.jpg").read_bytes() for name, folder in globs.items()}
        assert parts == files
