"""The page of an experiment: the paper's claim and ours, tables, pictures, and links to the pages of its runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from maskdpo_ray.config.experiment import run_name
from maskdpo_ray.report import page
from maskdpo_ray.report.experiments import made, written
from maskdpo_ray.report.experiments.made import Made
from maskdpo_ray.report.experiments.table import Table
from maskdpo_ray.report.passages import visible
from maskdpo_ray.store import files


def is_experiment(folder: Path) -> bool:
    """Whether a folder holds an experiment's table."""
    return (folder / "table.json").is_file() and not (folder / "ledger.jsonl").exists()


def write(folder: Path, target: Path | None = None) -> Path:
    """Write the page of the experiment in `folder`, as its report.html unless `target` says otherwise.

    Returns its path. Raises RunFolderError.
    """
    target = folder / page.FILE if target is None else target
    files.write_whole(target, of_experiment(folder, target.parent).encode("utf-8", "backslashreplace"))
    return target


def of_experiment(folder: Path, place: Path) -> str:
    """The page, which is to lie in the folder `place`: only there do its links lead to the runs' own."""
    table = files.read_json(folder / "table.json", Table)
    sections = [
        (visible(each.said), [visible(cell) for cell in each.header], [[*map(visible, row)] for row in each.rows])
        for each in written.sections(table)
    ]
    return (
        page.environment()
        .get_template("experiment.html")
        .render(
            title=visible(table.experiment),
            style=page.style(),
            said=[*map(visible, written.sentences(table))],
            sections=sections,
            plots=list(written.pictures(table).values()),
            made=files.read_json(folder / made.FILE, Made),
            runs=list(_runs(table, folder)) if place.resolve() == folder.resolve() else [],
        )
    )


def _runs(table: Table, folder: Path) -> Iterator[tuple[str, str]]:
    """(name, link) of each run that has a page."""
    for arm in table.arms:
        for seed in arm.seeds:
            link = f"runs/{run_name(arm.arm, seed)}/{page.FILE}"
            if (folder / link).is_file():
                yield run_name(arm.arm, seed), link
