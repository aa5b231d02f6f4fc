#!/usr/bin/env python3
"""docs/results.md, from the files in docs/results/ alone.

PYTHONPATH=. python scripts/results.py [FOLDER ...]

A FOLDER is that of an experiment (experiments/mask) or of analyses; what the page needs of it is taken into
docs/results/ first, under the folder's name. docs/results/NAME/notes.md, where there is one, is what people say of it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from maskdpo_ray.config import cli
from maskdpo_ray.config.cli import Parser
from maskdpo_ray.errors import DataError
from maskdpo_ray.evaluation.across_seeds import AcrossSeeds
from maskdpo_ray.records import Record, encode_line
from maskdpo_ray.report.experiments import made, written
from maskdpo_ray.report.experiments.made import Made
from maskdpo_ray.report.experiments.table import METRICS, Table, bounds
from maskdpo_ray.report.tables import number
from maskdpo_ray.store import files, fingerprint

ROOT = Path(__file__).resolve().parents[1]
DOCS, CONFIGS = ROOT / "docs", ROOT / "configs" / "experiments"
NOTES, TAKEN = "notes.md", "taken.json"
FIRST = "quickstart"
"""The experiment that comes first."""
_INTRODUCTION = """\
# Results

This page is made by `python scripts/results.py` from the files that [experiments](experiments.md) and analyses have
left in `docs/results`; nobody writes it by hand. Everything ran on CPUs; no GPU has been tried yet. The small world
is SmolLM2-135M-Instruct, questions about countries and, as another domain, chemical elements, labelled by rules: it
can show the direction of a finding of the papers, not its size. A fact is a sentence that claims something; a
sentence with a word that cannot be checked counts as incorrect. How good the labels are:
[annotators.md](annotators.md#how-good-are-the-labels). Times, speeds and memory: [benchmarks.md](benchmarks.md).
"""


@dataclass(frozen=True)
class Finished:
    """An experiment's files in docs/results."""

    folder: Path

    @cached_property
    def table(self) -> Table:
        """Read table.json. Raises RunFolderError."""
        return files.read_json(self.folder / "table.json", Table)

    @cached_property
    def made(self) -> Made:
        """Read made.json. Raises RunFolderError."""
        return files.read_json(self.folder / made.FILE, Made)

    def overview(self) -> Iterator[list[str]]:
        """A row for each claim of the paper; without any, one on the gain over the start."""
        table = self.table
        paper = _tables_of(self.folder / made.OF_EXPERIMENT)
        date = max((run.started for run in self.made.runs.values()), default="-")
        for claim in table.directions:
            said = f"{claim.above} above {claim.below}: {METRICS[claim.metric][0]}"
            yield [self._link, paper, said, *_verdict(claim.difference, claim.metric, table), date]
        if not table.directions:
            arm = next((arm for arm in table.arms if arm.arm == table.baseline), table.arms[0])
            score = arm.figures.get("score")
            gain = None if score is None else score.gain
            yield [self._link, paper, f"{arm.arm} above its start: score", *_verdict(gain, "score", table), date]

    def section(self) -> str:
        """Question, findings, and how it was made."""
        name, table = self.folder.name, self.table
        parts = [f"## {name}", described(self.folder / made.OF_EXPERIMENT), *written.sentences(table)]
        pictures = [file for file in ("score-difference.svg", "gain.svg") if (self.folder / file).is_file()]
        if pictures:
            parts.append(f"![{name}: {pictures[0].removesuffix('.svg')}](results/{name}/{pictures[0]})")
        parts += [each.markdown() for each in written.sections(table)]
        return "\n\n".join([*parts, *_notes(self.folder), self._made()])

    @property
    def _link(self) -> str:
        return f"[{self.folder.name}](#{self.folder.name})"

    def _made(self) -> str:
        name, found = self.folder.name, self.made
        runs = found.runs.values()
        dates = sorted({run.started for run in runs})
        begun = " to ".join(dict.fromkeys([dates[0], dates[-1]]))
        commits = dict.fromkeys(_short(commit) for run in runs for commit in run.commits)
        packages = {package: version for run in runs for package, version in run.versions.items()}
        shared = [f"{run} from {each.shared}" for run, each in found.runs.items() if each.shared]
        said = (
            f"`{found.command}`: {len(runs)} {'run' if len(runs) == 1 else 'runs'}, begun {begun}; "
            f"{sum(run.seconds for run in runs) / 3600:.1f} hours of work on {found.machine}; commits "
            f"{', '.join(commits) or 'unknown'}; {', '.join(f'{package} {packages[package]}' for package in packages)}."
        )
        if shared:
            said += f" Taken over from siblings: {'; '.join(shared)}."
        config = CONFIGS / f"{name}.yaml"
        as_run = self.folder / made.OF_EXPERIMENT
        if config.is_file() and yaml.safe_load(config.read_bytes()) != yaml.safe_load(as_run.read_bytes()):
            said += f" The file `configs/experiments/{name}.yaml` has changed since."
        links = [f"[{file}](results/{name}/{file})" for file in (made.OF_EXPERIMENT, "table.json", made.FILE)]
        return f"{said} Files: {', '.join(links)}."


class Taken(Record):
    """How analyses came to docs/results."""

    date: str
    commit: str
    machine: str


def take(folder: Path, target: Path) -> Path:
    """Take into `target` what the page needs of an experiment's or analyses' folder; returns where it is now.

    Raises DataError for another folder, and RunFolderError when a file is damaged.
    """
    place = target / folder.resolve().name
    if (folder / "table.json").is_file():
        files.read_json(folder / "table.json", Table)
        wanted = [folder / name for name in ("table.json", made.FILE, made.OF_EXPERIMENT)]
        wanted += [folder / name for name in ("score-difference.svg", "gain.svg") if (folder / name).is_file()]
    else:
        found = [file for file in sorted(folder.glob("*.md")) if file.with_suffix(".json").is_file()]
        wanted = [
            each for file in found for end in (".md", ".json", ".svg") if (each := file.with_suffix(end)).is_file()
        ]
    if missing := [file for file in wanted if not file.is_file()]:
        raise DataError(f"{missing[0]}: expected a file of a finished experiment, got none; run its command again")
    if not wanted:
        raise DataError(f"{folder}: expected table.json, or analyses as NAME.md and NAME.json, got neither")
    notes = (place / NOTES).read_bytes() if (place / NOTES).is_file() else None
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for file in wanted:
        shutil.copyfile(file, place / file.name)
    if notes is not None:
        (place / NOTES).write_bytes(notes)
    if not (place / "table.json").is_file():
        today = datetime.now(UTC).date().isoformat()
        (place / TAKEN).write_bytes(
            encode_line(Taken(today, fingerprint.versions().get("commit", "unknown"), made.machine()))
        )
    return place


def page(docs: Path = DOCS, configs: Path = CONFIGS) -> str:
    """The page. Raises RunFolderError when a file is damaged."""
    folders = sorted(folder for folder in (docs / "results").glob("*") if folder.is_dir())
    run = [Finished(folder) for folder in folders if (folder / "table.json").is_file()]
    run.sort(key=lambda each: _order(each.folder / made.OF_EXPERIMENT, each.folder.name))
    planned = sorted(configs.glob("*.yaml"), key=lambda file: _order(file, file.stem))
    planned = [file for file in planned if file.stem not in {each.folder.name for each in run}]
    known = {each.folder.name for each in run} | {file.stem for file in planned}
    others = [folder for folder in folders if folder.name not in known]
    rows = [row for each in run for row in each.overview()] + [row for file in planned for row in not_run(file)]
    header = ["experiment", "paper", "claim", "holds", "difference [95%]", "seeds", "topics", "run"]
    said = (
        "A claim holds where the mean difference over the seeds has its sign; the interval is over topics and, with "
        "several seeds, over seeds too."
    )
    parts = [_INTRODUCTION.rstrip(), "## All experiments", written.Section(said, header, rows).markdown()]
    parts += [each.section() for each in run]
    parts += [_of_analyses(folder) for folder in others]
    for file in planned:
        notes = _notes(docs / "results" / file.stem)
        parts.append("\n\n".join([f"## {file.stem}", described(file), "Not run yet.", *notes]))
    return "\n\n".join(part for part in parts if part) + "\n"


def not_run(file: Path) -> Iterator[list[str]]:
    """Rows of an experiment that has not been run."""
    values = yaml.safe_load(file.read_bytes())
    given: Any = values.get("direction") or []
    seeds = str(len(values["seeds"]))
    for claim in [given] if isinstance(given, dict) else given or [None]:
        said = f"{claim['above']} above {claim['below']}: {METRICS[claim['metric']][0]}" if claim else "-"
        yield [file.stem, _tables_of(file), said, "not run yet", "", seeds, "", ""]


def described(file: Path) -> str:
    """The comment that an experiment's file begins with, but for its command."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.removeprefix("#").startswith("   "):
            lines.append(line.removeprefix("#").strip())
    return "\n".join(lines)


def _of_analyses(folder: Path) -> str:
    """All analyses of a folder, each as it left itself, with its picture."""
    parts, name = [], folder.name
    for file in sorted(folder.glob("*.md")):
        if file.name == NOTES:
            continue
        text = file.read_text(encoding="utf-8").strip()
        picture, links = file.with_suffix(".svg"), f"[{file.stem}.json](results/{name}/{file.stem}.json)"
        if picture.is_file():
            title = re.sub(r"[\[\]#]", "", text.partition("\n")[0]).strip()
            text += f"\n\n![{title}](results/{name}/{picture.name})"
        parts.append(f"{text}\n\nFile: {links}.")
    if parts and (folder / TAKEN).is_file():
        of = files.read_json(folder / TAKEN, Taken)
        parts.append(f"Taken on {of.date}, at commit {_short(of.commit)}, on {of.machine}.")
    return "\n\n".join([*parts, *_notes(folder)])


def _notes(folder: Path) -> list[str]:
    file = folder / NOTES
    return [file.read_text(encoding="utf-8").strip()] if file.is_file() else []


def _verdict(difference: AcrossSeeds | None, metric: str, table: Table) -> list[str]:
    """Cells: whether it holds, the difference, seeds, topics."""
    if difference is None or difference.mean is None:
        return ["cannot be said", "", "0", str(table.topics)]
    form, count = METRICS[metric][1], len(difference.per_seed)
    interval = difference.over_topics_and_seeds if count > 1 else difference.over_topics
    holds = ("yes" if difference.mean > 0 else "no") + ("" if interval.excludes_0 else ", may be chance")
    ours = f"{number(difference.mean, f'+{form}')} {bounds(interval, form)}"
    return [holds, ours, str(count), str(table.topics)]


def _short(commit: str) -> str:
    name, _, state = commit.partition("-")
    return name[:8] + (f"-{state}" if state else "")


def _tables_of(file: Path) -> str:
    """Tables of the papers that an experiment's file names."""
    rows = yaml.safe_load(file.read_bytes()).get("paper", {}).values()
    return "; ".join(dict.fromkeys(row["table"] for row in rows))


def _order(file: Path, name: str) -> tuple[bool, bool, list[str | int], str]:
    """Place of an experiment among the others: by its tables of the papers, those without any last."""
    paper = _tables_of(file)
    parts = [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", paper)]
    return name != FIRST, not paper, parts, name


def main(argv: list[str]) -> None:
    """Take what is given and write the page. Raises UserError."""
    parser = Parser("results", __doc__, "[FOLDER ...]")
    parser.add_argument("folders", metavar="FOLDER", nargs="*", help="folder of an experiment or of analyses")
    for folder in parser.parse_args(argv).folders:
        print(take(Path(folder), DOCS / "results"))
    target = DOCS / "results.md"
    files.write_whole(target, page().encode())
    print(target)


if __name__ == "__main__":
    cli.start(main)
