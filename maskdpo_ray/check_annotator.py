"""Whether an annotator keeps the protocol: try yours before a run does.

python -m maskdpo_ray.check_annotator --config mine.yaml --annotation.annotator python:my_package.my_module:MyAnnotator
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from maskdpo_ray import annotators, cli, questions
from maskdpo_ray.annotators import Annotator, conformance
from maskdpo_ray.config import Config
from maskdpo_ray.errors import UserError, printable
from maskdpo_ray.records import Annotation, Question, Rollout
from maskdpo_ray.unparsed import UnparsedShare

NUM_QUESTIONS = 8
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
"""Texts that a policy does sample, and that annotators trip over."""


@dataclass(frozen=True)
class Finding:
    """One thing that was tried."""

    tried: str
    fault: str | None
    """One line, None when all was well."""
    must: bool = True
    """False for what a run survives."""
    note: str = ""
    """What else there is to say when all was well."""


def check(annotator: Annotator, asked: Sequence[Question], config: Config, start: bool = True) -> Iterator[Finding]:
    """Start the config's annotator and try it on `ANSWERS` to each question; findings come as they are made.

    Without `start` only what can be tried before that.
    """
    yield Finding("check() takes every question", _fault(lambda: [annotator.check(question) for question in asked]))
    yield Finding("it can be pickled before start()", _fault(lambda: pickle.dumps(annotator)))
    if not start:
        return
    if fault := _fault(annotator.start):
        yield Finding("start()", fault)
        return
    yield Finding("start()", None)
    items = [
        (question, Rollout(question.id, sample, (), text, "stop", 0))
        for question in asked
        for sample, text in enumerate(ANSWERS)
    ]
    labelled: list[Annotation] = []

    def annotate() -> None:
        labelled.extend(_annotate(annotator, items))

    yield Finding("no answers: no annotations", _fault(lambda: _annotate(annotator, [])))
    start = time.perf_counter()
    fault = _fault(annotate)
    counts = ", ".join(f"{count} {label}" for label, count in _labels(labelled).most_common())
    note = f"{(time.perf_counter() - start) / len(items):.3g} s an answer; {counts or 'no sentence'}"
    yield Finding(f"{len(items)} answers in one call: spans and labels", fault, note=note)
    if fault:
        return
    highest = f"at most {config.annotation.max_unparsed:.0%} of the sentences unparsed"
    yield Finding(highest, _fault(lambda: UnparsedShare(config, {}).take(labelled)))
    for tried, again in (
        ("the same answers again: the same labels", lambda: _annotate(annotator, items)),
        ("one answer a call: the same labels", lambda: [_annotate(annotator, [item])[0] for item in items]),
        ("in reverse: the same labels", lambda: _annotate(annotator, items[::-1])[::-1]),
    ):
        yield Finding(tried, _fault(lambda again=again: _compare(labelled, again())), must=False)


def _annotate(annotator: Annotator, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
    annotations = annotator.annotate(items)
    conformance.refuse_faults(items, annotations)
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


def _fault(attempt: Callable[[], object]) -> str | None:
    """What went wrong, as one line; None when nothing did."""
    try:
        attempt()
    except UserError as error:
        return str(error)
    except (Exception, SystemExit) as error:  # this is about code that we don't know
        return f"{type(error).__name__}: {error}"
    return None


def main(argv: list[str]) -> None:
    """Print what was tried, with --dry_run without starting it; raise SystemExit(1) when what a run needs failed."""
    command = cli.parse(argv)
    config = command.config
    annotator = annotators.build(config.annotation.annotator, config.annotation.options)
    asked = questions.load(config.data.train)[:NUM_QUESTIONS]
    print(f"{config.annotation.annotator} on {len(asked)} questions of {config.data.train}")
    failed = 0
    for finding in check(annotator, asked, config, start=not command.dry_run):
        verdict = "ok" if finding.fault is None else "FAILED" if finding.must else "note"
        failed += verdict == "FAILED"
        remark = printable(" ".join((finding.fault or finding.note).split()))
        print(f"{verdict:>8}  {finding.tried}" + (f": {remark}" if remark else ""), flush=True)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        main(sys.argv[1:])
    except UserError as error:
        cli.fail(error)
