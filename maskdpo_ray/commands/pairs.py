"""Make preference pairs of answers and their labels, as the loop does.

python -m maskdpo_ray.pairs rollouts.jsonl annotations.jsonl -o pairs.jsonl --config configs/quickstart.yaml
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby, zip_longest
from pathlib import Path

from maskdpo_ray.annotators.conformance import refuse_faults
from maskdpo_ray.annotators.replay import ReplayAnnotator
from maskdpo_ray.commands import new_file
from maskdpo_ray.commands.arguments import Parser, files_read, with_config
from maskdpo_ray.config import Config
from maskdpo_ray.errors import AnnotatorError, DataError
from maskdpo_ray.formats.json_items import num_lines, objects, records
from maskdpo_ray.formats.own import rollouts as own_rollouts
from maskdpo_ray.pairing import pair_of
from maskdpo_ray.pairs import DropReason
from maskdpo_ray.preflight import Prepared, check
from maskdpo_ray.records import Annotation, PreferencePair, Question, Rollout
from maskdpo_ray.report.progress import SHORT, track
from maskdpo_ray.stages import Labelled


def main(argv: list[str]) -> None:
    """Raises UserError."""
    arguments, command = with_config(_parser(), argv)
    output = Path(arguments.output)
    inputs = [arguments.rollouts, arguments.annotations, *files_read(command)]
    new_file.refuse(output, arguments.force, inputs)
    prepared = check(command.config)
    labelled = _labelled(Path(arguments.rollouts), Path(arguments.annotations), prepared)
    drops: Counter[str] = Counter()
    made = _pairs(labelled, command.config, prepared, drops)
    count = sum(1 for _ in made) if command.dry_run else new_file.write(output, made)
    dropped = ", ".join(f"{number} {reason}" for reason, number in drops.most_common())
    done = "would go to" if command.dry_run else "->"
    print(f"{count} pairs {done} {output}" + (f"; dropped: {dropped}" if dropped else ""))


def _pairs(
    labelled: Iterator[Labelled], config: Config, prepared: Prepared, drops: Counter[str]
) -> Iterator[PreferencePair]:
    """The pairs; `drops` counts why the other questions gave none. Raises DataError when none did."""
    any_pair = False
    for item in labelled:
        outcome = pair_of(item, config, prepared.tokenizer)
        if isinstance(outcome, DropReason):
            drops[outcome.value] += 1
        else:
            any_pair = True
            yield outcome
    if not any_pair:
        raise DataError(f"none of {drops.total()} questions gave a pair: {dict(drops)}")


def _labelled(rollouts: Path, annotations: Path, prepared: Prepared) -> Iterator[Labelled]:
    """One question at a time: its answers follow each other."""
    done: set[str] = set()
    answers = _answers(rollouts, annotations, {question.id: question for question in prepared.train})
    for question, group in groupby(answers, key=lambda answer: answer[1]):
        places, _, of_question, labels = zip(*group, strict=True)
        if question.id in done:
            raise DataError(f"{places[0]}: question_id: expected all answers to {question.id!r} together, got more")
        done.add(question.id)
        for name in ("sample", "policy_version"):
            values = [getattr(rollout, name) for rollout in of_question]
            if len(set(values)) != (len(values) if name == "sample" else 1):
                expected = "a number of its own for each answer" if name == "sample" else "one for all answers"
                raise DataError(f"{places[0]}: {name}: expected {expected} to {question.id!r}, got {values}")
        yield Labelled(question, tuple(prepared.render(question)), of_question, labels)


def _answers(
    rollouts: Path, annotations: Path, by_id: dict[str, Question]
) -> Iterator[tuple[str, Question, Rollout, Annotation]]:
    """("file:line", question, answer, labels) of every answer. Raises DataError naming the line."""
    has_texts = "text" in next(objects(annotations))[1]
    labelled = (_by_text if has_texts else _line_by_line)(rollouts, annotations)
    for where, rollout, labels_where, annotation in track(labelled, "pairs", num_lines(rollouts), delay=SHORT):
        question = by_id.get(rollout.question_id)
        if question is None:
            raise DataError(f"{where}: question_id: expected a training question, got {rollout.question_id!r}")
        try:
            refuse_faults([(question, rollout)], [annotation])
        except AnnotatorError as error:
            raise DataError(f"{labels_where}: {error}") from None
        yield where, question, rollout, annotation


def _line_by_line(rollouts: Path, annotations: Path) -> Iterator[tuple[str, Rollout, str, Annotation]]:
    """(where, answer, where, labels): as a run folder has them, in the same order."""
    lines = zip_longest(own_rollouts(rollouts), records(Annotation, annotations))
    for answer, labels in lines:
        if answer is None or labels is None:
            longer, shorter = (annotations, rollouts) if answer is None else (rollouts, annotations)
            raise DataError(f"{shorter}: expected as many lines as {longer} has, got the end of the file")
        yield *answer, *labels


def _by_text(rollouts: Path, annotations: Path) -> Iterator[tuple[str, Rollout, str, Annotation]]:
    """The same, as `annotate` writes them: with the texts that they are of, in any order."""
    labels = ReplayAnnotator(str(annotations))
    for where, rollout in own_rollouts(rollouts):
        asked = Question(rollout.question_id, "", ())
        yield where, rollout, str(annotations), labels.annotate([(asked, rollout)])[0]


def _parser() -> Parser:
    parser = Parser(
        prog="python -m maskdpo_ray.pairs",
        usage="%(prog)s ROLLOUTS ANNOTATIONS -o FILE [--force] --config FILE [--section.field VALUE ...]",
        description=__doc__ or "",
        epilog="--config and --section.field are those of maskdpo_ray.run; with --dry_run nothing is written.",
    )
    parser.add_argument("rollouts", metavar="ROLLOUTS", help="Answers, as a run folder has them.")
    parser.add_argument(
        "annotations", metavar="ANNOTATIONS", help="Their labels: in the same order, or what annotate wrote."
    )
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="Pairs to write, JSON Lines.")
    parser.add_argument("--force", action="store_true", help="Replace FILE when it is there.")
    return parser
