"""Remote shards arrive whole or not at all, once, within their bound, from servers that fail in every way."""

import hashlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from downloading import content, hidden, opener, tars, until
from servers import Server, http_server, s3_server
from small_data import flip

from pipeline import origin, remote
from pipeline.remote import Downloads, is_remote
from pipeline.store import locked
from shards.errors import InputError

FIRST = "shard-000000.tar"
ROOMY = 1 << 30


def shard_bytes(dataset: Path) -> int:
    """The size of the largest shard."""
    return max(path.stat().st_size for path in dataset.glob("shard-*.tar"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(origin, "STALLED", 0.3)


@pytest.fixture
def server(dataset: Path) -> Iterator[Server]:
    with http_server(dataset) as server:
        yield server


@pytest.fixture(scope="module")
def s3(dataset: Path) -> Iterator[Server]:
    """The data set at s3://shards/of/ours, and the environment in which S3's clients find it."""
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
        }.items():
            patch.setenv(name, value)
        files = fsspec.filesystem("s3", skip_instance_cache=True)
        files.mkdir("shards")
        files.put(str(dataset), "shards/of/ours", recursive=True)
        server.url = "s3://shards/of/ours"
        yield server


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Downloads]]:
    """Starts Downloads into one folder, and closes them in the end."""
    started = []

    def start(url: str, limit: int = ROOMY) -> Downloads:
        started.append(Downloads(url, tmp_path / "downloads", limit))
        return started[-1]

    yield start
    for downloads in started:
        downloads.close()


Start = Callable[..., Downloads]


def test_a_url_is_told_from_a_folder() -> None:
    assert all(is_remote(data) for data in ("s3://bucket/data", "https://host/data", "memory://data"))
    assert not any(is_remote(data) for data in ("data", "/mnt/data", Path("a:/b"), "s3:/bucket"))


