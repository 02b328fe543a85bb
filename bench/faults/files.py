"""Files that a stranger may have written, spoiled: what is read of them is right, or they are refused by name."""

import hashlib
import io
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

import evaluate
import train as training
from bench.faults import data
from bench.faults.attack import Attack, FailureError, doing
from bench.faults.spoil import chance, places, spoil, spoiled_bytes, spoiled_json
from checkpoint import load, load_model
from pipeline.decode import Decode
from shards.build.build import BuildConfig, build_dataset, merge
from shards.build.run import RunConfig
from shards.format.dataset import Dataset
from shards.format.splits import SPLITS
from shards.format.storage import LocalFolder
from shards.ingest.compose import plan_composition
from shards.inspect.page import write_page
from shards.inspect.show import contact_sheet, describe
from shards.inspect.verify import verify

CPU = torch.device("cpu")
SILENT = Console(file=io.StringIO())


def copied(source: Path) -> Path:
    """Return a copy of a folder, for an attempt to spoil; the copy before it goes."""
    copy = source.with_name("spoiled")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    return copy


def look(root: Path) -> None:
    """Do what `python -m shards show` does."""
    describe(LocalFolder(root), SILENT)
    dataset = Dataset.open(root)
    contact_sheet(dataset, root / "sheet.png", 3)
    write_page(dataset, root / "show.html", 3)


def _decode(number: int) -> Decode:
    return "cpu" if number % 4 == 0 else "portable"


VERIFIED = 100
"""One of so many attempts, for it starts processes, is verified as by the command."""


def manifest(folder: Path, number: int) -> None:
    copy, of = copied(folder / "data"), chance("manifest", number)
    spoil(copy / "manifest.json", of)
    if number % VERIFIED == 7:
        verify(LocalFolder(copy), RunConfig(workers=1))
    elif number % 3:
        data.refuse_other_pixels(copy, folder / "data", _decode(number))
    else:
        look(copy)


def tar(folder: Path, number: int) -> None:
    copy, of = copied(folder / "data"), chance("tar", number)
    path = of.choice(sorted(copy.glob("*.tar")))
    before = path.read_bytes()
    spoil(path, of)
    if number % VERIFIED == 7:
        if not verify(LocalFolder(copy), RunConfig(workers=1)) and path.read_bytes() != before:
            raise FailureError("wrong bytes", f"{path.name} has changed, and is verified")
    else:
        data.refuse_other_pixels(copy, folder / "data", _decode(number), max_bad=0)


