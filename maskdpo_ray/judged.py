"""Statistics of a second evaluator's judgements, as FActScore has them (Min et al. 2023, arXiv:2305.14251)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import exp
from typing import Any

from maskdpo_ray.bootstrap import Gain, Ratios, Statistic, TopicSums
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
"""Metric -> (numerator, denominator), names of sums over answers.

score: mean of supported / (supported + unsupported) over the answers that state such a fact and don't abstain;
penalized_score: the same, each answer's times exp(1 - GAMMA / n) when it states n < GAMMA such facts;
pooled_score: supported / (supported + unsupported) facts of all answers; the others are per answer.
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
RATIOS = Ratios(_SUMS, METRICS)


@dataclass(frozen=True)
class JudgedEvaluation:
    """Statistics of one policy on one set of questions, as an evaluator judges it."""

    evaluator: str
    """Its name in the config."""
    questions: int
    replications: int
    metrics: dict[str, Statistic]
    """By the names of `METRICS`."""
    topic_sums: TopicSums
    """What `compare` resamples."""

    def __post_init__(self) -> None:
        """Raises ValueError when a metric or a sum is missing: in a file of another version, say."""
        RATIOS.check(self.metrics, self.topic_sums, self.replications)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(value: Any) -> JudgedEvaluation:
        """The opposite of `to_json`. Raises ValueError naming the field."""
        return from_json(JudgedEvaluation, value)


def evaluate(
    evaluator: str, questions: Sequence[Question], judgements: Iterable[Judgement], *, seed: int, bootstrap_samples: int
) -> JudgedEvaluation:
    """Statistics of `judgements` of answers to `questions`, in any order, `Judgement.sample` being the replication.

    Raises ValueError when a question is not judged exactly once per replication, or a judgement is of an unknown one.
    """
    counts = (((judgement.question_id, judgement.sample), _count(judgement)) for judgement in judgements)
    sums = RATIOS.add_up(questions, counts)
    statistics = RATIOS.statistics(sums, seed=seed, bootstrap_samples=bootstrap_samples)
    return JudgedEvaluation(evaluator, len(questions), len(statistics["score"].per_replication), statistics, sums)


def compare(before: JudgedEvaluation, after: JudgedEvaluation, *, seed: int, bootstrap_samples: int) -> Gain:
    """Gain of `after` over `before`, paired bootstrap over topics. Raises ValueError when they are of other topics."""
    return RATIOS.compare(before, after, seed=seed, bootstrap_samples=bootstrap_samples)


def _count(judgement: Judgement) -> dict[str, float]:
    verdicts = [fact.verdict for fact in judgement.facts]
    supported, unsupported = verdicts.count(SUPPORTED), verdicts.count(UNSUPPORTED)
    facts = supported + unsupported
    scored = facts > 0 and not judgement.abstained
    score = supported / facts if scored else 0.0
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
    }
