"""Build short factual questions with standard and wrong answers from an encyclopedia's entries, as FactualBench (SMA).

python -m maskdpo_ray.build_questions entries.jsonl -o questions --judge http \\
    --judge_options "{base_url: http://127.0.0.1:8000/v1, model: judge}"
python -m maskdpo_ray.build_questions builtin:countries -o questions

FOLDER then holds train.jsonl, test.jsonl and summary.json. Killed or stopped, the same command resumes: replies.jsonl
there keeps all that the judge replied.
"""

from __future__ import annotations

import difflib
import threading
from argparse import ArgumentTypeError, Namespace
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

from maskdpo_ray.annotation.llm import judge as judges
from maskdpo_ray.annotation.llm.judge import Conversation, Judge
from maskdpo_ray.config import cli, hub_name, suggestions
from maskdpo_ray.config.cli import Parser, number, share
from maskdpo_ray.config.file import from_text
from maskdpo_ray.config.schema import DataConfig
from maskdpo_ray.data.builders import entries as entries_file
from maskdpo_ray.data.builders import judged, steps, templates
from maskdpo_ray.data.builders.drafts import Maker
from maskdpo_ray.data.builders.entries import Entry
from maskdpo_ray.data.builders.steps import Tally
from maskdpo_ray.data.domains import short
from maskdpo_ray.data.dropped import Dropped, counted
from maskdpo_ray.errors import ConfigError, DataError, RunFolderError, shown
from maskdpo_ray.records import Question, encode_line
from maskdpo_ray.stages import hub_models
from maskdpo_ray.store import files
from maskdpo_ray.store.reply_log import Asked, ReplyLog
from maskdpo_ray.terminal import SHORT, track

_LONGEST_REPLY = max(judged.GENERATION_TOKENS, judged.CLASSIFICATION_TOKENS, judged.QUALITY_TOKENS)
_FIELD = "build_questions"
"""Beginning of a judge's options in errors."""
_REPLIES = "replies.jsonl"
_BUILTIN = tuple(f"builtin:{domain}" for domain in short.DOMAINS)


def main(argv: list[str]) -> None:
    """Build the questions. Raises UserError."""
    own = _parser().parse_args(argv)
    options = _judge_options(own)
    folder = Path(own.output)
    _refuse(folder, own.entries)
    judge = None
    if own.judge is not None:
        options = hub_models.judge_options(own.judge, options, _FIELD)
        judge = judges.build(own.judge, options, _LONGEST_REPLY, _FIELD)
    dropped, tally = Dropped(own.entries, own.max_dropped, "--max_dropped"), Tally()
    given = _entries(own, dropped)
    fitting = list(steps.filtered(given, own.min_views, tally))
    if own.dry_run:
        print(f"{own.entries}: {len(given)} entries, {len(fitting)} of them with a description that is long enough")
    else:
        _make_folder(folder)
        asked = Asked(own.judge, hub_name.portable(options) if judge is not None else {"entries": own.entries})
        with closing(_Asking(judge)) as ask, ReplyLog(folder / _REPLIES, asked, ask) as log:
            if len(log):
                print(f"resumed: {log.path} holds {len(log)} replies", flush=True)
            maker = _maker(own, log)
            found = track(steps.accepted(fitting, maker, tally), "build_questions", len(fitting), delay=SHORT)
            placed = steps.merged(list(chain.from_iterable(found)), tally, own.min_domain)
            _write(folder, *steps.split(placed, own.num_test, own.seed), dropped, tally)
    print(*dropped.lines(), sep="\n", end="\n" if dropped.counts else "")


def _write(folder: Path, train: list[Question], test: list[Question], dropped: Dropped, tally: Tally) -> None:
    """Write the files of the folder, and say what is in them."""
    if not train:
        raise DataError(f"{dropped.source}: expected questions to learn from, got none: {_in_words(tally, '; ')}")
    for name, questions in (("train", train), ("test", test)):
        files.write_whole(folder / f"{name}.jsonl", b"".join(map(encode_line, questions)))
    split = {"train": _by_domain(train), "test": _by_domain(test)}
    summary = {"dropped_entries": dropped.to_json()["drops"], **tally.to_json(), "split": split}
    files.write_whole(folder / "summary.json", encode_line(summary))
    print(_in_words(tally, "\n"))
    print(f"{len(train)} questions -> {folder / 'train.jsonl'}, {len(test)} -> {folder / 'test.jsonl'}")


def _in_words(tally: Tally, separator: str) -> str:
    steps_of = {"entries": tally.entries, "descriptions": tally.descriptions}
    steps_of |= {"questions": tally.generation, "quality": tally.quality}
    lines = []
    for name, step in steps_of.items():
        dropped = f"; dropped: {counted(step.drops)}" if step.drops else ""
        lines.append(f"{name}: {step.given - step.drops.total()} of {step.given}{dropped}")
    return separator.join(lines)


def _by_domain(questions: Iterable[Question]) -> dict[str, int]:
    return dict(sorted(Counter(str((question.facts or {})["domain"]) for question in questions).items()))


