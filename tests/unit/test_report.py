"""`python -m maskdpo_ray.report`: what it refuses, each in one line and before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_run import run

from maskdpo_ray.errors import UserError
from maskdpo_ray.report import __main__ as report

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, no_fsync: None) -> Path:
    path = tmp_path_factory.mktemp("reported")
    run(path)
    return path / "run"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["RUN", "--output", "RUN/config.yaml"], "--output: expected a file that ends in .html, got "),
        (["RUN", "--output", ""], "--output: expected a file that ends in .html, got ''"),
        (["RUN/config.yaml"], "expected the folder of a run, .* got a file"),
        (["RUN/no"], "expected the folder of a run, .* got no such folder"),
        ([], "RUN: expected one run folder, got 0"),
        (["RUN", "RUN"], "RUN: expected one run folder, got 2; --compare takes several"),
        (["--compare", "RUN"], "--compare: expected two runs or more, got 1"),
        (["RUN", "--serve", "--output", "a.html"], "--serve: expected one run folder"),
        (["RUN", "--serve", "--port", "99999"], "--port: expected 0 to 65535, got 99999"),
        (["RUN", "--outptu", "a.html"], "--outptu: unknown option; did you mean --output"),
    ],
)
def test_mistake_is_one_line_and_nothing_is_written(folder: Path, words: list[str], expected: str) -> None:
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=expected):
        report.main([word.replace("RUN", str(folder)) for word in words])
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_page_goes_where_it_is_asked_to(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "page.html"
    report.main([str(folder), "--output", str(target)])
    assert capsys.readouterr().out == f"page: {target}\n"
    assert target.read_text().startswith("<!doctype html>") and not (folder / "report.html").exists()
