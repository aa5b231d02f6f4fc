"""docs/results.md is exactly what the command makes of docs/results, and says what its files say."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from evaluated_arms import FILE, experiment_in, runs_of

from maskdpo_ray.errors import DataError
from maskdpo_ray.records import encode_line
from maskdpo_ray.report.experiments import table, written
from maskdpo_ray.report.experiments.made import Made, MadeRun

ROOT = Path(__file__).parents[3]
COMMIT = "0123456789" * 4
MADE = Made(
    "python -m maskdpo_ray.experiment configs/experiments/mask.yaml",
    "a processor, 2 cores, 16 GiB",
    1,
    {
        "masked-seed1": MadeRun("2026-11-30", (COMMIT,), {"torch": "2.13"}, 3600.0, ""),
        "unmasked-seed1": MadeRun("2026-12-01", (f"{COMMIT}-dirty",), {"torch": "2.13"}, 1800.0, "masked-seed1: all"),
    },
)


@pytest.fixture(scope="module")
def results() -> Iterator[ModuleType]:
    """The script as a module."""
    found = importlib.util.spec_from_file_location("results", ROOT / "scripts" / "results.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "results", module)  # dataclasses look there
        found.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished experiment."""
    folder = tmp_path_factory.mktemp("finished")
    read = experiment_in(folder, f"# Does the mask help?\n#   python -m command\n{FILE}")
    written.write(table.build(read, runs_of(folder), {}), read.folder)
    (read.folder / "made.json").write_bytes(encode_line(MADE))
    (read.folder / "experiment.yaml").write_bytes(read.file.read_bytes())
    return read.folder


def test_the_page_is_what_the_command_makes(results: ModuleType) -> None:
    made = results.page()
    assert (ROOT / "docs/results.md").read_text(encoding="utf-8") == made, "run: PYTHONPATH=. python scripts/results.py"
    for link in re.findall(r"\]\((results/[^)]+)\)", made):
        assert (ROOT / "docs" / link).is_file(), link


def test_every_experiment_of_the_repository_has_a_row(results: ModuleType) -> None:
    text = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    for file in (ROOT / "configs/experiments").glob("*.yaml"):
        assert f"\n| {file.stem} |" in text or f"\n| [{file.stem}](#{file.stem}) |" in text


def test_an_experiment_is_taken_with_what_the_page_needs(results: ModuleType, experiment: Path, tmp_path: Path) -> None:
    place = results.take(experiment, tmp_path / "results")
    names = {file.name for file in place.iterdir()}
    assert names == {"table.json", "made.json", "experiment.yaml", "score-difference.svg", "gain.svg"}
    (place / "notes.md").write_text("A note.\n")
    assert results.take(experiment, tmp_path / "results") == place and (place / "notes.md").is_file()
    page = results.page(tmp_path, tmp_path)
    row = next(line for line in page.splitlines() if line.startswith("| [mask](#mask)"))
    assert re.fullmatch(
        r"\| \[mask\]\(#mask\) \| table 2 \| masked above unmasked: score \| yes \| \+0\.\d{3} \[[^]]+\] \| 2 \| 8 \| "
        r"2026-12-01 \|",
        row,
    )
    section = page[page.index("\n## mask\n") :]
    assert section.startswith("\n## mask\n\nDoes the mask help?\n\nThe paper has masked above unmasked by score")
    assert "python -m command" not in section and "\n\nA note.\n\n" in section
    assert "![mask: score-difference](results/mask/score-difference.svg)" in section
    assert "2 runs, begun 2026-11-30 to 2026-12-01; 1.5 hours of work on a processor, 2 cores, 16 GiB" in section
    assert "commits 01234567, 01234567-dirty; torch 2.13." in section and "unmasked-seed1 from masked-seed1" in section


def test_what_has_not_been_run_says_so(results: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "other.yaml").write_text(f"# A question.\n{FILE}")
    page = results.page(tmp_path, tmp_path)
    assert "| other | table 2 | masked above unmasked: score | not run yet |  | 2 |  |  |" in page
    assert "\n## other\n\nA question.\n\nNot run yet.\n" in page


def test_an_analysis_is_shown_as_it_left_itself(results: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "affinity"
    folder.mkdir()
    (folder / "near.md").write_text("## Near and far\n\nA sentence.\n")
    (folder / "near.json").write_text("{}\n")
    (folder / "near.svg").write_text("<svg/>\n")
    (folder / "alone.md").write_text("no result\n")
    place = results.take(folder, tmp_path / "docs/results")
    assert {file.name for file in place.iterdir()} == {"near.md", "near.json", "near.svg", "taken.json"}
    page = results.page(tmp_path / "docs", tmp_path)
    shown = "## Near and far\n\nA sentence.\n\n![Near and far](results/affinity/near.svg)\n\nFile: [near.json]("
    assert shown in page and "Taken on " in page


@pytest.mark.parametrize(("files", "expected"), [([], "expected table.json, or"), (["table.json"], "made.json")])
def test_another_folder_is_refused(
    results: ModuleType, experiment: Path, tmp_path: Path, files: list[str], expected: str
) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    for name in files:
        (folder / name).write_bytes((experiment / name).read_bytes())
    with pytest.raises(DataError, match=expected):
        results.take(folder, tmp_path / "results")
    assert not (tmp_path / "results").exists()