class _Asking:
    """The judge, started when it is first asked, so that a finished build starts none."""

    def __init__(self, judge: Judge | None) -> None:
        self._judge = judge
        self._lock = threading.Lock()
        self._started: Future[None] | None = None

    def __call__(self, conversation: Conversation, max_tokens: int) -> str | None:
        if self._judge is None:
            raise RuntimeError("a maker of tables asks nothing")
        self._start(self._judge)
        (reply,) = judges.ask(self._judge, [conversation], max_tokens)
        return None if reply.fault else reply.text

    def _start(self, judge: Judge) -> None:
        """Start it in the thread that comes first, for all of them. Raises UserError in each when that fails."""
        with self._lock:
            is_first = self._started is None
            started = self._started = self._started or Future()
        if is_first:
            try:
                judges.start(judge, _FIELD)
            except BaseException as error:
                started.set_exception(error)
            else:
                started.set_result(None)
        started.result()

    def close(self) -> None:
        if self._started is not None and self._judge is not None:
            self._judge.close()


def _entries(own: Namespace, dropped: Dropped) -> list[Entry]:
    """The entries of the file, or the topics of the built-in domain. Raises DataError."""
    if not own.entries.startswith("builtin:"):
        return list(entries_file.read(Path(own.entries), dropped))
    return templates.entries(own.entries.removeprefix("builtin:"))


def _maker(own: Namespace, log: ReplyLog) -> Maker:
    if own.judge is not None:
        return judged.JudgedMaker(log.ask, own.num_questions)
    return templates.TableMaker(own.entries.removeprefix("builtin:"), own.num_questions, own.seed)


def _judge_options(own: Namespace) -> dict[str, Any]:
    """Options of the judge. Raises ConfigError when there is a judge too few, or options too many."""
    is_builtin = own.entries.startswith("builtin:")
    if is_builtin and own.entries not in _BUILTIN:
        near = suggestions.sentence(difflib.get_close_matches(own.entries, _BUILTIN, n=1, cutoff=0.75))
        raise ConfigError(f"ENTRIES: expected {', '.join(_BUILTIN)} or a file, got {shown(own.entries)}{near}")
    if is_builtin and own.min_views:
        raise ConfigError(
            f"--min_views: expected 0 with {own.entries}, whose entries have no views, got {own.min_views}"
        )
    if own.judge is None and own.judge_options is not None:
        raise ConfigError(f"--judge_options: expected none without --judge, got {shown(own.judge_options)}")
    if own.judge is None and own.entries not in _BUILTIN:
        raise ConfigError(f"--judge: expected a judge, as only {' and '.join(_BUILTIN)} need none, got nothing")
    given = own.judge_options
    return from_text(given, "annotation.options", "judge_options").value or {} if given else {}


def _refuse(folder: Path, entries: str) -> None:
    """Raise DataError for a folder that this command must not write to."""
    for name in (_REPLIES, "train.jsonl", "test.jsonl", "summary.json"):
        if folder.is_dir():
            files.refuse_existing(folder / name, force=True, inputs=[entries])
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: expected a folder to write, got a file")
    files.refuse_in_run_folder(folder / _REPLIES)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _REPLIES).exists():
        raise DataError(
            f"{folder}: expected a new folder, or one that build_questions began, got one without {_REPLIES}"
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{folder}: can't be written: {error.strerror}") from error


def _count(text: str) -> int:
    if not number(text):
        raise ArgumentTypeError(f"expected a whole number above 0, got {shown(text)}")
    return number(text)


def _parser() -> Parser:
    parser = Parser("build_questions", __doc__, "ENTRIES -o FOLDER [options]")
    add = parser.add_argument
    add(
        "entries",
        metavar="ENTRIES",
        help=f"{', '.join(_BUILTIN)}, or a file of {{title, description, and maybe views, language}}",
    )
    add("-o", "--output", metavar="FOLDER", required=True, help="where the questions go; resumed if it is there")
    add("--judge", metavar="JUDGE", help="vllm, http or python:package.module:Class; built-in entries need none")
    add("--judge_options", metavar="OPTIONS", help="its keyword arguments, as YAML: {name: value}")
    add("--num_questions", metavar="N", type=_count, default=3, help="most questions of an entry [default: 3]")
    add("--min_views", metavar="N", type=number, default=0, help="drop entries with fewer (SMA: 500000) [default: 0]")
    add(
        "--min_domain",
        metavar="N",
        type=number,
        default=0,
        help="domains with fewer questions count as others (SMA: 500) [default: 0]",
    )
    add(
        "--num_test",
        metavar="N",
        type=number,
        default=150,
        help="test questions of a domain, at most a third of its own (SMA: 150 to 202) [default: 150]",
    )
    add("--seed", metavar="N", type=number, default=0, help="draws the test entries [default: 0]")
    add(
        "--max_dropped",
        metavar="SHARE",
        type=share,
        default=DataConfig.max_dropped,
        help=f"as data.max_dropped [default: {DataConfig.max_dropped}]",
    )
    add("--dry_run", action="store_true", help="check the options and the entries, and stop")
    return parser


if __name__ == "__main__":
    cli.start(main)
