"""What is read of a remote data set is what lies there, however its server fails, or an error says why not."""

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from downloading import FIRST, ROOMY, ROOT, Start, content, hidden, opener, tars
from servers import Server, http_server, s3_bucket
from small_data import flip

from pipeline.loader import Loader, LoaderConfig
from shards.errors import InputError
from shards.format import storage
from shards.format.dataset import Dataset, open_dataset
from shards.format.storage import LocalFolder, RemoteFolder, folder_at, is_url

pytest_plugins = ["remote_fixtures"]


@pytest.fixture(scope="module")
def s3(dataset: Path) -> Iterator[Server]:
    """The data set at s3://shards/of/ours."""
    with s3_bucket() as server:
        fsspec.filesystem("s3").put(str(dataset), "shards/of/ours", recursive=True)
        server.url = "s3://shards/of/ours"
        yield server


def test_a_url_is_told_from_a_folder() -> None:
    assert all(is_url(data) for data in ("s3://bucket/data", "https://host/data", "memory://data"))
    assert not any(is_url(data) for data in ("data", "/mnt/data", Path("a:/b"), "s3:/bucket"))


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
    numbers = range(len(downloads.dataset.tars))
    downloads.prefetch(numbers)
    for number in numbers:
        name = downloads.dataset.tars[number].name
        assert content(downloads, number) == (dataset / name).read_bytes()
    assert downloads.dataset.tars[-1].name == "shared.tar"
    index = {path.name: path.read_bytes() for path in (dataset / "index").iterdir()}
    assert {path.name: path.read_bytes() for path in (downloads.dataset.root / "index").iterdir()} == index


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        (["cut"], "payload|disconnected|closed"),
        (["503", "502", "500", "429"], "the server answered 503"),
        (["flip"], "sha256"),
        (["stall"], "no byte came for 2 s"),
        (["short"], "bytes came where the manifest says"),
        (["endless"], "more than the"),
        (["cut", "503", "flip", "stall", "500"], ""),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_goes_wrong_is_tried_again(
    faults: list[str], told: str, server: Server, dataset: Path, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    server.fail("samples.npy", *[fault for fault in faults if fault != "endless"])  # its size is not known
    server.fail(FIRST, *faults)
    downloads = start(server.url)
    caplog.clear()
    assert content(downloads, 0) == (dataset / FIRST).read_bytes()
    assert server.asked[FIRST] == len(faults) + 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * len(faults)
    assert re.match(f"{server.url}/{FIRST}: .*({told})", caplog.records[0].getMessage(), re.IGNORECASE)


@pytest.mark.parametrize("faults", [["cut"], ["503"], ["flip"]], ids=str)
def test_s3_fails_as_others_do(faults: list[str], s3: Server, dataset: Path, start: Start) -> None:
    s3.asked.clear()
    s3.fail(FIRST, *faults)
    assert content(start(s3.url), 0) == (dataset / FIRST).read_bytes()
    assert s3.asked[FIRST] >= 2  # the client tries again by itself as well


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
    assert server.asked[FIRST] == storage.TRIES
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


@pytest.mark.parametrize("name", ["../outside.tar", "inside/one.tar", ".hidden.tar", "shard.zip"])
def test_a_manifest_that_leads_elsewhere_is_refused(name: str, damaged: Path, start: Start) -> None:
    manifest = json.loads((damaged / "manifest.json").read_text())
    manifest["shards"][0]["name"] = name
    (damaged / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=rf"shards\[0\].name is '{re.escape(name)}', where text"):
        start(f"file://{damaged}")


@pytest.mark.parametrize("kind", ["index", "shards"])
@pytest.mark.parametrize("name", ["../../evil", "/{}/evil"], ids=["outside", "absolute"])
def test_what_leads_elsewhere_is_never_written(name: str, kind: str, damaged: Path, tmp_path: Path) -> None:
    """The server has what the manifest names, and its digest is right."""
    name = name.format(tmp_path) + (".npy" if kind == "index" else ".tar")
    manifest = json.loads((damaged / "manifest.json").read_text())
    files = damaged / "index" if kind == "index" else damaged
    data = next(path for path in files.iterdir() if path.suffix == Path(name).suffix).read_bytes()
    served = Path(f"{files}/{name}") if name.startswith("/") else damaged / Path(name).name  # clients resolve ".."
    served.parent.mkdir(parents=True, exist_ok=True)
    served.write_bytes(data)
    if kind == "index":
        manifest["index"][name] = hashlib.sha256(data).hexdigest()
    else:
        manifest["shards"][0] |= {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (damaged / "manifest.json").write_text(json.dumps(manifest))
    (inside := tmp_path / "one" / "two" / "three").mkdir(parents=True)
    told = f"{name}, where a digest" if kind == "index" else f"shards[0].name is {name!r}, where text"
    with http_server(damaged) as server:
        command = [sys.executable, "-m", "shards", "show", server.url]
        environment = os.environ | {"TMPDIR": str(inside), "PYTHONPATH": str(ROOT)}
        shown = subprocess.run(command, cwd=inside, env=environment, capture_output=True, text=True)
        assert (shown.returncode, told in shown.stderr) == (2, True), shown.stderr
        with pytest.raises(InputError, match=re.escape(told)):
            list(Loader(LoaderConfig(data=server.url, cache_dir=inside)))
    assert not [path for path in tmp_path.rglob("evil*") if damaged not in path.parents]
    with pytest.raises(InputError, match=re.escape(told)):
        Dataset.open(damaged)


def test_images_are_cut_from_whole_files_where_a_server_sends_no_parts(
    server: Server, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_dataset(RemoteFolder(server.url)) as opened, open_dataset(LocalFolder(dataset)) as local:
        places = opened.locate("mask", opened.split("val"))
        assert list(opened.read(places)) == list(local.read(places))
        assert caplog.text.count("sends whole files") == 1
        assert server.asked[FIRST] == 2
        server.fail(FIRST, "short", forever=True)
        with pytest.raises(InputError, match=f"{server.url}/{FIRST}: .* bytes came where .* were asked for"):
            list(opened.read(places))


def test_the_signature_of_a_url_goes_behind_the_name_of_every_file(dataset: Path, start: Start) -> None:
    with http_server(dataset, query="sig=a%2Bb/&until=1/") as server:
        downloads = start(server.url)
        assert content(downloads, 0) == (dataset / FIRST).read_bytes()
        assert str(folder_at(server.url)).endswith("?sig=***&until=***")
        with pytest.raises(InputError, match=r"/manifest\.json\?sig=\*\*\*: no permission"):
            start(server.url.partition("%")[0])


@pytest.mark.parametrize("protocol", ["s3", "memory"])
def test_a_name_is_no_pattern(protocol: str, s3: Server) -> None:
    """What is removed is the folder of that name, and not its neighbours."""
    names = ["a1", "ab", "a[12]", "a*", "a?"]
    folders = [folder_at(f"{protocol}://shards/patterns/{name}") for name in names]
    for folder in folders:
        folder.write("inside/file", str(folder).encode())
    for folder in folders:
        assert folder.read("inside/file") == next(folder.ranges([("inside/file", 0, None)])) == str(folder).encode()
        assert folder.names("inside") == {"file"}
    for removed in reversed(range(len(names))):
        folders[removed].remove("inside")
        assert [folder.exists("inside/file") for folder in folders] == [at < removed for at in range(len(names))]


@pytest.mark.parametrize("text", ["<html>not here</html>", "[]", '{"format": "sluice 99"}', "\udcff"])
def test_what_is_no_manifest_is_refused(text: str, damaged: Path, start: Start) -> None:
    (damaged / "manifest.json").write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=r"manifest\.json: not a manifest"):
        start(f"file://{damaged}")


def test_a_tar_that_is_not_as_long_as_it_should_be_is_downloaded_again(
    server: Server, dataset: Path, start: Start
) -> None:
    downloads = start(server.url)
    downloads.dataset.tar_path(0).write_bytes(b"half of it")
    assert content(downloads, 0) == (dataset / FIRST).read_bytes()


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
