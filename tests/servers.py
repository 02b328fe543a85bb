"""Servers on loopback that hold a data set and misbehave as a test plans: Python's HTTP server, and moto's S3."""

import base64
import itertools
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from s3fs import S3FileSystem
from werkzeug.serving import WSGIRequestHandler, make_server


class Server:
    """A server's address, what it was asked for, and what goes wrong next with which file.

    Faults: "cut" or "stall" after half the file, "flip" for a wrong byte, or a status; over HTTP also "short" and
    "endless" for a file of a length that is not said.
    """

    def __init__(self) -> None:
        self.url = ""
        self.asked: Counter[str] = Counter()
        """how often each file name was asked for"""
        self.go_on = threading.Event()
        """ends every stall"""
        self._faults: dict[str, Iterator[str]] = {}
        self._lock = threading.Lock()

    def fail(self, name: str, *faults: str, forever: bool = False) -> None:
        """The next answers about `name` have these faults, one each; or `forever` in turn."""
        self._faults[name] = itertools.cycle(faults) if forever else iter(faults)

    def answer(self, name: str) -> str:
        """Counts a question about `name`; the fault of its answer, or nothing."""
        with self._lock:
            self.asked[name] += 1
            return next(self._faults.get(name, iter(())), "")

    def parts(self, body: bytes, fault: str) -> Iterator[bytes]:
        """The body in parts, as the fault leaves it. Raises ConnectionError where the connection is to be cut."""
        middle = len(body) // 2
        yield body[:middle]
        if fault == "cut":
            raise ConnectionAbortedError
        if fault == "stall":
            self.go_on.wait(20)
        if fault == "flip":
            yield bytes([body[middle] ^ 1])
            middle += 1
        if fault != "short":
            yield body[middle:]
        if fault == "endless":  # almost: a test that fails should end
            yield from itertools.repeat(body, 500)


@contextmanager
def http_server(folder: Path, user: str = "", query: str = "") -> Iterator[Server]:
    """A server of the files in a folder, which are never sent in parts.

    Only for `user`, NAME:PASSWORD, if given, and for what is signed by `query`, which are part of its URL.
    """
    server, basic = Server(), f"Basic {base64.b64encode(user.encode()).decode()}"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, _, signature = self.path.partition("?")
            path = folder / name.lstrip("/")
            fault = server.answer(path.name)
            if signature != query:
                fault = "403"
            if user and self.headers["Authorization"] != basic:
                fault = "401"
            if fault.isdigit() or not path.is_file():
                self.send_error(int(fault or 404))
                return
            body = path.read_bytes()
            self.send_response(200)
            if fault not in ("short", "endless"):
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for part in server.parts(body, fault):
                self.wfile.write(part)

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # cut connections, from either side

    listening = Quiet(("127.0.0.1", 0), Handler)
    server.url = f"http://{f'{user}@' if user else ''}127.0.0.1:{listening.server_port}{f'/?{query}' if query else ''}"
    with _serving(listening, server):
        yield server


@contextmanager
def s3_bucket() -> Iterator[Server]:
    """A server with the bucket `shards`, and the environment in which S3's clients find it."""
    with _s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
        }.items():
            patch.setenv(name, value)
        S3FileSystem.clear_instance_cache()  # those of another server
        if not S3FileSystem().exists("shards"):  # what is stored is kept for the next server
            S3FileSystem().mkdir("shards")
        yield server


@contextmanager
def _s3_server() -> Iterator[Server]:
    server, moto = Server(), DomainDispatcherApplication(create_backend_app)

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET":
            return list(moto(environ, start))
        fault = server.answer(Path(environ["PATH_INFO"]).name)
        if fault.isdigit():
            start(f"{fault} a fault", [("Content-Length", "0")])
            return []
        return server.parts(b"".join(moto(environ, start)), fault)

    class Quiet(WSGIRequestHandler):
        def log(self, *_: object) -> None:
            pass

    listening = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    server.url = f"http://127.0.0.1:{listening.server_port}"
    with _serving(listening, server):
        yield server


@contextmanager
def _serving(listening: Any, server: Server) -> Iterator[None]:
    thread = threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.go_on.set()
        listening.shutdown()
        listening.server_close()
        thread.join()
