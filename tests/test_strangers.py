"""Whatever a stranger has written into a file that Sluice reads is refused in one sentence, or does no harm."""

import copy
import csv
import io
import json
import math
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from small_data import ONE_WORKER, convert

from checkpoint import checked, load, make_model, model_of, refuse_other_data
from model.unet import UNetConfig
from pipeline.loader import Loader, LoaderConfig
from ranks import Ranks
from shards.commands import show, verify_dataset
from shards.errors import InputError, printable
from shards.format.depth import DepthRange
from shards.format.images import LeftOut
from shards.format.left_out import read_left_out
from shards.format.manifest import Manifest
from tracking.grid import Grid
from tracking.page import Run, write_report
from train import TrainConfig, _config_of, start

CPU = torch.device("cpu")
Capture = pytest.CaptureFixture[str]
NASTY: list[Any] = [None, True, -1, 0, 1, 2, 16, 10**9, 2**70, 0.5, math.inf, math.nan, "\0", "a" * 300]
NASTY += ["", "png", "../x", "/x", "<script>alert(1)</script>", "\x1b[2J\n", "\ud800"]
NASTY += [[], {}, [[]], [1, 2], {"x": 1}, {"<script>": "x"}]


def mutations(raw: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Each place in a JSON value, with each nasty value; and what takes something out or puts something in there."""
    yield from ((path, nasty) for nasty in NASTY)
    if isinstance(raw, dict):
        yield from ((path, {name: one for name, one in raw.items() if name != out}) for out in raw)
        yield path, raw | {"../x": 1}
        yield path, {f"{name}\x1b": one for name, one in raw.items()}
    if isinstance(raw, list):
        yield path, raw * 2
        yield path, raw[1:]
    inside = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    for name, one in inside:
        yield from mutations(one, (*path, name))


def changed(raw: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    raw = copy.copy(raw)
    raw[path[0]] = changed(raw[path[0]], path[1:], value)
    return raw


def image(rng: np.random.Generator, *shape: int) -> bytes:
    Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(buffer := io.BytesIO(), "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 8 samples in 2 shards, of 2 backgrounds that are shared."""
    root, rng = tmp_path_factory.mktemp("tiny"), np.random.default_rng(0)
    for folder, shape in (("OverlayedImages", (20, 16, 3)), ("OverlayedMasks", (20, 16)), ("DepthImage", (20, 16))):
        (root / "files" / folder / "0").mkdir(parents=True)
        for i in range(8):
            name = f"combined_s{i % 2 + 1}_p{i // 2 + 1}_it0.jpg"
            (root / "files" / folder / "0" / name).write_bytes(image(rng, *shape))
    (root / "files" / "Background").mkdir()
    for i in (1, 2):
        (root / "files" / "Background" / f"Shelves_{i}.jpg").write_bytes(image(rng, 20, 16, 3))
    convert([root / "files"], root / "data", samples_per_shard=4, val_share=0.25, test_share=0.25)
    return root / "data"


def pixels(data: Path) -> list[NDArray[Any]]:
    config = LoaderConfig(data=data, split="train", size=0, batch_size=4, decode="portable", num_threads=1)
    with Loader(config) as loader:
        return [one.numpy() for batch in loader for one in batch if one is not None]


def refusal(read: Callable[[bytes], object], edited: Any) -> str:
    try:
        read(json.dumps(edited).encode())
    except InputError as error:
        return str(error)
    return ""


def accepted(good: Any, read: Callable[[bytes], object], refused: str) -> Iterator[Any]:
    """Edited JSON that `read` accepts, each nasty value wherever it can be at once. All else is refused like that."""
    passed = dict[str, list[Any]]()
    for place, value in mutations(good):
        edited = changed(good, place, value)
        if said := refusal(read, edited):
            assert re.match(refused, said), (place, value)
            assert said.isprintable()
        else:
            of_value = passed.setdefault(repr(value), [good])
            with suppress(LookupError, TypeError):  # where it has become another place
                together = changed(of_value[-1], place, value)
                edited = edited if refusal(read, together) else together
            of_value.append(edited)
    yield from (some[-1] for some in passed.values())


def test_an_edited_manifest_is_refused_by_file_and_field_or_gives_the_same_pixels(tiny: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(tiny, tmp_path / "data"))
    path, right = data / "manifest.json", pixels(tiny)
    good, memory, loaded = json.loads(path.read_text()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    read = partial(Manifest.parse, where="data/manifest.json")
    for edited in accepted(good, read, "data/manifest.json: (not a manifest .*: |damaged .*: |format )"):
        path.write_text(json.dumps(edited))
        with suppress(InputError):
            found, loaded = pixels(data), loaded + 1
            same = [np.array_equal(one, other) for one, other in zip(found, right, strict=True)]
            assert all(same) or edited["depth"] != good["depth"]
    assert loaded > 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < memory + (100 << 10)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "[/b] :dog: \x1b[2J\r\n\x07", "\ud800\u202e"])
