"""Sentences and rows of the analyses: they say what the figures say, in both directions."""

from __future__ import annotations

import re

import pytest

from maskdpo_ray.evaluation.analyses.affinity import Affinity, SideChange
from maskdpo_ray.evaluation.analyses.answer_perplexity import AnswerPerplexity
from maskdpo_ray.evaluation.analyses.best_of import BestOf
from maskdpo_ray.evaluation.analyses.mutual_knn import MutualKnn, SplitAlignment
from maskdpo_ray.evaluation.analyses.token_shift import Bin, Share, SplitShift, TokenShift
from maskdpo_ray.evaluation.intervals import Change
from maskdpo_ray.report.analyses import views


def change(gain: float, low: float | None, high: float | None) -> Change:
    return Change(1.0, 1.0 + gain, gain, low, high)


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        (change(-0.5, -0.7, -0.3), change(0.4, 0.1, 0.7), "chosen responses came nearer and .* moved away: as in the"),
        (change(0.5, 0.3, 0.7), change(-0.4, -0.7, -0.1), "chosen responses moved away and .*: the opposite"),
        (change(-0.5, -0.7, 0.1), change(-0.4, -0.7, -0.1), r"came nearer \(the interval contains 0\) .*: not as in"),
    ],
)
def test_affinity(chosen: Change, rejected: Change, expected: str) -> None:
    changes = {"word embeddings": SideChange(chosen, rejected, 0.25, None, None)}
    found = views.affinity(Affinity("run", 3, 200, 90, 800, 700, 2000, changes))
    assert found.plot is not None and "2000 resamples" in found.sentences[0]
    assert re.search(expected, found.sentences[1])
    assert found.rows[0][:4] == ["word embeddings", "chosen", "1.0000", f"{chosen.after:.4f}"]
    assert found.rows[2][1:] == ["rejected less chosen", "", "", "+0.2500 ", "+6.06"]


def shift(share: float) -> SplitShift:
    level = Share(share, share / 2, None if share > 0.5 else share * 2)
    bins = tuple(Bin(10, share / 2, share / 2) for _ in range(5))
    return SplitShift("heldout-greedy", 4, 4, 50, 1.0, dict.fromkeys(("marginal", "shifted", "any"), level), bins, 0)


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ({"heldout": shift(0.3), "transfer": shift(0.1)}, "that was trained on has 3.00 times as many."),
        ({"heldout": shift(0.3), "transfer": shift(0)}, "has some, and none in the other."),
        ({"heldout": shift(0.3)}, "in the other one (FAVA)."),
    ],
)
def test_token_shift(splits: dict[str, SplitShift], said: str) -> None:
    found = views.token_shift(TokenShift("run", 3, 2000, splits))
    assert found.sentences[1].endswith(said) and len(found.rows) == len(splits)
    assert found.rows[0][-1] == "30.0% [15.0%, 60.0%]"


@pytest.mark.parametrize(
    ("gain", "low", "said"), [(0.1, 0.05, "more after training."), (-0.1, -0.2, "no more after training; the interval")]
)
def test_mutual_knn(gain: float, low: float, said: str) -> None:
    splits = {"heldout": SplitAlignment(40, 40, 0.256, change(gain, low, 0.2))}
    found = views.mutual_knn(MutualKnn("run", 3, "minilm", 10, 2000, splits))
    assert f"they agree {said}" in found.sentences[1]
    assert found.rows == [["heldout", "40", "0.256", "1.000", f"{1 + gain:.3f}", f"{gain:+.3f} [{low:+.3f}, +0.200]"]]


def test_perplexity() -> None:
    nats = Change(2.0, 1.5, -0.5, -0.75, -0.25)
    found = views.perplexity(AnswerPerplexity("run", 3, "start", "heldout-greedy", 40, 40, 2000, nats))
    assert found.rows == [
        ["perplexity", "7.39", "4.48", "", "44.20 → 34.91"],
        ["nats per token", "2.000", "1.500", "-0.500 [-0.750, -0.250]", ""],
    ]


def test_best_of_has_the_papers_row_beside_ours() -> None:
    found = views.best_of(BestOf("run", 3, 16, 40, 40, 2000, {"1": change(0.2, 0.1, 0.3), "16": change(0.1, 0, 0.2)}))
    assert "+0.200 with one answer and +0.100 with the best of 16" in found.sentences[1]
    assert [row[-1] for row in found.rows] == ["47.79 → 70.67 (+22.88)", "73.38 → 89.80 (+16.42)"]
