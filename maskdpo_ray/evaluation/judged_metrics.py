"""Statistics of judgements: a second evaluator's, as FActScore has them (Min et al. 2023, arXiv:2305.14251), and a
second language model's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import exp, inf
from typing import Any

from maskdpo_ray.errors import shown
from maskdpo_ray.evaluation.intervals import Gain, Ratios, Statistic, TopicSums
from maskdpo_ray.records import IRRELEVANT, SUPPORTED, UNPARSED, UNSUPPORTED, Judgement, Question, from_json

GAMMA = 10
"""Answers of fewer facts are penalised: Min et al.'s gamma."""
METRICS: dict[str, tuple[str, str]] = {
    "score": ("score", "scored"),
    "penalized_score": ("penalized", "scored"),
    "pooled_score": ("supported", "facts"),
    "correct_facts": ("supported", "answers"),
    "incorrect_facts": ("unsupported", "answers"),
    "irrelevant": ("irrelevant", "answers"),
    "unparsed": ("unparsed", "answers"),
    "abstained": ("abstained", "answers"),
    "scored": ("scored", "answers"),
}
"""Of an evaluator: metric -> (numerator, denominator), names of sums over answers.

score: mean of supported / (supported + unsupported) over the answers that state such a fact and don't abstain;
penalized_score: the same, each answer's times exp(1 - GAMMA / n) when it states n < GAMMA such facts;
pooled_score: supported / (supported + unsupported) facts of all answers; the others are per answer.
"""
LANGUAGE_METRICS: dict[str, tuple[str, str]] = {"nats_per_token": ("nats", "tokens"), "unread": ("unread", "answers")}
"""Of a language model, in the same form.

nats_per_token: mean of -log p over the tokens, the model's own, of all answers; `perplexity` makes perplexity of it;
unread: share of answers that are too long for the model and no part of that.
"""
_SUMS = (
    "answers",
    "scored",
    "score",
    "penalized",
    "facts",
    "supported",
    "unsupported",
    "irrelevant",
    "unparsed",
    "abstained",
)
_LANGUAGE_SUMS = ("answers", "nats", "tokens", "unread")
_NONE: Mapping[str, str] = {}


@dataclass(frozen=True)
class JudgedEvaluation:
    """Statistics of one policy on one set of questions, as an evaluator, a language model or both judge it."""

    evaluator: str | None
    """Its name in the config; None without one."""
    questions: int
    replications: int
    metrics: dict[str, Statistic]
    """By the names of `METRICS` with an evaluator, and of `LANGUAGE_METRICS` with a language model."""
    topic_sums: TopicSums
    """What `compare` resamples."""
    perplexity_model: str | None = None
    """The language model's folder in the config; None without one, as before there was any."""
    unparsed_example: str | None = None
    """A fact whose verdict could not be read, and what was said, if there is one."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Topics of which a question failed, and which count nowhere -> the error."""

    def __post_init__(self) -> None:
        """Raises ValueError when a metric or a sum is missing: in a file of another version, say."""
        self.ratios.check(self.metrics, self.topic_sums, self.replications)

    @property
    def ratios(self) -> Ratios:
        """What is measured."""
        return _ratios(self.evaluator, self.perplexity_model)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(value: Any) -> JudgedEvaluation:
        """The opposite of `to_json`. Raises ValueError naming the field."""
        return from_json(JudgedEvaluation, value)


def evaluate(
    evaluator: str | None,
    questions: Sequence[Question],
    judgements: Iterable[Judgement],
    *,
    perplexity_model: str | None = None,
    left_out: Mapping[str, str] = _NONE,
    seed: int,
    bootstrap_samples: int,
) -> JudgedEvaluation:
    """Statistics of `judgements` of answers to `questions`, in any order, `Judgement.sample` being the replication.

    They are by the evaluator, the language model or both: one of the two names must be given.
    Raises ValueError when a question is not judged exactly once per replication, or a judgement is of an unknown one.
    """
    example: list[str] = []

    def counts() -> Iterator[tuple[tuple[str, int], dict[str, float]]]:
        for judgement in judgements:
            unparsed = [fact for fact in judgement.facts if fact.verdict == UNPARSED]
            example.extend(f"{shown(fact.text)} ({fact.evidence})" for fact in unparsed[: not example])
            yield (judgement.question_id, judgement.sample), _count(judgement)

    ratios = _ratios(evaluator, perplexity_model)
    sums = ratios.add_up(questions, counts())
    statistics = ratios.statistics(sums, seed=seed, bootstrap_samples=bootstrap_samples)
    replications = len(next(iter(statistics.values())).per_replication)
    return JudgedEvaluation(
        evaluator,
        len(questions),
        replications,
        statistics,
        sums,
        perplexity_model,
        unparsed_example=example[0] if example else None,
        left_out=dict(left_out),
    )


def compare(before: JudgedEvaluation, after: JudgedEvaluation, *, seed: int, bootstrap_samples: int) -> Gain:
    """Gain of `after` over `before`, paired bootstrap over topics.

    Raises ValueError when they are of other topics, or by others.
    """
    by = [(side.evaluator, side.perplexity_model) for side in (before, after)]
    if by[0] != by[1]:
        raise ValueError(f"the evaluations are by different judges: {by[0]} and {by[1]}")
    return after.ratios.compare(before, after, seed=seed, bootstrap_samples=bootstrap_samples)


def perplexity(nats_per_token: float) -> float:
    """exp, infinite where that is more than a float holds."""
    return exp(nats_per_token) if nats_per_token < 700 else inf


def _ratios(evaluator: str | None, perplexity_model: str | None) -> Ratios:
    sums: dict[str, None] = {}
    metrics: dict[str, tuple[str, str]] = {}
    if evaluator is not None:
        sums, metrics = dict.fromkeys(_SUMS), METRICS
    if perplexity_model is not None:
        sums, metrics = sums | dict.fromkeys(_LANGUAGE_SUMS), metrics | LANGUAGE_METRICS
    return Ratios(tuple(sums), metrics)


def _count(judgement: Judgement) -> dict[str, float]:
    verdicts = [fact.verdict for fact in judgement.facts]
    supported, unsupported = verdicts.count(SUPPORTED), verdicts.count(UNSUPPORTED)
    facts = supported + unsupported
    scored = facts > 0 and not judgement.abstained
    score = supported / facts if scored else 0.0
    surprisal = judgement.surprisal
    return {
        "answers": 1,
        "scored": scored,
        "score": score,
        "penalized": score * exp(min(0.0, 1 - GAMMA / facts)) if scored else 0.0,
        "facts": facts,
        "supported": supported,
        "unsupported": unsupported,
        "irrelevant": verdicts.count(IRRELEVANT),
        "unparsed": verdicts.count(UNPARSED),
        "abstained": judgement.abstained,
        "nats": surprisal.nats if surprisal else 0.0,
        "tokens": surprisal.num_tokens if surprisal else 0,
        "unread": surprisal is None,
    }