def test_what_a_manifest_says_is_shown_and_does_nothing(tiny: Path, tmp_path: Path, text: str, capsys: Capture) -> None:
    data = Path(shutil.copytree(tiny, tmp_path / "data"))
    good = json.loads((data / "manifest.json").read_text())
    told = {"left_out": {text: 1}, "sources": {"depth": [text], text: []}, "counted": 3}
    storage = {"resized_from": None, "resized_by": text, "jpeg_chroma": text, "converted": {text: text}}
    (data / "manifest.json").write_text(json.dumps(good | told | {"storage": storage}))
    with (data / "left-out.tsv").open("w", newline="", errors="surrogatepass") as file:
        csv.writer(file, "excel-tab").writerows([LeftOut._fields, [text] * 5])
    verify_dataset(str(data), ONE_WORKER)
    show(str(data))
    said = capsys.readouterr().out
    assert all(line.isprintable() for line in said.splitlines())
    assert printable(text) in said
    page = (data / "show.html").read_text()
    assert "<script" not in page
    assert "alert(1)" in page or "<" not in text


@pytest.mark.parametrize("text", ["", "a\tb\n1\t2\n", "kind\tkey\tcomponent\tsource\tdetail\nx\n", '"' * 200_001])
def test_another_list_of_what_was_left_out_is_refused(tmp_path: Path, text: str) -> None:
    assert not list(read_left_out(tmp_path))
    (tmp_path / "left-out.tsv").write_text(text)
    with pytest.raises(InputError, match=r"left-out\.tsv: not the list"):
        list(read_left_out(tmp_path))


def told(data: Path) -> dict[str, Any]:
    """Each file of a run's folder that is JSON."""
    session: dict[str, Any] = dict.fromkeys(
        ["began", "command", "commit", "host", "system", "cpu", "gpu", "python", "torch"], "text"
    )
    session |= {"step": 0, "seconds": 1.5, "cores": 2, "processes": 1, "decode": "cpu", "cuda": "12.4", "dali": "1"}
    of_data = {"where": "data", "samples": 8, "splits": {"train": 8}, "components": ["mask"]}
    environment = {"data": of_data | {"made_from": "", "sha256": "0"}, "defaults": {"a": 1}, "sessions": [session]}
    line = {"step": 2, "train/loss": 0.5, "train/samples_per_second": 9.0, "train/waiting_share": 0.1}
    config = TrainConfig(loader=LoaderConfig(data=data)).to_dict()
    measured = {"step": 2, "val/epoch": 1, "val/mask_iou": 0.5, "val/depth_rmse": None}
    return {
        "config.json": config,
        "environment.json": environment,
        "metrics.jsonl": [line, measured],
        "evaluation-test.json": {"mask_iou": 0.5},
    }


