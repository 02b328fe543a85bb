"""On a Ray cluster of two machines, one of which is lost in the middle, the same bytes come as in one process."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from small_data import Drawn, built, compose_config, contents, convert, division
from test_interruption import command, until
from test_parts import fetched
from test_teacher import depth_anything

from shards.format.dataset import Dataset
from shards.ingest.compose import plan_composition

pytest_plugins = ["remote_fixtures"]
pytest.importorskip("ray")
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")

ROOT = Path(__file__).parent.parent
RAY = Path(sys.executable).with_name("ray")
SMALL = ("--samples-per-shard", "5")


class Cluster(NamedTuple):
    """Its address, the process groups of its two machines, and the environment of whoever joins it."""

    address: str
    machines: "tuple[subprocess.Popen[str], subprocess.Popen[str]]"
    environment: dict[str, str]

    def start(self, *arguments: str | Path, cwd: Path = ROOT) -> "subprocess.Popen[str]":
        asked = command(*arguments, "--engine", "ray", "--ray-address", self.address)
        own = self.environment | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen(asked, text=True, env=own, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def run(self, *arguments: str | Path, cwd: Path = ROOT) -> tuple[int, str]:
        """The exit code, and all that was said."""
        with self.start(*arguments, cwd=cwd) as process:
            said, _ = process.communicate(timeout=120)
            return process.returncode, said


@pytest.fixture(scope="module")
def cluster(bucket: str) -> Iterator[Cluster]:
    """Two machines of one core each. They know where S3 is, as the machines of a cluster must by themselves."""
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    environment = os.environ | own | {"COLUMNS": "200"}
    address = f"127.0.0.1:{_free_port()}"
    machines: list[subprocess.Popen[str]] = []
    try:
        for which in ("--head", f"--address={address}"):
            port = [f"--port={address.rpartition(':')[2]}", "--include-dashboard=false"] if which == "--head" else []
            machines.append(_machine(which, *port, environment=environment))
        yield Cluster(address, (machines[0], machines[1]), environment)
    finally:
        for machine in machines:
            _lose(machine)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _machine(*options: str, environment: dict[str, str]) -> "subprocess.Popen[str]":
    """In a process group of its own, and ready when this returns."""
    start: list[str | Path] = [RAY, "start", "--block", "--num-cpus=1", "--object-store-memory=80000000", *options]
    process = subprocess.Popen(
        start,
        text=True,
        env=environment,
        cwd="/",
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "This command will now block forever" in line:
            return process
    raise AssertionError("".join(said))


def _processes(machine: "subprocess.Popen[str]") -> dict[int, str]:
    """What it runs: the command of each process, by number. Ray's workers are called after what they are at."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            session = (path / "stat").read_text().rpartition(")")[2].split()[3]
            if int(session) == machine.pid:
                found[int(path.name)] = (path / "cmdline").read_text()
    return found


def _lose(machine: "subprocess.Popen[str]") -> None:
    """All processes of it at once, as when the power fails."""
    if machine.poll() is None:
        for pid in _processes(machine):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        machine.wait()
    if machine.stdout:
        machine.stdout.close()


def test_conversion_to_a_url_and_its_verification(cluster: Cluster, folders: Path, bucket: str, tmp_path: Path) -> None:
    url = f"{bucket}/by-cluster"
    code, said = cluster.run("convert", folders, url, *SMALL)
    assert code == 0, said
    assert fetched(url) == contents(convert([folders], tmp_path / "whole", samples_per_shard=5).root)
    code, said = cluster.run("verify", url)
    assert code == 0, said
    assert "every file is as the manifest says" in said


