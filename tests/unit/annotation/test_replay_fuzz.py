"""Every reader of one file on bytes that nobody would write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bad_input
import fuzz
import pytest
from bad_input import ANNOTATIONS, AUTHORS, LABELS, ROLLOUTS, TEXTS, TRL

from maskdpo_ray.annotation.labels_file import LabelsFile
from maskdpo_ray.annotation.llm import turns
from maskdpo_ray.annotation.replay import ReplayAnnotator
from maskdpo_ray.config import cli
from maskdpo_ray.config.schema import AnnotationConfig
from maskdpo_ray.data import answers, questions
from maskdpo_ray.data.domains import table_file
from maskdpo_ray.data.jsonl import records
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.pairing.pair_files import PairsReader
from maskdpo_ray.records import Annotation, Judgement

DOCS = Path(__file__).parents[3] / "docs"
CONFIG = f"""{bad_input.CONFIG}adam: {{betas: [0.9, 0.95], lr: 5e-6}}
mask: {{policy: {{chosen: {{no_fact: 1, contradictory: 0.5}}, rejected: {{no_fact: 1}}}}}}
eval: {{evaluator: factscore, options: {{a: [1, {{b: &c true}}], d: *c}}}}
logger: {{wandb_group: null}}
"""
QUESTION = {
    "id": "d",
    "topic": "D",
    "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
    "document": "text",
    "facts": {"table": "countries", "entity": "Rwanda"},
    "answer": "yes",
    "language": "zh",
}
SENTENCES = [{**LABELS[0][0], "confidence": 0.5, "evidence": "e", "kind": "k"}, LABELS[0][1]]
LINE = {"question_id": "a", "text": TEXTS[0], "sentences": SENTENCES, "sample": 1}
PAIR = {
    "question_id": "a",
    "topic": "A",
    "prompt_token_ids": [5, 6],
    "chosen": {"rollout": ROLLOUTS[0], "annotation": ANNOTATIONS[0], "score": 1.0},
    "rejected": {"rollout": ROLLOUTS[1], "annotation": ANNOTATIONS[1], "score": 0.5},
    "policy_version": 0,
}
JUDGEMENT = {
    "question_id": "a",
    "sample": 0,
    "facts": [{"text": "f", "verdict": "supported", "evidence": None}],
    "abstained": False,
    "surprisal": {"nats": 2.5, "num_tokens": 3},
}
OPENRLHF = {
    "chosen": [*AUTHORS["prompt"], *AUTHORS["chosen"]],
    "rejected": [*AUTHORS["prompt"], *AUTHORS["rejected"]],
    "question_id": "a",
    "topic": "A",
    "chosen_sentences": SENTENCES,
    "rejected_sentences": LABELS[1],
}
BY_ID = {name: questions.Question(name, name, ()) for name in "abc"}


def all_of(read: Callable[..., Any], *more: Any) -> Callable[[Path], object]:
    """A reader that gives items as one that reads them all."""
    return lambda path: list(read(*more, path))


READERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "config": (cli.read, CONFIG),
    "questions": (lambda path: questions.load(str(path)), bad_input.lines(*bad_input.QUESTIONS, QUESTION)),
    "templates": (lambda path: turns.read(path, turns.CLAIMS), (turns.TEMPLATES / "claims.yaml").read_text()),
    "replay": (lambda path: ReplayAnnotator(str(path)), bad_input.lines(LINE, {**LINE, "text": TEXTS[0] * 2})),
    "rollouts": (all_of(answers.rollouts), bad_input.lines(*ROLLOUTS[:2])),
    "annotations": (all_of(records, Annotation), bad_input.lines(*ANNOTATIONS[:2])),
    "judgements": (all_of(records, Judgement), bad_input.lines(JUDGEMENT)),
    "answers": (
        lambda path: list(answers.read(path, BY_ID)),
        bad_input.lines(ROLLOUTS[0], {"question_id": "a", "text": "b"}, PAIR, {**TRL, "question_id": "z"}),
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_readers_of_lines(tmp_path: Path, name: str) -> None:
    read, good = READERS[name]
    fuzz.check(fuzz.from_file(tmp_path / "file", read), good.encode())


@pytest.fixture(scope="module")
def pairs_reader(small_model: Path) -> PairsReader:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(small_model)
    return PairsReader(Chat(tokenizer), bad_input.CONTEXT, 99, annotations=None, needs_labels=True)


@pytest.mark.parametrize("item", [PAIR, AUTHORS, OPENRLHF, {**TRL, **OPENRLHF, "prompt": "What is a?"}])
def test_pairs_of_every_format(tmp_path: Path, pairs_reader: PairsReader, item: dict[str, Any]) -> None:
    read = fuzz.from_file(tmp_path / "pairs.jsonl", lambda path: list(pairs_reader.read(path)))
    fuzz.check(read, bad_input.lines(item, {**item, "topic": "B", "question_id": "a"}).encode(), examples=30)


def test_fact_tables(tmp_path: Path) -> None:
    good = json.dumps(json.loads((DOCS / "planets.json").read_text(encoding="utf-8"))).encode()
    read = fuzz.from_file(tmp_path / "table.json", lambda path: table_file.read(str(path), "planets"))
    fuzz.check(read, good, lines=False)


def test_labels_that_annotate_goes_on_with(tmp_path: Path) -> None:
    def read(path: Path) -> int:
        return LabelsFile(path, AnnotationConfig(), force=False, inputs=()).num_answers

    by, labels = tmp_path / "labels.annotator.json", tmp_path / "labels"
    by.write_text(bad_input.lines({"annotator": "facts", "options": {}, "files": {}}))
    good = bad_input.lines(LINE).encode()
    fuzz.check(fuzz.from_file(labels, read), good)
    labels.write_bytes(good)
    fuzz.check(fuzz.from_file(by, lambda _: read(labels)), by.read_bytes(), lines=False)
