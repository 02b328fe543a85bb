"""One way to read or pack a folder of samples: python -m bench.packing WAY FOLDER OUT [PART].

FOLDER holds the folders of 2020 and, beside them, FOLDER.json: the paths of each sample's images by component. Peers
store the same four images a sample, byte for byte, and check none of them.
"""

# mypy: disable-error-code="import-not-found"

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from PIL import Image

PARTS = 2
"""processes"""

Paths = dict[str, str]


def listed(folder: Path) -> list[Paths]:
    samples: list[Paths] = json.loads(folder.with_suffix(".json").read_text())
    return [{name: str(folder / path) for name, path in sample.items()} for sample in samples]


def bare(folder: Path, out: Path) -> None:
    """Decodes every file once, and does nothing else."""
    files = sorted({path for sample in listed(folder) for path in sample.values()})
    _in_parts(_decode, [(files[part::PARTS],) for part in range(PARTS)])


def _decode(files: list[str]) -> None:
    for path in files:
        with Image.open(path) as image:
            image.load()


def _in_parts(do: Callable[..., None], arguments: list[tuple[object, ...]]) -> None:
    with ProcessPoolExecutor(PARTS, get_context("fork")) as pool:
        for done in [pool.submit(do, *one) for one in arguments]:
            done.result()


def _encoded(samples: list[Paths]) -> Iterator[dict[str, bytes]]:
    for sample in samples:
        yield _read(sample)


def _read(sample: Paths) -> dict[str, bytes]:
    return {name: _bytes(path) for name, path in sample.items()}


def _bytes(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - a Path's own open is slower
        return file.read()


def webdataset(folder: Path, out: Path) -> None:
    """A writer in each process, the shards numbered on from one to the other."""
    samples = listed(folder)
    half = -(-len(samples) // PARTS)
    _in_parts(_write_tars, [(samples[i * half : (i + 1) * half], out, i) for i in range(PARTS)])


def _write_tars(samples: list[Paths], out: Path, part: int) -> None:
    from webdataset import ShardWriter

    with ShardWriter(f"{out}/part{part}-%06d.tar", maxcount=1000, verbose=0) as writer:
        for paths, images in zip(samples, _encoded(samples), strict=True):
            key = Path(paths["fg_bg"]).stem
            writer.write({"__key__": key} | {f"{name}.jpg": data for name, data in images.items()})


def litdata(folder: Path, out: Path) -> None:
    from litdata import optimize

    optimize(
        fn=_read,
        inputs=listed(folder),
        output_dir=str(out),
        chunk_bytes="64MB",
        num_workers=PARTS,
        start_method="fork",
        verbose=False,
    )


def streaming(folder: Path, out: Path) -> None:
    """A writer in each process, their indexes merged, as its guide has it."""
    from bench.race.standin import standing_in

    with standing_in():
        from streaming.base.util import merge_index

    samples = listed(folder)
    half = -(-len(samples) // PARTS)
    _in_parts(_write_mds, [(samples[i * half : (i + 1) * half], out / str(i)) for i in range(PARTS)])
    merge_index(str(out), keep_local=True)


def _write_mds(samples: list[Paths], out: Path) -> None:
    from bench.race.streaming_mds import write

    write(_encoded(samples), out)


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "bare": bare,
    "webdataset": webdataset,
    "litdata": litdata,
    "streaming": streaming,
}


if __name__ == "__main__":
    WAYS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
