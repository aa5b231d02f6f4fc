"""The page of a run, or of several side by side: one HTML file that needs nothing else.

At most `MOST_BYTES` whatever the run's size: answers and pairs are drawn, and the page says how. Everything that comes
from models, annotators and files goes through Jinja's autoescaping and `passages.visible`; a content security policy
in the page lets no script run but its own, and no request leave it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import jinja2

from maskdpo_ray.config import cli
from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import RunFolderError, UserError, one_line
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.records import LABELS, Question, decode
from maskdpo_ray.report import comparison, figures, plots, provenance, summary
from maskdpo_ray.report.changes import NUM_EXTREMES, Change, Changes
from maskdpo_ray.report.figures import Steps
from maskdpo_ray.report.passages import visible
from maskdpo_ray.report.provenance import Provenance
from maskdpo_ray.report.remarks import in_focus
from maskdpo_ray.report.tables import number
from maskdpo_ray.report.trained_pairs import Collected
from maskdpo_ray.report.verdict import Verdict, verdict
from maskdpo_ray.store import files
from maskdpo_ray.store.question_log import log_path
from maskdpo_ray.terminal import quiet

MOST_BYTES = 5_000_000
_MOST_ANSWERS = 300
_ANSWERS_BYTES, _PAIRS_BYTES = 2_500_000, 1_000_000
_PAIRS_EACH = 8
"""Pairs of an iteration."""
_PAIRS_RULE = (
    f"Of each iteration {_PAIRS_EACH} questions are drawn by a hash of their names, and one example of each reason for "
    "which a pair was dropped."
)
_MOST_ITERATIONS = 12
_SPLITS = ("heldout", "transfer")
_DARK = {
    "ink": "#e7ebef",
    "muted": "#a3adb8",
    "grid": "#343b43",
    "one": "#7db2ff",
    "two": "#f0a070",
    "three": "#7fd6a0",
    "four": "#c9a4ee",
    "five": "#ff9ca2",
    "six": "#d9d77a",
}
"""`plots.COLORS` on a dark ground."""
FILE = "report.html"


@dataclass(frozen=True)
class Run:
    """A run folder, as far as the page needs it."""

    folder: Path

    @cached_property
    def summary(self) -> dict[str, Any]:
        """`summary.build`. Raises RunFolderError."""
        return summary.build(self.folder)

    @cached_property
    def name(self) -> str:
        """`run.name`."""
        return visible(str(self.summary["run"]), 100)

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict on the run, its text safe to show."""
        found = verdict(self.summary)
        return Verdict(
            found.outcome,
            visible(found.headline, 400),
            [_readable(each) for each in found.sentences],
            found.tiles,
            found.ship,
            None if found.policy is None else visible(found.policy, 400),
            [_readable(each) for each in found.warnings],
        )

    @cached_property
    def steps(self) -> Steps:
        """metrics.jsonl. Raises RunFolderError."""
        return Steps.read(self.folder)

    @cached_property
    def provenance(self) -> Provenance:
        """How it was made. Raises RunFolderError."""
        return provenance.read(self.folder)

    @property
    def newest(self) -> int | None:
        """The policy that is shown against another: the kept one, or the last where that is the first."""
        versions = self.summary["evaluations"].get("heldout") or []
        return in_focus(versions, self.summary["kept"])["version"] if versions else None

    def log(self, split: str, version: int) -> Path:
        """Log of a policy's answers to a split."""
        return self.folder / log_path(version, split)

    def asked(self, split: str) -> dict[str, Question]:
        """The questions of a split by their ids; none in a folder of an earlier version. Raises RunFolderError."""
        file = self.folder / f"eval_000/{split}-asked.jsonl"
        lines = files.read_lines(file, lambda line: decode(Question, line))
        return {question.id: question for question, _ in lines}

    @property
    def about(self) -> str:
        """Model, data and sizes behind the figures, in a line."""
        options = {option.name: option.value for option in self.provenance.options}
        held = (self.summary["evaluations"].get("heldout") or [None])[0]
        if held is None:
            return ""
        return visible(
            f"{options.get('model.model_name_or_path')}, trained on {options.get('data.train')}; held-out: "
            f"{held['topics']} topics that no training question is about, {held['questions']} questions, "
            f"{held['replications']} answers each. Score: correct sentences / sentences, mean over answers; in "
            "brackets 95% intervals over topics.",
            600,
        )

    @property
    def failures(self) -> list[str]:
        """Failed questions of each iteration, in words."""
        found = []
        for each in self.summary["pairs"]:
            if each["failed_example"]:
                count = each["drops"].get("failed", 0)
                found.append(f"iteration {each['iteration']}: {count} questions failed: {each['failed_example']}")
        return [visible(line, 500) for line in found]

    def collected(self) -> list[Collected]:
        """The logs of the first iteration and of the last ones. Raises RunFolderError."""
        numbers = [each["iteration"] for each in self.summary["pairs"]]
        kept = numbers if len(numbers) <= _MOST_ITERATIONS else [numbers[0], *numbers[1 - _MOST_ITERATIONS :]]
        logs = {number: self.folder / log_path(number) for number in kept}
        return [Collected.read(number, log, _PAIRS_EACH) for number, log in logs.items() if log.is_file()]

    def config(self) -> Config | str:
        """The config, or why it can't be read here: it names files, say, that are not at hand."""
        try:
            return cli.read(self.folder / "config.yaml")
        except UserError as error:
            return one_line(error)

    def tokenizer(self) -> Any | str:
        """The tokenizer of one of its policies, or why there is none here."""
        places = sorted(self.folder.glob("iter_*/policy"), reverse=True)
        config = self.config()
        if isinstance(config, str):
            return config
        for place in [*places, Path(config.model.model_name_or_path)]:
            if (place / "tokenizer.json").is_file() or (place / "tokenizer_config.json").is_file():
                try:
                    with quiet():
                        return model_folder.read_tokenizer(place, config.model.trust_remote_code)
                except UserError as error:
                    return one_line(error)
        return "no tokenizer is at hand: the folder holds no policy, and the model that it began with isn't here"


