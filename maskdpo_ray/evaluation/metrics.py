"""Factuality of annotated answers: Mask-DPO sections 2.2 and 3.1, appendix A.

A new figure takes one line in `METRICS`, its sums in `_SUMS` and `_count`, and a line in `report/tables.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from math import comb
from typing import Any

from maskdpo_ray.annotation.abstention import abstains
from maskdpo_ray.errors import shown
from maskdpo_ray.evaluation.asked import Asked, asked_facts, num_recalled
from maskdpo_ray.evaluation.intervals import Ratios, Statistic, TopicSums
from maskdpo_ray.models.thinking import WithoutBlocks, own_ids
from maskdpo_ray.records import (
    CONTRADICTORY,
    CORRECT,
    INCORRECT,
    LABELS,
    NO_FACT,
    NO_HALLUCINATION,
    UNPARSED,
    UNVERIFIABLE,
    Annotation,
    Question,
    Record,
    Rollout,
)

METRICS: dict[str, tuple[str, str]] = {
    "score": ("score", "scored"),
    "recall": ("recalled", "asked"),
    "f1_at_k": ("f1", "with_k"),
    "pooled_score": ("correct", "facts"),
    "correct_facts": ("correct", "answers"),
    "incorrect_facts": ("incorrect", "answers"),
    "contradictory": ("contradictory", "answers"),
    "unverifiable": ("unverifiable", "answers"),
    "no_fact": ("no_fact", "answers"),
    "unparsed": ("unparsed", "answers"),
    "sentences": ("sentences", "answers"),
    "tokens": ("tokens", "answers"),
    "thinking": ("thinking", "answers"),
    "distinct_1": ("distinct_1", "tokens"),
    "distinct_2": ("distinct_2", "token_pairs"),
    "cut_off": ("cut_off", "answers"),
    "nothing_checkable": ("nothing_checkable", "answers"),
    "abstained": ("abstained", "answers"),
    "scored": ("scored", "answers"),
}
"""Metric -> (numerator, denominator), names of sums over answers.

score: mean over answers of correct / parsed sentences, no_fact among the correct (paper 2.2);
recall: facts that the questions asked for and a correct sentence states / facts asked for (`asked.py`);
f1_at_k: mean over answers of `f1_at_k`, K being `eval.f1_k` or the number of facts asked for;
recall and f1_at_k leave out questions that don't say what they ask for, and are None where all are such;
pooled_score: correct facts / (correct + incorrect facts) over all answers (paper Table 1);
correct_facts: no_hallucination sentences per answer; incorrect_facts: contradictory and unverifiable ones;
tokens: length of the answer without thinking; thinking: length of that;
distinct_1, distinct_2: distinct tokens / tokens and distinct bigrams / bigrams within answers (after Li et al. 2016,
arXiv:1510.03055), which fall when a policy repeats itself;
cut_off: share of answers that reached the length limit; nothing_checkable: share with no_fact sentences only;
abstained: share that say nothing, or that they don't know and nothing else (`annotation/abstention.py`);
scored: share with a parsed sentence; the others are no part of `score`.
"""
_SUMS = tuple(
    "answers scored score facts correct incorrect contradictory unverifiable no_fact unparsed sentences tokens "
    "thinking distinct_1 distinct_2 token_pairs cut_off nothing_checkable abstained recalled asked f1 with_k".split()
)
RATIOS = Ratios(_SUMS, METRICS)


OTHER = "other"
"""Facts that the annotator gives no kind."""


class KindOfFact(Record):
    """Facts of one kind ("capital") per answer, mean over replications."""

    correct: float
    """Correct ones."""
    incorrect: float
    """Incorrect ones."""

    @property
    def stated(self) -> float:
        """All of them."""
        return self.correct + self.incorrect


class Evaluation(Record):
    """Statistics of one policy on one set of questions, by the annotator."""

    # Without annotations, so that they are no fields of the file.
    ratios = RATIOS
    judges = ()
    """The annotator is the config's, which the run folder compares."""

    questions: int
    replications: int
    metrics: dict[str, Statistic]
    """Metric of `METRICS` -> statistic."""
    kinds: dict[str, KindOfFact]
    """`Sentence.kind`, or "other" -> facts; no_fact and unparsed sentences count in none."""
    topic_scores: dict[str, float | None]
    """Topic -> mean score over its answers."""
    topic_sums: TopicSums
    """Resampled by `intervals.compare`."""
    best_of: dict[str, float | None]
    """N -> mean over questions of the expected best score of N answers; None where no question has N scores."""
    unparsed_example: str | None = None
    """A sentence whose label could not be read, and why, if there is one."""
    left_out: dict[str, str] = {}
    """Topics with a failed question, which count nowhere -> the error."""

    def __post_init__(self) -> None:
        """Raises ValueError as `Ratios.check` does."""
        RATIOS.check(self.metrics, self.topic_sums, self.replications)