@pytest.mark.parametrize("protocol", ["http", "s3", "s3 in parts", "file", "memory"])
def test_what_is_opened_is_what_lies_there(
    protocol: str, dataset: Path, server: Server, s3: Server, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    if protocol == "s3 in parts":  # as it does with files of more than 50 MiB
        monkeypatch.setitem(fsspec.config.conf, "s3", {"default_block_size": 1 << 16})
    urls = {"http": server.url + "/", "file": f"file://{dataset}", "memory": "memory://of/ours"}
    if protocol == "memory":
        fsspec.filesystem("memory").put(str(dataset), "/of/ours", recursive=True)
    downloads = start(urls.get(protocol, s3.url))
    numbers = range(len(downloads.dataset.files))
    downloads.prefetch(numbers)
    for number in numbers:
        name = downloads.dataset.files[number].name
        assert content(downloads, number) == (dataset / name).read_bytes()
    assert downloads.dataset.files[-1].name == "shared.tar"
    index = {path.name: path.read_bytes() for path in (dataset / "index").iterdir()}
    assert {path.name: path.read_bytes() for path in (downloads.dataset.root / "index").iterdir()} == index


def test_everything_is_fetched_once_for_all_threads_and_processes(server: Server, dataset: Path, start: Start) -> None:
    folder = Path(start(server.url).dataset.root.parent)
    server.asked.clear()
    processes = [opener(server.url, folder, ROOMY, *order) for order in (range(7), reversed(range(7)))]
    assert [process.communicate()[1] for process in processes] == ["", ""]
    assert server.asked == {path.name: 1 for path in dataset.glob("*.tar")} | {"manifest.json": 2}


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        (["cut"], "payload|disconnected|closed"),
        (["503", "502", "500", "429"], "the server answered 503"),
        (["flip"], "sha256"),
        (["stall"], "no byte came for 0.3 s"),
        (["more"], "manifest says"),
        (["cut", "503", "flip", "stall", "500"], ""),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_goes_wrong_is_tried_again(
    faults: list[str], told: str, server: Server, dataset: Path, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    server.fail("samples.npy", *faults)
    server.fail(FIRST, *faults)
    downloads = start(server.url)
    assert content(downloads, 0) == (dataset / FIRST).read_bytes()
    assert server.asked[FIRST] == server.asked["samples.npy"] == len(faults) + 1
    assert len(caplog.records) == 2 * len(faults)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert caplog.records[-1].getMessage().startswith(f"{server.url}/{FIRST}: ")
    first = caplog.records[len(faults)].getMessage().lower()
    assert any(part in first for part in told.split("|"))


@pytest.mark.parametrize("faults", [["cut"], ["503"], ["flip"]], ids=str)
def test_s3_fails_as_others_do(faults: list[str], s3: Server, dataset: Path, start: Start) -> None:
    s3.asked.clear()
    s3.fail(FIRST, *faults)
    assert content(start(s3.url), 0) == (dataset / FIRST).read_bytes()
    assert s3.asked[FIRST] == 2


@pytest.mark.parametrize(
    ("fault", "told"), [("flip", "sha256.*copy it there again"), ("503", "503.*Check the connection")]
)
def test_what_never_comes_right_is_an_error_and_never_a_file(
    fault: str, told: str, server: Server, start: Start
) -> None:
    downloads = start(server.url)
    server.fail(FIRST, fault, forever=True)
    downloads.prefetch([0, 1])
    for _ in range(2):
        with pytest.raises(InputError, match=f"{server.url}/{FIRST}: .*{told}"):
            downloads.open(0)
    assert server.asked[FIRST] == origin.TRIES
    os.close(downloads.open(1))
    folder = downloads.dataset.root.parent
    assert FIRST not in tars(folder)
    assert not hidden(folder)


@pytest.mark.parametrize(
    ("fault", "told"), [("404", "not found"), ("401", "no permission"), ("403", "no permission"), ("410", "410")]
)
def test_what_will_not_change_is_told_at_once(fault: str, told: str, server: Server, start: Start) -> None:
    downloads = start(server.url)
    server.fail(FIRST, fault, forever=True)
    with pytest.raises(InputError, match=f"{server.url}/{FIRST}: .*{told}"):
        downloads.open(0)
    assert server.asked[FIRST] == 1


def test_a_url_that_leads_nowhere_is_told(server: Server, s3: Server, start: Start, tmp_path: Path) -> None:
    for url, told in (
        (server.url + "/other", "manifest.json: not found"),
        ("s3://shards/other", "manifest.json: not found"),
        ("s3://nothing/other", "manifest.json: not found"),
        (f"file://{tmp_path}", "manifest.json: not found"),
        ("http://127.0.0.1:9", "Check the connection"),
        ("gibberish://data", "not known"),
        ("oci://bucket/data", "a package is missing: .*ocifs"),
    ):
        with pytest.raises(InputError, match=told) as error:
            start(url)
        assert url in str(error.value)


def test_a_manifest_that_is_none_or_leads_elsewhere_is_refused(damaged: Path, start: Start) -> None:
    manifest = json.loads((damaged / "manifest.json").read_text())
    manifest["shards"][0]["name"] = "../../outside.tar"
    for text in (json.dumps(manifest), "<html>not here</html>", "[]", json.dumps({"format": "sluice 99"})):
        (damaged / "manifest.json").write_text(text)
        with pytest.raises(InputError, match=r"manifest\.json: (not a manifest|'\.\./\.\./outside)"):
            start(f"file://{damaged}")


def test_a_killed_download_is_never_read_and_the_next_process_goes_on(
    server: Server, dataset: Path, start: Start
) -> None:
    downloads = start(server.url, limit=shard_bytes(dataset))
    folder = downloads.dataset.root.parent
    server.fail(FIRST, "stall")
    with opener(server.url, folder, ROOMY, 0) as process:
        until(lambda: tars(folder).get(f".partial-{FIRST}"))
        process.send_signal(signal.SIGKILL)
    assert set(tars(folder)) == {f".partial-{FIRST}"}
    assert content(downloads, 1) == (dataset / "shard-000001.tar").read_bytes()  # fits only if the rest is cleared
    assert not hidden(folder)
    assert content(downloads, 0) == (dataset / FIRST).read_bytes()


def test_a_tar_that_is_not_as_long_as_it_should_be_is_downloaded_again(
    server: Server, dataset: Path, start: Start
) -> None:
    downloads = start(server.url)
    downloads.dataset.files[0].write_bytes(b"half of it")
    assert content(downloads, 0) == (dataset / FIRST).read_bytes()


def test_the_bound_holds_at_every_moment(server: Server, dataset: Path, start: Start) -> None:
    limit = shard_bytes(dataset) * 5 // 2
    folder = start(server.url, limit).dataset.root.parent
    processes = [opener(server.url, folder, limit, *order) for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 4, 2, 0])]
    most = 0
    while any(process.poll() is None for process in processes):
        with locked(folder / "lock"):  # else a file that is renamed meanwhile counts twice
            most = max(most, sum(tars(folder).values()))
    assert [process.communicate()[1] for process in processes] == ["", ""]
    assert 2 * shard_bytes(dataset) * 0.9 < most <= limit
    assert not hidden(folder)


def test_what_was_used_longest_ago_goes_and_an_open_tar_stays_readable(
    server: Server, dataset: Path, start: Start
) -> None:
    downloads = start(server.url, limit=3 * shard_bytes(dataset))
    folder = downloads.dataset.root.parent
    descriptor = downloads.open(0)
    for number in (1, 2, 1, 3):
        os.close(downloads.open(number))
    assert set(tars(folder)) == {f"shard-{number:06}.tar" for number in (1, 2, 3)}
    with os.fdopen(descriptor, "rb") as file:
        assert file.read() == (dataset / FIRST).read_bytes()
    assert content(downloads, 0) == (dataset / FIRST).read_bytes()
    assert set(tars(folder)) == {f"shard-{number:06}.tar" for number in (0, 1, 3)}
    assert server.asked[FIRST] == 2


