"""Weights & Biases: the dashboard of a run."""

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import InputError, masked
from shards.format.storage import write_bytes


class WeightsAndBiases:
    """The W&B run that gets what a run's folder gets: online where there is a key to log in with."""

    def __init__(self, run: Path, config: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise InputError("wandb is not installed. Install requirements.txt, or use --wandb off.") from None
        _find_room(run / "wandb")
        path = run / "wandb-id"  # made once, so that a resumed run goes on as the same one
        if not path.exists():
            write_bytes(path, secrets.token_hex(4).encode())
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
        own: dict[str, Any] = {"name": run.name, "id": path.read_text(), "dir": run, "config": config, "mode": mode}
        self._image = wandb.Image
        sys.argv[1:] = map(masked, sys.argv[1:])  # W&B keeps the command line
        self._run = wandb.init(project="sluice", resume="allow", settings=wandb.Settings(quiet=True), **own)

    def log(self, numbers: dict[str, float], step: int) -> None:
        self._run.log(numbers, step=step)

    def picture(self, name: str, image: NDArray[np.uint8], step: int, caption: str) -> None:
        """image: uint8 (H, W, 3)."""
        self._run.log({name: self._image(image, caption=caption)}, step=step)

    def finish(self, best: Path) -> None:
        self._run.log_artifact(best, name=f"model-{self._run.id}", type="model")
        folder, offline = Path(self._run.dir).parent, self._run.settings.mode == "offline"
        self._run.finish()
        if offline:
            print(f"W&B was offline; to send this run: wandb sync {folder}")


def _find_room(folder: Path) -> None:
    """Have W&B keep in `folder` what it would keep in the user's home, where that cannot be had or written."""
    with suppress(RuntimeError):
        if os.access(Path.home(), os.W_OK):
            return
    os.environ.setdefault("HOME", "/")  # as containers have it for a user without a name
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        os.environ.setdefault(name, str(folder.absolute()))
