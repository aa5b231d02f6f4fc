"""Token shift: positions and levels by hand, ranks against a sort."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maskdpo_ray.evaluation.analyses import token_shift
from maskdpo_ray.evaluation.analyses.token_shift import Answer
from maskdpo_ray.records import Sentence


def test_positions_in_sentences() -> None:
    """ "Ab cd. Ef." as " Ab", " cd", ".", " Ef", "." and an end of turn that spells nothing."""
    sentences = (Sentence(0, 6, "no_fact"), Sentence(7, 10, "no_fact"))
    spans = [(0, 2), (2, 5), (5, 6), (6, 9), (9, 10), (10, 10)]
    thirds = [1 / 6, 3 / 6, 5 / 6]
    assert token_shift.positions(sentences, spans) == pytest.approx([*thirds, *thirds])
    assert token_shift.positions(sentences[:1], spans) == pytest.approx([(n + 0.5) / 6 for n in range(6)])
    assert token_shift.positions((), spans[:2]) == [0.25, 0.75]
    # White space between sentences belongs to the one before.
    assert token_shift.positions(sentences, [(0, 6), (6, 7), (7, 10)]) == [0.25, 0.75, 0.5]
    assert token_shift.positions(sentences, []) == []


def test_levels_and_positions() -> None:
    """Five tokens of one sentence, ranks 1 2 3 4 9 before and 1 after, and an answer about another topic."""
    places = [(n + 0.5) / 5 for n in range(5)]
    answers = [Answer("A", [0], [1] * 5, places), Answer("B", [0], [1] * 2, [0.25, 0.75])]
    ranks = {
        "before": [np.array([1, 2, 3, 4, 9]), np.array([1, 4])],
        "after": [np.array([1, 1, 1, 1, 1]), np.array([2, 2])],  # sampled answers have other ranks than 1
    }
    found = token_shift.shift("heldout", answers, ranks, 3, seed=1, bootstrap_samples=200)
    assert (found.answers, found.topics, found.tokens, found.left_out) == (2, 2, 7, 3)
    assert found.first == pytest.approx(5 / 7)
    shares = {name: each.share for name, each in found.levels.items()}
    assert shares == pytest.approx({"marginal": 3 / 7, "shifted": 2 / 7, "any": 5 / 7})
    marginal = found.levels["marginal"]
    assert (marginal.low, marginal.high) == pytest.approx((2 / 5, 1 / 2)), "each topic alone"
    bins = [(each.tokens, each.marginal, each.shifted) for each in found.by_position]
    assert bins == [(1, 0, 0), (2, 0.5, 0), (1, 1, 0), (2, 0.5, 0.5), (1, 0, 1)]


def test_the_policy_that_is_the_start_has_no_shift() -> None:
    answers = [Answer("A", [0], [1] * 4, [0.1, 0.3, 0.6, 0.9])]
    ranks = [np.array([1, 5, 2, 1])]
    found = token_shift.shift("heldout", answers, {"before": ranks, "after": ranks}, 0, seed=1, bootstrap_samples=10)
    assert found.levels["any"] == token_shift.Share(0.0, None, None)


@pytest.mark.parametrize("is_tree", [True, False], ids=["tree", "padded"])
def test_ranks_are_places_in_the_sorted_logits(
    small_model: Path, monkeypatch: pytest.MonkeyPatch, is_tree: bool
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from maskdpo_ray.training import ways

    if not is_tree:
        monkeypatch.setattr(ways, "_by_fields", lambda *given: "the test says so")
    answers = [Answer("A", [5, 9, 20], [7, 30, 2, 50 + n, *[40] * (n % 3)], []) for n in range(11)]
    network = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float32)
    expected: list[list[int]] = []
    with torch.inference_mode():
        for answer in answers:
            expected.append([])
            for at, token in enumerate(answer.token_ids):
                context = torch.tensor([[*answer.prompt_ids, *answer.token_ids[:at]]])
                order = network(input_ids=context).logits[0, -1].argsort(descending=True).tolist()
                expected[-1].append(1 + order.index(token))
    found = token_shift.Ranker(small_model, "RUN").ranks(answers)
    assert [each.tolist() for each in found] == expected
    assert len({rank for each in expected for rank in each}) > 5
