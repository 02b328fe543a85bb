"""A W&B server on loopback: it knows as much of W&B's answers as runs need, and keeps what they log."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789" * 4
PROJECT = {"id": "project", "name": "sluice", "entity": {"id": "entity", "name": "me"}}


class WandbServer:
    """The server's address, what it does with what it is asked for, and what it was told.

    does: "work"; "nothing", that is to let all who ask wait; "nothing to begin runs"; or a status that it answers with.
    A GET of /lost makes it do nothing from then on.
    """

    def __init__(self, does: str) -> None:
        self.does, self.url = does, ""
        self.history: dict[str, list[dict[str, Any]]] = {}
        """what was logged, by run, as the server has put it together"""
        self.used: list[str] = []
        """digests of the artifacts that were linked as inputs"""
        self.versions: dict[str, list[set[str]]] = {}
        """aliases of the versions of each artifact"""
        self.views: list[dict[str, Any]] = []
        """specifications of the views that were saved"""
        self.go_on = threading.Event()
        """ends all waiting"""

    def told(self, run: str, file: dict[str, Any]) -> None:
        lines = self.history.setdefault(run, [])
        content = [json.loads(line) for line in file["content"]]
        lines[file["offset"] : file["offset"] + len(content)] = content

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """Give the data of the answer to a GraphQL operation."""
        run, files = given.get("name"), given.get("files", [])
        upload = {"name": "x", "displayName": "x", "uploadUrl": f"{self.url}/put", "uploadHeaders": []}
        match operation:
            case "Viewer":
                own = {"id": "user", "entity": "me", "username": "me", "email": "me@example.com", "flags": "{}"}
                return {"viewer": own | {"teams": {"edges": []}}}
            case "RunResumeStatus":
                lines = self.history.get(str(run))
                counts = {"historyLineCount": len(lines or []), "eventsLineCount": 1, "logLineCount": 0}
                tails = {"historyTail": json.dumps([json.dumps(line) for line in (lines or [])[-1:]])}
                tails |= {"eventsTail": json.dumps([json.dumps({"_runtime": 1})])}
                about: dict[str, Any] = {"id": "bucket", "name": run, "displayName": run, "tags": [], "notes": ""}
                texts = dict.fromkeys(("summaryMetrics", "config", "wandbConfig"), "{}")
                return {"model": PROJECT | {"bucket": about | texts | counts | tails if lines else None}}
            case "UpsertBucket":
                lines = self.history.get(str(run))
                about = {"id": "bucket", "name": run, "displayName": run, "config": "{}", "project": PROJECT}
                about |= {"historyLineCount": len(lines or [])}
                return {"upsertBucket": {"bucket": about, "inserted": lines is None}}
            case "CreateRunFiles":
                uploads = [upload | {"name": name} for name in files]
                return {"createRunFiles": {"runID": "bucket", "uploadHeaders": [], "files": uploads}}
            case "ArtifactType":
                return {"project": {"artifact": None}}
            case "CreateArtifact":
                name = given["artifactCollectionName"]
                self.versions.setdefault(name, []).append({one["alias"] for one in given["aliases"]})
                sequence = {"id": name, "latestArtifact": None}
                artifact = {"id": given["digest"], "state": "PENDING", "artifactSequence": sequence}
                return {"createArtifact": {"artifact": artifact}}
            case "CreateArtifactManifest":
                return {
                    "createArtifactManifest": {"artifactManifest": {"id": "manifest", "file": upload | {"id": "m"}}}
                }
            case "CreateArtifactFiles":
                nodes = [
                    upload | {"id": one["name"], "name": one["name"], "artifact": {"id": one["artifactID"]}}
                    for one in given["artifactFiles"]
                ]
                return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
            case "CommitArtifact":
                return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": given["artifactID"]}}}
            case "UseArtifact":
                self.used.append(given["artifactID"])
                return {"useArtifact": {"artifact": {"id": given["artifactID"], "digest": given["artifactID"]}}}
            case "UpsertView2":
                self.views.append(json.loads(given["spec"]))
                return {"upsertView": {"view": {"id": "view", "name": given["name"]}, "inserted": True}}
        return {}


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def do_POST(self) -> None:
            body, data, operation = self._body(), {}, ""
            if self.path == "/lost":
                server.does = "nothing"
            elif self.path == "/graphql":
                question = json.loads(body)
                given = question.get("variables") or {}
                operation = re.findall(r"(?:query|mutation)\s+(\w+)", question["query"])[0]
                data = server.answer(operation, given.get("input") or given)
            elif server.does == "work" and (run := re.fullmatch(r"/files/me/sluice/(\w+)/file_stream", self.path)):
                for name, file in json.loads(body).get("files", {}).items():
                    if name == "wandb-history.jsonl":
                        server.told(run[1], file)
            begins = operation in ("RunResumeStatus", "UpsertBucket")
            if self.path != "/lost" and (server.does == "nothing" or (begins and server.does.startswith("nothing"))):
                server.go_on.wait(60)
            answer = json.dumps({"data": data}).encode()
            self.send_response(int(server.does) if server.does.isdecimal() else 200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_PUT = do_GET = do_POST  # noqa: N815  # the base class calls them so

        def log_message(self, *_: object) -> None:
            pass

    return Handler


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Says nothing: who asks may go before it is answered."""


@contextmanager
def wandb_server(does: str = "work") -> Iterator[WandbServer]:
    """Runs a server until the end of the context."""
    server = WandbServer(does)
    http = _Http(("127.0.0.1", 0), _handler(server))
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.go_on.set()
        http.shutdown()
        thread.join()
        http.server_close()
