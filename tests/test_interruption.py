"""Killed at any moment and started again, a build ends with the same bytes; a full disk is one line."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from small_data import TREES, begun, contents, convert, division, flip

from shards.build import assemble
from shards.build.build import merge
from shards.errors import InputError
from shards.format.images import save_image
from shards.format.manifest import Manifest
from shards.format.storage import LocalFolder, write_bytes
from shards.ingest.convert import ConvertConfig, plan_conversion
from shards.ingest.job import Job

TINY_SHARDS = ("--samples-per-shard", "3", "--workers", "2")


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "shards", *map(str, arguments)]


def until(condition: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    """Waits for `condition`, as long as `process` runs; a busy machine may take long."""
    end = time.monotonic() + 120
    while not condition() and (process is None or process.poll() is None):
        assert time.monotonic() < end
        time.sleep(0.001)


def living(session: int) -> list[int]:
    """The processes of a session that have not ended (field 6 of /proc/PID/stat; Z has ended)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, fields = path.read_text().rpartition(")")
        except OSError:
            continue
        state, _, _, its_session, *_ = fields.split()
        found += [int(path.parent.name)] if int(its_session) == session and state != "Z" else []
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


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_ctrl_c_twice_ends_all_processes_soon_and_in_one_line(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    begin = command("convert", folders, out, *TINY_SHARDS)
    with subprocess.Popen(begin, start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: any(out.glob(".work/*.npz")), process)
        mapped = [Path(f"/proc/{pid}/maps").read_text() for pid in living(process.pid)]
        for _ in range(2):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.05)
        _, said = process.communicate(timeout=20)
    assert process.returncode in (130, -signal.SIGINT)  # where the second came when it was all but over
    assert said.count("\n") == 1
    until(lambda: not living(process.pid))
    assert not any("/dev/shm/sem." in one for one in mapped), "they would stay if all were killed"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_damage_to_what_a_stopped_build_left_costs_its_shards_alone(
    folders: Path, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    begun(plan(folders), out)
    before, work = times(out), out / ".work"
    cut(work / "plan")
    with pytest.raises(InputError, match=r"\.work/plan is damaged\. Run the command of one of the parts again"):
        merge([], LocalFolder(out))
    begun(plan(folders), out)
    assert times(out) == before
    cut(next(work.glob("shard-000000.tar.*.npz")))
    flip(next(work.glob("shard-000001.tar.*.npz")), 500)
    cut(out / "shard-000002.tar")
    flip(out / "shard-000003.tar", 5000)
    cut(out / "shard-000004.idx")
    with pytest.raises(InputError, match="5 of 6 shards are not there yet or damaged, such as shard-000000"):
        merge([], LocalFolder(Path(shutil.copytree(out, tmp_path / "merged"))))
    flip(work / "fingerprint", 5)
    assert contents(convert([folders], out).root) == contents(dataset)
    assert {name for name, time in times(out).items() if time == before[name]} == {"shard-000005.tar"}


def test_merging_clears_what_a_kill_near_its_end_left(damaged: Path) -> None:
    whole = contents(damaged)
    (damaged / ".work").mkdir()
    (damaged / ".work" / "fingerprint").write_text("left")
    merge([], LocalFolder(damaged))
    assert contents(damaged) == whole


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
    for again in (False, True):
        with pytest.raises(InputError, match="holds another data set already"):
            convert([messy], damaged, again=again)
    begun(plan(folders), tmp_path / "out")
    with pytest.raises(InputError, match="holds the beginning of another data set"):
        convert([messy], tmp_path / "out", again=True)
    (damaged / "manifest.json").unlink()
    (damaged / ".work").mkdir()
    (damaged / ".work" / "fingerprint").write_text("of something else")
    with pytest.raises(InputError, match="holds the beginning of another data set"):
        convert([folders], damaged)


def mend(folders: Path) -> None:
    """One image of one sample is another."""
    flip(min((folders / TREES["mask"]).rglob("*.jpg")), 50)


def take_out(folders: Path) -> None:
    """A fifth of the samples, so that there is a shard less."""
    for path in sorted((folders / TREES["mask"]).rglob("*.jpg"))[:30]:
        path.unlink()


def put_in(folders: Path) -> None:
    for name in ("fg_bg", "mask", "depth"):
        some = min((folders / TREES[name]).rglob("*.jpg"))
        shutil.copy(some, some.with_stem("combined_s1_p1_it77"))


def plan(folders: Path) -> Job:
    return plan_conversion([folders], ConvertConfig(division=division()))


def times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*.tar")}


@pytest.mark.parametrize("change", [mend, take_out, put_in])
def test_after_a_change_it_goes_on_with_the_shards_that_stay_and_ends_with_the_bytes_of_a_fresh_one(
    messy: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    out = tmp_path / "out"
    begun(plan(messy), out)
    old = {unit.name: unit.made_from for unit in plan(messy).units}
    before = times(out)
    change(messy)
    new = {unit.name: unit.made_from for unit in plan(messy).units}
    whole = contents(convert([messy], tmp_path / "whole").root)
    assert contents(convert([messy], out).root) == whole
    same = {name for name in old if old[name] == new.get(name)}
    assert {name for name, time in times(out).items() if time == before.get(name)} == same
    assert change is not mend or len(same) == 5


@pytest.mark.parametrize("change", [mend, take_out])
def test_a_finished_data_set_is_made_again_when_asked(
    messy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    out = tmp_path / "out"
    before = contents(convert([messy], out).root)
    change(messy)
    told = r"shard-00000[0-5]\.tar" if change is mend else r"shard-00000[0-4]\.tar and [1-5] more"
    with pytest.raises(InputError, match=rf"files have changed since; {told} of 6 shards .* Add --again"):
        convert([messy], out)
    assert contents(out) == before
    monkeypatch.setattr(assemble, "SHARED_AT_MOST", 0.5 * (change is mend))
    whole = contents(convert([messy], tmp_path / "whole").root)
    assert ("shared.tar" in whole) == (change is mend)
    assert contents(convert([messy], out, again=True).root) == whole


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_killed_while_it_is_made_again_it_goes_on(messy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert([messy], out, samples_per_shard=3)
    mend(messy)
    killed_when(".work/*.npz", "convert", messy, out, *TINY_SHARDS, "--again", out=out)
    assert not (out / "manifest.json").exists(), "it was done before it could be killed"
    whole = convert([messy], tmp_path / "whole", samples_per_shard=3)
    assert contents(convert([messy], out, samples_per_shard=3).root) == contents(whole.root)


def test_a_change_that_is_taken_back_is_no_change(messy: Path, tmp_path: Path) -> None:
    """The record of a tar that was overwritten meanwhile is not taken for that of the one that lies there."""
    kept, out = tmp_path / "kept", tmp_path / "out"
    shutil.copytree(messy, kept)
    whole = contents(convert([messy], tmp_path / "whole").root)
    begun(plan(messy), out)
    take_out(messy)
    mend(messy)
    begun(plan(messy), out)
    shutil.copytree(kept, messy, dirs_exist_ok=True)
    assert contents(convert([messy], out).root) == whole


def test_one_that_a_version_without_its_command_made_is_refused(messy: Path, damaged: Path) -> None:
    convert([messy], damaged)
    mend(messy)
    manifest = Manifest.read(damaged)
    (damaged / "manifest.json").write_text(replace(manifest, command="").to_json())
    with pytest.raises(InputError, match="holds another data set already"):
        convert([messy], damaged, again=True)


def test_a_file_takes_the_place_of_files_alone(tmp_path: Path) -> None:
    """And not of /dev/full."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    (tmp_path / "stdout").symlink_to("file")
    for path in (tmp_path / "pipe", tmp_path / "stdout", tmp_path):
        with pytest.raises(InputError, match=f"^{path}: no file but a link, a folder, a pipe or a device"):
            write_bytes(path, b"")
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(InputError, match=r"name: unknown file extension: .*\. End the name with \.png"):
        save_image(tmp_path / "name", Image.new("L", (1, 1)))


@pytest.mark.skipif(sys.platform == "win32", reason="needs ulimit")
def test_a_full_disk_is_one_line_and_can_be_gone_on_from(folders: Path, tmp_path: Path) -> None:
    convert_it = command("convert", folders, tmp_path / "out", "--workers", "1")
    limited = ["sh", "-c", 'ulimit -f 64; exec "$@"', "sh", *convert_it]
    failed = subprocess.run(limited, capture_output=True, text=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    assert failed.returncode == 2
    assert re.match(
        r"error: .*/out/shard-00000\d\.tar: the disk is full, or a limit .* and run again\.\n", failed.stderr
    )
    assert failed.stderr.count("\n") == 1
    assert not list((tmp_path / "out").glob("*.tar"))
    subprocess.run(convert_it, check=True, capture_output=True)
