"""Choice of the best policy of a run, by its answers to questions about development topics and nothing else.

The best policy has the highest `balance`: the harmonic mean of its score (how much of what it says is right) and of
what it tells (how much of what was asked for it says, right). Either alone is easily fooled: the score rises when a
policy says less, what it tells when a policy guesses more. In the harmonic mean, as in F1, leaving out a fact pays only
where the policy states it correctly in less than half of the balance's share of answers.

And a policy whose score or what it tells fell since policy 0 beyond noise (the whole 95% interval of the change, paired
bootstrap over topics, is below 0) is never chosen, however much the other one rose. With `run.keep_kinds` nor is one
that no longer states a kind of fact as often: without what it seldom knew a policy scores well, and tells less.
Policy 0 is always a candidate.

What a policy tells is its `recall`. Where questions don't say what they ask for it is its number of correct facts by
that of policy 0, at most 1, so that a policy gains nothing by telling more than policy 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from maskdpo_ray.evaluation.intervals import Change, compare
from maskdpo_ray.evaluation.metrics import OTHER, Evaluation
from maskdpo_ray.records import Record

Keep = Literal["best", "last"]
Told = Literal["recall", "correct_facts"]
Figure = Literal["score", "recall", "correct_facts"]
COMMON = 0.1
"""Facts of a kind per answer of policy 0 from which on `run.keep_kinds` watches the kind: fewer are chance's."""


class Candidate(Record, frozen=True):
    """A policy's figures on the development topics that it shares with policy 0."""

    version: int
    """Version of the policy."""
    score: float | None
    """Score; None where nothing could be scored."""
    told: float | None
    """Recall, or correct facts by those of policy 0; None where not defined."""
    balance: float
    """Harmonic mean of the two; 0 where one is 0 or not defined."""
    fell: tuple[Figure, ...]
    """Metrics that are below policy 0's beyond noise: it can't be chosen with any."""
    rarer: tuple[str, ...] = ()
    """Kinds of fact that it states too seldom by `run.keep_kinds`: it can't be chosen with any."""

    @property
    def is_eligible(self) -> bool:
        """Whether it may be chosen."""
        return not (self.fell or self.rarer)


class Choice(Record, frozen=True):
    """The policy that a run keeps, as of its newest one: choice.json."""

    keep: Keep
    """`run.keep`."""
    version: int
    """Version of the policy that is kept."""
    best: int | None
    """Version of the best one so far; None without development topics."""
    told_by: Told | None
    """Metric behind `Candidate.told`."""
    candidates: tuple[Candidate, ...]
    """All policies so far; none without development topics."""

    def __post_init__(self) -> None:
        """Raises ValueError when only a part says that there are development topics."""
        if len({self.best is None, self.told_by is None, not self.candidates}) > 1:
            raise ValueError("expected best, told_by and candidates, or none of them")


def choose(
    keep: Keep,
    newest: int,
    development: Sequence[Evaluation],
    *,
    seed: int,
    bootstrap_samples: int,
    keep_kinds: float | None = None,
) -> Choice:
    """The choice among policies 0 to `newest`.

    Args:
        keep: `run.keep`, as `keep_kinds` is `run.keep_kinds`.
        development: evaluation of each policy on the development topics, in order; empty without such topics.
        seed: of the bootstrap over topics, as `bootstrap_samples` its number of resamples.

    Raises ValueError where the best is to be kept and there is nothing to choose by.
    """
    if not development:
        if keep == "best":
            raise ValueError("expected evaluations on development topics, got none")
        return Choice(keep, newest, None, None, ())
    first = development[0]
    told_by: Told = "correct_facts" if first.metrics["recall"].mean is None else "recall"
    candidates = []
    for version, evaluation in enumerate(development):
        changes = compare(first, evaluation, seed=seed, bootstrap_samples=bootstrap_samples).metrics
        score, told = changes["score"].after, _told(told_by, changes[told_by])
        watched: tuple[Figure, ...] = ("score", told_by)
        fell = tuple(name for name in watched if _fell(changes[name]))
        rarer = () if keep_kinds is None else _rarer(first, evaluation, keep_kinds)
        candidates.append(Candidate(version, score, told, _harmonic_mean(score, told), fell, rarer))
    # Among equals the earliest: of two policies that answer alike, the one that training moved less.
    eligible = [each for each in candidates if each.is_eligible]
    best = max(eligible, key=lambda each: (each.balance, -each.version)).version
    return Choice(keep, best if keep == "best" else newest, best, told_by, tuple(candidates))


def _told(metric: str, change: Change) -> float | None:
    if metric == "recall" or change.after is None:
        return change.after
    return min(1.0, change.after / change.before) if change.before else 1.0


def _fell(change: Change) -> bool:
    return change.high is not None and change.high < 0


def _rarer(first: Evaluation, evaluation: Evaluation, least: float) -> tuple[str, ...]:
    """Kinds of fact that are stated less than `least` times as often; "other" facts are of none."""
    before = {kind: facts.stated for kind, facts in first.kinds.items() if kind != OTHER and facts.stated >= COMMON}
    after = {kind: facts.stated for kind, facts in evaluation.kinds.items()}
    return tuple(kind for kind, stated in before.items() if after.get(kind, 0.0) < least * stated)


def _harmonic_mean(score: float | None, told: float | None) -> float:
    return 2 * score * told / (score + told) if score and told else 0.0
