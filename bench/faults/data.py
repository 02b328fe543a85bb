"""What is attacked: a small data set, a small training on it, and what both hold."""

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.faults.attack import FailureError, finish
from demo.draw import draw_data
from pipeline.decode import Decode
from pipeline.loader import Loader, LoaderConfig
from shards.build.assemble import assemble
from shards.build.shard import write_shard
from shards.format.manifest import Manifest
from shards.format.splits import SPLITS, DivisionConfig
from shards.format.storage import LocalFolder
from shards.ingest.compose import ComposeConfig, plan_composition
from shards.ingest.job import Job

SIZE, SAMPLES, IN_A_SHARD = 48, 60, 15
TRAINING = ["--size=16", "--width=4", "--levels=2", "--batch-size=16", "--num-threads=1", "--precision=fp32"]
TRAINING += ["--wandb=off", "--save-every=2", "--log-every=2", "--keep=9", "--epochs=2", "--device=cpu"]


def draw(root: Path) -> dict[str, Path]:
    """Draw figures, rooms and their depth into folders of `root`; return these."""
    folders = {name: root / name for name in ("fg", "bg", "depth")}
    if not root.exists():
        draw_data(*folders.values(), figures=4, rooms=4, size=SIZE)
    return folders


def compose_config(drawn: Mapping[str, Path], samples: int = SAMPLES) -> ComposeConfig:
    division = DivisionConfig(samples_per_shard=IN_A_SHARD, val_share=0.2, test_share=0.2)
    own: dict[str, Any] = dict(drawn) | {"places": 4, "samples": samples, "size": SIZE, "division": division}
    return ComposeConfig(**own)


def compose(root: Path, samples: int = SAMPLES) -> Path:
    """Draw a data set into `root`, and compose it there, in this process."""
    return build(plan_composition(compose_config(draw(root / "drawn"), samples)), root / "data")


def build(job: Job, out: Path) -> Path:
    """Build a data set in this process."""
    out.mkdir(parents=True)
    components = {name: one.extension for name, one in job.plan.manifest.components.items()}
    records = [write_shard(out / unit.name, components, unit.samples()) for unit in job.units]
    assemble(records, job.plan, out, LocalFolder(out))
    return out


def train(data: Path, run: Path) -> None:
    """Train a little, in a process of its own."""
    finish(["train.py", "--data", data, "--out", run, *TRAINING])


Pixels = dict[str, NDArray[Any]]


def epoch(data: Path, split: str, decode: Decode = "portable", **options: Any) -> Iterator[tuple[int, Pixels]]:
    """Load a split in order, at the size that is stored. Yield row and images, by component, of each sample."""
    own: dict[str, Any] = {"size": 0, "batch_size": 8, "shuffle": False, "num_threads": 1, "decode": decode} | options
    with Loader(LoaderConfig(data=data, split=split, **own)) as loader:
        for batch in loader:
            images = {name: one.numpy() for name, one in batch._asdict().items() if name != "index" and one is not None}
            for i, row in enumerate(batch.index.tolist()):
                yield row, {name: one[i] for name, one in images.items()}


@lru_cache(maxsize=4)
def truth(data: Path, decode: Decode) -> dict[str, dict[int, Pixels]]:
    """Return the images of all samples of a data set that is whole, by split and row."""
    return {split: dict(epoch(data, split, decode)) for split in SPLITS}


def refuse_other_pixels(found: Path, original: Path, decode: Decode, **options: Any) -> None:
    """Load all of `found`. Raises FailureError unless all its pixels are those of `original`.

    That is judged at the end of an epoch, until when shards are compared with their digests. Depth may differ where the
    manifests say another range.
    """
    passed = {"depth"} if Manifest.read(found).depth != Manifest.read(original).depth else set()
    for split, expected in truth(original, decode).items():
        rows, wrong = [], ""
        for row, images in epoch(found, split, decode, **options):
            rows.append(row)
            for name in images.keys() - passed if row in expected else ():
                if not np.array_equal(images[name], expected[row].get(name, [])):
                    wrong = f"split {split}, row {row}: other pixels of {name}"
        if wrong or sorted(rows) != sorted(expected):
            raise FailureError("wrong bytes", wrong or f"split {split}: not every sample once")


def same(one: Any, other: Any) -> bool:
    """Tell whether nested dicts and lists hold the same numbers, to the bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict) and one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
        )
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def contents(folder: Path) -> dict[str, str]:
    """Return the digest of every file in a folder, hidden ones too, by its path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
