"""Perplexity before and after, by hand."""

from __future__ import annotations

import pytest

from maskdpo_ray.errors import DataError
from maskdpo_ray.evaluation.analyses import answer_perplexity
from maskdpo_ray.records import Surprisal

TOPIC_OF = {"a": "A", "b": "B", "c": "b", "long": "C"}
BEFORE = {"a": Surprisal(10.0, 5), "b": Surprisal(3.0, 3), "c": Surprisal(9.0, 2), "long": Surprisal(1.0, 1)}
AFTER = {"a": Surprisal(6.0, 6), "b": Surprisal(0.0, 0), "c": Surprisal(8.0, 4), "long": None}


def test_nats_per_token_of_all_answers() -> None:
    found = answer_perplexity.compare(
        "run", 3, "start", "heldout", TOPIC_OF, {"before": BEFORE, "after": AFTER}, seed=1, bootstrap_samples=300
    )
    assert (found.answers, found.topics) == (3, 2), "a question whose answer has no room counts on neither side"
    change = found.nats_per_token
    assert (change.before, change.after) == (pytest.approx(22 / 10), pytest.approx(14 / 10))
    # Resamples are A twice, B twice or both.
    assert (change.low, change.high) == (pytest.approx(6 / 6 - 10 / 5), pytest.approx(8 / 4 - 12 / 5))


def test_nothing_measured() -> None:
    sides = {"before": BEFORE, "after": dict.fromkeys(AFTER)}
    with pytest.raises(DataError, match="expected answers in heldout that start has room for, before and after"):
        answer_perplexity.compare("run", 3, "start", "heldout", TOPIC_OF, sides, seed=1, bootstrap_samples=10)
