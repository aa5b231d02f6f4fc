"""`python -m maskdpo_ray.watch`: once without a terminal, until q or Ctrl-C with one, and what is refused."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maskdpo_ray import watch
from maskdpo_ray.config.schema import LoggerConfig
from maskdpo_ray.errors import ConfigError, RunFolderError
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker

CONFIG = {"run": {"name": "facts", "iterations": 1}, "logger": {"trackers": []}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that has stopped."""
    with RunFolder.open(tmp_path / "r", CONFIG, {}), Tracker(tmp_path / "r", LoggerConfig(), {}) as tracker:
        tracker.log({"eval/heldout/score": 0.5}, 0)
    return tmp_path / "r"


@pytest.mark.parametrize("options", [[], ["--once"], ["--interval", "0.5"]])
def test_without_a_terminal_it_prints_one_view(
    run: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    watch.main([str(run), *options])
    said = capsys.readouterr().out
    assert "facts  STOPPED without finishing" in said and "held-out score" in said
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before


def test_a_terminal_that_is_no_utf_8(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "config.yaml").write_text("run: {name: 卢旺达}\n", encoding="utf-8")
    said = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(said, encoding="ascii"))
    watch.main([str(run), "--once"])
    sys.stdout.flush()
    assert said.getvalue().startswith(b"???  STOPPED")


def test_what_is_refused(run: Path) -> None:
    with pytest.raises(RunFolderError, match="none: expected the folder of a run, .*, got no such folder$"):
        watch.main([str(run.parent / "none")])
    with pytest.raises(ConfigError, match="^--interval: expected a number above 0, got '0'"):
        watch.main([str(run), "--interval", "0"])
    with pytest.raises(ConfigError, match="^RUN_FOLDER: expected "):
        watch.main([])


class Terminal:
    """A watch in a terminal of its own."""

    def __init__(self, folder: Path) -> None:
        self._main, other = pty.openpty()
        argv = [sys.executable, "-m", "maskdpo_ray.watch", str(folder), "--interval", "0.1"]
        self.process = subprocess.Popen(argv, stdin=other, stdout=other, stderr=other, start_new_session=True)
        os.close(other)
        self.said = ""

    def wait_for(self, text: str, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while text not in self.said:
            assert select.select([self._main], [], [], max(0.0, end - time.monotonic()))[0], self.said
            self._read()

    def press(self, keys: bytes) -> None:
        os.write(self._main, keys)

    def end(self) -> int:
        while self._read():
            pass
        os.close(self._main)
        return self.process.wait(20)

    def _read(self) -> bool:
        try:
            self.said += os.read(self._main, 2**16).decode(errors="replace")
            return True
        except OSError:  # the other side is closed
            return False


def test_in_a_terminal_it_follows_the_run_until_it_is_left(run: Path) -> None:
    by_key, by_signal = both = Terminal(run), Terminal(run)
    for terminal in both:
        terminal.wait_for("STOPPED")
    with RunFolder.open(run, CONFIG, {}):
        for terminal in both:
            terminal.wait_for("running")
        (run / "config.yaml").rename(run / "away")
        for terminal in both:
            terminal.wait_for("with config.yaml")
        (run / "away").rename(run / "config.yaml")
        for terminal in both:
            terminal.said = ""
            terminal.wait_for("q leaves")
        by_key.press(b"xq")
        by_signal.process.send_signal(signal.SIGINT)
        assert [terminal.end() for terminal in both] == [0, 0]
    for terminal in both:
        assert "Traceback" not in terminal.said and "running" in terminal.said.split("\x1b[?1049l")[-1]
