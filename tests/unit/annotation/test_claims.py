"""The `claims` annotator: spans smaller than a sentence, from the answer to the weights of its tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fakes
import pytest

from maskdpo_ray import check_annotator
from maskdpo_ray.annotation.protocol import build
from maskdpo_ray.annotation.rules.facts import ClaimsByRules
from maskdpo_ray.config.schema import PairsConfig
from maskdpo_ray.data.domains import countries, elements
from maskdpo_ray.pairing.examples import make_example, teaches
from maskdpo_ray.pairing.masks import MASK_DPO
from maskdpo_ray.pairing.scoring import scored
from maskdpo_ray.pairing.selection import select
from maskdpo_ray.records import CONTRADICTORY as WRONG
from maskdpo_ray.records import NO_FACT, PreferencePair, Question, Rollout, Sentence
from maskdpo_ray.records import NO_HALLUCINATION as RIGHT
from maskdpo_ray.records import UNVERIFIABLE as OPEN

FIXTURE = Path(__file__).parents[2] / "fixtures" / "facts_labels.jsonl"
RWANDA = Question("q", "Rwanda", (), facts={"table": "countries", "entity": "Rwanda"})
CLAIMS, FACTS = build("claims"), build("facts")


def spans(annotator: Any, text: str, question: Question = RWANDA) -> list[Sentence]:
    (annotation,) = annotator.annotate([(question, Rollout(question.id, 0, (), text, "stop", 0))])
    return list(annotation.sentences)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Its capital is Kigali.", [("Its capital is Kigali.", RIGHT)]),
        (
            "Its capital is Kigali and its currency is the dollar.",
            [("Its capital is Kigali", RIGHT), ("and its currency is the dollar.", WRONG)],
        ),
        (
            "1. **Rwanda** is in Asia, but its capital is Kigali; it borders Uganda.",
            [
                ("1. **Rwanda** is in Asia,", WRONG),
                ("but its capital is Kigali;", RIGHT),
                ("it borders Uganda.", RIGHT),
            ],
        ),
        (  # a claim of another entity, told from outside the clause
            "It borders Uganda, whose capital is Nairobi. Its capital is Kigali.",
            [("It borders Uganda,", RIGHT), ("whose capital is Nairobi.", WRONG), ("Its capital is Kigali.", RIGHT)],
        ),
        (  # what claims nothing is no span of its own
            "Rwanda, however, is in Africa, which is green.",
            [("Rwanda, however, is in Africa,", RIGHT), ("which is green.", OPEN)],
        ),
        (  # a phrase to the reader belongs to the first one
            "- Of course, its capital is Kigali, and it borders Kenya.",
            [("- Of course, its capital is Kigali,", RIGHT), ("and it borders Kenya.", WRONG)],
        ),
        ("Rwanda is a country and it is green.", [("Rwanda is a country", RIGHT), ("and it is green.", OPEN)]),
        (
            "Its currency is strong, but its capital is",
            [("Its currency is strong,", OPEN), ("but its capital is", NO_FACT)],
        ),
        ("Rwanda borders Uganda, Burundi and Tanzania.", [("Rwanda borders Uganda, Burundi and Tanzania.", RIGHT)]),
    ],
)
def test_clauses_by_hand(text: str, expected: list[tuple[str, str]]) -> None:
    assert [(text[span.start : span.end], span.label) for span in spans(CLAIMS, text)] == expected


def test_clauses_are_the_parts_of_what_facts_labels() -> None:
    """A sentence is wrong if a clause is, right if all clauses are; its clauses leave out none of its words."""
    questions = {question.id: question for question in (*countries.questions(), *elements.questions())}
    rows = [json.loads(line) for line in FIXTURE.read_text(encoding="utf-8").splitlines()]
    answers = {(row["question_id"], row["text"]) for row in rows}
    split = 0
    for question_id, text in sorted(answers):
        clauses = spans(CLAIMS, text, questions[question_id])
        for sentence in spans(FACTS, text, questions[question_id]):
            parts = [clause for clause in clauses if sentence.start <= clause.start < sentence.end]
            assert (parts[0].start, parts[-1].end) == (sentence.start, sentence.end)
            assert all(text[a.end : b.start].isspace() for a, b in zip(parts, parts[1:], strict=False))
            labels = {part.label for part in parts}
            assert (sentence.label == WRONG) == (WRONG in labels)
            assert (sentence.label == RIGHT) == (labels == {RIGHT})
            split += len(parts) > 1
    assert split > 30


def test_no_judge_means_rules() -> None:
    assert isinstance(build("claims", {"judge": None}), ClaimsByRules)


def test_it_keeps_the_protocol() -> None:
    assert [
        finding for finding in check_annotator.check(build("claims"), [RWANDA], fakes.CONFIG) if finding.fault
    ] == []


ANSWERS = (
    "Its capital is Kigali and its currency is the dollar.",
    "Its capital is Kampala, and it borders Uganda, but its currency is the dollar.",
    "Its capital is Nairobi, but its currency is the dollar and it borders Uganda.",
)


@pytest.mark.parametrize(
    ("eos", "chosen", "rejected"),
    [
        (
            "keep",
            "Its capital is Kigali<|im_end|>",
            "Its capital is Kampala, but its currency is the dollar.<|im_end|>",
        ),
        ("last_sentence", "Its capital is Kigali", "Its capital is Kampala, but its currency is the dollar.<|im_end|>"),
    ],
)
def test_a_clause_inside_a_sentence_has_weights_of_its_own(
    bundled_model: Path, eos: str, chosen: str, rejected: str
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundled_model)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    rollouts = [
        Rollout("q", sample, (*tokenizer.encode(text, add_special_tokens=False), end), text, "stop", 0)
        for sample, text in enumerate(ANSWERS)
    ]

    def pair(annotator: Any) -> Any:
        annotations = annotator.annotate([(RWANDA, rollout) for rollout in rollouts])
        answers = [scored(r, a) for r, a in zip(rollouts, annotations, strict=True)]
        selection = select(RWANDA, (1, 2), answers, PairsConfig(), seed=1)
        (found,) = (*selection.pairs, *selection.drops)
        return found

    assert pair(FACTS) == "same_score"  # as sentences, all three are wrong
    made = pair(CLAIMS)
    assert isinstance(made, PreferencePair)
    assert (made.chosen.score, made.rejected.score) == (1 / 2, 1 / 3)
    example = make_example(made, tokenizer, MASK_DPO, eos)
    assert teaches(example)

    def kept(ids: tuple[int, ...], weights: tuple[float, ...]) -> str:
        assert set(weights) == {0.0, 1.0}
        return tokenizer.decode([token for token, weight in zip(ids, weights, strict=True) if weight])

    assert kept(example.responses[0].token_ids, example.responses[0].weights) == chosen
    assert kept(example.responses[1].token_ids, example.responses[1].weights) == rejected
