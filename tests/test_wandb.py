"""What W&B gets of a run, that all of it can be sent in the end, and that nothing that happens to W&B stops the run."""

import contextlib
import hashlib
import io
import json
import os
import shlex
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import tyro
import wandb
import yaml  # type: ignore[import-untyped]  # no stubs
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # made at run time
from wandb_server import KEY, WandbServer, wandb_server

from model.unet import UNetConfig
from pipeline.loader import LoaderConfig
from ranks import Ranks
from shards.errors import InputError
from tracking.weights_and_biases import ENVIRONMENT
from tracking.workspace import PICTURES, PLOTS, save_workspace
from train import TrainConfig, train

ROOT = Path(__file__).parent.parent
OF_A_GPU = {"train/gpu_memory_gib", "train/gpu_utilisation"}
WITH_OLD_PYDANTIC = pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")
"""wandb_workspaces warns of itself when it is imported."""
ALONE = Ranks(0, 1, torch.device("cpu"))


def environment(home: Path, **given: str) -> dict[str, str]:
    """No key is found but a given one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return (
        kept
        | {"HOME": str(home), "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WANDB_DIR": str(home)}
        | given
    )


@contextlib.contextmanager
def surrounded(home: Path, **given: str) -> Iterator[None]:
    """This process has that environment, and a wandb of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB")]:
            patch.delenv(name)
        for name in ENVIRONMENT:  # which are set in it, and unset again then
            patch.setenv(name, "")
            patch.delenv(name)
        for name, value in environment(home, **given).items():
            patch.setenv(name, value)
        yield
        wandb.teardown()


def records(folder: Path) -> Iterator[Record]:
    """Reads a run's file: LevelDB's log format, blocks of 32 KiB, after 7 bytes of its own."""
    (path,) = folder.glob("*.wandb")
    data, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        size, kind = struct.unpack_from("<4xHB", data, place)
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # full, or the last part
            yield Record.FromString(whole)
            whole = b""


def history(found: list[Record]) -> list[dict[str, Any]]:
    rows = []
    for record in found:
        if record.HasField("history"):
            row: dict[str, Any] = {}
            for item in record.history.item:
                first, *rest = item.nested_key
                if rest:
                    row.setdefault(first, {})["/".join(rest)] = json.loads(item.value_json)
                else:
                    row[first] = json.loads(item.value_json)
            rows.append(row)
    return rows


def folders_of(run: Path) -> list[Path]:
    return sorted((run / "wandb").glob("offline-run-*"))


class Tracked(NamedTuple):
    """A run of two epochs, the second after a resumption: its folder, what it said, and W&B's records of each."""

    folder: Path
    said: str
    records: list[list[Record]]


