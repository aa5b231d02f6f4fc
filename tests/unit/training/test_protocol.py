"""Objectives by name and with options; sums over tokens; properties that every objective of the folder has."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from objective_batches import own_margin

from maskdpo_ray.errors import ConfigError
from maskdpo_ray.training.objectives import protocol
from maskdpo_ray.training.objectives.protocol import Batch, Responses, load, names, sums

NAMES = ", ".join(names())
OWN = "python:objective_batches"


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        (
            "dop",
            {},
            f"objective.name: expected one of {NAMES}, python:package.module:function; got 'dop'; did you mean ",
        ),
        ("protocol", {}, f"objective.name: expected one of {NAMES}, python:package.module:function; got 'protocol'"),
        ("python:no_such_module:loss", {}, "objective.name: can't import no_such_module of "),
        (f"{OWN}:absent", {}, "objective.name: expected a function absent in objective_batches, got None"),
        (f"{OWN}:NOT_ONE", {}, "objective.name: expected a function NOT_ONE in objective_batches, got 3"),
        (f"{OWN}:takes_too_little", {}, "objective.name: expected a function of (batch, beta, ...), got takes_too_lit"),
        (
            "dpo",
            {"label_smothing": 0.1},
            "objective.options: dpo: expected one of label_smoothing; got 'label_smothing'",
        ),
        ("dpo", {"label_smoothing": 0.5}, "objective.options: dpo: label_smoothing: expected 0 to below 0.5, got 0.5"),
        ("dpo", {"label_smoothing": "a"}, "objective.options: dpo: label_smoothing: expected a number, got 'a'"),
        ("dpo", {"label_smoothing": True}, "objective.options: dpo: label_smoothing: expected a number, got True"),
        (f"{OWN}:own_margin", {}, "objective.options: own_margin: expected margin, which has no default"),
        (f"{OWN}:own_margin", {"margin": 1, "n": 2}, "objective.options: own_margin: expected one of margin; got 'n'"),
    ],
)
def test_what_is_refused(name: str, options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(name, options)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


def test_a_function_of_ones_own_is_one_of_pairs_with_a_reference() -> None:
    found = load(f"{OWN}:own_margin", {"margin": 2})
    assert (found.name, found.unit, found.needs_reference, found.needs_kl, found.needs_means) == (
        "own_margin",
        "pair",
        True,
        False,
        (),
    )
    batch = Batch(
        Responses(torch.zeros(1), torch.ones(1), torch.tensor([3.0])),
        Responses(torch.zeros(1), torch.ones(1), torch.tensor([-4.0])),
    )
    assert found.losses(batch, 0.5).tolist() == own_margin(batch, 0.5, 2).tolist() == [2 - 0.5 * 7]
    assert found.rewards(batch.chosen, 0.5).tolist() == [1.5]


def test_names_are_listed_without_torch() -> None:
    code = "import sys; from maskdpo_ray.training.objectives import protocol; print(*protocol.names(), *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "dpo" in done.stdout.split() and "torch" not in done.stdout.split()


def test_sums_are_over_the_tokens_with_weight() -> None:
    policy = torch.tensor([[-1.0, -2.0, float("nan")], [-3.0, -float("inf"), -1.0]], requires_grad=True)
    reference = torch.tensor([[-1.5, -1.0, 0.0], [-1.0, float("nan"), -4.0]])
    weights = torch.tensor([[1.0, 0.5, 0.0], [1.0, 0.0, 2.0]])
    found = sums(policy, reference, weights, kls=torch.tensor([[1.0, 2.0, float("nan")], [0.0, 9.0, 0.25]]))
    assert found.policy.tolist() == [-2.0, -5.0] and found.tokens.tolist() == [1.5, 3.0]
    assert found.ratios.tolist() == [0.0, 4.0] and found.kl.tolist() == [2.0, 0.5]
    assert found.averages.tolist() == pytest.approx([-2.0 / 1.5, -5.0 / 3.0])
    (found.policy + found.ratios).sum().backward()
    assert torch.equal(policy.grad, 2 * weights)
    swapped = found[[1, 0]]
    assert swapped.ratios.tolist() == [4.0, 0.0] and swapped.kl.tolist() == [0.5, 2.0] and len(found[1:]) == 1


def test_a_response_without_weight_has_no_average_and_gives_no_gradient() -> None:
    policy = torch.full((2, 3), -2.0, requires_grad=True)
    averages = sums(policy, None, torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])).averages
    assert averages.tolist() == [0.0, -2.0]
    averages.sum().backward()
    assert policy.grad.tolist() == [[0.0, 0.0, 0.0], [0.5, 0.5, 0.0]]


def test_what_was_not_asked_for_is_not_zero_but_absent() -> None:
    responses = sums(torch.zeros(1, 1), None, torch.ones(1, 1))
    with pytest.raises(LookupError, match="needs_reference=True"):
        _ = responses.ratios
    with pytest.raises(LookupError, match="needs_kl=True"):
        _ = responses.kl
    with pytest.raises(LookupError, match="needs_means="):
        Batch(responses, responses).mean("mismatched")
    assert responses.at_reference().reference_ratios is None


def test_at_the_reference_ratios_and_divergences_are_zero() -> None:
    logps, weights = torch.randn(4, 3, requires_grad=True), torch.ones(4, 3)
    responses = sums(logps, torch.randn(4, 3), weights, torch.rand(4, 3))
    batch = Batch(responses[:2], responses[2:], {"mismatched": torch.tensor(2.0)}).at_reference()
    assert torch.equal(batch.chosen.policy, responses.policy[:2]) and not batch.chosen.policy.requires_grad
    for each in (batch.chosen, batch.rejected):
        assert each.ratios.tolist() == each.kl.tolist() == [0.0, 0.0] and not each.ratios.requires_grad
    assert batch.mean("mismatched").item() == 0
    assert load("dpo").losses(batch, 0.1).tolist() == pytest.approx([0.693147, 0.693147], abs=1e-6)


@pytest.mark.parametrize(("name", "got"), [("scalar_loss", r"\[\]"), ("no_tensor", "float")])
def test_what_a_function_returns_is_checked(name: str, got: str) -> None:
    responses = sums(torch.zeros(2, 1), torch.zeros(2, 1), torch.ones(2, 1))
    with pytest.raises(
        ConfigError, match=rf"objective.name: {name}: expected a loss for each pair, .* \[2\], got {got}"
    ):
        load(f"{OWN}:{name}").losses(Batch(responses, responses), 0.1)


def test_units_are_counted_as_they_are_lost() -> None:
    of = {unit: protocol.objective(unit=unit)(own_margin).num_units(3, 2) for unit in ("response", "chosen")}
    assert of == {"response": 5, "chosen": 3}