def index(folder: Path, number: int) -> None:
    """Half of the attempts have the manifest tell the digest of what they write, as whoever wrote it would."""
    copy, of = copied(folder / "data"), chance("index", number)
    path, honest = of.choice(sorted((copy / "index").iterdir())), of.random() < 0.5
    if of.random() < 0.4:
        spoil(path, of)
    else:
        np.save(path, _spoiled_array(path, of))
    if not honest:
        manifest = json.loads((copy / "manifest.json").read_text())
        manifest["index"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        (copy / "manifest.json").write_text(json.dumps(manifest))
    if number % 5 == 0:
        look(copy)
    elif honest:
        data.refuse_other_pixels(copy, folder / "data", _decode(number))
    else:
        for split in SPLITS:
            list(data.epoch(copy, split, _decode(number)))


def _spoiled_array(path: Path, of: random.Random) -> Any:
    array, random = np.load(path), np.random.default_rng(of.randrange(2**32))
    others = sorted(path.parent.iterdir())
    rows = random.permutation(len(array))
    ways: dict[str, Callable[[], Any]] = {
        "rolled": lambda: np.roll(array, 1, 0),
        "shuffled": lambda: array[rows],
        "one less": lambda: array[1:],
        "none": lambda: array[:0],
        "twice": lambda: np.concatenate([array, array]),
        "the first only": lambda: np.repeat(array[:1], len(array), 0),
        "of Python objects": lambda: array.astype(object),
        "of floats": lambda: random.random(len(array)),
        "negative": lambda: np.full(len(array), -1),
        "with another axis": lambda: array[:, None],
        "a single number": lambda: np.array(7),
        "random bytes": lambda: np.frombuffer(random.bytes(array.nbytes), array.dtype),
        "big-endian": lambda: array.astype(array.dtype.newbyteorder()),
        "another array": lambda: np.load(of.choice(others)),
        "64 bits": lambda: array.astype("<u8") if array.dtype.names is None else array.view("<u1"),
        "texts": lambda: np.array(["x"] * len(array)),
        "2^32 - 1 somewhere": lambda: _with_greatest(array, of),
    }
    way = of.choice(sorted(ways))
    doing(f"{path.name} {way}")
    try:
        return ways[way]()
    except (TypeError, ValueError):  # not every array can be all of them
        return array[:-1]


def _with_greatest(array: Any, of: random.Random) -> Any:
    changed = array.copy()
    memory = changed.reshape(-1).view("u1")
    at = of.randrange(max(1, len(memory) // 4)) * 4
    memory[at : at + 4] = 255
    return changed


class _BegunError(Exception):
    """A training has come to its first step."""


def resume(run: Path) -> dict[str, Any]:
    """Go on with a training, up to its next step. Return the state that it would begin with; none if it is finished."""
    state: dict[str, Any] = {}

    def optimise(one: Any, *_: Any) -> None:
        state.update(one.state_dict())
        raise _BegunError

    kept = training.optimise
    training.optimise = optimise  # type: ignore[assignment]  # it never returns
    try:
        sys.argv = ["train.py", "--resume", str(run), "--wandb", "off", "--device", "cpu"]
        training.main()
    except _BegunError:
        pass
    finally:
        training.optimise = kept
    return state


def configuration(folder: Path, number: int) -> None:
    copy, of = copied(folder / "run"), chance("configuration", number)
    spoil(copy / "config.json", of)
    here = Path.cwd()
    try:
        os.chdir(folder)  # for a path may have become any
        resume(copy)
    finally:
        os.chdir(here)


@lru_cache(maxsize=64)
def _state(path: Path) -> dict[str, Any]:
    return load(path, CPU)


def checkpoint(folder: Path, number: int) -> None:
    run, of = folder / "run", chance("checkpoint", number)
    copy = copied(run)
    if of.random() < 0.6:
        path = of.choice(sorted((copy / "checkpoints").iterdir()))
        written = spoiled_bytes(path.read_bytes(), of)
        path.unlink()  # one that is a link, too, is damaged alone
        path.write_bytes(written)
        if number % 2:
            load_model(path, CPU)
            if not data.same(load(path, CPU), _state(run / "checkpoints" / path.name)):
                raise FailureError("wrong bytes", f"{path.name} loads, and holds other numbers")
        else:
            (copy / "checkpoints" / "last.pt").unlink(missing_ok=True)
            state, expected = resume(copy), {one.stem: one for one in (run / "checkpoints").glob("step-*.pt")}
            if state:
                whole = _state(expected[f"step-{state['step']:07d}"])
                if not all(data.same(state[name], whole[name]) for name in ("model", "step", "best")):
                    raise FailureError("wrong bytes", "training goes on from other numbers")
    else:
        path = copy / "checkpoints" / "last.pt"
        state = torch.load(path, weights_only=True)
        torch.save(_spoiled_state(state, of), path)
        if number % 8 == 0:
            evaluate.main(evaluate.EvaluateConfig(checkpoint=path, batch_size=8, device="cpu"))
        elif number % 2:
            load_model(path, CPU)
        else:
            resume(copy)


def _spoiled_state(state: Any, of: random.Random) -> Any:
    found = list(places(state))
    *way, last = of.choice(found)
    parent = state
    for step in way:
        parent = parent[step]
    value = parent[last]
    if isinstance(value, torch.Tensor) and of.random() < 0.5:
        others: list[Any] = [
            value.double(),
            value.reshape(-1)[:1],
            value.flatten(),
            torch.zeros(0),
            value.tolist(),
            value.int(),
        ]
        parent[last] = of.choice(others)
        doing(f"{'.'.join(map(str, (*way, last)))} a tensor of other type or shape")
        return state
    return spoiled_json(state, of)


def work(folder: Path, number: int) -> None:
    """The state that a killed build leaves: gone on with, it ends with the bytes of one that nobody stopped."""
    copy, of = copied(folder / "begun"), chance("work", number)
    path = of.choice(sorted(one for one in copy.rglob("*") if one.is_file()))
    doing(f"{path.relative_to(copy)}")
    if of.random() < 0.15:
        path.unlink()
    else:
        spoil(path, of)
    if number % 2:
        build_dataset(
            plan_composition(data.compose_config(data.draw(folder / "drawn"))),
            LocalFolder(copy),
            BuildConfig(workers=1),
        )
    else:
        merge([], LocalFolder(copy))
    found, expected = data.contents(copy), data.contents(folder / "data")
    if found != expected:
        others = sorted(name for name in found | expected if found.get(name) != expected.get(name))
        raise FailureError("wrong bytes", f"other bytes in {', '.join(others)}")


def left_out(folder: Path, number: int) -> None:
    copy, of = copied(folder / "data"), chance("left-out", number)
    lines = "kind\tkey\tcomponent\tsource\tdetail\n" + "truncated\ta\tmask\tb/c.jpg\twhy\n" * 3
    (copy / "left-out.tsv").write_bytes(spoiled_bytes(lines.encode(), of))
    look(copy)


def _prepare_run(folder: Path) -> None:
    data.train(data.compose(folder), folder / "run")


def _prepare_work(folder: Path) -> None:
    data.compose(folder)
    job = plan_composition(data.compose_config(data.draw(folder / "drawn")))
    build_dataset(job, LocalFolder(folder / "begun"), BuildConfig(workers=1, part="1/1"))


ATTACKS = [
    Attack(name=name, what=what, prepare=prepare, attempt=attempt, attempts=attempts, long=10 * attempts)
    for name, what, prepare, attempt, attempts in (
        ("manifest", "manifest.json spoiled: loaded, shown, verified", data.compose, manifest, 2000),
        ("index", "an array of the index spoiled: loaded, shown", data.compose, index, 2000),
        ("tar", "a tar spoiled: loaded, verified", data.compose, tar, 1000),
        ("configuration", "config.json of a run spoiled: gone on with", _prepare_run, configuration, 1000),
        ("checkpoint", "a checkpoint spoiled: gone on with, evaluated", _prepare_run, checkpoint, 1000),
        ("work", "what a stopped build left spoiled: gone on with", _prepare_work, work, 300),
        ("left-out", "left-out.tsv spoiled: shown", data.compose, left_out, 200),
    )
]
