"""Make preference pairs of answers and their labels, as the loop does.

python -m maskdpo_ray.pairs rollouts.jsonl labels.jsonl -o pairs.jsonl --config configs/quickstart.yaml
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby, islice, zip_longest
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from maskdpo_ray.annotation.replay import ReplayAnnotator
from maskdpo_ray.annotation.replies import refuse_annotation_faults
from maskdpo_ray.config import cli
from maskdpo_ray.config.cli import Parser
from maskdpo_ray.config.schema import Config
from maskdpo_ray.data import answers as answers_file
from maskdpo_ray.data.dropped import Dropped, Reason, counted, no_pair
from maskdpo_ray.data.jsonl import attempts, num_lines, record
from maskdpo_ray.data.tables import Found
from maskdpo_ray.errors import AnnotatorError, DataError, RecordError
from maskdpo_ray.models import thinking
from maskdpo_ray.pairing.examples import usable_pairs
from maskdpo_ray.records import Annotation, CommittedQuestion, Labelled, PreferencePair, Question, Rollout
from maskdpo_ray.stages import given_answers, hub_models
from maskdpo_ray.stages.preflight import Prepared, check
from maskdpo_ray.store import files
from maskdpo_ray.terminal import SHORT, track


def main(argv: list[str]) -> None:
    """Raises UserError."""
    command = hub_models.local(_parser().parse(argv))
    arguments = command.own
    output = Path(arguments.output)
    rollouts = Path(arguments.rollouts)
    annotations = None if arguments.annotations is None else Path(arguments.annotations)
    given = [rollouts] if annotations is None else [rollouts, annotations]
    files.refuse_existing(output, arguments.force, [*given, *command.files_read()])
    prepared = check(command.config)
    dropped = Dropped(rollouts, command.config.data.max_dropped)
    labelled = _labelled(rollouts, annotations, prepared, dropped)
    drops: Counter[str] = Counter()
    made = _pairs(labelled, command.config, prepared, drops)
    count = sum(1 for _ in made) if command.dry_run else files.write_new(output, made)
    done = "would go to" if command.dry_run else "->"
    print(f"{count} pairs {done} {output}" + (f"; dropped: {counted(drops)}" if drops else ""))
    for line in (*prepared.dropped_lines(), *dropped.lines()):
        print(line)


def _pairs(
    labelled: Iterator[Labelled], config: Config, prepared: Prepared, drops: Counter[str]
) -> Iterator[PreferencePair]:
    """The pairs; `drops` counts why the other questions gave none. Raises DataError when none did."""
    any_pair, num_questions = False, 0
    for item in labelled:
        num_questions += 1
        made, of_question = usable_pairs(item, config, prepared.chat.tokenizer)
        drops.update(reason.value for reason in of_question)
        for pair in made:
            any_pair = True
            yield pair
    if not any_pair:
        raise no_pair(num_questions, drops)


@dataclass(frozen=True)
class _Answer:
    where: str
    question: Question
    rollout: Rollout
    labels: Annotation


def _labelled(rollouts: Path, annotations: Path | None, prepared: Prepared, dropped: Dropped) -> Iterator[Labelled]:
    """One question at a time: its answers follow each other."""
    done: set[str] = set()

    def labelled(group: tuple[Question, Iterator[_Answer]]) -> Labelled:
        question, answers = group[0], list(group[1])
        where, of_question = answers[0].where, tuple(each.rollout for each in answers)
        if question.id in done:
            raise DataError(f"{where}: question_id: expected all answers to {question.id!r} together, got more")
        done.add(question.id)
        for name in ("sample", "policy_version"):
            values = [getattr(rollout, name) for rollout in of_question]
            if len(set(values)) != (len(values) if name == "sample" else 1):
                expected = "a number of its own for each answer" if name == "sample" else "one for all answers"
                message = f"{where}: {name}: expected {expected} to {question.id!r}, got {values}"
                raise RecordError(message, Reason.INVALID_FIELD)
        prompt_token_ids = tuple(prepared.chat.prompt_ids(question))
        return Labelled(question, prompt_token_ids, of_question, tuple(each.labels for each in answers))

    answers = _answers(rollouts, annotations, prepared, dropped)
    yield from dropped.sift(groupby(answers, key=lambda answer: answer.question), labelled)
    dropped.check()


def _answers(rollouts: Path, annotations: Path | None, prepared: Prepared, dropped: Dropped) -> Iterator[_Answer]:
    """Every answer with its labels. Raises DataError naming the line."""
    by_id = {question.id: question for question in prepared.train}
    has_texts = annotations is not None and _has_texts(annotations)
    replayed = ReplayAnnotator(str(annotations), dropped.highest) if has_texts else None
    samples: Counter[str] = Counter()

    def answer(lines: _Lines) -> _Answer:
        where, item = _found(lines[0])
        rollout = answers_file.any_rollout(item, where)
        if "sample" not in item:  # numbered as they come
            rollout = replace(rollout, sample=samples[rollout.question_id])
        samples[rollout.question_id] += 1
        question = by_id.get(rollout.question_id)
        if question is None:
            message = f"{where}: question_id: expected a training question, got {rollout.question_id!r}"
            raise RecordError(message, Reason.UNKNOWN_QUESTION)
        rollout = given_answers.with_ids(rollout, prepared.chat, where, prepared.chat.prompt_ids(question))
        try:
            if replayed is not None:
                labels_where, [labels] = str(annotations), replayed.annotate([(question, rollout)])
        except AnnotatorError as error:
            raise RecordError(f"{where}: {error}", Reason.UNLABELLED) from None
        if replayed is None:
            if annotations is None and lines[0] is lines[1]:
                message = f"{where}: expected a question of a run, or a file of labels (ANNOTATIONS), got neither"
                raise RecordError(message, Reason.UNLABELLED)
            labels_where, item = _found(lines[1])
            labels = record(Annotation, item, labels_where)
        try:
            refuse_annotation_faults([(question, rollout)], [labels])
        except AnnotatorError as error:
            raise RecordError(f"{labels_where}: {error}", Reason.INVALID_SENTENCES) from None
        return _Answer(where, question, rollout, thinking.outside(rollout, labels))

    lines = _line_by_line(rollouts, None if replayed else annotations, dropped)
    yield from dropped.sift(track(lines, "pairs", num_lines(rollouts), delay=SHORT), answer)


_Line = tuple[str, Found]
_Lines = tuple[_Line, _Line]
"""The lines of an answer and of its labels, each ("file:line", item or error)."""


def _line_by_line(rollouts: Path, annotations: Path | None, dropped: Dropped) -> Iterator[_Lines]:
    """Answers and labels, of two files in the same order or of a run's questions; or each answer's line twice."""
    both: Iterator[tuple[_Line | None, _Line | None]] = chain.from_iterable(map(_answers_of, attempts(rollouts)))
    if annotations is not None:
        both = zip_longest((answer for answer, _ in both), attempts(annotations))
    for answer, labels in both:
        if answer is None or labels is None:
            longer, shorter = (annotations, rollouts) if answer is None else (rollouts, annotations)
            raise DataError(f"{shorter}: expected as many lines as {longer} has, got the end of the file")
        dropped.met()
        yield answer, labels


def _answers_of(line: _Line) -> list[_Lines]:
    """The answers of a line, each with its labels: those to a question of a run, else one, its line twice."""
    where, item = line
    if isinstance(item, RecordError) or "rollouts" not in item:
        return [(line, line)]
    try:
        record(CommittedQuestion, item, where)
    except RecordError as error:
        return [((where, error), (where, error))]
    return [((where, a), (where, labels)) for a, labels in zip(item["rollouts"], item["annotations"], strict=True)]


def _found(line: _Line) -> tuple[str, dict[str, Any]]:
    """The item, or raise the error that stands in place of a bad line."""
    where, item = line
    if isinstance(item, RecordError):
        raise item
    return where, item


def _has_texts(annotations: Path) -> bool:
    """Whether labels come with their texts, in any order, as `annotate` and runs write them."""
    first = [item for _, item in islice(attempts(annotations), 20) if not isinstance(item, RecordError)]
    return any("text" in item or "rollouts" in item for item in first)


def _parser() -> Parser:
    parser = Parser("pairs", __doc__, "ANSWERS [ANNOTATIONS] -o FILE [--force]")
    parser.add_argument("rollouts", metavar="ANSWERS", help="Rollouts, or a run's questions.jsonl.")
    parser.add_argument(
        "annotations",
        metavar="ANNOTATIONS",
        nargs="?",
        help="Their labels: in the same order, or what annotate wrote; default: those of the run's questions.",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="Pairs to write, JSON Lines; .jsonl.gz, .parquet."
    )
    parser.add_argument("--force", action="store_true", help="Replace FILE when it is there.")
    return parser.add_config()


if __name__ == "__main__":
    cli.start(main)
