"""Hosts of models on this machine: files over HTTP, cut off where a test wants it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FileHost(BaseHTTPRequestHandler):
    """Serves a folder as Hugging Face does, and as ModelScope does; subclassed for each host by `serving`."""

    protocol_version = "HTTP/1.1"
    folder: Path
    cuts: dict[str, int]
    """Bytes after which the connection is closed, by path; each once."""
    busy: list[int]
    """HTTP statuses that the next files are answered with, each once."""
    always_cut: set[str]
    """Paths whose bytes after the first `CUT` never come."""
    knows_ranges = True
    asked: list[tuple[str, str | None]]
    """Path and range of every file that was asked for."""

    CUT = 100_000

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        path = url.path
        if path == "/api/v1/models/someone/model/repo/files":
            known = query["Revision"] == "master"
            self.answer(200 if known else 404, {"Code": 200, "Data": {"Files": self.modelscope_files()}})
        elif path == "/api/v1/models/someone/model/repo":
            self.send_file(query["FilePath"])
        elif path == "/api/models/someone/model/revision/main" or path == "/api/models/someone/model":
            self.answer(200, {"id": "someone/model", "sha": COMMIT, "siblings": []})
        elif path == f"/api/models/someone/model/tree/{COMMIT}":
            self.answer(200, self.hub_files())
        elif path.startswith(f"/someone/model/resolve/{COMMIT}/"):
            self.send_file(path.split(f"{COMMIT}/")[1])
        else:
            self.answer(404, {"Code": 10010205001, "Message": "not found"}, **{"X-Error-Code": "RepoNotFound"})

    def modelscope_files(self) -> list[dict[str, Any]]:
        folders = [item for item in self.folder.rglob("*") if item.is_dir()]
        trees = [{"Path": item.relative_to(self.folder).as_posix(), "Size": 0, "Type": "tree"} for item in folders]
        return trees + [
            {"Path": name, "Size": len(data), "Sha256": hashlib.sha256(data).hexdigest(), "Type": "blob"}
            for name, data in self.contents()
        ]

    def hub_files(self) -> list[dict[str, Any]]:
        entries = []
        for name, data in self.contents():
            digest = hashlib.sha256(data).hexdigest()
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": digest[:40]}
            if name.endswith(".safetensors"):
                entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 134}
            entries.append(entry)
        return entries

    def contents(self) -> Iterator[tuple[str, bytes]]:
        for item in sorted(self.folder.rglob("*")):
            if item.is_file():
                yield item.relative_to(self.folder).as_posix(), item.read_bytes()

    def send_file(self, name: str) -> None:
        data = (self.folder / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        etag = digest if name.endswith(".safetensors") else digest[:40]
        asked = self.headers.get("Range")
        if self.command == "GET":
            self.asked.append((name, asked))
        if self.busy:
            self.answer(self.busy.pop(0), {"Message": "come back"})
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.knows_ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "HEAD":
            return
        end = self.CUT if name in self.always_cut else self.cuts.pop(name, None)
        self.wfile.write(data[start:end])
        if end is not None:
            self.close_connection = True

    def answer(self, status: int, content: Any, **headers: str) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(folder: Path) -> Iterator[tuple[type[FileHost], str]]:
    """A host of a folder, and its address."""
    host = type("ThisHost", (FileHost,), {"folder": folder, "cuts": {}, "busy": [], "always_cut": set(), "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), host)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield host, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
