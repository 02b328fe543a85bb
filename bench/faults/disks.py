"""Disks that are full or become read-only, and files that vanish or change while they are read.

The disks are real ones in memory, where this user may mount; elsewhere no file may become larger than a limit.
"""

import ctypes
import os
import random
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from bench.faults import data
from bench.faults.attack import WELL, Attack, FailureError, command, doing, told
from bench.faults.files import copied
from bench.faults.kills import PROGRAMS, Argv, Program, fresh, prepare
from bench.faults.spoil import chance
from pipeline.decode import Decode
from pipeline.loader import Loader, LoaderConfig
from shards.errors import InputError
from shards.format.splits import SPLITS

WRITERS = ("convert", "compose", "index", "export", "train")
ROOM = 64
"""MiB of a disk on which all has room"""
_NEW_MOUNTS = 0x00020000


def _mount(*arguments: str | Path) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _mounts_go_with_this_process() -> None:
    if hasattr(ctypes.CDLL(None), "unshare") and ctypes.CDLL(None).unshare(_NEW_MOUNTS) == 0:
        _mount("--make-rprivate", "/")


def filled(name: str, folder: Path, number: int) -> Counter[str]:
    program, of, disk = PROGRAMS[name], chance("disks", name, number), folder / "disk"
    _mounts_go_with_this_process()
    shutil.rmtree(fresh(folder), ignore_errors=True)
    disk.mkdir(exist_ok=True)
    out = disk / "out"
    if not _mount("-t", "tmpfs", "-o", f"size={ROOM}m", "tmpfs", disk):
        return _limited(program, folder, of)
    try:
        if program.before:
            shutil.copytree(folder / program.before, out)
        used = _used(disk)
        needed = sum(one.stat().st_size for one in (folder / "whole").rglob("*") if one.is_file())
        room = used + of.randrange(8 << 10, max(16 << 10, needed - used))
        if read_only := of.random() < 0.3:
            process = program.begin(folder, out)
            seconds = of.uniform(0.3, 1.0) * float((folder / "seconds").read_text())
            doing(f"the disk is full after {seconds:.2f} s")  # tmpfs cannot be read-only while files are written
            time.sleep(seconds)
            _mount("-o", f"remount,size={max(4096, _used(disk))}", disk)
        else:
            doing(f"a disk of {room:,} bytes, of which {used:,} are taken")
            _mount("-o", f"remount,size={room}", disk)
            process = program.begin(folder, out)
        said, _ = process.communicate()
        ended = told(process.returncode, said)
        if not ended[WELL] and not read_only and str(disk) not in said:
            raise FailureError("traceback", f"does not name the path: {said.strip().splitlines()[-1]}")
        _mount("-o", f"remount,size={ROOM}m,ro", disk)
        refused = program.begin(folder, out)  # of a finished data set it only says what is there
        said, _ = refused.communicate()
        told(refused.returncode, said)
        _mount("-o", "remount,rw", disk)
        program.end(folder, out)
        program.refuse_others(folder, out)
        return ended
    finally:
        subprocess.run(["umount", "-l", disk], capture_output=True)


def _used(disk: Path) -> int:
    status = os.statvfs(disk)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def _limited(program: Program, folder: Path, of: random.Random) -> Counter[str]:
    """Let no file become larger than a limit."""
    out, kib = fresh(folder), of.randrange(8, 200)
    if program.before:
        shutil.copytree(folder / program.before, out)
    doing(f"no file of more than {kib} KiB")
    limit = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({kib << 10}, {kib << 10})); "
    limited: Argv = ["-c", f"{limit}os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"]
    process = command([*limited, *program.argv(folder, out)])
    said, _ = process.communicate()
    ended = told(process.returncode, said)
    program.end(folder, out)
    program.refuse_others(folder, out)
    return ended


def _cut(path: Path, of: random.Random) -> None:
    os.truncate(path, of.randrange(path.stat().st_size + 1))


