"""Files of an analysis."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maskdpo_ray.errors import DataError
from maskdpo_ray.evaluation.intervals import Change
from maskdpo_ray.report import plots
from maskdpo_ray.report.analyses.finding import Finding

RECORD = Change(0.5, 0.75, 0.25, None, None)


def test_markdown() -> None:
    found = Finding("name", "Title", ["One.", "Two\x1b."], ["a", "b"], [["1|2", "x"], ["3", "y"]], RECORD)
    table = "| a | b |\n|---|---|\n| 1/2 | x |\n| 3 | y |\n"
    assert found.markdown() == f"## Title\n\nOne.\n\nTwo\\x1b.\n\n{table}"


@pytest.mark.usefixtures("no_fsync")
def test_files(tmp_path: Path) -> None:
    plot = plots.intervals("Title", {"one": (0.1, None, None)}, "x")
    found = Finding("name", "Title", [], ["a"], [], RECORD, plot, {"more.txt": "Peru\n"})
    written = found.write(tmp_path / "new")
    assert [file.name for file in written] == ["name.md", "name.json", "name.svg", "name.png", "more.txt"]
    assert sorted(written) == sorted((tmp_path / "new").iterdir())
    assert written[0].read_text() == found.markdown() and written[-1].read_text() == "Peru\n"
    assert json.loads(written[1].read_text())["gain"] == 0.25
    assert b"<svg" in written[2].read_bytes() and written[3].read_bytes().startswith(b"\x89PNG")
    without = Finding("other", "Title", [], ["a"], [], RECORD).write(tmp_path / "new")
    assert [file.name for file in without] == ["other.md", "other.json"]


@pytest.mark.usefixtures("no_fsync")
def test_not_into_a_run_folder(tmp_path: Path) -> None:
    for name in ("ledger.jsonl", "config.yaml"):
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match="expected a place outside of run folders"):
        Finding("name", "Title", [], ["a"], [], RECORD).write(tmp_path / "within")
    assert not (tmp_path / "within").exists()