def of_run(folder: Path, progress: str = "", stamp: str = "") -> str:
    """The page of one run.

    Args:
        folder: the run folder, finished or not.
        progress: what it does now, in a line.
        stamp: of a page that is served: what `/stamp` answers while nothing is new.

    Raises RunFolderError for a folder that holds no run, or a damaged file.
    """
    run = Run(folder)
    names = ("Before", "After")
    changes, logs = [], run.collected()
    newest = run.newest
    if newest:
        names = ("Before training", f"Policy {newest}")
        both = [(split, run.log(split, 0), run.log(split, newest)) for split in _SPLITS]
        changes = [Changes(*each, run.asked(each[0])) for each in both if each[1].is_file() and each[2].is_file()]
    training = figures.training({run.name: run.steps})
    collected = [each for each in (figures.pairs(run.summary), figures.gaps(_gaps(logs))) if each]
    parts = [
        ("Evaluations", "Bars are 95% intervals over topics; the ring is the kept policy.", _evaluated([run])),
        ("Training", "Dashed: where an iteration begins, with a new reference.", training),
        ("Pairs", "", collected),
        ("Time", _idle(run.summary), [each for each in [figures.timeline(run.steps)] if each]),
    ]
    return _render(
        title=run.name,
        verdicts=[("", run.verdict)],
        curves=[part for part in parts if part[2]],
        changes=changes,
        names=names,
        collected=_collected(run, logs),
        runs=[run],
        progress=progress,
        stamp=stamp,
    )


def of_runs(folders: Sequence[Path]) -> str:
    """The page of several runs side by side; answers are those of the kept policies of the first two.

    Raises RunFolderError for a folder that holds no finished run, or a damaged file.
    """
    runs = [Run(folder) for folder in folders]
    labels = _labels(runs)
    table, notes = _compared(folders, labels)
    first, second = runs[:2]
    changes = []
    if first.newest is not None and second.newest is not None:
        both = [(split, first.log(split, first.newest), second.log(split, second.newest)) for split in _SPLITS]
        changes = [Changes(*each, first.asked(each[0])) for each in both if each[1].is_file() and each[2].is_file()]
    named = dict(zip(labels, runs, strict=True))
    steps = {label: run.steps for label, run in named.items()}
    parts = [
        ("Evaluations", "Held-out topics; bars are 95% intervals.", _evaluated(runs, labels)),
        ("Training", "", figures.training(steps)),
    ]
    return _render(
        title=" and ".join(labels),
        verdicts=[(label, run.verdict) for label, run in named.items()],
        table=table,
        table_notes=notes,
        curves=[part for part in parts if part[2]],
        changes=changes,
        names=(labels[0], labels[1]),
        collected=[],
        runs=runs,
        labels_of_runs=labels,
    )


