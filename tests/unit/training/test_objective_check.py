"""The check of an objective: all of ours pass, and each way to be wrong is found and named."""

from __future__ import annotations

import pytest

from maskdpo_ray.training.objective_check import check
from maskdpo_ray.training.objectives.protocol import load, names

OWN = "python:objective_batches"
FINITE = "losses of 1 to 8 pairs: one each, finite"
FAR = "losses are finite where log-ratios are 1000 nats"
LEARNS = "gradients are finite, and there are some"
ORDER = "the order of a batch does not matter"
PARTS = "micro-batches add up to the batch"
WRITES = "it changes none of its arguments"
AGAIN = "the same batch again: the same losses"
DTYPE = "float32 stays float32"
EXACT = "gradients are those of finite differences in float64"


@pytest.mark.parametrize("name", names())
def test_ours_pass(name: str) -> None:
    findings = list(check(load(name), 0.1))
    assert len(findings) >= 10
    faults = {finding.tried: finding.fault for finding in findings if finding.fault}
    # TDPO stops the gradient of the chosen responses' divergence.
    assert set(faults) == ({EXACT} if name == "tdpo" else set())
    *_, last = findings
    assert last.note.startswith("loss ") and ("chosen up" in last.note)


@pytest.mark.parametrize(
    ("name", "tried", "fault"),
    [
        (
            "scalar_loss",
            {FINITE},
            "objective.name: scalar_loss: expected a loss for each pair, a tensor of shape [1], ",
        ),
        (
            "no_tensor",
            {FINITE},
            "objective.name: no_tensor: expected a loss for each pair, a tensor of shape [1], got fl",
        ),
        ("unasked", {FINITE}, "LookupError: kl is not there: the objective needs @objective(needs_kl=True) ("),
        ("overflows", {FAR, LEARNS}, "expected finite losses, got inf"),
        ("by_place", {ORDER, PARTS}, "the loss of a pair or response depends on its place in the batch"),
        ("writes", {WRITES}, "it writes into the batch"),
        ("flat", {LEARNS}, "expected a gradient, got zeros"),
    ],
)
def test_what_a_run_would_not_survive(name: str, tried: set[str], fault: str) -> None:
    found = [finding for finding in check(load(f"{OWN}:{name}"), 0.5) if finding.must and finding.fault]
    assert {finding.tried for finding in found} == tried
    assert str(found[0].fault).startswith(fault)


def test_a_loss_that_looks_at_others_of_its_batch() -> None:
    found = {finding.tried: str(finding.fault) for finding in check(load(f"{OWN}:likelier"), 0.1) if finding.fault}
    assert set(found) == {PARTS} and "@objective(needs_means=...) has global means" in found[PARTS]


def test_a_loss_without_gradient() -> None:
    found = {finding.tried: str(finding.fault) for finding in check(load(f"{OWN}:detached"), 0.1) if finding.fault}
    assert found[LEARNS] == "expected losses with a gradient, got constants: is everything detached?"


def test_what_a_run_would_survive_is_noted() -> None:
    guessed = {finding.tried: finding.must for finding in check(load(f"{OWN}:guesses"), 0.1) if finding.fault}
    assert guessed[AGAIN] is False and guessed[ORDER]
    halved = {finding.tried: finding.must for finding in check(load(f"{OWN}:half"), 0.1) if finding.fault}
    assert halved[DTYPE] is False and halved[EXACT] is False


def test_a_wrong_sign_is_noted() -> None:
    *_, last = check(load(f"{OWN}:unlearns"), 0.1)
    assert last.fault == "loss 0, chosen down, rejected up: expected the other way round; is a sign wrong?"


def test_an_own_objective_passes() -> None:
    findings = list(check(load(f"{OWN}:own_margin", {"margin": 1}), 0.1))
    assert [finding.tried for finding in findings if finding.fault] == []
    assert findings[-1].note == "loss 1, chosen up, rejected down"
