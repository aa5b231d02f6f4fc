"""Write a run's pairs as the preference data of other trainers.

python -m maskdpo_ray.export runs/quickstart --to trl -o pairs-trl.jsonl
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from maskdpo_ray.config import cli
from maskdpo_ray.config.cli import Parser, number, one_of, share
from maskdpo_ray.config.schema import Config, DataConfig
from maskdpo_ray.data import questions
from maskdpo_ray.data.dropped import Dropped, Reason, counted
from maskdpo_ray.data.formats import WRITERS
from maskdpo_ray.data.formats.preference import from_pair
from maskdpo_ray.data.jsonl import num_lines, objects
from maskdpo_ray.errors import DataError, RecordError, require, shown
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.models import hub
from maskdpo_ray.pairing import masked_pairs, scoring
from maskdpo_ray.pairing.examples import check_mask
from maskdpo_ray.pairing.pair_files import OwnPairs
from maskdpo_ray.pairing.scoring import Score
from maskdpo_ray.records import DropReason, PairsSummary, PreferencePair, Question
from maskdpo_ray.store import files as new_file
from maskdpo_ray.store.ledger import read_entries
from maskdpo_ray.terminal import SHORT, track

FORMATS = (*WRITERS, masked_pairs.NAME)
Writer = Callable[[PreferencePair, Question, str], dict[str, Any] | DropReason]
"""Item of a pair of a question at "file:line", or why there is none."""


def main(argv: list[str]) -> None:
    """Raises UserError."""
    arguments = _parser().parse_args(argv)
    source, output = Path(arguments.source), Path(arguments.output)
    if not os.path.exists(source):
        raise DataError(f"{source}: expected a run folder, or a file of its pairs, got no such file or folder")
    is_run = os.path.isdir(source)
    files = _pairs_of_run(source, arguments.iteration) if is_run else [source]
    if not is_run and arguments.iteration is not None:
        raise DataError(f"--iteration: expected a run folder to choose it from, got the file {source}")
    asked, columns = arguments.questions, None
    if asked is None:
        if not is_run:
            raise DataError("--questions: expected the questions that the pairs are of, got nothing")
        data = cli.read(source / "config.yaml").data
        asked, columns = data.train, data.columns
    new_file.refuse_existing(output, arguments.force, [*files, asked])
    highest = DataConfig.max_dropped if arguments.max_dropped is None else arguments.max_dropped
    of_questions = Dropped(asked, highest, "--max_dropped")
    by_id = {question.id: question for question in questions.load(asked, of_questions, columns)}
    # A run's own file holds only whole pairs: a bad record means damage.
    dropped = [Dropped(file, 0.0 if is_run else highest, "--max_dropped") for file in files]
    # What made the pairs of a file alone is unknown.
    score = scoring.build(cli.read(source / "config.yaml").pairs) if is_run else None
    drops = Counter[str]()
    if arguments.to == masked_pairs.NAME:
        if not is_run and arguments.config is None:
            raise DataError(f"--config: expected the mask and model for --to {masked_pairs.NAME}, got nothing")
        writer = _masked(cli.read(Path(arguments.config or source / "config.yaml")))
    elif arguments.config is not None:
        raise DataError(f"--config: expected --to {masked_pairs.NAME}, which alone weighs tokens, got {arguments.to}")
    else:
        writer = _plain(arguments.to)
    count = new_file.write_new(output, _items(files, dropped, is_run, by_id, asked, writer, score, drops))
    without = f"; dropped: {counted(drops)}" if drops else ""
    print(f"{count} pairs of {', '.join(map(str, files))} -> {output}{without}")
    for each in (of_questions, *dropped):
        print(*each.lines(), sep="\n", end="\n" if each.counts else "")


def _plain(to: str) -> Writer:
    return lambda pair, question, where: WRITERS[to](from_pair(pair, question, where))


def _masked(config: Config) -> Writer:
    check_mask(config)
    expected = f"none for --to {masked_pairs.NAME}, as only training asks the oracle"
    require(config.mask.oracle is None, "mask.oracle", expected, config.mask.oracle)
    expected = f"none for --to {masked_pairs.NAME}, as only training knows all the pairs"
    require(config.mask.balance is None, "mask.balance", expected, config.mask.balance)
    tokenizer = model_folder.load_tokenizer(hub.without_weights(config.model))
    return lambda pair, question, where: masked_pairs.row(pair, from_pair(pair, question, where), config, tokenizer)


def _items(
    files: list[Path],
    dropped: list[Dropped],
    is_run: bool,
    by_id: dict[str, Question],
    asked: str,
    writer: Writer,
    score: Score | None,
    drops: Counter[str],
) -> Iterator[dict[str, Any]]:
    for file, of_file in zip(files, dropped, strict=True):
        own, count = OwnPairs(score), 0

        def exported(found: tuple[str, dict[str, Any]], own: OwnPairs = own) -> list[dict[str, Any] | DropReason]:
            where, item = found
            return [writer(pair, asked_of(pair, where), where) for pair in own.read(item, where)]

        def asked_of(pair: PreferencePair, where: str) -> Question:
            question = by_id.get(pair.question_id)
            if question is None:
                message = f"{where}: question_id: expected one of {asked}, got {shown(pair.question_id)}"
                raise RecordError(message, Reason.UNKNOWN_QUESTION)
            if pair.topic != question.topic:
                message = f"{where}: topic: expected {shown(question.topic)}, its question's, got {shown(pair.topic)}"
                raise RecordError(message, Reason.INVALID_PAIR)
            return question

        items = track(objects(file, of_file), f"export {file}", num_lines(file), delay=SHORT)
        for of_item in of_file.sift(items, exported):
            count += len(of_item)
            for each in of_item:
                if isinstance(each, DropReason):
                    drops[each.value] += 1
                else:
                    yield each
        if is_run:
            _refuse_lost(file, count)


def _refuse_lost(file: Path, count: int) -> None:
    summary = file.with_name("pairs-summary.json")
    expected = new_file.read_json(summary, PairsSummary).logged
    if count != expected:
        raise DataError(f"{file}: expected {expected} pairs, as {summary.name} beside it says, got {count}")


def _pairs_of_run(folder: Path, iteration: int | None) -> list[Path]:
    """The question logs of a run that are complete: their summary is written once the last question is done."""
    read_entries(folder / "ledger.jsonl")  # refuses a folder of another version
    name = "iter_*" if iteration is None else f"iter_{iteration:03d}"
    files = sorted(summary.with_name("questions.jsonl") for summary in folder.glob(f"{name}/pairs-summary.json"))
    if not files:
        raise DataError(
            f"{folder}: expected a run folder with all pairs of an iteration, found no {name} that has them"
        )
    return files


def _parser() -> Parser:
    parser = Parser("export", __doc__, "SOURCE --to FORMAT -o FILE [options]")
    parser.add_argument("source", metavar="SOURCE", help="A run folder, its questions.jsonl, or a file of our pairs.")
    parser.add_argument(
        "--to",
        metavar="FORMAT",
        required=True,
        type=one_of(FORMATS),
        help=f"{', '.join(FORMATS)}: see docs/formats.md.",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="JSON Lines to write; .jsonl.gz, .parquet."
    )
    parser.add_argument(
        "--questions", metavar="SOURCE", help="What data.train takes; default: data.train of the run folder's config."
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"Mask and model of --to {masked_pairs.NAME}; default: the run folder's config.",
    )
    parser.add_argument("--iteration", metavar="N", type=number, help="Pairs of this iteration only; default: of all.")
    parser.add_argument(
        "--max_dropped", metavar="SHARE", type=share, help=f"As data.max_dropped; default: {DataConfig.max_dropped}."
    )
    parser.add_argument("--force", action="store_true", help="Replace FILE when it is there.")
    return parser


if __name__ == "__main__":
    cli.start(main)
