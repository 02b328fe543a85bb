"""Killed at any moment and started again, a build ends with the same bytes; a full disk is one line."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_data import contents, convert

from shards.errors import InputError

TINY_SHARDS = ("--samples-per-shard", "3", "--workers", "2")


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "shards", *map(str, arguments)]


def until(condition: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    """Waits for `condition`, as long as `process` runs; a busy machine may take long."""
    end = time.monotonic() + 120
    while not condition() and (process is None or process.poll() is None):
        assert time.monotonic() < end
        time.sleep(0.001)


def living(session: int) -> list[str]:
    """The processes of a session that have not ended (field 6 of /proc/PID/stat; Z has ended)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, fields = path.read_text().rpartition(")")
        except OSError:
            continue
        state, _, _, its_session, *_ = fields.split()
        found += [name] if int(its_session) == session and state != "Z" else []
    return found


def killed_when(seen: str, *arguments: str | Path, out: Path) -> None:
    """Starts the command and kills it (not its workers) the moment a file `seen` appears in `out`."""
    with subprocess.Popen(command(*arguments), start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: any(out.glob(seen)), process)
        os.kill(process.pid, signal.SIGKILL)
    until(lambda: not living(process.pid))


@pytest.fixture(scope="module")
def whole(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny shards, made without an interruption."""
    out = tmp_path_factory.mktemp("whole") / "out"
    convert([folders], out, samples_per_shard=3)
    return out


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("seen", [".work/*.npz", "index"])
def test_a_killed_conversion_goes_on_to_the_same_bytes(folders: Path, whole: Path, tmp_path: Path, seen: str) -> None:
    out = tmp_path / "killed"
    killed_when(seen, "convert", folders, out, *TINY_SHARDS, out=out)
    if (out / "manifest.json").exists():
        pytest.skip("it was done before it could be killed")
    (out / ".partial-shared.1.tar").write_bytes(b"what a kill while this was written leaves")
    next(out.glob(".work/*.npz")).unlink()  # what a kill between a shard and its record leaves
    subprocess.run(command("convert", folders, out, *TINY_SHARDS), check=True, capture_output=True)
    assert contents(out) == contents(whole)


def test_a_finished_data_set_is_left_as_it_is(folders: Path, damaged: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in damaged.rglob("*")}
    (damaged / ".work").mkdir()
    convert([folders], damaged)
    assert {path: path.stat().st_mtime_ns for path in damaged.rglob("*")} == before


def test_the_same_files_in_another_place_are_the_same_data_set(messy: Path, damaged: Path) -> None:
    before = contents(damaged)
    convert([messy], damaged)
    assert contents(damaged) == before


def test_another_source_is_refused(folders: Path, messy: Path, damaged: Path, tmp_path: Path) -> None:
    for path in (messy / "OverlayedImages").rglob("*.jpg"):
        path.write_bytes(path.read_bytes() + b"changed since")
    with pytest.raises(InputError, match="holds another data set already"):
        convert([messy], damaged)
    (damaged / "manifest.json").unlink()
    (damaged / ".work").mkdir()
    (damaged / ".work" / "fingerprint").write_text("of something else")
    with pytest.raises(InputError, match="holds the beginning of another data set"):
        convert([folders], damaged)


@pytest.mark.skipif(sys.platform == "win32", reason="needs ulimit")
def test_a_full_disk_is_one_line_and_can_be_gone_on_from(folders: Path, tmp_path: Path) -> None:
    convert_it = command("convert", folders, tmp_path / "out", "--workers", "1")
    limited = ["sh", "-c", 'ulimit -f 64; exec "$@"', "sh", *convert_it]
    failed = subprocess.run(limited, capture_output=True, text=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: [Errno 27] File too large")
    assert failed.stderr.count("\n") == 1
    assert not list((tmp_path / "out").glob("*.tar"))
    subprocess.run(convert_it, check=True, capture_output=True)
