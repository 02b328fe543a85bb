"""Data sets of which images are broken in every way: an epoch goes to its end, or stops and names them.

The manifest tells the digests of what is there, so that the loader meets the images themselves. Whoever loads sees the
same: ranks, a run that is gone on with, with a cache and without.
"""

import io
import logging
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.faults import data
from bench.faults.attack import Attack, FailureError, doing
from bench.faults.spoil import chance, spoiled_bytes
from pipeline.decode import Decode
from pipeline.loader import Loader, LoaderConfig
from shards.build.assemble import assemble
from shards.build.shard import Record, write_shard
from shards.errors import InputError
from shards.format.dataset import Dataset
from shards.format.images import PNG_START
from shards.format.schema import Sample
from shards.format.storage import LocalFolder
from shards.ingest.compose import plan_composition

EPOCHS = 2
DECODES: list[Decode] = ["cpu", "portable"]
if torch.cuda.is_available():
    DECODES.append("gpu")


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    image.save(buffer := io.BytesIO(), form, **options)
    return buffer.getvalue()


def _chunk(kind: bytes, of: bytes) -> bytes:
    return struct.pack(">L", len(of)) + kind + of + struct.pack(">L", zlib.crc32(kind + of))


def _png(width: int, height: int, bits: int = 8, colour: int = 2, pixels: bytes = b"") -> bytes:
    """Return a PNG whose header says this, whatever the pixels are."""
    header = struct.pack(">2L5B", width, height, bits, colour, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(pixels, 9)) + _chunk(b"IEND", b"")
    return PNG_START[:8] + body


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _of_other_size(image: bytes, width: int, height: int) -> bytes:
    """Return an image whose header alone tells another size."""
    changed = bytearray(image)
    if image.startswith(PNG_START):
        struct.pack_into(">2L", changed, len(PNG_START), width, height)
        changed[29:33] = struct.pack(">L", zlib.crc32(changed[12:29]))
    elif (at := image.find(b"\xff\xc0")) > 0:
        struct.pack_into(">2H", changed, at + 5, height % 65536, width % 65536)
    return bytes(changed)


def broken(image: bytes, of: random.Random) -> bytes:
    """Return an encoded image with something wrong."""
    opened = Image.open(io.BytesIO(image))
    form, size, at = opened.format or "", len(image), of.randrange(len(image))
    begin = max(image.find(b"\xff\xda"), image.find(b"IDAT"))
    body = of.randrange(begin, size)
    rgb = opened.convert("RGB")
    big = of.choice([(1, 1), (48, 47), (20_000, 20_000), (65_535, 65_535), (0, 48), (2**31 - 1, 1), (2**31, 2**31)])
    ways: list[Callable[[], bytes]] = [
        lambda: bytes(size),
        lambda: of.randbytes(size),
        lambda: b"",
        lambda: image[:at],
        lambda: image[: of.randrange(40)],
        lambda: image[begin:],
        lambda: image[at:],
        lambda: image[:body] + bytes([image[body] ^ 1 << of.randrange(8)]) + image[body + 1 :],
        lambda: image[:at] + bytes([image[at] ^ 1 << of.randrange(8)]) + image[at + 1 :],
        lambda: image[:body] + of.randbytes(min(8, size - body)) + image[body + 8 :],
        lambda: image[:body] + bytes(len(image[body : body + 64])) + image[body + 64 :],
        lambda: image[:body] + b"\xff\xd9" + image[body:],
        lambda: image[:body] + bytes([0xFF, of.randrange(256)]) + image[body + 2 :],
        lambda: spoiled_bytes(image[: begin + 40], of) + image[begin + 40 :],
        lambda: image + image,
        lambda: image[:-2],
        lambda: _of_other_size(image, *big),
        lambda: _png(*big),
        lambda: _png(20_000, 20_000, pixels=bytes(10_000_000)),
        lambda: _png(
            data.SIZE, data.SIZE, of.choice([0, 1, 2, 4, 8, 16, 255]), of.randrange(8), bytes(of.randrange(9999))
        ),
        lambda: _saved(rgb, of.choice(["BMP", "GIF", "WEBP", "TIFF", "PPM", "ICO", "PNG", "JPEG", "JPEG2000", "AVIF"])),
        lambda: _saved(rgb, "JPEG", exif=_exif(of.randrange(10))),
        lambda: _saved(rgb, "PNG", exif=_exif(of.randrange(10))),
        lambda: _saved(rgb.convert("CMYK"), "JPEG"),
        lambda: _saved(rgb.convert(of.choice(["L", "1", "P", "RGBA", "LA", "I;16"])), "PNG"),
        lambda: _saved(rgb.convert("L"), "JPEG"),
        lambda: _saved(rgb, "JPEG", progressive=True)[: of.choice([None, at, at + 99])],
        lambda: _saved(rgb, "JPEG", restart_marker_rows=1),
        lambda: _saved(rgb.resize((of.randrange(1, 99), of.randrange(1, 99))), form),
        lambda: _saved(rgb, "MPO", save_all=True, append_images=[rgb]),
        lambda: _saved(rgb, "PNG", save_all=True, append_images=[rgb.rotate(90)]),
    ]
    way = of.randrange(len(ways))
    try:
        return ways[way]()
    except (OSError, ValueError, KeyError):  # no encoder is there for it
        return image[:at]


