"""A data set built in parts, in one folder or in several, on a disk or at a URL, is the one that is built at once."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from small_data import ONE_WORKER, SAMPLES, Drawn, built, compose_config, contents, convert, division, flip
from test_interruption import command

from shards.build.build import BuildConfig, _do, build_dataset, merge
from shards.errors import InputError
from shards.format import storage
from shards.format.dataset import open_dataset
from shards.format.images import LeftOut
from shards.format.manifest import Encoding, Manifest, Statistics
from shards.format.splits import DivisionConfig
from shards.format.storage import Folder, LocalFolder, RemoteFolder, folder_at
from shards.ingest.compose import plan_composition
from shards.ingest.convert import ConvertConfig, ConvertUnit, plan_conversion
from shards.ingest.job import Job, Plan
from shards.inspect.page import write_page
from shards.inspect.show import contact_sheet
from shards.inspect.verify import verify

pytest_plugins = ["remote_fixtures"]


@pytest.fixture(scope="module")
def work(drawn: Drawn) -> Job:
    """Six shards."""
    return plan_composition(compose_config(drawn))


@pytest.fixture(scope="module")
def whole(work: Job, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """All files of what is built at once."""
    return contents(built(work, tmp_path_factory.mktemp("whole") / "out").root)


def part(work: Job, out: Folder, which: str) -> None:
    assert build_dataset(work, out, replace(ONE_WORKER, part=which)) is None


@pytest.mark.parametrize("of", [1, 3, 9])
def test_parts_in_one_folder_make_the_whole(work: Job, whole: dict[str, bytes], tmp_path: Path, of: int) -> None:
    out = LocalFolder(tmp_path / "out")
    for number in reversed(range(1, of + 1)):
        part(work, out, f"{number}/{of}")
    assert merge([], out).samples == SAMPLES
    assert contents(out.path) == whole
    assert merge([], out).samples == SAMPLES


def test_parts_in_folders_of_their_own_make_the_whole(work: Job, whole: dict[str, bytes], tmp_path: Path) -> None:
    one, two, out = (LocalFolder(tmp_path / name) for name in ("one", "two", "out"))
    part(work, one, "1/2")
    part(work, two, "2/2")
    merge([one, two], out)
    assert contents(out.path) == whole


def test_a_part_leaves_alone_what_the_others_are_at(work: Job, tmp_path: Path) -> None:
    theirs = tmp_path / "out" / ".partial-shard-000001.99.tar"
    own = tmp_path / "out" / ".partial-shard-000000.99.tar"
    for path in (theirs, own):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half a shard")
    part(work, LocalFolder(tmp_path / "out"), "1/2")
    assert theirs.exists()
    assert not own.exists()


def test_a_part_that_is_missing_is_said_to_be_and_the_same_command_without_parts_builds_it(
    work: Job, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = LocalFolder(tmp_path / "out")
    part(work, out, "1/2")
    with pytest.raises(InputError, match=r"3 of 6 shards are not there yet or damaged, such as shard-000001.tar"):
        merge([], out)
    assert contents(built(work, out.path).root) == whole


def test_parts_of_different_data_sets_are_not_joined(work: Job, drawn: Drawn, tmp_path: Path) -> None:
    other = plan_composition(compose_config(drawn, seed=1))
    one, two = LocalFolder(tmp_path / "one"), LocalFolder(tmp_path / "two")
    part(work, one, "1/2")
    part(other, two, "2/2")
    with pytest.raises(InputError, match="two: holds a part of another data set"):
        merge([one, two], LocalFolder(tmp_path / "out"))
    with pytest.raises(InputError, match="holds the beginning of another data set"):
        part(other, one, "2/2")
    with pytest.raises(InputError, match="no part of a data set here"):
        merge([], LocalFolder(tmp_path / "nowhere"))


@pytest.fixture
def changed(messy: Path) -> tuple[Job, Job]:
    """The conversion before and after a file changed that belongs to a shard of the first of two parts."""

    def plan() -> Job:
        return plan_conversion([messy], ConvertConfig(division=division()))

    before = plan()
    first = before.units[0]
    assert isinstance(first, ConvertUnit)
    _, (_, mask, *_) = next(iter(first.entries))
    flip(Path(mask.path), 50)
    return before, plan()


def test_a_part_made_before_a_file_changed_makes_that_shard_again(changed: tuple[Job, Job], tmp_path: Path) -> None:
    before, after = changed
    out, first = LocalFolder(tmp_path / "out"), tmp_path / "out" / "shard-000000.tar"
    for number in (1, 2):
        part(before, out, f"{number}/2")
    times = {path: path.stat().st_mtime_ns for path in out.path.glob("*.tar")}
    part(after, out, "2/2")
    with pytest.raises(InputError, match=r"1 of 6 shards are not there yet or damaged, such as shard-000000\.tar"):
        merge([], out)
    part(after, out, "1/2")
    assert [path for path, time in times.items() if path.stat().st_mtime_ns != time] == [first]
    merge([], out)
    assert contents(out.path) == contents(built(after, tmp_path / "whole").root)


def test_parts_before_and_after_a_change_are_not_joined(changed: tuple[Job, Job], tmp_path: Path) -> None:
    before, after = changed
    one, two, out = (LocalFolder(tmp_path / name) for name in ("one", "two", "out"))
    part(before, one, "1/2")
    part(after, two, "2/2")
    with pytest.raises(InputError, match=r"two: holds a part of another .* files that have changed between the parts"):
        merge([one, two], out)
    part(after, one, "1/2")
    shutil.rmtree(out.path)
    merge([one, two], out)
    assert contents(out.path) == contents(built(after, tmp_path / "whole").root)


def test_who_began_before_a_file_changed_stops(work: Job, tmp_path: Path) -> None:
    out = LocalFolder(tmp_path / "out")
    part(work, out, "1/9")
    with pytest.raises(InputError, match="the same command has begun anew in it"):
        _do(lambda unit, folder: b"", out, b"of older files", work.units[1])
    assert len(out.names(".work")) == 3


def test_parts_are_not_made_again_one_by_one() -> None:
    with pytest.raises(InputError, match=r"again with part 1/2: .* without --part"):
        BuildConfig(part="1/2", again=True)


@pytest.mark.parametrize("which", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_part_is_one_of_so_many(which: str) -> None:
    with pytest.raises(InputError, match="two numbers are needed"):
        BuildConfig(part=which)


def test_a_plan_written_and_read_is_the_same(work: Job) -> None:
    storage = Encoding(resized_from=(160, 160), resized_by="a filter", jpeg_quality=95, jpeg_chroma="4:4:4")
    statistics = {"mask": Statistics(mean=[0.5], std=[0.25])}
    for plan in (
        work.plan,
        replace(
            work.plan,
            left_out=[LeftOut("litter", "", "", "a\udcffb", "no image")],
            manifest=replace(work.plan.manifest, storage=storage, statistics=statistics, counted=7),
        ),
        replace(work.plan, splits={"train": [0, 2], "val": [1]}),
        replace(work.plan, split=DivisionConfig(split_by="identity", split_seed=3, val_share=0.25)),
    ):
        assert Plan.from_json(plan.to_json()) == plan


def fetched(url: str) -> dict[str, bytes]:
    files, root = fsspec.url_to_fs(url, skip_instance_cache=True)
    return {path.removeprefix(f"{root}/"): files.cat_file(path) for path in files.find(root)}


def test_built_at_a_url_it_has_the_bytes_that_a_disk_gets(
    work: Job, whole: dict[str, bytes], bucket: str, tmp_path: Path
) -> None:
    out = folder_at(f"{bucket}/composed")
    part(work, out, "1/2")
    assert any(name.startswith(".work") for name in fetched(str(out)))
    build_dataset(work, out, ONE_WORKER)
    assert fetched(str(out)) == whole
    build_dataset(work, out, ONE_WORKER)
    with open_dataset(out) as dataset:
        contact_sheet(dataset, tmp_path / "sheet.png", 3)
        write_page(dataset, tmp_path / "show.html", samples=3)
    assert "<h1>composed</h1>" in (tmp_path / "show.html").read_text()
    assert verify(out, ONE_WORKER) == []


def test_parts_at_urls_are_joined_on_a_disk(folders: Path, bucket: str, tmp_path: Path) -> None:
    parts = [folder_at(f"{bucket}/converted-{number}") for number in (1, 2)]
    work = plan_conversion([folders], ConvertConfig(division=DivisionConfig(samples_per_shard=40)))
    for number, out in enumerate(parts, 1):
        part(work, out, f"{number}/2")
    merge(parts, LocalFolder(tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(convert([folders], tmp_path / "whole", samples_per_shard=40).root)


def test_what_is_wrong_at_a_url_is_found(work: Job, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.01)
    out = folder_at(f"{bucket}/damaged")
    build_dataset(work, out, ONE_WORKER)
    files, root = fsspec.url_to_fs(str(out), skip_instance_cache=True)
    tar = files.cat_file(f"{root}/shard-000002.tar")
    files.pipe_file(f"{root}/shard-000002.tar", tar[:600] + bytes([tar[600] ^ 1]) + tar[601:])
    files.rm_file(f"{root}/shard-000004.idx")
    assert [problem.where for problem in verify(out, ONE_WORKER)] == ["shard-000002.tar", "shard-000004.idx"]
    files.pipe_file(f"{root}/index/train.npy", b"")
    with pytest.raises(InputError, match=r"index/train.npy: its digest is not the one"), open_dataset(out):
        pass


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://nothing-there/data", "not found"),
        ("nonsense://data", "Protocol not known"),
        ("http://127.0.0.1:1/data", "Check the URL"),
    ],
)
def test_a_url_that_cannot_be_written_is_told(url: str, said: str, work: Job, bucket: str) -> None:
    with pytest.raises(InputError, match=said) as told:
        build_dataset(work, folder_at(url), ONE_WORKER)
    assert url in str(told.value)


def test_there_is_no_data_set_at_a_url(bucket: str) -> None:
    with pytest.raises(InputError, match="no data set here"):
        Manifest.read(RemoteFolder(f"{bucket}/empty"))


def test_the_commands_for_an_array_of_jobs(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in (1, 2):
        own = command("convert", folders, out, "--part", f"{number}/2")
        said = subprocess.run(own, capture_output=True, text=True).stdout
        assert f"part {number}/2 is there. When all parts are: python -m shards merge" in said
    merged = subprocess.run(command("merge", out), capture_output=True, text=True)
    assert "150 samples of 48x48 pixels" in merged.stdout, merged.stderr
    assert (out / "manifest.json").exists()
