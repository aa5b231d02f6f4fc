"""Try an annotator on odd answers before a run does: whether it keeps the protocol, and how fast it is.

python -m maskdpo_ray.check_annotator --config mine.yaml --annotation.annotator python:my_package.my_module:MyAnnotator
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import cloudpickle

from maskdpo_ray.annotation import protocol, replies
from maskdpo_ray.annotation.protocol import Annotator
from maskdpo_ray.config import cli
from maskdpo_ray.config.schema import Config
from maskdpo_ray.data import questions
from maskdpo_ray.data.dropped import Dropped
from maskdpo_ray.errors import UserError, fault_of
from maskdpo_ray.records import Annotation, Question, Rollout
from maskdpo_ray.stages import hub_models
from maskdpo_ray.stages.watch import Watch
from maskdpo_ray.terminal import Finding, show_findings

RESUMES = False
"""It keeps nothing that a second call could resume from."""
NUM_QUESTIONS = 8
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
    command = hub_models.local(cli.parse(argv, "check_annotator", __doc__), sections=["annotation"])
    config = command.config
    annotator = protocol.build(config.annotation.annotator, config.annotation.options)
    source = config.data.train
    asked = questions.load(source, Dropped(source, config.data.max_dropped))[:NUM_QUESTIONS]
    print(f"{config.annotation.annotator} on {len(asked)} questions of {config.data.train}")
    show_findings(check_apart(annotator, asked, config, start=not command.dry_run))


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

    def made(self) -> Finding:
        """Try it, and return the finding."""
        fault = fault_of(self.attempt)
        return Finding(self.tried, fault, self.must, self.note() if fault is None else "")


def tries(annotator: Annotator, asked: Sequence[Question], config: Config, start: bool = True) -> Iterator[Try]:
    """Tries of the config's annotator on `ANSWERS` to each question; without `start` only those before that."""
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
    labelled: list[Annotation] = []
    begin = time.perf_counter()

    def note() -> str:
        counts = ", ".join(f"{count} {label}" for label, count in _labels(labelled).most_common())
        return f"{(time.perf_counter() - begin) / len(items):.3g} s an answer; {counts or 'no sentence'}"

    tried = f"{len(items)} answers in one call: spans and labels"
    yield Try(tried, lambda: labelled.extend(_annotate(annotator, items)), limit_s, is_last=True, note=note)
    highest = f"at most {config.annotation.max_unparsed:.0%} of the sentences unparsed"
    yield Try(highest, lambda: Watch(config, {}).check_unparsed(labelled), limit_s)
    for tried, again in (
        ("the same answers again: the same labels", lambda: _annotate(annotator, items)),
        ("one answer a call: the same labels", lambda: [_annotate(annotator, [item])[0] for item in items]),
        ("in reverse: the same labels", lambda: _annotate(annotator, items[::-1])[::-1]),
    ):
        yield Try(tried, lambda again=again: _compare(labelled, again()), limit_s, must=False)


def check(annotator: Annotator, asked: Sequence[Question], config: Config, start: bool = True) -> Iterator[Finding]:
    """Make all `tries`, one finding each."""
    yield from (each for each in _steps(annotator, asked, config, start) if isinstance(each, Finding))


def _steps(
    annotator: Annotator, asked: Sequence[Question], config: Config, start: bool
) -> Iterator[tuple[str, float] | Finding]:
    """(what is tried, seconds that it has), and then its finding, for each try."""
    for each in tries(annotator, asked, config, start):
        yield each.tried, each.limit_s
        finding = each.made()
        yield finding
        if finding.fault and each.is_last:
            return


def check_apart(
    annotator: Annotator, asked: Sequence[Question], config: Config, start: bool = True
) -> Iterator[Finding]:
    """`check` in a process of its own, like an actor's: that it ends, or hangs, is a finding too."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    arguments = (sender, cloudpickle.dumps(annotator), asked, config, start)
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


def _try_all(sender: Connection, pickled: bytes, asked: Sequence[Question], config: Config, start: bool) -> None:
    """Unpickle the annotator, send all `_steps`, and None at the end."""
    found: list[Annotator] = []
    unpickling = Try(UNPICKLED, lambda: found.append(pickle.loads(pickled)), 0)
    finding = unpickling.made()
    for message in [finding] if finding.fault else _steps(found[0], asked, config, start):
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
