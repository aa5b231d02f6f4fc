"""The served page: on loopback, for those who ask it by its own name, new as soon as the run came further."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_run import run

from maskdpo_ray.errors import ConfigError, RunFolderError
from maskdpo_ray.report import server
from maskdpo_ray.report.progress import ProgressReader

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, no_fsync: None) -> Path:
    path = tmp_path_factory.mktemp("served")
    run(path)
    return path / "run"


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    with server.server(folder, 0) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield serving.server_address[1]
        serving.shutdown()
        thread.join()


def ask(port: int, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    found = answer.status, answer.read().decode(), dict(answer.getheaders())
    connection.close()
    return found


def test_page_is_made_again_when_a_stage_has_ended(port: int, folder: Path) -> None:
    status, html, headers = ask(port, "/")
    now = json.loads(ask(port, "/now")[1])
    assert status == 200 and headers["Cache-Control"] == "no-store"
    assert f'data-stamp="{now["stamp"]}"' in html and "connect-src 'self'" in html
    assert 'class="progress"' in html and now["progress"].partition(" · ")[0] in html
    assert json.loads(ask(port, "/now")[1])["stamp"] == now["stamp"]
    (folder / "error.log").write_text("Traceback\nRuntimeError: broke\n")
    later = json.loads(ask(port, "/now")[1])
    assert later["stamp"] != now["stamp"]
    assert "RuntimeError: broke" in ask(port, "/")[1]
    (folder / "error.log").unlink()


def test_others_are_refused(port: int) -> None:
    assert ask(port, "/", host="evil.example.org")[0] == 403  # a name that was made to lead to this machine
    assert ask(port, "/", host=f"localhost:{port}")[0] == 200
    assert ask(port, "/../ledger.jsonl")[0] == 404
    assert ask(port, "/", method="POST")[0] == 501


def test_damaged_file_is_one_line_and_the_server_lives_on(port: int, folder: Path) -> None:
    file = folder / "eval_000" / "heldout.json"
    whole = file.read_bytes()
    file.write_bytes(b"{")
    status, text, _ = ask(port, "/")
    file.write_bytes(whole)
    assert status == 503 and text.count("\n") == 1 and "heldout.json" in text
    assert ask(port, "/")[0] == 200


def test_what_it_does_in_words(folder: Path) -> None:
    progress = ProgressReader(folder).read()
    assert server.in_words(progress)


def test_start_refuses_no_run_and_a_taken_port(tmp_path: Path, folder: Path, port: int) -> None:
    with pytest.raises(RunFolderError):
        server.server(tmp_path, 0)
    with pytest.raises(ConfigError, match=f"--port: expected a free port, got {port}"):
        server.server(folder, port)
