"""Try an annotator on odd answers before a run does: whether it keeps the protocol, and how fast it is.

python -m maskdpo_ray.check_annotator --config mine.yaml --annotation.annotator python:my_package.my_module:MyAnnotator
python -m maskdpo_ray.check_annotator --config mine.yaml --labelled response.jsonl --split test --sample 500

With --labelled it also measures how far its labels agree with those of a labelled set: RAGTruth's response.jsonl (with
source_info.jsonl beside it), PsiloQA's, ANAH's, or a file of `annotate` whose labels you have corrected.
"""

from __future__ import annotations

import multiprocessing
import pickle
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import cloudpickle

from maskdpo_ray.annotation import labelled_sets, protocol, replies
from maskdpo_ray.annotation.labelled_sets import LabelledSet
from maskdpo_ray.annotation.protocol import Annotator
from maskdpo_ray.config import cli
from maskdpo_ray.config.cli import Parser, number
from maskdpo_ray.config.schema import Config
from maskdpo_ray.data.dropped import Dropped
from maskdpo_ray.errors import ConfigError, UserError, fault_of
from maskdpo_ray.evaluation import agreement
from maskdpo_ray.records import Annotation, Question, Rollout
from maskdpo_ray.report import agreement as report
from maskdpo_ray.stages import hub_models, preflight
from maskdpo_ray.stages.watch import Watch
from maskdpo_ray.terminal import Finding, show_findings

RESUMES = False
"""It keeps nothing that a second call could resume from."""
NUM_QUESTIONS = 8
BATCH = 64
"""Labelled answers that are labelled in one call."""
UNPICKLED, STARTED = "it can be unpickled in another process", "start()"
ANSWERS = (
    "",
    " \n\t ",
    "Yes.",
    "It is a country in Africa. Its capital is Kigali. It has 13.5 million people, e.g. in the U.S. Embassy.",
    "1. First fact.\n2. Second fact: the river is 3.4 km long\n\n- **Bold** claim\n- `code`\n\n# Heading\n",
    "The first sentence is whole. The second one was cut off in the mid",
    "卢旺达是非洲的一个国家。首都是基加利！你知道吗？",
    "Zoë’s café served “naïve” 🦒 soup… and then?! No.",
    "The same sentence. The same sentence. The same sentence.",
    "word " * 500,
    "It borders Uganda. " * 120,
)
"""Texts of the kinds that policies sample and annotators trip over."""


def main(argv: list[str]) -> None:
    """Print what was tried, with --dry_run without starting it; raise SystemExit(1) when what a run needs failed."""
    command = hub_models.local(_parser().parse(argv), sections=["annotation"])
    config, own = command.config, command.own
    annotator = protocol.build(config.annotation.annotator, config.annotation.options)
    source = config.data.train
    asked = preflight.questions_of(config.data, source, Dropped(source, config.data.max_dropped))
    labelled = None
    if own.labelled is not None:
        source = own.labelled
        labelled = _sampled(_load(source, asked, config, own.split), own.sample)
        asked = list({each.question.id: each.question for each in labelled.answers}.values())
    elif own.split is not None or own.sample is not None:
        raise ConfigError("--labelled: expected a labelled set for --split and --sample, got none")
    asked = asked[:NUM_QUESTIONS]
    print(f"{config.annotation.annotator} on {len(asked)} questions of {source}")
    show_findings(check_apart(annotator, asked, config, not command.dry_run, labelled))


def _parser() -> Parser:
    parser = Parser("check_annotator", __doc__, "[--labelled FILE]")
    parser.add_argument("--labelled", metavar="FILE", help="labelled set to measure agreement with")
    parser.add_argument("--split", metavar="NAME", help="only its answers whose field `split` is NAME")
    parser.add_argument("--sample", metavar="N", type=number, help="only N answers of it, drawn by a fixed seed")
    return parser.add_config(is_listed=True)


def _load(file: str, asked: Sequence[Question], config: Config, split: str | None) -> LabelledSet:
    dropped = Dropped(file, config.data.max_dropped)
    found = labelled_sets.load(Path(file), asked, dropped, split)
    for line in dropped.lines():
        print(line)
    return found


def _sampled(labelled: LabelledSet, most: int | None) -> LabelledSet:
    """`most` of the answers, in their order."""
    answers = labelled.answers
    if most is None or most >= len(answers):
        return labelled
    places = sorted(random.Random(0).sample(range(len(answers)), max(most, 1)))
    return LabelledSet(labelled.layout, [answers[place] for place in places])


@dataclass(frozen=True)
class Try:
    """One thing to try."""

    tried: str
    attempt: Callable[[], object]
    limit_s: float
    must: bool = True
    is_last: bool = False
    """Whether a failure makes the tries after it pointless."""
    note: Callable[[], str] = str
    details: Callable[[], str] = str

    def made(self) -> Finding:
        """Try it, and return the finding."""
        fault = fault_of(self.attempt)
        note, details = (self.note(), self.details()) if fault is None else ("", "")
        return Finding(self.tried, fault, self.must, note, details)