def test_an_edited_run_is_refused_by_file_and_field_or_has_a_page(tiny: Path, tmp_path: Path) -> None:
    grid = Grid(["<script>$"], {"image": np.zeros((1, 4, 4, 3), np.uint8)}, "<script>$\x1b", [None])
    (tmp_path / "pictures").mkdir()
    grid.save(tmp_path / "pictures" / "val-best-0000002.png")
    grid.save(tmp_path / "pictures" / "evaluation-test-worst.png")
    grid.save_large(tmp_path / "large.png")
    (tmp_path / "pictures" / "val-best-x.png").write_bytes(b"")
    good = told(tiny)

    def write(name: str, value: Any) -> Path:
        lines = map(json.dumps, value if name == "metrics.jsonl" and isinstance(value, list) else [value])
        (tmp_path / name).unlink(missing_ok=True)  # to empty it and write again takes longer
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        return tmp_path

    for name, value in good.items():
        write(name, value)
    for name, value in good.items():
        read = lambda text, name=name: Run.read(write(name, json.loads(text)))  # noqa: E731 - it is used once
        pages = [*accepted(value, read, f"{tmp_path}/{name}: damaged ")]
        for edited in pages:
            run = Run.read(write(name, edited))
            assert (run.seconds, run.steps, run.best, run.speed, run.curve("train/loss").thinned(2)) is not None
        write(name, pages[-1])
        assert "<script" not in write_report(tmp_path).read_text()
        write(name, value)


def test_an_edited_configuration_is_refused_by_file_and_field_or_is_one(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.json"

    def read(text: bytes) -> TrainConfig:
        path.unlink(missing_ok=True)
        path.write_bytes(text)
        return _config_of(tmp_path)

    good = told(tiny)["config.json"]
    for edited in accepted(good, read, f"{path}: not a run's configuration that this version reads: "):
        assert read(json.dumps(edited).encode()).to_dict()


def test_an_edited_checkpoint_is_refused_by_file_and_field_or_predicts(tiny: Path, tmp_path: Path) -> None:
    network, path = UNetConfig(width=2, levels=1), tmp_path / "best.pt"
    config = TrainConfig(loader=LoaderConfig(data=tiny), unet=network).to_dict()
    config |= {"depth": {"black": 0.0, "white": 1.0, "unit": "relative"}, "components": ["fg_bg", "mask"]}
    weights = make_model("unet", network, config["components"], CPU, mean=[0.5] * 3, std=[0.2] * 3).state_dict()
    manifest = Manifest.read(tiny)

    pieces = {name: config[name] for name in ("architecture", "unet", "depth", "components")}
    pieces["loader"] = {name: config["loader"][name] for name in ("data", "size", "cache_limit")}
    torch.save({"config": pieces, "step": 1, "model": weights}, path)
    assert load(path, CPU)["config"]["loader"]["batch_size"] == 32

    def read(text: bytes) -> None:
        state = checked(
            path, json.loads(text, object_hook=lambda one: one | {"model": weights} if "step" in one else one)
        )
        trained, model = state["config"], model_of(path, state, CPU)
        refuse_other_data(path, trained, "data", manifest)
        size = trained["loader"]["size"]
        assert LoaderConfig(data="data", size=size).size == size
        assert DepthRange(**trained["depth"]).far
        assert model(torch.zeros(1, 3, 8, 8)).mask.isfinite().all()

    assert [*accepted({"config": pieces, "step": 1}, read, f"{path}: ")]


def test_a_data_set_of_one_colour_is_not_trained_on(tiny: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(tiny, tmp_path / "data"))
    good = json.loads((data / "manifest.json").read_text())
    edited = changed(good, ("statistics", "fg_bg", "std", 1), 0)
    (data / "manifest.json").write_text(json.dumps(edited))
    loader = LoaderConfig(data=data, size=16, batch_size=4, decode="portable")
    with pytest.raises(InputError, match="a channel of fg_bg is the same everywhere"):
        start(TrainConfig(loader=loader), Ranks(0, 1, CPU))
