"""Statistics of judgements: an evaluator's, as FActScore defines them (Min et al. 2023, arXiv:2305.14251), and a
perplexity model's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import exp, inf
from typing import Any

from maskdpo_ray.errors import shown
from maskdpo_ray.evaluation.intervals import Ratios, Statistic, TopicSums
from maskdpo_ray.records import IRRELEVANT, SUPPORTED, UNPARSED, UNSUPPORTED, Judgement, Question, Record

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
"""Metrics of an evaluator -> (numerator, denominator), names of sums over answers.

score: mean of supported / (supported + unsupported) over the answers that state such a fact and don't abstain;
penalized_score: the same, each answer's times exp(1 - GAMMA / n) when it states n < GAMMA such facts;
pooled_score: supported / (supported + unsupported) facts of all answers; the others are per answer.
"""
LANGUAGE_METRICS: dict[str, tuple[str, str]] = {"nats_per_token": ("nats", "tokens"), "unread": ("unread", "answers")}
"""Metrics of a perplexity model, in the same form.

nats_per_token: mean of -log p over the tokens, the model's own, of all answers; `perplexity` makes perplexity of it;
unread: share of answers that are too long for the model and no part of that.
"""
_SUMS = tuple("answers scored score penalized facts supported unsupported irrelevant unparsed abstained".split())
_LANGUAGE_SUMS = ("answers", "nats", "tokens", "unread")


class JudgedEvaluation(Record):
    """Statistics of one policy on one set of questions, by an evaluator, a perplexity model or both."""

    evaluator: str | None
    """Name in the config; None without an evaluator."""
    questions: int
    replications: int
    metrics: dict[str, Statistic]
    """Metric -> statistic: `METRICS` with an evaluator, `LANGUAGE_METRICS` with a perplexity model."""
    topic_sums: TopicSums
    """Resampled by `intervals.compare`."""
    perplexity_model: str | None = None
    """Folder in the config; None without a perplexity model."""
    unparsed_example: str | None = None
    """A fact whose verdict could not be read, and what was said, if there is one."""
    left_out: dict[str, str] = {}
    """Topics with a failed question, which count nowhere -> the error."""

    def __post_init__(self) -> None:
        """Raises ValueError as `Ratios.check` does."""
        self.ratios.check(self.metrics, self.topic_sums, self.replications)

    @property
    def judges(self) -> tuple[str | None, ...]:
        """Names of the evaluator and of the perplexity model."""
        return self.evaluator, self.perplexity_model

    @property
    def ratios(self) -> Ratios:
        """Metrics of these judges."""
        return _ratios(*self.judges)


def evaluate(
    evaluator: str | None,
    questions: Sequence[Question],
    judgements: Iterable[Judgement],
    perplexity_model: str | None = None,
    **options: Any,
) -> JudgedEvaluation:
    """Statistics of `judgements` of answers to `questions`, in any order, `Judgement.sample` being the replication.

    At least one of the two names must be given; `options` are those of `Ratios.measure`. Raises ValueError when a
    question is not judged exactly once per replication, or a judgement is of an unknown one.
    """
    example: list[str] = []

    def counts() -> Iterator[tuple[tuple[str, int], dict[str, float]]]:
        for judgement in judgements:
            unparsed = [fact for fact in judgement.facts if fact.verdict == UNPARSED]
            example.extend(f"{shown(fact.text)} ({fact.evidence})" for fact in unparsed[: not example])
            yield (judgement.question_id, judgement.sample), _count(judgement)

    common = _ratios(evaluator, perplexity_model).measure(questions, counts(), **options)
    unparsed_example = example[0] if example else None
    return JudgedEvaluation(evaluator, perplexity_model=perplexity_model, unparsed_example=unparsed_example, **common)


def perplexity(nats_per_token: float) -> float:
    """exp, infinite where that is more than a float holds."""
    return exp(nats_per_token) if nats_per_token < 700 else inf


def _ratios(evaluator: str | None, perplexity_model: str | None) -> Ratios:
    sums: tuple[str, ...] = ()
    metrics: dict[str, tuple[str, str]] = {}
    if evaluator is not None:
        sums, metrics = _SUMS, METRICS
    if perplexity_model is not None:
        sums, metrics = (*sums, *_LANGUAGE_SUMS), metrics | LANGUAGE_METRICS
    return Ratios(tuple(dict.fromkeys(sums)), metrics)


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