def tries(
    annotator: Annotator,
    asked: Sequence[Question],
    config: Config,
    start: bool = True,
    labelled: LabelledSet | None = None,
) -> Iterator[Try]:
    """Tries of the config's annotator on `ANSWERS` to each question, then on the answers of a labelled set; without
    `start` only those before that."""
    limit_s = config.cluster.step_timeout_s * max(1, len(asked))
    yield Try("check() takes every question", lambda: [annotator.check(question) for question in asked], limit_s)
    if not start:
        return
    yield Try(STARTED, annotator.start, config.cluster.start_timeout_s, is_last=True)
    items = [
        (question, Rollout(question.id, sample, (), text, "stop", 0))
        for question in asked
        for sample, text in enumerate(ANSWERS)
    ]
    yield Try("no answers: no annotations", lambda: _annotate(annotator, []), limit_s)
    given: list[Annotation] = []
    begin = time.perf_counter()

    def note() -> str:
        counts = ", ".join(f"{count} {label}" for label, count in _labels(given).most_common())
        return f"{(time.perf_counter() - begin) / len(items):.3g} s an answer; {counts or 'no sentence'}"

    tried = f"{len(items)} answers in one call: spans and labels"
    yield Try(tried, lambda: given.extend(_annotate(annotator, items)), limit_s, is_last=True, note=note)
    highest = f"at most {config.annotation.max_unparsed:.0%} of the sentences unparsed"
    yield Try(highest, lambda: Watch(config, {}).check_unparsed(given), limit_s)
    for tried, again in (
        ("the same answers again: the same labels", lambda: _annotate(annotator, items)),
        ("one answer a call: the same labels", lambda: [_annotate(annotator, [item])[0] for item in items]),
        ("in reverse: the same labels", lambda: _annotate(annotator, items[::-1])[::-1]),
    ):
        yield Try(tried, lambda again=again: _compare(given, again()), limit_s, must=False)
    if labelled is not None:
        yield _agreement(annotator, labelled, config)


def _agreement(annotator: Annotator, labelled: LabelledSet, config: Config) -> Try:
    """Label a labelled set's answers, and compare."""
    found: list[Annotation] = []

    def attempt() -> None:
        items = [(each.question, each.answer) for each in labelled.answers]
        for question in {question.id: question for question, _ in items}.values():
            annotator.check(question)
        for first in range(0, len(items), BATCH):
            found.extend(_annotate(annotator, items[first : first + BATCH]))

    def details() -> str:
        return report.render(agreement.compare(labelled.layout, labelled.answers, found))

    tried = f"agreement with {len(labelled.answers)} labelled answers ({labelled.layout.name})"
    return Try(tried, attempt, config.cluster.step_timeout_s * len(labelled.answers), details=details)


def check(
    annotator: Annotator,
    asked: Sequence[Question],
    config: Config,
    start: bool = True,
    labelled: LabelledSet | None = None,
) -> Iterator[Finding]:
    """Make all `tries`, one finding each."""
    made = tries(annotator, asked, config, start, labelled)
    yield from (each for each in _steps(made) if isinstance(each, Finding))


def _steps(made: Iterable[Try]) -> Iterator[tuple[str, float] | Finding]:
    """(what is tried, seconds that it has), and then its finding, for each try."""
    for each in made:
        yield each.tried, each.limit_s
        finding = each.made()
        yield finding
        if finding.fault and each.is_last:
            return


def check_apart(
    annotator: Annotator,
    asked: Sequence[Question],
    config: Config,
    start: bool = True,
    labelled: LabelledSet | None = None,
) -> Iterator[Finding]:
    """`check` in a process of its own, like an actor's: that it ends, or hangs, is a finding too."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    arguments = (sender, cloudpickle.dumps(annotator), asked, config, start, labelled)
    process = context.Process(target=_try_all, args=arguments)
    tried, limit_s = UNPICKLED, config.cluster.start_timeout_s
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # by the child, too: Ctrl-C is the parent's to answer
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    sender.close()
    try:
        while True:
            if not receiver.poll(limit_s):
                which = "start" if tried in (UNPICKLED, STARTED) else "step"
                yield Finding(tried, f"no end within {limit_s:.0f} s (cluster.{which}_timeout_s)")
                return
            try:
                message = receiver.recv()
            except EOFError:
                process.join()
                yield Finding(tried, f"its process ended, with code {process.exitcode}")
                return
            if message is None:
                return
            if isinstance(message, Finding):
                yield message
            else:
                tried, limit_s = message
    finally:
        process.kill()
        process.join()


def _try_all(
    sender: Connection,
    pickled: bytes,
    asked: Sequence[Question],
    config: Config,
    start: bool,
    labelled: LabelledSet | None,
) -> None:
    """Unpickle the annotator, send all `_steps`, and None at the end."""
    found: list[Annotator] = []
    unpickling = Try(UNPICKLED, lambda: found.append(pickle.loads(pickled)), 0)
    finding = unpickling.made()
    for message in [finding] if finding.fault else _steps(tries(found[0], asked, config, start, labelled)):
        sender.send(message)
    sender.send(None)


def _annotate(annotator: Annotator, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
    annotations = annotator.annotate(items)
    replies.refuse_annotation_faults(items, annotations)
    return annotations


def _compare(first: Sequence[Annotation], second: Sequence[Annotation]) -> None:
    differ = [one for one, other in zip(first, second, strict=True) if _spans(one) != _spans(other)]
    if differ:
        where = f"question {differ[0].question_id!r}, answer {differ[0].sample}"
        raise UserError(f"{len(differ)} of {len(first)} answers got other labels, the first: {where}")


def _spans(annotation: Annotation) -> list[tuple[int, int, str]]:
    return [(sentence.start, sentence.end, sentence.label) for sentence in annotation.sentences]


def _labels(annotations: Iterable[Annotation]) -> Counter[str]:
    return Counter(sentence.label for annotation in annotations for sentence in annotation.sentences)


if __name__ == "__main__":
    cli.start(main, resumes=RESUMES)