@pytest.fixture(scope="module")
def tracked(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    home = tmp_path_factory.mktemp("home")
    loader = LoaderConfig(data=dataset, batch_size=8, size=32, num_threads=1)
    unet = UNetConfig(width=4, levels=2)
    config = TrainConfig(loader=loader, unet=unet, out=home / "a run", epochs=1, log_every=5)
    (config.out / "checkpoints").mkdir(parents=True)
    said = io.StringIO()
    with surrounded(home, WANDB_MODE="offline"), contextlib.redirect_stdout(said):
        train(config, ALONE)
        train(replace(config, epochs=2, resume=config.out), ALONE)
    return Tracked(config.out, said.getvalue(), [list(records(folder)) for folder in folders_of(config.out)])


@pytest.fixture(scope="module")
def history_of(tracked: Tracked) -> list[dict[str, Any]]:
    return [row for found in tracked.records for row in history(found)]


def test_losses_rates_and_metrics_are_logged_at_the_steps_of_the_run_s_own_log(
    tracked: Tracked, history_of: list[dict[str, Any]]
) -> None:
    own = [json.loads(line) for line in (tracked.folder / "metrics.jsonl").read_text().splitlines()]
    by_step: dict[int, dict[str, Any]] = {}
    for line in own:
        by_step.setdefault(line["step"], {}).update(line)
    assert [row["_step"] for row in history_of] == sorted(by_step)
    for row in history_of:
        assert by_step[row["_step"]].items() <= ({"step": row["_step"]} | row).items()


@pytest.mark.parametrize("name", PICTURES)
def test_each_validation_has_pictures_of_the_same_samples(
    tracked: Tracked, history_of: list[dict[str, Any]], name: str
) -> None:
    shown = {row["_step"]: row[name] for row in history_of if name in row}
    assert list(shown) == [15, 30]
    assert len({picture["caption"] for picture in shown.values()}) == 1
    for folder, picture in zip(folders_of(tracked.folder), shown.values(), strict=True):
        assert (picture["_type"], picture["height"] >= 32) == ("image-file", True)
        assert (folder / "files" / picture["path"]).is_file()


def test_the_configuration_is_that_of_the_run(tracked: Tracked) -> None:
    (record,) = [record.run for record in tracked.records[0] if record.HasField("run")]
    assert all(record.run.resume for found in tracked.records for record in found if record.HasField("run"))
    config = {update.key: json.loads(update.value_json) for update in record.config.update}
    assert (config["learning_rate"], config["unet"]["width"], config["components"][0]) == (2e-3, 4, "fg_bg")


def test_the_data_set_is_an_input_told_by_its_manifest(tracked: Tracked, dataset: Path) -> None:
    manifest = (dataset / "manifest.json").read_bytes()
    for found in tracked.records:
        (artifact,) = [record.artifact for record in found if record.artifact.type == "dataset"]
        (file,) = artifact.manifest.contents
        assert artifact.use_after_commit
        assert (artifact.name, file.path) == ("dataset", "manifest.json")
        assert Path(file.local_path).read_bytes() == manifest
        about = json.loads(artifact.metadata)
        assert about["sha256"] == hashlib.sha256(manifest).hexdigest()
        assert (about["samples"], about["splits"]) == (150, {"train": 120, "val": 15, "test": 15})


def test_the_checkpoints_are_versions_of_one_model_called_best_and_last(tracked: Tracked) -> None:
    name = f"model-{(tracked.folder / 'wandb-id').read_text()}"
    for found in tracked.records:
        models = [record.artifact for record in found if record.artifact.type == "model"]
        assert {model.name for model in models} == {name}
        assert {alias for model in models for alias in model.aliases} == {"best", "last", "latest"}
    kept = {alias: Path(model.manifest.contents[0].local_path) for model in models for alias in model.aliases}
    for alias in ("best", "last"):
        assert kept[alias].read_bytes() == (tracked.folder / "checkpoints" / f"{alias}.pt").read_bytes()


def test_a_saved_view_plots_what_runs_log(history_of: list[dict[str, Any]]) -> None:
    logged = {name for row in history_of for name in row}
    plotted = {metric for plots in PLOTS.values() for metrics in plots.values() for metric in metrics}
    assert {*plotted, *PICTURES} - logged == OF_A_GPU


def test_the_command_that_is_said_last_sends_both_parts_of_a_resumed_run(tracked: Tracked, tmp_path: Path) -> None:
    """They are one run then: what is sent of the second part does not take the place of the first."""
    command = tracked.said.splitlines()[-1].partition(": ")[2]
    assert shlex.split(command) == ["wandb", "sync", *map(str, folders_of(tracked.folder))]
    with wandb_server() as server:
        own = environment(tmp_path, WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
        sent = subprocess.run(command, shell=True, env=own, capture_output=True, text=True, timeout=60)
    assert sent.returncode == 0, sent.stderr
    (rows,) = server.history.values()
    assert [row["_step"] for row in rows] == [5, 10, 15, 20, 25, 30]
    (digest,) = {
        record.artifact.digest for found in tracked.records for record in found if record.artifact.type == "dataset"
    }
    assert server.used == [digest, digest]


TRACKS = """
import os, subprocess, sys, time, urllib.request
from pathlib import Path
import numpy as np
from shards.format.manifest import Manifest
happens, run, data = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
if happens == "absent":
    sys.modules["wandb"] = None
from tracking.weights_and_biases import WeightsAndBiases
tracking = WeightsAndBiases(run, {"loader": {"data": data}}, Manifest.read(Path(data)))
tracking.log({"train/loss": 1.0}, 1)
if happens in ("KILL", "STOP"):
    subprocess.run(["pkill", f"-{happens}", "-P", str(os.getpid()), "wandb-core"], check=True)
if happens == "lost":
    urllib.request.urlopen(os.environ["WANDB_BASE_URL"] + "/lost", b"")
if happens == "unwritable":
    next(run.glob("wandb/*run-*/files")).joinpath("media").write_text("")
for step in range(2, 50):
    tracking.log({"train/loss": 1 / step}, step)
tracking.picture("val/samples", np.zeros((8, 8, 3), np.uint8), 50)
tracking.log({"train/loss": 0.02}, 50)
tracking.finish()
print("went on to its end")
"""
"""A run, as far as W&B sees it."""
SERVERS = {
    "works": "work",
    "silent": "nothing",
    "hangs": "nothing to begin runs",
    "unauthorised": "401",
    "broken": "500",
}
SERVERS |= {"lost": "work", "KILL": "work", "STOP": "work", "unwritable": "work", "absent": "work"}


class Ended(NamedTuple):
    """How a process ended, what it said, and the folder that it was to write."""

    code: int
    said: str
    errors: str
    folder: Path
    server: WandbServer


@pytest.fixture(scope="module")
def happened(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """How runs ended to which something happened, by what it was."""
    root = tmp_path_factory.mktemp("happened")

    def run(happens: str) -> Ended:
        folder = root / happens / "run"
        (folder / "checkpoints").mkdir(parents=True)
        for name in ("best.pt", "last.pt"):
            (folder / "checkpoints" / name).write_text("a checkpoint")
        with wandb_server(SERVERS.get(happens, "work")) as server, socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))  # and does not listen
            url = f"http://127.0.0.1:{bound.getsockname()[1]}" if happens == "refused" else server.url
            limits = {f"WANDB_{name}_TIMEOUT": "1" for name in ("HTTP", "INIT", "FINISH")}
            limits["WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL"] = "1"  # which must be less than the last of them + 5
            own = environment(
                folder.parent, WANDB_API_KEY=KEY, WANDB_BASE_URL=url, **(limits if happens != "works" else {})
            )
            command = [sys.executable, "-c", TRACKS, happens, str(folder), str(dataset)]
            ended = subprocess.run(command, env=own, capture_output=True, text=True, timeout=60)
        return Ended(ended.returncode, ended.stdout, ended.stderr, folder, server)

    with ThreadPoolExecutor(3) as pool:
        return dict(zip(happenings := [*SERVERS, "refused"], pool.map(run, happenings), strict=True))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return history(list(records(folder)))


@pytest.mark.parametrize("happens", ["silent", "hangs", "unauthorised", "broken", "refused"])
def test_without_a_server_that_works_a_run_goes_offline_and_says_why(happened: dict[str, Ended], happens: str) -> None:
    ended = happened[happens]
    offline, send, end = ended.said.splitlines()
    assert (ended.code, end) == (0, "went on to its end")
    assert offline.startswith("W&B is offline: ")
    (folder,) = folders_of(ended.folder)
    assert send == f"to send this run to W&B: wandb sync {folder}"
    assert [row["_step"] for row in rows_of(folder)] == [*range(1, 51)]
    assert not ended.errors


def test_a_run_online_is_there_at_its_end(happened: dict[str, Ended]) -> None:
    ended = happened["works"]
    own = (ended.folder / "wandb-id").read_text()
    assert (ended.code, ended.errors) == (0, "")
    assert ended.said.splitlines() == [f"W&B: {ended.server.url}/me/sluice/runs/{own}", "went on to its end"]
    assert [row["_step"] for row in ended.server.history[own]] == [*range(1, 51)]
    assert len(ended.server.used) == 1
    assert ended.server.versions[f"model-{own}"] == [{"best", "last", "latest"}], "equal files are one version"


def test_a_network_that_goes_away_does_not_hold_a_run_up(happened: dict[str, Ended]) -> None:
    ended = happened["lost"]
    _, failed, send, end = ended.said.splitlines()
    (folder,) = ended.folder.glob("wandb/run-*")
    assert (ended.code, end) == (0, "went on to its end")
    assert failed.startswith("W&B has failed (")
    assert send == f"to send this run to W&B: wandb sync --include-online {folder}"
    print(ended.errors)
    assert [row["_step"] for row in rows_of(folder)] == [*range(1, 51)]


@pytest.mark.parametrize("happens", ["KILL", "STOP", "unwritable", "absent"])
def test_where_wandb_fails_the_run_says_so_once_and_goes_on(happened: dict[str, Ended], happens: str) -> None:
    ended = happened[happens]
    said = [line for line in ended.said.splitlines() if line.startswith("W&B has failed")]
    assert (ended.code, len(said)) == (0, 1)
    assert ended.said.splitlines()[-1] == "went on to its end"
    assert "Traceback" not in ended.errors


@WITH_OLD_PYDANTIC
def test_the_view_is_saved_with_all_its_plots(tmp_path: Path) -> None:
    with wandb_server() as server, surrounded(tmp_path, WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url):
        url = save_workspace("me/sluice")
    assert url.startswith(f"{server.url}/me/sluice?nw=")
    sections = server.views[0]["section"]["panelBankConfig"]["sections"]
    shown = {one["name"]: [panel["config"] for panel in one["panels"]] for one in sections}
    for name, plots in PLOTS.items():
        assert [(panel["chartTitle"], panel["metrics"]) for panel in shown[name]] == list(plots.items())
    assert [panel["mediaKeys"] for panel in shown["Samples"]] == [PICTURES]


@WITH_OLD_PYDANTIC
def test_a_view_that_cannot_be_saved_is_one_clear_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tracking", "workspace", "me/sluice"]
    ended = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr.splitlines()) == (
        2,
        ["error: not logged in to Weights & Biases. Run `wandb login` first."],
    )
    refused = pytest.raises(InputError, match="me/sluice: the view could not be saved")
    with wandb_server("401") as server, surrounded(tmp_path, WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url), refused:
        save_workspace("me/sluice")
    with pytest.raises(InputError, match="ENTITY/PROJECT is needed"):
        save_workspace("sluice")