def _written_over(path: Path, of: random.Random) -> None:
    with path.open("r+b") as file:
        file.seek(of.randrange(path.stat().st_size))
        file.write(of.randbytes(5000))


def _replaced(path: Path, of: random.Random) -> None:
    other = path.with_name("other")
    other.write_bytes(of.randbytes(path.stat().st_size))
    other.replace(path)


CHANGES: dict[str, Callable[[Path, random.Random], object]] = {
    "cut": _cut,
    "emptied": lambda path, _: os.truncate(path, 0),
    "vanished": lambda path, _: path.unlink(),
    "written over": _written_over,
    "replaced": _replaced,
}


def while_loaded(folder: Path, number: int) -> None:
    """What was written over in place, after it was opened, may be other pixels: no reader can know."""
    copy, of = copied(folder / "data"), chance("while loaded", number)
    path = of.choice([*copy.glob("*.tar"), *(copy / "index").iterdir(), copy / "manifest.json"])
    change, step = of.choice(sorted(CHANGES)), of.randrange(4)
    doing(f"{path.name} {change} before batch {step}")
    decode: Decode = "cpu" if of.random() < 0.5 else "portable"
    expected = data.truth(folder / "data", decode)["train"]
    config = LoaderConfig(data=copy, size=0, batch_size=6, decode=decode, num_threads=of.choice([1, 2]), max_bad=10**6)
    with Loader(config) as loader:
        for _ in range(3):
            for number, batch in enumerate(loader):
                if number == step and loader.epoch == 0:
                    CHANGES[change](path, of)
                for i, row in enumerate(batch.index.tolist()):
                    if row not in expected:
                        raise FailureError("wrong bytes", f"row {row} is not in the split")
                    if change != "written over" and not np.array_equal(batch.fg_bg[i].numpy(), expected[row]["fg_bg"]):
                        raise FailureError("wrong bytes", f"row {row} has other pixels")


def while_converted(folder: Path, number: int) -> Counter[str]:
    """Files of the source change in turn, until the program has ended."""
    of, out, source = chance("while converted", number), fresh(folder), folder / "changing"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(folder / "images", source)
    files, ended = sorted(path for path in source.rglob("*") if path.is_file()), threading.Event()
    of.shuffle(files)

    def change() -> None:
        ended.wait(of.uniform(0.5, 1.0) * float((folder / "seconds").read_text()))
        for path in files[:20]:
            ways = sorted(CHANGES)
            CHANGES[of.choice(ways)](path, of)
            if ended.wait(0.02):
                break

    doing(f"files of the source change, number {number}")
    changing = threading.Thread(target=change)
    program = Program(argv=lambda _, out: ["-m", "shards", "convert", source, out, "--samples-per-shard", "3"])
    process = program.begin(folder, out)
    changing.start()
    said, _ = process.communicate()
    ended.set()
    changing.join()
    found = told(process.returncode, said)
    if found[WELL]:
        for split in SPLITS:
            try:
                list(data.epoch(out, split, max_bad=0))
            except InputError as error:
                if "no samples in split" not in str(error):
                    raise FailureError("wrong bytes", f"what was made does not load: {error}") from error
    return found


ATTACKS = [
    Attack(
        name=f"disks-{name}",
        what=f"{name} on a disk that is full or read-only, and then is not",
        prepare=partial(prepare, name),
        attempt=partial(filled, name),
        attempts=4,
        long=50,
        seconds=300,
        memory=0,
    )
    for name in WRITERS
]
ATTACKS += [
    Attack(
        name="while-loaded",
        what="a tar or a part of the index vanishes or changes while it is loaded",
        prepare=data.compose,
        attempt=while_loaded,
        attempts=300,
        long=5000,
    ),
    Attack(
        name="while-converted",
        what="files vanish or change while they are converted",
        prepare=partial(prepare, "convert"),
        attempt=while_converted,
        attempts=10,
        long=100,
        seconds=300,
        memory=0,
    ),
]
