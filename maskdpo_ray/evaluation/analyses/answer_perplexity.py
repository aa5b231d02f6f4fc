"""Perplexity of answers under another language model, before and after training (Mask-DPO appendix C.2).

The paper asks GPT-2 whether training spoils the language: 44.20 before, 34.91 after. `eval.perplexity_model` measures
all answers of a run while it runs; this measures the answers in the logs of a run that had no such model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from maskdpo_ray.errors import DataError
from maskdpo_ray.evaluation.intervals import Change, Ratios, TopicSums
from maskdpo_ray.records import Record, Surprisal

START = "start"
"""The policy before training, as the other model."""
_RATIOS = Ratios(("nats", "tokens"), {"nats_per_token": ("nats", "tokens")})


class AnswerPerplexity(Record):
    """Surprisal before and after."""

    run: str
    after: int
    """Version of the trained policy."""
    reference: str
    """The other model."""
    log: str
    """Log of the answers: see `SplitShift.log`."""
    answers: int
    """Questions whose answers were measured on both sides."""
    topics: int
    bootstrap_samples: int
    nats_per_token: Change
    """exp of it is the perplexity over all answers."""


def compare(
    run: str,
    after: int,
    reference: str,
    log: str,
    topic_of: Mapping[str, str],
    found: Mapping[str, Mapping[str, Surprisal | None]],
    *,
    seed: int,
    bootstrap_samples: int,
) -> AnswerPerplexity:
    """The analysis of answers; `found`: question id -> surprisal of the answer, by the policies "before" and "after".

    Questions count that have been measured on both sides. Raises DataError when there are none.
    """
    sides = found["before"], found["after"]
    both = [name for name in topic_of if all(side.get(name) is not None for side in sides)]
    if not both:
        raise DataError(f"expected answers in {log} that {reference} has room for, before and after, got none")
    sums = [_sums(both, topic_of, side) for side in sides]
    change = _RATIOS.changes(*sums, seed=seed, bootstrap_samples=bootstrap_samples)["nats_per_token"]
    return AnswerPerplexity(run, after, reference, log, len(both), len(sums[0]), bootstrap_samples, change)


def _sums(names: Sequence[str], topic_of: Mapping[str, str], side: Mapping[str, Surprisal | None]) -> TopicSums:
    def row(surprisal: Surprisal | None) -> dict[str, float]:
        assert surprisal is not None
        return {"nats": surprisal.nats, "tokens": surprisal.num_tokens}

    return _RATIOS.add_up((topic_of[name], row(side[name])) for name in names)