def write(folder: Path, target: Path | None = None) -> Path:
    """Write the page of the run in `folder`, as its report.html unless `target` says otherwise; returns its path.

    Raises RunFolderError.
    """
    target = folder / FILE if target is None else target
    files.write_whole(target, of_run(folder).encode("utf-8", "backslashreplace"))
    return target


def _readable(remark: str) -> str:
    """A remark, written for a terminal, as a page shows it."""
    text = visible(remark, 600).replace(" -> ", " → ")
    return text.replace("heldout, ", "held-out, ", 1)


def _labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run that no other one has."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else visible(str(run.folder), 100) for name, run in zip(names, runs, strict=True)
    ]


def _compared(folders: Sequence[Path], labels: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """The rows of the table, and whether the runs of a seed learned from the same pairs."""
    found = [comparison.FinishedRun.read(folder) for folder in folders]
    rows = [["", *labels], *([visible(cell, 300) for cell in row] for row in comparison.rows_of_runs(found))]
    return rows, [visible(line, 300) for line in comparison.table(found) if line and not line.startswith("|")]


def _evaluated(runs: Sequence[Run], labels: Sequence[str] | None = None) -> list[plots.Plot]:
    names = [run.name for run in runs] if labels is None else labels
    return figures.evaluations({name: run.summary for name, run in zip(names, runs, strict=True)})


def _policies(run: Run) -> list[list[str]]:
    """A table of all policies: figures, folder and which one is kept."""
    versions, kept = run.summary["evaluations"].get("heldout") or [], run.summary["kept"]
    told = {each["version"]: each["score"] for each in (kept or {}).get("candidates") or []}
    rows = [["policy", "held-out score", "gain", "recall", "correct", "incorrect", "development score", "folder"]]
    for each in versions:
        metrics, gain, version = each["metrics"], each["gain"], each["version"]
        score = metrics["score"]
        interval = "" if score["low"] is None else f" [{score['low']:.3f}, {score['high']:.3f}]"
        change = (gain or {}).get("score") or {}
        bounds = "" if change.get("low") is None else f" [{change['low']:+.3f}, {change['high']:+.3f}]"
        folder = run.folder / f"iter_{version - 1:03d}" / "policy" if version else "the model that it began with"
        rows.append(
            [
                f"{version}{' (kept)' if kept and kept['version'] == version else ''}",
                number(score["mean"], absent="-") + interval,
                number(change.get("gain"), "+.3f") + bounds,
                *(number(metrics[name]["mean"], form, "-") for name, form in _OF_POLICY.items()),
                number(told.get(version), absent="-"),
                visible(str(folder), 300),
            ]
        )
    return rows if versions else []


_OF_POLICY = {"recall": ".3f", "correct_facts": ".2f", "incorrect_facts": ".2f"}


def _gaps(logs: Sequence[Collected]) -> dict[str, list[int]]:
    """Gaps of the first and the last iteration: more lines than these hide each other."""
    ends = dict.fromkeys([logs[0].iteration, logs[-1].iteration]) if logs else {}
    return {f"iteration {log.iteration}": log.gaps for log in logs if log.iteration in ends}


def _idle(found: dict[str, Any]) -> str:
    """Idle shares of the newest iteration, in words."""
    if not found["idle"]:
        return ""
    newest = found["idle"][-1]
    shares = ", ".join(f"{group} {share:.0%}" for group, share in newest.items() if group != "iteration")
    return visible(f"Idle share of actors in iteration {newest['iteration']}, its evaluation included: {shares}.", 400)


@dataclass(frozen=True)
class _Iteration:
    number: int
    summary: str
    html: str


def _collected(run: Run, logs: Sequence[Collected]) -> list[_Iteration]:
    """Drawn pairs and dropped questions of each iteration, the newest first, as far as there is room."""
    if not logs:
        return []
    tokenizer, config, left = run.tokenizer(), run.config(), _PAIRS_BYTES
    macros, found = _macros(), []
    counts = {each["iteration"]: each for each in run.summary["pairs"]}
    for log in reversed(logs):
        its = counts[log.iteration]
        drops = ", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in its["drops"].items())
        said = f"{its['pairs']} pairs of {its['questions']} questions" + (f"; dropped: {drops}" if drops else "")
        parts = [str(macros.dropped(each)) for each in log.examples()]
        if not isinstance(config, str):
            pairs = log.pairs(config.at(log.iteration), tokenizer, its["balance"])
            parts = [*(str(macros.trained(pair)) for pair in pairs), *parts]
        html, left = _within(parts, left)
        found.append(_Iteration(log.iteration, visible(said, 600), html))
    return found


def _within(parts: Iterable[str], most: int) -> tuple[str, int]:
    """The first parts, as many as `most` bytes hold, and how many bytes are left."""
    kept = []
    for part in parts:
        size = len(part.encode("utf-8", "backslashreplace"))
        if size > most:
            break
        most -= size
        kept.append(part)
    return "".join(kept), most


def _rows(changes: Sequence[Changes], names: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """(HTML, topic) of each change: the best and worst of each split, then their drawn ones in turn."""
    macros = _macros()
    readers = [(each.split, each.read()) for each in changes]
    extremes = [
        (split, row)
        for (split, reader), each in zip(readers, changes, strict=True)
        for row in islice(reader, each.num_extremes)
    ]
    for split, row in chain(extremes, _in_turn(readers)):
        yield str(macros.change(row, split, names)), row.topic


def _in_turn(readers: Sequence[tuple[str, Iterator[Change]]]) -> Iterator[tuple[str, Change]]:
    left = list(readers)
    while left:
        for split, reader in list(left):
            if (row := next(reader, None)) is None:
                left.remove((split, reader))
            else:
                yield split, row


def _render(
    *,
    changes: Sequence[Changes],
    names: tuple[str, str],
    runs: Sequence[Run],
    labels_of_runs: Sequence[str] | None = None,
    **values: Any,
) -> str:
    html, topics, left = list[str](), dict[str, None](), _ANSWERS_BYTES
    for row, topic in _rows(changes, names):
        left -= len(row.encode("utf-8", "backslashreplace"))
        if left < 0 or len(html) == _MOST_ANSWERS:
            break
        html.append(row)
        topics[topic] = None
    run_names = [run.name for run in runs] if labels_of_runs is None else labels_of_runs
    script = _text("page.js")
    page = (
        environment()
        .get_template("page.html")
        .render(
            **{"table": [], "table_notes": [], "progress": "", "stamp": "", **values},
            style=style(),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            changes="".join(html),
            names=names,
            rule=_rule(len(html), changes),
            pairs_rule=_PAIRS_RULE,
            about=[run.about for run in runs],
            policies=_policies(runs[0]) if len(runs) == 1 else [],
            topics=sorted(topics),
            labels=LABELS,
            splits=[each.split for each in changes],
            provenance=[(name, run.provenance) for name, run in zip(run_names, runs, strict=True)],
            restarts={name: run.summary["restarts"] for name, run in zip(run_names, runs, strict=True)},
            failures={name: run.failures for name, run in zip(run_names, runs, strict=True)},
        )
    )
    if (size := len(page.encode("utf-8", "backslashreplace"))) > MOST_BYTES:
        raise RunFolderError(f"{runs[0].folder}: expected a page of at most {MOST_BYTES:,} bytes, got {size:,}")
    return page


def _rule(shown: int, changes: Sequence[Changes]) -> str:
    total = sum(len(each) for each in changes)
    what = (
        f"The {NUM_EXTREMES} best and the {NUM_EXTREMES} worst changes of each set of questions come first, at most "
        "one of a question each"
    )
    moved = "; ".join(
        f"{each.split}: {better:,} better, {worse:,} worse, {same:,} the same"
        for each in changes
        for better, worse, same in [each.moved()]
    )
    if shown == total:
        return f"All {total:,} pairs of answers ({moved}). {what}."
    rest = "the others are drawn by a hash of their names"
    return f"{shown:,} of {total:,} pairs of answers (of all, {moved}). {what}; {rest}."


def style() -> str:
    """The style sheet of every page."""

    def variables(colors: dict[str, str]) -> str:
        return " ".join(f"--{name}: {color};" for name, color in colors.items())

    return _text("page.css").replace("{{ light }}", variables(plots.COLORS)).replace("{{ dark }}", variables(_DARK))


def _text(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


@cache
def environment() -> jinja2.Environment:
    """Templates, whose values are escaped."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    found.globals["visible"] = visible
    return found


def _macros() -> Any:
    """`parts.html`: rows are rendered one by one, so that the page's size is known before it is made."""
    return environment().get_template("parts.html").module
