"""The verdict: outcome, figures, what to ship and what a higher score hides."""

from __future__ import annotations

from typing import Any

import pytest

from maskdpo_ray.report.verdict import verdict

METRICS = ("score", "recall", "correct_facts", "incorrect_facts")


def version(number: int, score: float, gain: tuple[float, float, float] | None = None) -> dict[str, Any]:
    metrics: dict[str, Any] = {name: {"mean": score} for name in METRICS}
    change = None
    if gain is not None:
        change = {
            name: {"before": 0.5, "after": score, "gain": gain[0], "low": gain[1], "high": gain[2]} for name in METRICS
        }
    return {"name": f"after {number}", "version": number, "metrics": metrics, "gain": change}


def summary(*versions: dict[str, Any], kept: int | None = None, remarks: tuple[str, ...] = ()) -> dict[str, Any]:
    chosen = None if kept is None else {"version": kept, "keep": "best", "policy": "runs/a/policy"}
    return {"kept": chosen, "evaluations": {"heldout": list(versions)} if versions else {}, "remarks": list(remarks)}


@pytest.mark.parametrize(
    ("gain", "outcome", "words"),
    [
        ((0.2, 0.1, 0.3), "better", "Answers became more factual: held-out score 0.500 → 0.700."),
        ((-0.2, -0.3, -0.1), "worse", "Answers became LESS factual: held-out score 0.500 → 0.700."),
        ((0.1, -0.1, 0.3), "unclear", "No change beyond noise: held-out score 0.500 → 0.700."),
    ],
)
def test_outcome_is_that_of_the_interval(gain: tuple[float, float, float], outcome: str, words: str) -> None:
    found = verdict(summary(version(0, 0.5), version(1, 0.7, gain), kept=1))
    assert (found.outcome, found.headline) == (outcome, words)
    tiles = {tile.heading: tile for tile in found.tiles}
    assert tiles["Factuality score"].outcome == outcome
    opposite = {"better": "worse", "worse": "better", "unclear": "unclear"}
    assert tiles["Incorrect facts per answer"].outcome == opposite[outcome]
    assert tiles["Factuality score"].change == f"{gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}]"
    assert found.policy == "runs/a/policy"
    advice = {"better": "Ship policy 1, the best on", "worse": "Don't ship policy 1", "unclear": "if at all"}
    assert advice[outcome] in found.ship


def test_kept_policy_is_compared_not_the_last_one() -> None:
    versions = version(0, 0.5), version(1, 0.7, (0.2, 0.1, 0.3)), version(2, 0.4, (-0.1, -0.2, -0.05))
    assert verdict(summary(*versions, kept=1)).outcome == "better"
    found = verdict(summary(*versions, kept=0))
    assert found.outcome == "worse"
    assert found.ship.startswith("Ship nothing") and found.policy is None
    assert any("policy 2" in sentence and "isn't the one that is kept" in sentence for sentence in found.sentences)


def test_what_is_stated_less_is_the_first_warning() -> None:
    remarks = (
        "heldout, after 1: the score rose: 0.500 -> 0.700",
        "heldout, after 1: stated less often: currency (0.57 -> 0.01)",
        "heldout, after 1: the second evaluator, factscore, agrees: its score rose: 0.5 -> 0.6",
        "transfer, after 1: the score fell: 0.3 -> 0.2",
        "from iteration 1 on the pairs are of the policy before the newest (rollout.ahead): NOT ON-POLICY",
    )
    found = verdict(summary(version(0, 0.5), version(1, 0.7, (0.2, 0.1, 0.3)), kept=1, remarks=remarks))
    assert found.warnings == [remarks[1], remarks[4]]  # what is stated less comes first; scores have tiles
    assert "factscore, agrees" in " ".join(found.sentences)


def test_before_anything_was_trained_or_evaluated() -> None:
    assert verdict(summary()).headline == "Nothing has been evaluated yet."
    alone = verdict(summary(version(0, 0.5), kept=0))
    assert alone.outcome == "none" and "0.500" in alone.headline
    assert [tile.after for tile in alone.tiles] == [""] * len(alone.tiles)
