"""The page of an experiment: all that the table has, as text, and nothing from anywhere else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from evaluated_arms import experiment_in, runs_of

from maskdpo_ray.records import encode_line
from maskdpo_ray.report import __main__ as report
from maskdpo_ray.report.experiments import page, table, written
from maskdpo_ray.report.experiments.made import Made, MadeRun
from maskdpo_ray.report.experiments.table import Table

MADE = Made("python -m maskdpo_ray.experiment a.yaml", "a machine", 1, {"r": MadeRun("2026-11-30", ("c",), {}, 60, "")})


class Cells(HTMLParser):
    """Text of all cells of tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._open = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in ("td", "th"):
            self.found.append("")
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        self._open &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._open:
            self.found[-1] += data


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Table:
    folder = tmp_path_factory.mktemp("experiment")
    return table.build(experiment_in(folder), runs_of(folder), {})


def folder_of(folder: Path, found: Table) -> Path:
    (folder / "runs/masked-seed1").mkdir(parents=True)
    (folder / "runs/masked-seed1/report.html").touch()
    (folder / "table.json").write_bytes(encode_line(found))
    (folder / "made.json").write_bytes(encode_line(MADE))
    return folder


def test_it_shows_every_table_and_picture(found: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path / "mask", found)
    report.main([str(folder)])
    assert capsys.readouterr().out == f"page: {folder / 'report.html'}\n"
    html = (folder / "report.html").read_text()
    cells = Cells(html).found
    every = [cell for each in written.sections(found) for row in (each.header, *each.rows) for cell in row]
    assert len(every) > 100 and cells[: len(every)] == every
    assert written.sentences(found)[0] in html and html.count("<svg") == len(written.pictures(found))
    assert '<a href="runs/masked-seed1/report.html">masked-seed1</a>' in html and "unmasked-seed1</a>" not in html
    assert all(link.startswith(("#", "data:", "runs/")) for link in re.findall(r'(?:src|href)="([^"]*)"', html))
    assert "<script" not in html


def test_elsewhere_it_has_no_links_to_runs(found: Table, tmp_path: Path) -> None:
    target = tmp_path / "a.html"
    report.main([str(folder_of(tmp_path / "mask", found)), "--output", str(target)])
    assert "masked-seed1/report.html" not in target.read_text()


def test_names_and_reasons_are_text(found: Table, tmp_path: Path) -> None:
    arm = msgspec.structs.replace(found.arms[0], missing={"2": "<script>alert(1)</script>\x1b[31m"})
    html = page.of_experiment(folder_of(tmp_path, msgspec.structs.replace(found, arms=(arm,))), tmp_path)
    assert "&lt;script&gt;" in html and "<script" not in html and "\x1b" not in html
