"""The process that libFuzzer leads (Atheris): `python -m bench.faults.harness TARGET FOLDER [OPTION...]`.

The options are libFuzzer's. It ends at the first input that ends badly. FOLDER has the corpus, and the file `ended`, in
which is counted how inputs have ended, so that it is known whatever happens. Nothing of the project may be imported
before main(), which has what is imported tell its coverage.
"""

import hashlib
import json
import mmap
import os
import random
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench.faults.spoil import spoiled_json

SIZE = (24, 32)
"""height and width of the images"""
Target = Callable[[bytes], object]
"""tries an input; raises what the project raises where it is refused"""


class WrongBytesError(Exception):
    """What should have been refused was not."""


def _file() -> Path:
    """Return a file in memory: no disk is as quick."""
    return Path(f"/proc/self/fd/{os.memfd_create('input')}")


def _index(folder: Path) -> Target:
    """The manifest tells the digest of what is tried, as whoever wrote it would: else that alone would be tried."""
    from shards.format.dataset import Dataset

    root = folder / "data"
    manifest = json.loads((root / "manifest.json").read_text())
    files = {root / "manifest.json": _file(), root / "index" / "samples.npy": _file()}
    for path, file in files.items():
        path.unlink()
        path.symlink_to(file)
    told, array = files.values()

    def attempt(data: bytes) -> None:
        array.write_bytes(data)
        manifest["index"]["samples.npy"] = hashlib.sha256(data).hexdigest()
        told.write_text(json.dumps(manifest))
        dataset = Dataset.open(root)
        rows = dataset.split("train")
        for name in dataset.manifest.components:
            dataset.locate(name, rows)

    return attempt


def _manifest(_: Path) -> Target:
    from shards.format.manifest import Manifest

    return lambda data: Manifest.parse(data, "manifest.json").to_json()


def _tar(_: Path) -> Target:
    from shards.ingest.index import list_tar

    file = _file()

    def attempt(data: bytes) -> None:
        file.write_bytes(data)
        samples, _ = list_tar(file)
        for members in samples.values():
            for _, offset, size in members.values():
                if offset < 0 or size < 0 or offset + size > len(data):
                    raise WrongBytesError(f"a member at {offset}, {size} long, of {len(data)}")

    return attempt


def _zip(_: Path) -> Target:
    from shards.sources.zips import Reader, list_zip

    file = _file()

    def attempt(data: bytes) -> None:
        file.write_bytes(data)
        for number, entry in enumerate(list_zip(file)):
            if number > 50:
                break
            with Reader() as reader:
                try:
                    reader.read(entry)
                except OSError as error:  # which leaves this one out
                    if not error.filename and entry.zip not in str(error):
                        raise

    return attempt


def _header(_: Path) -> Target:
    from shards.format.images import BadImage, ImageFormat, decode_image, read_any_header, read_header

    def attempt(data: bytes) -> None:
        quick, found = read_header(data), read_any_header(data)
        if quick and found and quick != found:
            raise WrongBytesError(f"{quick} by the header, {found} by Pillow")
        try:
            image = decode_image(data, ImageFormat("png" if data[:1] == b"\x89" else "jpg", SIZE, 8, 3))
        except BadImage as bad:
            raise ValueError from bad
        if image.size != SIZE[::-1]:
            raise WrongBytesError(f"{image.size} pixels")

    return attempt


def _encoded(data: bytes, name: str) -> Any:
    import numpy as np

    from pipeline.reader import WORD, Encoded

    padded = data + bytes(-len(data) % WORD + (0 if data else WORD))
    return Encoded(np.frombuffer(padded, np.uint8)[None], {name: np.zeros(1, np.int64)}, {name: np.array([len(data)])})


def _component(data: bytes) -> Any:
    from shards.format.manifest import StoredComponent

    return StoredComponent(extension="png" if data[:1] == b"\x89" else "jpg", channels=3)


def _checked(_: Path) -> Target:
    from pipeline.headers import Headers

    def attempt(data: bytes) -> None:
        headers = Headers({"it": _component(data)}, SIZE)
        for _ in range(2):  # the second time with what it remembers of the first
            headers.check(_encoded(data, "it"))

    return attempt


def _decoded(decode: Any, _: Path) -> Target:
    import torch

    from pipeline.decode import make_decoder
    from pipeline.headers import Headers

    kinds = {one.extension: one for one in (_component(b""), _component(b"\x89"))}
    decoders = {
        name: make_decoder(decode, {"it": one}, 1, SIZE, torch.device("cpu"), 0.9) for name, one in kinds.items()
    }
    headers = {name: Headers({"it": one}, SIZE) for name, one in kinds.items()}

    def attempt(data: bytes) -> None:
        name, encoded = _component(data).extension, _encoded(data, "it")
        headers[name].check(encoded)
        (image,) = decoders[name].decode(encoded).values()
        if image.dtype != torch.uint8 or image.shape[0] != 1 or image.shape[3] != 3:
            raise WrongBytesError(f"{image.dtype} {tuple(image.shape)}")

    return attempt


TARGETS: dict[str, Callable[[Path], Target]] = {
    "index": _index,
    "manifest": _manifest,
    "tar": _tar,
    "zip": _zip,
    "header": _header,
    "headers": _checked,
    "portable": partial(_decoded, "portable"),
    "dali": partial(_decoded, "cpu"),
}


@contextmanager
def _counters(file: Path) -> Iterator[Callable[[int], None]]:
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 16) as memory:

        def count(which: int) -> None:
            at = 8 * which
            struct.pack_into("<Q", memory, at, struct.unpack_from("<Q", memory, at)[0] + 1)

        yield count


def main(target: str, folder: Path, *options: str) -> None:
    import atheris  # type: ignore[import-untyped]  # has no stubs

    with atheris.instrument_imports(include=["shards", "pipeline"]):
        from shards.errors import InputError

        attempt = TARGETS[target](folder)
    refusals = (InputError, ValueError) if target in ("header", "headers", "portable", "dali") else (InputError,)
    with _counters(folder / "ended") as count:

        def one(data: bytes) -> None:
            try:
                attempt(data)
            except refusals:
                count(1)
            except OSError as error:
                if not error.filename:
                    raise
                count(1)
            else:
                count(0)

        whole = (folder / "corpus" / "seed-0").read_bytes()

        def mutated(data: bytes, most: int, seed: int) -> bytes:
            of = random.Random(seed)
            try:
                changed = json.dumps(spoiled_json(json.loads(whole if of.random() < 0.5 else data), of)).encode()
            except (ValueError, IndexError):  # no JSON any more, or nothing is in it
                changed = data
            return changed if data != changed and len(changed) <= most else bytes(atheris.Mutate(data, len(data)))

        own = {"custom_mutator": mutated} if target == "manifest" else {}
        atheris.Setup([sys.argv[0], str(folder / "corpus"), *options], one, **own)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
