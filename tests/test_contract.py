"""What stays true of the loader in every combination: the same batches, from wherever it goes on; nothing is left."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from servers import http_server
from test_loader import DECODERS, joined, loader, same

from pipeline.batch import Batch

ROOT = Path(__file__).parent.parent
CACHES: list[dict[str, Any]] = [{"cache": "none"}, {"cache": "host"}, {"cache": "host", "cache_mib": 1, "size": 0}]


@pytest.fixture(scope="module")
def places(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """The same data set here and behind a URL, where there is room for 4 of its 7 tars at a time."""
    tars = sorted((tar.stat().st_size for tar in dataset.glob("*.tar")), reverse=True)
    assert sum(tars[:4]) < 1 << 20 < sum(tars)
    with http_server(dataset) as server:
        downloads = {"cache_dir": tmp_path_factory.mktemp("downloads"), "cache_limit": 1}
        yield {"local": {"data": dataset}, "remote": {"data": server.url} | downloads}


def two_epochs(rank: int, world_size: int, state: dict[str, Any] | None = None, **options: Any) -> list[Batch]:
    with loader(options.pop("data"), rank, world_size, shuffle_window=2, **options) as opened:
        if state:
            opened.load_state_dict(state)
        return [batch for _ in range(2) for batch in opened]


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("caching", CACHES, ids=["uncached", "cached", "partly-cached"])
@pytest.mark.parametrize("where", ["local", "remote"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_and_resume_are_the_same_everywhere(
    places: dict[str, dict[str, Any]], dataset: Path, decode: str, caching: dict[str, Any], where: str, world_size: int
) -> None:
    size = caching.get("size", 32)
    with loader(dataset, shuffle_window=2, size=size) as plain:
        first, state = list(plain), None
        for batch in plain:
            first.append(batch)
            state = state or plain.state_dict()
        left = first[9:] + list(plain)
    options = places[where] | caching | {"decode": decode}
    assert same(joined([two_epochs(rank, world_size, **options) for rank in range(world_size)]), first)
    assert same(joined([two_epochs(rank, world_size, state, **options) for rank in range(world_size)]), left)


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize("caching", [{"cache": "none"}, {"cache": "host"}], ids=str)
def test_memory_stays_flat_over_100_epochs(dataset: Path, decode: str, caching: dict[str, Any]) -> None:
    """The last fifty epochs hand over 60 MiB of pixels: were one batch in ten kept, these would be 6 MiB."""
    with loader(dataset, decode=decode, batch_size=60, **caching) as opened:
        resident = []
        for _ in range(100):
            for _ in opened:
                pass
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    assert resident[99] - resident[49] < 4 << 20


def threads() -> set[threading.Thread]:
    """All but those of the server, which ends them when it likes."""
    return {one for one in threading.enumerate() if "process_request_thread" not in one.name}


@pytest.mark.parametrize("where", ["local", "remote"])
def test_closing_ends_every_thread_in_mid_epoch(places: dict[str, dict[str, Any]], where: str) -> None:
    with loader(
        **places[where], shuffle_window=2
    ):  # fsspec's own thread, which lasts as long as the process, has begun then
        pass
    before = threads()
    opened = loader(**places[where], shuffle_window=2, num_threads=3)
    next(iter(opened))
    assert threads() > before
    opened.close()
    assert threads() == before


@pytest.mark.parametrize("where", ["local", "remote"])
def test_ctrl_c_ends_the_process_and_all_that_it_began(places: dict[str, dict[str, Any]], where: str) -> None:
    options = {name: str(value) if isinstance(value, Path) else value for name, value in places[where].items()}
    program = f"""if True:
        from pipeline.loader import Loader, LoaderConfig
        options = {options!r}
        loader = Loader(LoaderConfig(batch_size=16, shuffle_window=2, **options))
        while True:
            for batch in loader:
                print("batch", flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == b"batch\n"
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGINT
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
