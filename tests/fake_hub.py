"""A stand-in for the Hugging Face Hub: its HTTP API for downloading, on loopback, as huggingface_hub asks for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest


@dataclass
class Repository:
    """A model or a data set."""

    branches: dict[str, str] = field(default_factory=dict)
    """Branch or tag -> commit."""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Commit -> file -> its bytes."""
    token: str | None = None
    """Token that opens it, where it is private."""
    is_gated: bool = False

    def commit(self, files: dict[str, bytes], *branches: str) -> str:
        """Add a commit, to which the branches lead then; its hash."""
        text = repr(sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items()))
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[commit] = files
        self.branches |= dict.fromkeys(branches, commit)
        return commit


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder, by their paths in it."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@dataclass
class Hub:
    """Models that the stand-in serves, and requests that it got."""

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    """`org/name`, or `datasets/org/name` -> repository."""
    asked: list[str] = field(default_factory=list)
    """Method and path of every request."""
    status: int = 200
    """Status of all replies; above 200 nothing else is replied."""

    @property
    def downloaded(self) -> list[str]:
        """Names of the files whose bytes were asked for."""
        return [
            path.split("/resolve/")[1].partition("/")[2]
            for path in self.asked
            if path.startswith("GET") and "/resolve/" in path
        ]


@contextmanager
def serving() -> Iterator[Hub]:
    """The stand-in, inside."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_POST(self) -> None:  # paths-info of data sets
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
            self._answer(with_body=True, paths=body.get("paths"))

        def _answer(self, with_body: bool, paths: list[str] | None = None) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.asked.append(f"{self.command} {path}")
            if hub.status != 200:
                self._send(hub.status, {}, b"{}", with_body)
                return
            found = self._find(path.removeprefix("api/").removeprefix("models/"))
            if found is None:
                self._send(401, {"X-Error-Message": "Invalid username or password."}, b"{}", with_body)
                return
            name, repository, rest = found
            if repository.token and self.headers.get("Authorization") != f"Bearer {repository.token}":
                self._send(401, {"X-Error-Message": "Invalid username or password."}, b"{}", with_body)
                return
            if repository.is_gated:
                self._send(403, {"X-Error-Code": "GatedRepo"}, b"{}", with_body)
                return
            kind, revision, inner = [*rest.split("/", 2), "", ""][:3] if rest else ("revision", "main", "")
            commit = revision if revision in repository.commits else repository.branches.get(revision)
            if commit is None:
                self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"{}", with_body)
                return
            self._send_of(repository.commits[commit], name, commit, kind, inner, with_body, paths)

        def _find(self, path: str) -> tuple[str, Repository, str] | None:
            for name, repository in hub.repositories.items():
                if path == name or path.startswith(f"{name}/"):
                    return name, repository, path[len(name) + 1 :]
            return None

        def _send_of(
            self,
            files: dict[str, bytes],
            name: str,
            commit: str,
            kind: str,
            inner: str,
            with_body: bool,
            paths: list[str] | None,
        ) -> None:
            if kind == "revision":
                siblings = [{"rfilename": file} for file in files]
                made = {"_id": "0", "id": name.removeprefix("datasets/"), "sha": commit, "siblings": siblings}
                self._send(
                    200, {}, json.dumps(made | {"private": False, "tags": [], "downloads": 0}).encode(), with_body
                )
            elif kind in ("tree", "paths-info"):
                wanted = files if paths is None else [path for path in paths if path in files]
                inside = [file for file in wanted if not inner or file.startswith(f"{inner}/")]
                found = [_entry(file, files[file]) for file in inside]
                if kind == "tree" and "recursive=True" not in self.path:
                    found = _level(inside, files, f"{inner}/" if inner else "")
                if kind == "tree" and inner and not inside:
                    self._send(404, {"X-Error-Code": "EntryNotFound"}, b"{}", with_body)
                    return
                self._send(200, {}, json.dumps(found).encode(), with_body)
            elif kind == "resolve" and inner in files:
                data = files[inner]
                head = {
                    "X-Repo-Commit": commit,
                    "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
                    "Accept-Ranges": "bytes",
                }
                if asked := self.headers.get("Range"):
                    first, _, last = asked.removeprefix("bytes=").partition("-")
                    end = min(int(last) + 1 if last else len(data), len(data))
                    head["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
                    self._send(206, head, data[int(first) : end], with_body)
                else:
                    self._send(200, head, data, with_body)
            else:
                self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b"{}", with_body)

        def _send(self, status: int, head: dict[str, str], body: bytes, with_body: bool) -> None:
            self.send_response(status)
            for name, value in head.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def reachable(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, inside which this process downloads from it, into a cache of its own."""
    with serving() as hub:
        look_at(hub.url, monkeypatch)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        yield hub


def look_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what huggingface_hub read from HF_ENDPOINT and HF_HUB_OFFLINE when it was imported."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", url)


def _level(inside: list[str], files: dict[str, bytes], folder: str) -> list[dict[str, object]]:
    """The files and folders directly below a folder."""
    folders = dict.fromkeys(file[len(folder) :].partition("/")[0] for file in inside if "/" in file[len(folder) :])
    found = [_entry(file, files[file]) for file in inside if "/" not in file[len(folder) :]]
    return [*found, *({"type": "directory", "path": f"{folder}{name}", "oid": "0", "size": 0} for name in folders)]


def _entry(file: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
