"""The `claims` annotator: spans smaller than a sentence, from the answer to the weights of its tokens."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import fakes
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray import check_annotator
from maskdpo_ray.annotation.protocol import build
from maskdpo_ray.annotation.rules.facts import ClaimsByRules
from maskdpo_ray.config.schema import PairsConfig
from maskdpo_ray.data.domains import countries, elements
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.evaluation.metrics import evaluate
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


FRAGMENTS = st.sampled_from(
    [
        "Rwanda is in Africa",
        "its capital is Kigali",
        "its capital is Nairobi",
        "it borders Uganda",
        "which is green",
        "the currency of Rwanda is the dollar",
        "whose capital is Kampala",
        "I don't know",
        "- Sure, here it is",
        "and",
        "Kigali",
        "卢旺达",
    ]
)
SEPARATORS = st.sampled_from([". ", ", ", " and ", "; ", ", but ", "\n", " ", "!\n\n"])
TEXTS = st.lists(st.tuples(FRAGMENTS, SEPARATORS), max_size=9)


@given(TEXTS)
def test_clauses_tile_what_sentences_cover(pieces: list[tuple[str, str]]) -> None:
    """In order, not overlapping, nothing but white space between them, and each within one sentence."""
    text = "".join(fragment + separator for fragment, separator in pieces)
    clauses = spans(CLAIMS, text)
    for sentence in spans(FACTS, text):
        parts = [clause for clause in clauses if sentence.start <= clause.start < sentence.end]
        assert (parts[0].start, parts[-1].end) == (sentence.start, sentence.end)
        assert all(a.end <= b.start and not text[a.end : b.start].strip() for a, b in pairwise(parts))
        clauses = clauses[len(parts) :]
    assert not clauses


def test_evaluation_counts_clauses() -> None:
    text = "Its capital is Kigali and its currency is the dollar. It borders Uganda."
    rollout = Rollout("q", 0, (1, 2), text, "stop", 0)
    for annotator, sentences, score in ((FACTS, 2, 1 / 2), (CLAIMS, 3, 2 / 3)):
        (annotation,) = annotator.annotate([(RWANDA, rollout)])
        found = evaluate([RWANDA], [(rollout, annotation)], seed=1, bootstrap_samples=100).metrics
        assert found["sentences"].mean == sentences and found["score"].mean == pytest.approx(score)


@pytest.mark.parametrize("name", ["facts", "claims"])
def test_labels_have_the_confidence_that_an_option_gives_them(name: str) -> None:
    confidence = {NO_FACT: 1, RIGHT: 0.75, WRONG: 0.5, OPEN: 0.25}
    annotator = build(name, {"confidence": confidence})
    found = spans(annotator, "Its capital is Kigali. It is green. Its currency is the dollar. Sorry, I don't know.")
    assert {span.label for span in found} == {RIGHT, OPEN, WRONG, NO_FACT}
    assert [span.confidence for span in found] == [confidence[span.label] for span in found]
    assert annotator.gives_confidence and not build(name).gives_confidence
    assert all(span.confidence is None for span in spans(build(name), "Its capital is Kigali."))
    for bad in ({RIGHT: 1}, {**confidence, RIGHT: 2}, 0.5, {**confidence, "fine": 1}):
        with pytest.raises(
            ConfigError, match=r"^annotation.options.confidence: expected a number from 0 to 1 for each"
        ):
            build(name, {"confidence": bad})
