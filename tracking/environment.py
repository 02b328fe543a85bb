"""environment.json: the data that a run is of, and the machine, program and time of each of its sessions."""

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from datetime import datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pipeline.loader import Loader
from shards.errors import InputError, masked
from shards.format.fields import parsed
from shards.format.storage import write_bytes
from shards.machine import cpu_count

_ROOT = Path(__file__).parent.parent


class Environment:
    """What a run's folder tells of where, when and with what it was made."""

    def __init__(self, run: Path, defaults: dict[str, Any], step: int, loader: Loader) -> None:
        """Note that a session begins at optimiser step `step`. Of step 0 it is the first, whatever came before."""
        self._path, self._began = run / "environment.json", time.perf_counter()
        earlier = _sessions(self._path) if step and self._path.exists() else []
        self._session: dict[str, Any] = {"began": f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z}", "step": step}
        self._session |= _machine(loader)
        self._told = {"data": _data(loader), "defaults": defaults, "sessions": [*earlier, self._session]}
        self.write()

    def write(self) -> None:
        """Write it, with the seconds that this session has taken so far."""
        self._session["seconds"] = round(time.perf_counter() - self._began, 1)
        write_bytes(self._path, (json.dumps(self._told, indent=1) + "\n").encode())


def _sessions(path: Path) -> list[dict[str, Any]]:
    try:
        return list(parsed(dict[str, Any], path.read_bytes())["sessions"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error}). Copy it again, or remove it.") from None


def _data(loader: Loader) -> dict[str, Any]:
    manifest, dataset = loader.dataset.manifest, loader.dataset
    return {
        "where": masked(str(dataset.folder)),
        "samples": manifest.samples,
        "splits": manifest.splits,
        "components": list(manifest.components),
        "made_from": manifest.made_from,
        "sha256": sha256((dataset.root / "manifest.json").read_bytes()).hexdigest(),
    }


def _machine(loader: Loader) -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    on_gpu = loader.device.type == "cuda"
    return {
        "command": masked(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "commit": _answer("git", "-C", str(_ROOT), "describe", "--always", "--match=", "--abbrev=12", "--dirty"),
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()),
        "cores": cpu_count(),
        "gpu": torch.cuda.get_device_name(loader.device) if on_gpu else "",
        "processes": loader.order.world_size,
        "decode": loader.decode,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "" if on_gpu else "",
        "dali": _installed("nvidia-dali-cuda120"),
    }


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _answer(*command: str) -> str:
    """Return what a program says; nothing where there is no such program, or it fails."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