def evaluate(
    questions: Sequence[Question],
    answers: Iterable[tuple[Rollout, Annotation]],
    *,
    f1_k: int | None = None,
    **options: Any,
) -> Evaluation:
    """Statistics of `answers` to `questions`, in any order, `Rollout.sample` being the replication.

    `f1_k` is the K of `f1_at_k`, by default the number of facts that a question asks for; other `options` are those of
    `Ratios.measure`. Raises ValueError when a question is not answered exactly once per replication, an answer is to an
    unknown question, or an annotation is of another answer.
    """
    by_id = {question.id: (question, asked_facts(question)) for question in questions}
    kinds: dict[str, list[int]] = {}
    scores: dict[str, list[float]] = {}
    example: list[str] = []

    def counts() -> Iterator[tuple[tuple[str, int], dict[str, float]]]:
        for rollout, annotation in answers:
            key = (rollout.question_id, rollout.sample)
            if key != (annotation.question_id, annotation.sample):
                other = (annotation.question_id, annotation.sample)
                raise ValueError(f"answer {key} comes with the annotation of {other}")
            if rollout.question_id not in by_id:
                raise ValueError(f"answer to question {rollout.question_id!r}, which is not evaluated")
            row = _count(*by_id[rollout.question_id], f1_k, rollout, annotation)
            for sentence in annotation.sentences:
                if sentence.label == UNPARSED and not example:
                    example.append(f"{shown(rollout.text[sentence.start : sentence.end])} ({sentence.evidence})")
                if sentence.label in INCORRECT or sentence.label == NO_HALLUCINATION:
                    kinds.setdefault(sentence.kind or OTHER, [0, 0])[sentence.label in INCORRECT] += 1
            if row["scored"]:
                scores.setdefault(rollout.question_id, []).append(row["score"])
            yield key, row

    common = RATIOS.measure(questions, counts(), **options)
    num_answers = len(questions) * common["replications"]
    return Evaluation(
        **common,
        kinds={
            kind: KindOfFact(right / num_answers, wrong / num_answers) for kind, (right, wrong) in sorted(kinds.items())
        },
        topic_scores={
            topic: sum(sums["score"]) / sum(sums["scored"]) if any(sums["scored"]) else None
            for topic, sums in common["topic_sums"].items()
        },
        best_of=mean_best([scores[q.id] for q in questions if q.id in scores], common["replications"]),
        unparsed_example=example[0] if example else None,
    )


def _count(
    question: Question, asked: Asked, f1_k: int | None, rollout: Rollout, annotation: Annotation
) -> dict[str, float]:
    labels, token_ids = [sentence.label for sentence in annotation.sentences], own_ids(rollout)
    unknown = set(labels).difference(LABELS)
    if unknown:
        raise ValueError(
            f"question {rollout.question_id!r}: label {sorted(unknown)[0]!r} is none of {', '.join(LABELS)}"
        )
    parsed = [label for label in labels if label != UNPARSED]
    correct, incorrect = labels.count(NO_HALLUCINATION), sum(label in INCORRECT for label in labels)
    k = f1_k or len(asked)
    return {
        "answers": 1,
        "scored": bool(parsed),
        "score": sum(label in CORRECT for label in parsed) / len(parsed) if parsed else 0.0,
        "facts": correct + incorrect,
        "correct": correct,
        "incorrect": incorrect,
        "contradictory": labels.count(CONTRADICTORY),
        "unverifiable": labels.count(UNVERIFIABLE),
        "no_fact": labels.count(NO_FACT),
        "unparsed": labels.count(UNPARSED),
        "sentences": len(labels),
        "tokens": len(token_ids),
        "thinking": len(rollout.token_ids) - len(token_ids),
        "distinct_1": len(set(token_ids)),
        "distinct_2": len(set(pairwise(token_ids))),
        "token_pairs": max(0, len(token_ids) - 1),
        "cut_off": rollout.finish_reason == "length",
        "nothing_checkable": all(label == NO_FACT for label in labels),
        "abstained": abstains(WithoutBlocks.of(rollout).rollout.text),
        "recalled": num_recalled(question, asked, rollout, annotation),
        "asked": len(asked),
        "f1": f1_at_k(correct, incorrect, k) if k else 0.0,
        "with_k": bool(k),
    }


def f1_at_k(correct: int, incorrect: int, k: int) -> float:
    """F1@K of an answer (Wei et al. 2024, arXiv:2403.18802): the harmonic mean of precision S / (S + N) and
    recall min(S / K, 1), S correct and N incorrect facts; 0 without a correct one.
    """
    if not correct:
        return 0.0
    precision, recall = correct / (correct + incorrect), min(correct / k, 1.0)
    return 2 * precision * recall / (precision + recall)


def best_of_n(scores: Sequence[float], n: int) -> float:
    """Expected highest of `n` scores, as a selector with the same score picks it, from K >= n independent ones.

    The unbiased estimate is the mean, over all subsets of n of the K scores, of the highest one. In ascending order the
    i-th score is the highest of C(i - 1, n - 1) subsets out of C(K, n). For scores of 0 and 1 this is pass@k (Chen et
    al. 2021, https://arxiv.org/abs/2107.03374). Raises ValueError unless 1 <= n <= K.
    """
    if not 1 <= n <= len(scores):
        raise ValueError(f"expected n from 1 to {len(scores)}, got {n}")
    ranked = enumerate(sorted(scores), start=1)
    return sum(score * comb(i - 1, n - 1) for i, score in ranked) / comb(len(scores), n)


def sizes(samples: int) -> list[int]:
    """1, 2, 4 ... and `samples` itself."""
    powers = [2**i for i in range(samples.bit_length())]
    return [*(n for n in powers if n < samples), samples]


def mean_best(scores: Collection[Sequence[float]], samples: int) -> dict[str, float | None]:
    """N as text -> mean of `best_of_n` over the questions that have N scores; None where no question has.

    Each of `scores` holds one question's, at most `samples` of them.
    """
    found: dict[str, float | None] = {}
    for n in sizes(samples):
        bests = [best_of_n(each, n) for each in scores if len(each) >= n]
        found[str(n)] = sum(bests) / len(bests) if bests else None
    return found
