"""A server that holds the data set, and what downloads from it; a plugin of the test modules that name it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from downloading import ROOMY, Start
from servers import Server, http_server, s3_bucket

from pipeline.downloads import Downloads
from shards.format import storage


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of a place on an S3 server to write to."""
    with s3_bucket():
        yield "s3://shards"


@pytest.fixture
def server(dataset: Path) -> Iterator[Server]:
    with http_server(dataset) as server:
        yield server


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts Downloads, impatient ones, into one folder, and closes them in the end."""
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(storage, "STALLED", 2.0)
    started = []

    def start(url: str, limit: int = ROOMY) -> Downloads:
        started.append(Downloads(url, tmp_path / "downloads", limit))
        return started[-1]

    yield start
    for downloads in started:
        downloads.close()