def test_relative_paths_mean_what_they_mean_here(cluster: Cluster, folders: Path, tmp_path: Path) -> None:
    """And the machines, which were started elsewhere, are sent the code."""
    shutil.copytree(folders, tmp_path / "folders")
    code, said = cluster.run("convert", "folders", "out", cwd=tmp_path)
    assert code == 0, said
    assert contents(tmp_path / "out") == contents(
        convert([tmp_path / "folders"], tmp_path / "whole", samples_per_shard=1000).root
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return depth_anything(tmp_path_factory.mktemp("teachers") / "relative")


def test_depth_by_a_teacher(cluster: Cluster, dataset: Path, teacher: Path, tmp_path: Path) -> None:
    options = ("--teacher", teacher, "--device", "cpu", "--format", "png")
    code, said = cluster.run("depth", dataset, tmp_path / "by-cluster", *options)
    assert code == 0, said
    subprocess.run(command("depth", dataset, tmp_path / "here", *options), check=True, capture_output=True)
    assert contents(tmp_path / "by-cluster") == contents(tmp_path / "here")


def test_what_is_wrong_is_said_in_a_line(cluster: Cluster, damaged: Path, teacher: Path, tmp_path: Path) -> None:
    place = (opened := Dataset.open(damaged)).locate("fg_bg", np.array([80]))
    with opened.tar_path(int(place.file[0])).open("r+b") as tar:
        tar.seek(int(place.offset[0]))
        tar.write(b"no image")
    code, said = cluster.run("verify", damaged)
    assert code == 1
    assert "shard-000003.tar: its digest is not the one in the manifest" in said
    code, said = cluster.run("depth", damaged, tmp_path / "out", "--teacher", teacher, "--device", "cpu")
    assert code == 2
    *_, last = said.splitlines()
    assert last.startswith(f"error: fg_bg of {opened.key(80)}: not-an-image")
    assert "ray::" not in said


def test_a_folder_that_the_cluster_does_not_see_is_told(cluster: Cluster, folders: Path, tmp_path: Path) -> None:
    """Relative to where this command runs, and the machines were started elsewhere."""
    asked = command("convert", folders, tmp_path / "out", "--engine", "ray", "--ray-address", cluster.address)
    (tmp_path / "out" / ".work").mkdir(parents=True)
    with subprocess.Popen(asked, env=cluster.environment, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: (tmp_path / "out" / ".work" / "plan").exists(), process)
        (tmp_path / "out" / ".work" / "fingerprint").unlink()
        _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "does not see in it what the machine that began has put there" in said


def test_nobody_at_the_address(tmp_path: Path, dataset: Path) -> None:
    address = f"127.0.0.1:{_free_port()}"
    asked = command("verify", dataset, "--engine", "ray", "--ray-address", address)
    told = subprocess.run(asked, capture_output=True, text=True)
    assert told.returncode == 2
    assert told.stderr.startswith(f"error: {address}: no Ray cluster there")
    told = subprocess.run(command("verify", dataset, "--ray-address", address), capture_output=True, text=True)
    assert told.returncode == 2
    assert "only --engine ray has one" in told.stderr


def test_a_machine_that_is_lost_costs_what_it_was_at(cluster: Cluster, drawn: Drawn, tmp_path: Path) -> None:
    """The last test of this cluster: it has one machine from then on."""
    out, many = tmp_path / "out", {"places": 170, "samples": 16_000}
    given = [option for name, path in drawn._asdict().items() for option in (f"--{name}", path)]
    places = ("--places", "170", "--mirror", "--samples", "16000", "--size", "48")
    with cluster.start("compose", *given, *places, "--samples-per-shard", "500", "--out", out) as process:
        until(lambda: len(list(out.glob(".work/*.npz"))) >= 4, process)
        until(lambda: any("ray::_done" in name for name in _processes(cluster.machines[1]).values()), process)
        _lose(cluster.machines[1])
        begun = len(list(out.glob(".work/*.npz")))
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert begun < 31, "it was done before the machine was lost"
    config = compose_config(drawn, **many, division=division(samples_per_shard=500))
    whole = built(plan_composition(config), tmp_path / "whole")
    assert contents(out) == contents(whole.root)