def break_images(original: Path, out: Path, share: float, of: random.Random) -> set[int]:
    """Write a copy of a data set with that share of samples broken; return their rows.

    In half of the copies a shared image is broken for all samples that have it, so that there are more.
    """
    dataset, job = Dataset.open(original), plan_composition(data.compose_config(data.draw(original.parent / "drawn")))
    components, rows, records = job.plan.manifest.components, set[int](), list[Record]()
    alike, names = of.random() < 0.5, {name: one.extension for name, one in components.items()}
    shared = {image: image for image in dataset.contents(0).distinct("bg")}
    if alike:
        shared = {image: broken(image, of) if of.random() < share / len(names) else image for image in shared}
    counted = {name: np.ones((one.channels, 256), np.int64) for name, one in components.items()}
    out.mkdir()
    for number, unit in enumerate(job.units):
        whole, samples, first = dataset.contents(number), list[Sample](), int(dataset.first_row[number])
        for row, (key, *images) in enumerate(zip(whole.keys, *map(whole.images, names), strict=True), first):
            found = {}
            for name, image in zip(names, images, strict=True):
                again = alike and name == "bg"
                spoils = not again and of.random() < share / len(names)
                found[name] = shared[image] if again else broken(image, of) if spoils else image
            if [*found.values()] != images:
                rows.add(row)
            samples.append(Sample(key, found, counted))
        records.append(write_shard(out / unit.name, names, samples))
    assemble(records, job.plan, out, LocalFolder(out))
    return rows


Seen = list[tuple[list[int], list[Any]]]
"""Of each batch, the rows of its samples and their images by component."""


def _epochs(root: Path, epochs: int = EPOCHS, ranks: int = 1, stop: int = 0, **options: Any) -> Seen:
    """Load epochs; on several ranks at the same time, or with a stop after so many batches, after which it goes on."""
    config = LoaderConfig(data=root, split="train", batch_size=12, max_bad=10**6, **options)
    seen: Seen = []
    device = "cuda" if config.decode == "gpu" else "cpu"
    loaders = [Loader(config, rank=rank, world_size=ranks, device=device) for rank in range(ranks)]
    try:
        for _ in range(epochs):
            for step, batches in enumerate(zip(*loaders, strict=True)):
                rows = [row for batch in batches for row in batch.index.tolist()]
                images = [
                    None if batches[0][i] is None else torch.cat([batch[i] for batch in batches]) for i in range(4)
                ]
                seen.append((rows, images))
                if stop and step == stop:
                    break
            else:
                continue
            place, stop = loaders[0].state_dict(), 0
            loaders.append(Loader(config, device=device))
            loaders.pop(0).close()
            loaders[0].load_state_dict(place)
            seen += _rest(loaders[0], epochs)
            break
    finally:
        for loader in loaders:
            loader.close()
    return seen


def _rest(loader: Loader, epochs: int) -> Seen:
    return [(batch.index.tolist(), [*batch[:4]]) for _ in range(loader.epoch, epochs) for batch in loader]


def load(share: float, decode: Decode, threads: int, folder: Path, number: int) -> None:
    of, root = chance("images", share, number), folder / "spoiled"
    shutil.rmtree(root, ignore_errors=True)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    logging.disable(logging.WARNING)
    rows = break_images(folder / "data", root, share, of)
    doing(f"{len(rows)} of {data.SAMPLES} samples broken, number {number}")
    options: dict[str, Any] = {"decode": decode, "num_threads": threads, "size": 0 if number % 2 else 32}
    try:
        plain = _epochs(root, **options)
    except InputError as error:
        if "do not decode" not in str(error) and "decodes" not in str(error):
            raise FailureError("traceback", f"does not say what does not decode: {error}") from error
        raise
    _refuse_other_pixels(plain, folder / "data", rows, decode, options["size"])
    others = {
        "another rank": partial(_epochs, ranks=2), "gone on with": partial(_epochs, stop=of.randrange(1, 3)),
        "a cache": partial(_epochs, cache="host"), "no bank": partial(_epochs, bank_mib=0),
    }  # fmt: skip
    name = of.choice(sorted(others))
    doing(f"{len(rows)} of {data.SAMPLES} samples broken, number {number}, with {name}")
    seen = others[name](root, **options)
    if [found for found, _ in seen] != [expected for expected, _ in plain]:
        raise FailureError("wrong bytes", f"other samples with {name}")
    for (_, one), (_, other) in zip(seen, plain, strict=True):
        if not all(a is b or torch.equal(a, b) for a, b in zip(one, other, strict=True)):
            raise FailureError("wrong bytes", f"other pixels with {name}")


def _refuse_other_pixels(seen: Seen, original: Path, broken: set[int], decode: Decode, size: int) -> None:
    """Raise FailureError if a sample that is not broken has other pixels than in the original."""
    whole = dict[int, list[Any]]()
    for rows, images in _epochs(original, 1, decode=decode, num_threads=1, size=size):
        whole |= {row: [None if one is None else one[i] for one in images] for i, row in enumerate(rows)}
    for rows, images in seen:
        for i, row in enumerate(rows):
            same = (torch.equal(one[i], other) for one, other in zip(images, whole[row], strict=True))
            if row not in broken and not all(same):
                raise FailureError("wrong bytes", f"row {row}, which is whole, has other pixels")


ATTACKS = [
    Attack(
        name=f"images-{round(100 * share)}-{decode}-{threads}",
        what=f"{share:.0%} of the samples broken, decode={decode}, threads: {threads}",
        prepare=data.compose,
        attempt=partial(load, share, decode, threads),
        attempts=60,
        long=600,
        memory=0 if decode == "gpu" else 2048,  # CUDA takes as many addresses as it likes
    )
    for decode in DECODES
    for threads in (1, 2)
    for share in (0.01, 0.05, 0.6)
]
