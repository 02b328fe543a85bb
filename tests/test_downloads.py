"""Downloads are shared by threads and processes, keep within their bound, and outlive kills."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from downloading import FIRST, ROOMY, Start, content, hidden, opener, shard_bytes, tars, until
from servers import Server
from small_data import flip
from test_loader import epoch, loader, overwrite, same

from pipeline.downloads import THREADS
from shards.errors import InputError
from shards.format import storage

pytest_plugins = ["remote_fixtures"]


def test_everything_is_fetched_once_for_all_threads_and_processes(
    server: Server, dataset: Path, tmp_path: Path
) -> None:
    processes = [opener(server.url, tmp_path, ROOMY, *order) for order in (range(7), reversed(range(7)))]
    assert [process.communicate()[1] for process in processes] == ["", ""]
    files = [*dataset.glob("*.tar"), *dataset.glob("index/*.npy")]
    assert server.asked == {path.name: 1 for path in files} | {"manifest.json": 2}


def test_the_index_is_fetched_once_by_all_that_start_together(server: Server, dataset: Path, start: Start) -> None:
    server.fail("keys.npy", "stall")
    threading.Timer(0.2, server.go_on.set).start()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(start, [server.url] * 3))
    assert server.asked == {path.name: 1 for path in dataset.glob("index/*.npy")} | {"manifest.json": 3}


def test_open_waits_for_what_is_under_way(server: Server, dataset: Path, start: Start) -> None:
    downloads = start(server.url)
    server.fail(FIRST, "stall")
    downloads.prefetch([0])
    until(lambda: server.asked[FIRST])
    threading.Timer(0.1, server.go_on.set).start()
    assert content(downloads, 0) == (dataset / FIRST).read_bytes()
    assert server.asked[FIRST] == 1


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


def test_the_bound_holds_at_every_moment(server: Server, dataset: Path, start: Start) -> None:
    limit = shard_bytes(dataset) * 5 // 2
    folder = start(server.url, limit).dataset.root.parent
    processes = [opener(server.url, folder, limit, *order) for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 4, 2, 0])]
    most = 0
    while any(process.poll() is None for process in processes):
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
    assert set(tars(folder)) == {f"shard-{number:06}.tar" for number in (0, 1, 2)}


def test_what_is_wanted_does_not_give_way_while_others_fill_the_room(
    server: Server, dataset: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "STALLED", 60)
    downloads, other = (start(server.url, limit=3 * shard_bytes(dataset)) for _ in range(2))
    folder = downloads.dataset.root.parent
    for number in (0, 1):
        os.close(downloads.open(number))
    server.fail("shard-000005.tar", "stall")
    other.prefetch([5])
    until(lambda: server.asked["shard-000005.tar"])
    downloads.prefetch([0, 1, 2])
    time.sleep(0.2)
    downloads.prefetch([0, 1])
    until(lambda: not downloads._under_way)  # else a thread may still ask for room for 2
    server.go_on.set()
    until(lambda: set(tars(folder)) == {f"shard-{number:06}.tar" for number in (0, 1, 5)})
    time.sleep(0.2)
    assert server.asked["shard-000002.tar"] == 0  # waited for room, and is wanted no more
    downloads.prefetch([0, 1, 2])
    until(lambda: set(tars(folder)) == {f"shard-{number:06}.tar" for number in (0, 1, 2)})
    assert server.asked[FIRST] == server.asked["shard-000001.tar"] == 1


def test_more_than_fits_is_refused_with_what_is_needed(server: Server, dataset: Path, start: Start) -> None:
    downloads = start(server.url, limit=shard_bytes(dataset))
    needed = sum(downloads.dataset.manifest.shards[number].bytes for number in (0, 1))
    with pytest.raises(InputError, match=f"2 shards .* {needed:,} bytes.*--cache-limit 1, or lower --shuffle-window"):
        downloads.prefetch([0, 1, 0])
    with pytest.raises(InputError, match="--cache-limit"):
        start(server.url, limit=1).open(0)


def test_what_is_no_longer_named_is_not_downloaded(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.downloads.THREADS", 1)
    monkeypatch.setattr(storage, "STALLED", 60)
    downloads = start(server.url)
    server.fail(FIRST, "stall")
    downloads.prefetch([0, 1, 2])
    until(lambda: server.asked[FIRST])
    downloads.prefetch([2])
    server.go_on.set()
    until(lambda: not hidden(downloads.dataset.root.parent) and server.asked["shard-000002.tar"])
    assert server.asked["shard-000001.tar"] == 0


def test_close_gives_up_what_is_under_way(server: Server, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "STALLED", 60)

    def ours() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("download-")]

    downloads = start(server.url)
    for name in (FIRST, "shard-000001.tar"):
        server.fail(name, "stall")
    downloads.prefetch([0])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(downloads.open, 1)
        until(lambda: server.asked[FIRST] and server.asked["shard-000001.tar"])
        assert len(ours()) == THREADS
        downloads.close()
        assert not ours()
        downloads.close()
        with pytest.raises(RuntimeError, match="closed"):
            waiting.result()
    assert not tars(downloads.dataset.root.parent)
    assert not hidden(downloads.dataset.root.parent)
    with pytest.raises(RuntimeError, match="closed"):
        downloads.open(2)


@pytest.mark.parametrize("check", ["once", "always"])
def test_what_rots_in_the_folder_is_downloaded_again(server: Server, dataset: Path, tmp_path: Path, check: str) -> None:
    """With `once` if an image does not decode; with `always` if a bit is another."""
    expected = epoch(dataset)
    remote: dict[str, Any] = {"cache_dir": tmp_path, "check": check, "num_threads": 3}
    assert same(epoch(server.url, **remote), expected)
    (kept,) = (path.parent for path in tmp_path.glob("*/shared.tar"))
    if check == "once":
        for component, row in (("mask", 30), ("fg_bg", 31), ("depth", 110), ("bg", 0)):
            overwrite(kept, component, row)
    else:
        for tar in kept.glob("s*.tar"):
            flip(tar, 2000)
    flip(kept / "index" / "samples.npy", 500)
    with loader(server.url, **remote) as opened:
        assert same(list(opened), expected)
        assert opened.stats.bad == 0
    renewed = {name: count for name, count in server.asked.items() if count > 1 and name != "manifest.json"}
    assert len(renewed) == (4 if check == "once" else 7)
    assert set(renewed.values()) == {2}
