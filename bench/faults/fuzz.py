"""Parsers and decoders fed with what coverage leads to: see harness.py."""

import base64
import io
import shutil
import struct
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from bench.faults import data
from bench.faults.attack import REFUSED, WELL, Attack, FailureError, Kind, command, doing
from bench.faults.harness import SIZE

CHUNK = 50_000
"""inputs of an attempt; the next one goes on with what this one has found"""
MEMORY, SECONDS = 2048, 20
"""MiB of the whole process, and seconds for one input, above which it counts as failed"""
SIGNS: dict[str, Kind] = {"libFuzzer: timeout": "hang", "libFuzzer: out-of-memory": "memory"}
SIGNS |= {"libFuzzer: deadly signal": "signal", "WrongBytesError": "wrong bytes"}
"""what libFuzzer says of an input that ends badly, or Python"""
LONGEST = 4096
"""bytes of an input"""


def _seeds(target: str, folder: Path) -> Iterator[bytes]:
    """Yield inputs to begin with, all of them whole."""
    noise = Image.effect_noise(SIZE[::-1], 90)
    images = []
    for mode in ("RGB", "L"):
        for form, options in (("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG", {"subsampling": 0}), ("PNG", {})):
            noise.convert(mode).save(buffer := io.BytesIO(), form, **options)
            images.append(buffer.getvalue())
    if target == "index":
        yield (folder / "whole" / "index" / "samples.npy").read_bytes()
        yield (folder / "whole" / "index" / "train.npy").read_bytes()
    elif target == "manifest":
        yield (folder / "whole" / "manifest.json").read_bytes()
    elif target == "tar":
        for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
                for name in ("a.fg_bg.jpg", "a.mask.png", f"{'long' * 20}/{'long' * 10}.fg_bg.jpg"):
                    member = tarfile.TarInfo(name)
                    member.size = 20
                    tar.addfile(member, io.BytesIO(bytes(20)))
            yield buffer.getvalue()[:4096]
    elif target == "zip":
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            with zipfile.ZipFile(buffer := io.BytesIO(), "w", method) as archive:
                for name in ("a.jpg", "folder/é.png"):
                    archive.writestr(name, bytes(50))
                with archive.open("large.png", "w", force_zip64=True) as file:
                    file.write(bytes(50))
            yield buffer.getvalue()
    else:
        yield from images


def fuzz(target: str, folder: Path, number: int) -> Counter[str]:
    """Try CHUNK inputs."""
    ended, whole = folder / "ended", folder / "whole"
    ended.write_bytes(bytes(16))
    shutil.rmtree(folder / "data", ignore_errors=True)
    if whole.exists():
        shutil.copytree(whole, folder / "data")
    options = [f"-runs={CHUNK}", f"-seed={number + 1}", f"-max_len={LONGEST}", f"-timeout={SECONDS}"]
    options += [
        f"-rss_limit_mb={MEMORY}",
        f"-artifact_prefix={folder}/bad-{number}-",
        "-len_control=0",
    ]
    process = command(["-m", "bench.faults.harness", target, folder, *options], errors="replace")
    doing(f"fuzz {target}, seed {number + 1}")
    said, _ = process.communicate()
    well, refused = struct.unpack("<2Q", ended.read_bytes())
    if process.returncode == 0 and not well:
        raise FailureError("wrong bytes", "refuses all, even what is whole")
    if process.returncode == 0:
        return Counter({WELL: well, REFUSED: refused})
    found = sorted(folder.glob(f"bad-{number}-*"))
    kind: Kind = next((kind for word, kind in SIGNS.items() if word in said), "traceback")
    last = [
        line
        for line in said.splitlines()
        if not line.startswith(("stat::", "#", "MS:", "INFO:", "WARNING:", "0x", "==", "SUMMARY", "artifact_prefix"))
    ][-12:]
    kept = [f"the input, in base 64: {base64.b64encode(path.read_bytes()).decode()}" for path in found]
    raise FailureError(kind, "\n".join([*kept, *last]))


def _prepare(target: str, folder: Path) -> None:
    if target in ("index", "manifest"):
        data.compose(folder).rename(folder / "whole")
    (folder / "corpus").mkdir()
    for number, seed in enumerate(_seeds(target, folder)):
        (folder / "corpus" / f"seed-{number}").write_bytes(seed)


ATTACKS = [
    Attack(
        name=f"fuzz-{target}",
        what=f"{what}, fed with what coverage leads to",
        prepare=partial(_prepare, target),
        attempt=partial(fuzz, target),
        attempts=200_000 // CHUNK,
        long=1_000_000 // CHUNK,
        seconds=1800,
        memory=0,
    )
    for target, what in {
        "index": "the parser of index arrays",
        "manifest": "the parser of manifest.json",
        "tar": "the parser of tars",
        "zip": "the parser of zips",
        "header": "the readers of one header, and decoding before it is stored",
        "headers": "the reader of all headers of a batch",
        "portable": "headers and decoding with Pillow",
        "dali": "headers and decoding with DALI",
    }.items()
    if find_spec("atheris")
]
