"""A stand-in for the Hugging Face Hub: its HTTP API for downloads and uploads, on loopback, as huggingface_hub asks."""

from __future__ import annotations

import base64
import hashlib
import json
import time
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
    is_private: bool = False

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
    tokens: dict[str, str] = field(default_factory=dict)
    """Token -> the user or organisation that it may write to."""
    stored: dict[str, bytes] = field(default_factory=dict)
    """SHA-256 -> bytes that were sent as Git LFS."""
    cas: Path | None = None
    """Folder that takes large files by Xet, as hf_xet writes it in place of a server."""
    fails_at: str = ""
    """Requests whose path holds it are answered with status 500."""

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

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if "/paths-info/" in self.path:  # of data sets
                self._answer(with_body=True, paths=json.loads(body).get("paths"))
            else:
                self._take(body)

        def do_PUT(self) -> None:
            self._take(self.rfile.read(int(self.headers["Content-Length"])))

        def _take(self, body: bytes) -> None:
            """Reply to a request that writes."""
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.asked.append(f"{self.command} {path}")
            if hub.fails_at and hub.fails_at in path:
                self._reply({"error": "out of order"}, 500)
            elif self.command == "PUT":  # an address that the batch API signed: without a token
                hub.stored[path.removeprefix("lfs/")] = body
                self._reply({})
            elif (owner := self._owner()) is None:
                self._reply({"error": "Invalid username or password."}, 401)
            elif path == "api/repos/create":
                self._create(owner, **json.loads(body))
            elif path == "api/validate-yaml":
                is_valid = json.loads(body)["content"].startswith("---\n")
                errors = [] if is_valid else [{"message": "no metadata"}]
                self._reply({"errors": errors, "warnings": []}, 400 if errors else 200)
            elif path.startswith("verify/"):
                self._reply({}, 200 if json.loads(body)["oid"] in hub.stored else 404)
            elif (found := self._find(path.removeprefix("api/models/").replace(".git/", "/"))) is not None:
                self._write(owner, *found, body)
            else:
                self._reply({"error": "Repository not found"}, 404)

        def _owner(self) -> str | None:
            return hub.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

        def _reply(self, value: object, status: int = 200) -> None:
            self._send(status, {}, json.dumps(value).encode(), with_body=True)

        def _create(self, owner: str, name: str, organization: str, visibility: str = "public", **_: str) -> None:
            repo = f"{organization}/{name}"
            if organization != owner:
                self._reply({"error": f"You don't have the rights to create a model under {organization}"}, 403)
            elif repo in hub.repositories:
                self._reply({"error": "You already created this model repo", "url": f"{hub.url}/{repo}"}, 409)
            else:
                hub.repositories[repo] = Repository(is_private=visibility == "private")
                hub.repositories[repo].commit({}, "main")
                self._reply({"url": f"{hub.url}/{repo}", "name": repo})

        def _write(self, owner: str, name: str, repository: Repository, rest: str, body: bytes) -> None:
            files = repository.commits[repository.branches["main"]]
            if not name.startswith(f"{owner}/"):
                self._reply({"error": "Forbidden"}, 403)
            elif rest.startswith("preupload/"):
                found = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                        "oid": _oid(file["path"], files[file["path"]]) if file["path"] in files else None,
                    }
                    for file in json.loads(body)["files"]
                ]
                self._reply({"files": found})
            elif rest == "info/lfs/objects/batch":
                found = []
                for each in json.loads(body)["objects"]:
                    actions = {"upload": f"lfs/{each['oid']}", "verify": f"verify/{each['oid']}"}
                    missing = {action: {"href": f"{hub.url}/{path}"} for action, path in actions.items()}
                    found.append(each | ({} if each["oid"] in hub.stored else {"actions": missing}))
                self._reply({"objects": found})
            elif rest.startswith("commit/"):
                files = dict(files)
                for line in map(json.loads, body.splitlines()):
                    path = line["value"].get("path", "")
                    if line["key"] == "file":
                        files[path] = base64.b64decode(line["value"]["content"])
                    elif line["key"] == "lfsFile":
                        files[path] = hub.stored.get(line["value"]["oid"], b"sha256:" + line["value"]["oid"].encode())
                    elif line["key"] == "deletedFile":
                        del files[path]
                commit = repository.commit(files, "main")
                self._reply({"commitUrl": f"{hub.url}/{name}/commit/{commit}", "commitOid": commit})
            else:
                self._reply({"error": "not found"}, 404)

        def _answer(self, with_body: bool, paths: list[str] | None = None) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.asked.append(f"{self.command} {path}")
            if hub.status != 200:
                self._send(hub.status, {}, b"{}", with_body)
                return
            if path == "api/whoami-v2" and self._owner():
                self._reply({"name": self._owner(), "type": "user"})
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
            if rest == "auth-check/write":
                self._reply({}, 200 if name.startswith(f"{self._owner()}/") else 403)
                return
            if rest.startswith("xet-write-token/") and hub.cas:
                until = str(int(time.time()) + 3600)
                self._reply({"casUrl": f"local://{hub.cas}", "accessToken": "xet", "exp": int(until)})
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
                    200,
                    {},
                    json.dumps(
                        made | {"private": hub.repositories[name].is_private, "tags": [], "downloads": 0}
                    ).encode(),
                    with_body,
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


def _oid(file: str, data: bytes) -> str:
    """Hash of a file by which huggingface_hub tells whether it is there already: of a large one SHA-256, else git's."""
    if file.endswith(".safetensors"):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(file: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
