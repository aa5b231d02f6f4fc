"""The page of a running run, on loopback: a browser asks now and then whether anything is new."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from maskdpo_ray.errors import ConfigError, UserError, line, require
from maskdpo_ray.report import page
from maskdpo_ray.report.passages import visible
from maskdpo_ray.report.progress import FAILED, FINISHED, RUNNING, Progress, ProgressReader

HOST = "127.0.0.1"
_WATCHED = ("ledger.jsonl", "error.log", "summary.json", "iter_*/pairs-summary.json", "eval_*/*.json")
"""Files that change when a stage ends."""
_GROWING = "metrics.jsonl"
_GROWING_S = 20.0
"""Seconds between two pages within a stage: a page takes a second, which the run could use."""


class Source:
    """A run's page, made anew when the run has come further."""

    def __init__(self, folder: Path) -> None:
        """Raises RunFolderError unless `folder` holds a run."""
        self._reader = ProgressReader(folder, num_pairs=0)
        self._folder = folder
        self._lock = threading.Lock()
        self._made = ("", b"")
        self._grown = (0.0, 0)

    def now(self) -> bytes:
        """Stamp of the present page and what the run does, as JSON. Raises RunFolderError."""
        with self._lock:
            return json.dumps({"stamp": self._stamp(), "progress": self._progress()}).encode()

    def _progress(self) -> str:
        return visible(in_words(self._reader.read()), 500)

    def _stamp(self) -> str:
        """A name of the state of the run's files: another one as soon as a stage has ended."""
        digest = hashlib.sha256()
        for file in sorted(file for pattern in _WATCHED for file in self._folder.glob(pattern)):
            try:
                found = file.stat()
            except FileNotFoundError:  # replaced or removed meanwhile
                continue
            digest.update(f"{file} {found.st_size} {found.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        growing = self._folder / _GROWING
        if growing.is_file() and time.monotonic() - self._grown[0] >= _GROWING_S:
            self._grown = (time.monotonic(), growing.stat().st_size)
        digest.update(str(self._grown[1]).encode())
        return digest.hexdigest()[:16]

    def html(self) -> bytes:
        """The page of the present state. Raises UserError."""
        with self._lock:  # one page at a time, however many look at it
            stamp = self._stamp()
            if self._made[0] != stamp:
                text = page.of_run(self._folder, self._progress(), stamp)
                self._made = (stamp, text.encode("utf-8", "backslashreplace"))
            return self._made[1]


def in_words(progress: Progress) -> str:
    """Present work of a run, in a line."""
    heard = max(progress.now - progress.sign_of_life, 0) if progress.sign_of_life is not None else None
    if progress.state == FINISHED:
        return "The run is finished."
    if progress.state == FAILED:
        return f"The run has FAILED: {progress.error}"
    parts = []
    for stage in progress.stages:
        done = "" if stage.done is None or stage.total is None else f", {stage.done:,} of {stage.total:,} {stage.unit}"
        left = "" if stage.seconds_left is None else f", about {max(1, round(stage.seconds_left / 60))} min left"
        parts.append(f"{stage.name} {stage.step}{done}{left}")
    doing = "; ".join(parts) or "between two stages"
    ago = "" if heard is None else f" · last sign of life {heard:,.0f} s ago"
    return f"{'Running' if progress.state == RUNNING else progress.state.capitalize()}: {doing}{ago}"


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server on loopback, not yet serving. Raises RunFolderError, or ConfigError for a port that is taken."""
    source = Source(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = (self.headers.get("Host") or "").lower()
            host = asked.rpartition(":")[0] or asked
            if host not in (HOST, "localhost"):  # a site of another name that resolves to this machine
                self._answer(HTTPStatus.FORBIDDEN, b"expected to be asked as 127.0.0.1 or localhost\n", "text/plain")
                return
            try:
                if self.path == "/":
                    self._answer(HTTPStatus.OK, source.html(), "text/html")
                elif self.path == "/now":
                    self._answer(HTTPStatus.OK, source.now(), "application/json")
                else:
                    self._answer(HTTPStatus.NOT_FOUND, b"expected / or /now\n", "text/plain")
            except UserError as error:  # a file that is damaged, or just being written: the next look tells
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{line(error)}\n".encode(), "text/plain")

        def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """A line for each look would bury everything else."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exc_info()[1], ConnectionError):  # a browser that waits no longer is no error
                super().handle_error(request, client_address)

    require(port < 2**16, "--port", "0 to 65535", port)
    try:
        return Server((HOST, port), Handler)
    except OSError as error:
        raise ConfigError(f"--port: expected a free port, got {port}: {error}") from error


def serve(folder: Path, port: int) -> None:
    """Serve the page until Ctrl-C or SIGTERM. Raises UserError as `server` does."""
    with server(folder, port) as serving:
        print(f"http://{HOST}:{serving.server_address[1]}/  (Ctrl-C ends it)", flush=True)
        serving.serve_forever()