AGENT = """
import json, sys, yaml
from wandb.wandb_agent import Agent
sweep = yaml.safe_load(open(sys.argv[1]))
agent = Agent(None, None, sweep_id="sweep1")
agent._sweep_command = sweep["command"]
agent._command_run({"run_id": "run1", "program": sweep["program"], "args": json.loads(sys.argv[2])})
sys.exit(agent._run_processes["run1"].wait())
"""
"""What the agent does when its server tells it to begin a run."""
SWEEP: dict[str, Any] = yaml.safe_load((ROOT / "sweep.yaml").read_text())


def test_the_sweep_of_the_project_runs_as_the_agent_begins_it(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "train.py").symlink_to(ROOT / "train.py")
    (tmp_path / "data").symlink_to(dataset)
    drawn = {name: one["values"][0] if "values" in one else one["min"] for name, one in SWEEP["parameters"].items()}
    small = drawn | {"size": 16, "batch_size": 40, "num_threads": 1, "epochs": 1}
    command = [
        sys.executable,
        "-c",
        AGENT,
        str(ROOT / "sweep.yaml"),
        json.dumps({k: {"value": v} for k, v in small.items()}),
    ]
    own = environment(tmp_path, WANDB_MODE="offline", WANDB_SWEEP_ID="sweep1")
    ended = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    folder = tmp_path / "runs" / "sweep-sweep1" / "run1"
    config = json.loads((folder / "config.json").read_text())
    assert (config | config["unet"]).items() >= drawn.items()
    found = list(records(folders_of(folder)[0]))
    (begun,) = [record.run for record in found if record.HasField("run")]
    assert (begun.run_id, begun.sweep_id) == ("run1", "sweep1")
    assert SWEEP["metric"]["name"] in history(found)[-1]


def test_all_that_the_sweep_tries_is_taken() -> None:
    for name, one in SWEEP["parameters"].items():
        for value in one.get("values") or (one["min"], one["max"]):
            config = tyro.cli(
                TrainConfig, args=["--data", "x", f"--{name}={value}"], config=(tyro.conf.OmitArgPrefixes,)
            )
            assert getattr(config, name, None) == value or getattr(config.unet, name) == value
