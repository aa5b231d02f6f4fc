"""The ledger benchmark: calls and seconds of the run folder's methods, as a table and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import fake_run
import pytest

from benchmarks import ledger
from maskdpo_ray import run

pytestmark = pytest.mark.usefixtures("no_fsync")


def test_a_run_is_done_with_a_clock_around_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = []

    def fake_main(command: list[str]) -> None:
        commands.append(command)
        fake_run.run(tmp_path)

    monkeypatch.setattr(run, "main", fake_main)
    for kind, name in ledger.WATCHED:
        monkeypatch.setattr(kind, name, vars(kind)[name])  # given back at the end
    file = tmp_path / "figures.json"
    ledger.main(["--config", "a.yaml", "--json", str(file), "--run.name", "b"])
    assert commands == [["--config", "a.yaml", "--run.name", "b"]]
    found = json.loads(file.read_text())
    assert found["methods"]["_write"]["calls"] == len(fake_run.metrics_of(tmp_path))
    assert found["methods"]["__exit__"]["calls"] == fake_run.ITERATIONS and found["methods"]["commit"]["calls"] > 10
    seconds = [own["seconds"] for own in found["methods"].values()]
    assert seconds == sorted(seconds, reverse=True)
    assert found["all"]["seconds"] == pytest.approx(sum(seconds)) and 0 < found["share"] <= 1
    assert found["share"] == pytest.approx(found["all"]["seconds"] / found["run_seconds"])
    table = capsys.readouterr().out
    assert "| _write " in table and "| all " in table


def test_a_method_within_another_counts_for_the_outer_one() -> None:
    class Folder:
        def outer(self) -> None:
            self.inner()

        def inner(self) -> None: ...

    clock = ledger.Clock()
    for name in ("outer", "inner"):
        clock.watch(Folder, name)
    Folder().outer()
    assert clock.calls == {"outer": 1, "inner": 1} and list(clock.seconds) == ["outer"]