def test_what_is_wanted_stays(server: Server, dataset: Path, start: Start) -> None:
    downloads = start(server.url, limit=3 * shard_bytes(dataset))
    other = start(server.url, limit=3 * shard_bytes(dataset))
    folder = downloads.dataset.root.parent
    downloads.prefetch([0, 1])
    until(lambda: set(tars(folder)) == {"shard-000000.tar", "shard-000001.tar"})
    for number in (5, 4, 3):
        os.close(downloads.open(number))
        assert {"shard-000000.tar", f"shard-{number:06}.tar"} <= set(tars(folder))
    downloads.prefetch([0, 1])
    os.close(other.open(2))  # another process does not know what is wanted, but what was just named is not old
    assert "shard-000000.tar" in tars(folder)


def test_more_than_fits_is_refused_with_what_is_needed(server: Server, dataset: Path, start: Start) -> None:
    downloads = start(server.url, limit=shard_bytes(dataset))
    needed = sum(downloads.dataset.manifest.shards[number].bytes for number in (0, 1))
    with pytest.raises(InputError, match=f"2 shards .* {needed:,} bytes.*--downloads-mib 1, or lower --window"):
        downloads.prefetch([0, 1, 0])
    with pytest.raises(InputError, match="--downloads-mib"):
        start(server.url, limit=1).open(0)


def test_what_is_no_longer_named_is_not_downloaded(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "THREADS", 1)
    monkeypatch.setattr(origin, "STALLED", 60)
    downloads = start(server.url)
    server.fail(FIRST, "stall")
    downloads.prefetch([0, 1, 2])
    until(lambda: server.asked[FIRST])
    downloads.prefetch([2])
    server.go_on.set()
    until(lambda: not hidden(downloads.dataset.root.parent) and server.asked["shard-000002.tar"])
    assert server.asked["shard-000001.tar"] == 0


def test_open_waits_for_what_is_under_way(server: Server, dataset: Path, start: Start) -> None:
    downloads = start(server.url)
    server.fail(FIRST, "stall")
    downloads.prefetch([0])
    until(lambda: server.asked[FIRST])
    threading.Timer(0.1, server.go_on.set).start()
    assert content(downloads, 0) == (dataset / FIRST).read_bytes()
    assert server.asked[FIRST] == 1


def test_close_gives_up_what_is_under_way(server: Server, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "STALLED", 60)

    def ours() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("download-")]

    downloads = start(server.url)
    for name in (FIRST, "shard-000001.tar"):
        server.fail(name, "stall")
    downloads.prefetch([0])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(downloads.open, 1)
        until(lambda: server.asked[FIRST] and server.asked["shard-000001.tar"])
        assert len(ours()) == remote.THREADS
        downloads.close()
        assert not ours()
        downloads.close()
        with pytest.raises(RuntimeError, match="closed"):
            waiting.result()
    assert not tars(downloads.dataset.root.parent)
    assert not hidden(downloads.dataset.root.parent)
    with pytest.raises(RuntimeError, match="closed"):
        downloads.open(2)


def test_a_changed_data_set_is_another_one(damaged: Path, start: Start) -> None:
    url = f"file://{damaged}"
    old = start(url)
    before = content(old, 0)
    tar = damaged / FIRST
    flip(tar, 700)
    manifest = json.loads((damaged / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = hashlib.sha256(tar.read_bytes()).hexdigest()
    (damaged / "manifest.json").write_text(json.dumps(manifest))
    assert content(start(url), 0) == tar.read_bytes() != before
    assert content(old, 0) == before
    assert start(url).dataset.root != old.dataset.root


@pytest.mark.parametrize(
    "limited", ["ulimit -f 100", 'mount -t tmpfs -o size=128k tmpfs "$FOLDER"'], ids=["limited-files", "small-disk"]
)
def test_a_full_disk_is_told_and_leaves_no_half(
    limited: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOLDER", str(tmp_path))
    shell = ["sh", "-c", f'{limited} && "$@"; code=$?; ls -A "$FOLDER"/* >&2; exit $code', "sh"]
    if limited.startswith("mount"):
        shell = ["unshare", "--map-root-user", "--mount", *shell]
        if not shutil.which("unshare") or subprocess.run([*shell, "true"], stderr=subprocess.DEVNULL).returncode:
            pytest.skip("nobody may mount a small disk here; a limit on files takes the same way through the code")
    with opener(server.url, tmp_path, ROOMY, 0, within=tuple(shell)) as process:
        _, told = process.communicate()
    assert process.returncode == 2
    error, *listed = told.splitlines()
    assert re.match("error: .*: the disk is full, or a limit on it is reached", error)
    assert server.asked[FIRST] == 1
    assert "manifest.json" in listed
    assert not [line for line in listed if line.endswith(".tar")]
