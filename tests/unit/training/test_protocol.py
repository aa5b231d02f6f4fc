"""Objectives by name and with options; sums over tokens; properties that every objective of the folder has."""

from __future__ import annotations

import doctest
import inspect
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from objective_batches import BETA, Tokens, own_margin, tokens

from maskdpo_ray.errors import ConfigError
from maskdpo_ray.training.objectives import protocol
from maskdpo_ray.training.objectives.protocol import Batch, Objective, Responses, load, names, sums

NAMES = ", ".join(names())
PAGE = Path(__file__).parents[3] / "docs/objectives.md"
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


@pytest.mark.parametrize(("name", "got"), [("scalar_loss", r"\[\]"), ("no_tensor", "float")])
def test_what_a_function_returns_is_checked(name: str, got: str) -> None:
    responses = sums(torch.zeros(2, 1), torch.zeros(2, 1), torch.ones(2, 1))
    with pytest.raises(
        ConfigError, match=rf"objective.name: {name}: expected a loss for each pair, .* \[2\], got {got}"
    ):
        load(f"{OWN}:{name}").losses(Batch(responses, responses), 0.1)


def test_units_are_counted_as_they_are_lost() -> None:
    of = {unit: protocol.objective(unit=unit)(own_margin).num_units(3, 2) for unit in ("response", "chosen response")}
    assert of == {"response": 5, "chosen response": 3}


@pytest.fixture(params=names())
def each(request: pytest.FixtureRequest) -> Objective:
    """Every objective of the folder, with its default options."""
    return load(request.param)


def total(objective: Objective, given: Tokens, pairs: list[int] | None = None) -> torch.Tensor:
    return objective.losses(given.batch(objective, pairs), BETA).sum()


def gradients(objective: Objective, given: Tokens, pairs: list[int] | None = None) -> list[torch.Tensor]:
    """Gradient of the sum of the losses by the policy's log-probs and the divergences."""
    inputs = [given.policy, given.kls] if objective.needs_kl else [given.policy]
    return list(torch.autograd.grad(total(objective, given, pairs), inputs))


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
def test_what_stands_at_weight_zero_is_not_read_and_gets_no_gradient(each: Objective, junk: float) -> None:
    given, dirty = tokens(), tokens()
    for tensor in (dirty.policy, dirty.reference, dirty.kls):
        tensor.data[given.weights == 0] = junk
    assert torch.equal(total(each, dirty), total(each, given))
    for gradient, clean in zip(gradients(each, dirty), gradients(each, given), strict=True):
        assert torch.equal(gradient, clean) and (gradient[given.weights == 0] == 0).all()
    assert gradients(each, given)[0].any()


def test_order_of_pairs_does_not_matter(each: Objective) -> None:
    given = tokens()
    found, swapped = (each.losses(given.batch(each, order), BETA) for order in ([0, 1, 2, 3], [2, 0, 3, 1]))
    whole, other = (values.view(-1, 4) for values in (found, swapped))
    torch.testing.assert_close(other, whole[:, [2, 0, 3, 1]], atol=0, rtol=1e-14)


def test_micro_batches_add_up_to_the_batch(each: Objective) -> None:
    given = tokens(num_pairs=5)
    parts = [gradients(each, given, pairs) for pairs in ([3], [0, 1], [2, 4])]
    for number, whole in enumerate(gradients(each, given)):
        torch.testing.assert_close(sum(part[number] for part in parts), whole, atol=1e-14, rtol=1e-12)


def test_an_empty_micro_batch_has_no_losses(each: Objective) -> None:
    assert each.losses(tokens().batch(each, []), BETA).shape == (0,)


def test_a_tokens_gradient_is_in_proportion_to_its_weight(each: Objective) -> None:
    given = tokens()
    for gradient in gradients(each, given):
        by_weight = torch.where(given.weights > 0, gradient / given.weights, math.nan)
        of_row = by_weight[:, :1].expand_as(gradient)
        torch.testing.assert_close(by_weight.nan_to_num(0), torch.where(given.weights > 0, of_row, 0.0))


def test_a_token_of_weight_one_is_two_of_one_half(each: Objective) -> None:
    given = tokens(ones=True)
    halves = Tokens(*(torch.cat([x, x], -1) for x in (given.policy, given.reference)), *(None, None), given.means)
    halves.weights, halves.kls = torch.cat([given.weights / 2] * 2, -1), torch.cat([given.kls] * 2, -1)
    torch.testing.assert_close(each.losses(halves.batch(each), BETA), each.losses(given.batch(each), BETA))


def test_losses_are_finite_where_a_response_has_no_weight_or_is_certain(each: Objective) -> None:
    """Pairs without weight are dropped before; a rank's guard would stop at infinities."""
    given = tokens()
    given.weights[1] = 0
    given.policy.data[2] = 0
    assert torch.isfinite(each.losses(given.batch(each), BETA)).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients(each, given))


def test_float32_sums_are_close_to_float64_ones(each: Objective) -> None:
    given = tokens()
    found = [each.losses(given.batch(each), BETA)]
    for name in ("policy", "reference", "kls"):
        setattr(given, name, getattr(given, name).float())
    given.means = {role: mean.float() for role, mean in given.means.items()}
    found.append(each.losses(given.batch(each), BETA))
    assert [x.dtype for x in found] == [torch.float64, torch.float32]
    torch.testing.assert_close(found[1].double(), found[0], atol=1e-4, rtol=1e-5)


def test_an_objective_says_what_it_needs(each: Objective) -> None:
    """Tensors that it does not ask for are not in the batch, and would raise."""
    given = tokens()
    batch = given.batch(each)
    assert (batch.chosen.reference_ratios is not None) == each.needs_reference
    assert (batch.chosen.reference_kl is not None) == each.needs_kl
    assert set(batch.means) == set(each.needs_means)
    assert each.losses(batch, BETA).shape == (each.num_units(4, 4),)
    assert len(str(each.function.__doc__)) > 40


def test_rows_of_the_page_are_objectives_with_their_options_and_defaults() -> None:
    table = [line.strip("|").split("|") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in table if len(row) == 4 and row[0].startswith(" `")]
    assert len(rows) >= 15
    for name, _, options, _ in rows:
        for option in list(inspect.signature(load(name.strip(" `")).function).parameters.values())[2:]:
            assert f"`{option.name}` {option.default}" in options


def test_the_examples_of_the_page() -> None:
    done = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert (done.failed, done.attempted > 10) == (0, True)
