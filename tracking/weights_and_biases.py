"""Weights & Biases: the dashboard of a run, which it never stops."""

import filecmp
import hashlib
import os
import re
import secrets
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from threading import Timer
from types import ModuleType
from typing import Any, Concatenate, ParamSpec

import numpy as np
from numpy.typing import NDArray

from shards.errors import masked, say
from shards.format.manifest import Manifest
from shards.format.storage import write_bytes

ENVIRONMENT = {
    "WANDB_HTTP_TIMEOUT": "5",  # seconds for an answer
    "WANDB_INIT_TIMEOUT": "10",  # to begin a run
    "WANDB_FINISH_TIMEOUT": "60",  # to send, at the end of a run, what has not been sent
    "WANDB_ERROR_REPORTING": "false",  # else a process that ends waits for a server that does not answer
}
"""What wandb is told where the environment says nothing else; by itself it may wait for ever."""
SOON = 5.0
"""seconds in which a service ends that can"""
P = ParamSpec("P")
Method = Callable[Concatenate["WeightsAndBiases", P], None]


def import_wandb() -> ModuleType:
    """Return the package wandb, set up as ENVIRONMENT says, and to leave the talking to us but for warnings."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import wandb

    wandb.setup(wandb.Settings(show_info=False, show_errors=False))
    return wandb


def reason(error: Exception) -> str:
    """Return what an error says, on one line."""
    return (str(error) or type(error).__name__).splitlines()[0]


@contextmanager
def _said(what: str) -> Iterator[None]:
    """Say that something has failed, and why, if it does; nothing else comes of it."""
    try:
        yield
    except Exception as error:
        say(f"W&B: {what}: {reason(error)}")


def _stops_nothing(method: Method[P]) -> Method[P]:
    """Have a method say what fails in it, and end the tracking of the run with that, but not the run."""

    @wraps(method)
    def guarded(self: "WeightsAndBiases", /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.off:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            self.off = True
            say(f"W&B has failed ({reason(error)}); the run goes on without")
            self.let_go()

    return guarded


class WeightsAndBiases:
    """The W&B run that gets what a run's folder gets: online where there is a key and a server that takes it."""

    def __init__(self, run: Path, config: dict[str, Any], manifest: Manifest) -> None:
        self.off, self._folder = False, run
        self._wandb: Any = None
        self._run: Any = None
        self._online = list[Path]()  # the folder of what may not have been sent
        self._begin(config, manifest)

    @_stops_nothing
    def _begin(self, config: dict[str, Any], manifest: Manifest) -> None:
        _find_room(self._folder / "wandb")
        sys.argv[1:] = map(masked, sys.argv[1:])  # W&B keeps the command line
        self._wandb = wandb = import_wandb()
        settings = wandb.setup().settings
        if settings.mode == "disabled":
            self.off = True
            return
        path = self._folder / "wandb-id"  # made once, so that a resumed run goes on as the same one
        own = settings.run_id or (path.read_text() if path.exists() else secrets.token_hex(4))
        write_bytes(path, own.encode())
        about: dict[str, Any] = {"id": own, "name": settings.run_name or self._folder.name, "dir": self._folder}
        about |= {"project": settings.project or "sluice", "config": config}
        # Offline too: when a run that was resumed is sent, its parts are to be one.
        about |= {"resume": "allow", "settings": wandb.Settings(silent=True, finish_timeout_raises=True)}
        mode, why = settings.mode, "as WANDB_MODE or the command wandb has set it"
        try:
            if mode == "online" and not wandb.login(prompt=False):
                mode, why = "offline", "`wandb login` was not run"
            self._run = wandb.init(mode=mode, **about)
        except wandb.Error as error:
            if mode != "online":
                raise
            said = reason(error).rpartition(": ")[2]
            mode, why = "offline", f"no run could begin at {settings.base_url} ({said})"
            self._end_service()  # else it would go on with the run that it could not begin
            import_wandb()
            self._run = wandb.init(mode=mode, **about)
        if mode == "online":
            self._online.append(Path(self._run.dir).parent)
        say(f"W&B: {self._run.url}" if mode == "online" else f"W&B is {mode}: {why}")
        with _said("the data set is not linked"):
            self._link(config["loader"]["data"], manifest)

    def _link(self, data: str, manifest: Manifest) -> None:
        text = manifest.to_json()
        about = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "samples": manifest.samples}
        about |= {"splits": manifest.splits, "components": list(manifest.components), "size": manifest.image_size}
        artifact = self._wandb.Artifact(re.sub(r"[^\w.-]", "-", Path(data).name), "dataset", metadata=about)
        with artifact.new_file("manifest.json") as file:
            file.write(text)
        # What use_artifact does, which online waits until all is sent, and refuses to offline.
        self._run._log_artifact(artifact, is_user_created=True, use_after_commit=True)

    @contextmanager
    def _limited(self, seconds: float) -> Iterator[None]:
        """Kill wandb's service if what is done within takes longer, so that it fails.

        wandb's own limit at the end of a run holds only if the service is not busy asking a server that is gone.
        """
        watchdog = Timer(seconds, self._wandb.setup()._connection._proc._process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        except Exception as error:
            if watchdog.finished.is_set():
                raise TimeoutError(f"no end after {seconds:g} s") from error
            raise
        finally:
            watchdog.cancel()

    @property
    def _patience(self) -> float:
        """Seconds that a service has which answers at all."""
        return float(self._wandb.setup().settings.finish_timeout) + 5

    @_stops_nothing
    def log(self, numbers: dict[str, float], step: int) -> None:
        with self._limited(self._patience):
            self._run.log(numbers, step=step)

    @_stops_nothing
    def picture(self, name: str, image: NDArray[np.uint8], step: int, caption: str = "") -> None:
        """image: uint8 (H, W, 3)."""
        self.log({name: self._wandb.Image(image, caption=caption)}, step)

    def finish(self) -> None:
        """End the run, with its checkpoints last.pt and best.pt, and say how to send what has not been sent."""
        self._finish()
        offline = sorted((self._folder / "wandb").glob("offline-run-*"))  # one each time that it was begun or resumed
        unsent = [folder for folder in (*offline, *self._online) if not any(folder.glob("*.synced"))]
        if unsent:
            options = ["--include-online"] if self._online else []
            command = shlex.join(["wandb", "sync", *options, *(str(folder.absolute()) for folder in unsent)])
            say(f"to send this run to W&B: {command}")

    @_stops_nothing
    def _finish(self) -> None:
        with self._limited(self._patience):
            with _said("the checkpoints are not there"):
                self._keep_checkpoints()
            self._run.finish()
        self._online.clear()

    def _keep_checkpoints(self) -> None:
        best, last = (self._folder / "checkpoints" / f"{name}.pt" for name in ("best", "last"))
        versions = {best: ["best"], last: ["last"]}
        if not best.exists():  # before the first validation
            del versions[best]
        elif filecmp.cmp(best, last, shallow=False):
            versions = {best: ["best", "last"]}
        for path, aliases in versions.items():
            artifact = self._wandb.Artifact(f"model-{self._run.id}", "model")
            artifact.add_file(str(path), name="checkpoint.pt")
            self._run.log_artifact(artifact, aliases=aliases)

    def let_go(self) -> None:
        """Have wandb leave this process."""
        with suppress(Exception), self._limited(SOON):
            self._run.finish()  # which first of all gives stdout and stderr back
        self._end_service()

    def _end_service(self) -> None:
        with suppress(Exception, SystemExit), self._limited(SOON):
            self._wandb.teardown()  # else it would be tried when this process ends, and be a traceback then


def _find_room(folder: Path) -> None:
    """Have W&B keep in `folder` what it would keep in the user's home, where that cannot be had or written."""
    with suppress(RuntimeError):
        if os.access(Path.home(), os.W_OK):
            return
    os.environ.setdefault("HOME", "/")  # as containers have it for a user without a name
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        os.environ.setdefault(name, str(folder.absolute()))
