"""Seeded top-k sampling: the right distribution, and each row by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from actors.patches import TopKSampler


def never(*_: Any) -> Any:
    raise AssertionError("vLLM's own sampler was asked")


def generators(*seeds: int) -> dict[int, torch.Generator]:
    return {row: torch.Generator().manual_seed(seed) for row, seed in enumerate(seeds)}


@pytest.mark.parametrize("seeded", [True, False])
def test_distribution(seeded: bool) -> None:
    """Against softmax over the k largest logits, by a chi-square test."""
    torch.manual_seed(5)
    logits, count = torch.tensor([0.3, -1.0, 2.0, 1.5, -9.0, 0.9]), 4_000
    k = torch.full((count,), 4)
    own = generators(*range(count)) if seeded else {}
    tokens, logps = TopKSampler(never)(logits.repeat(count, 1), own, k, None)
    assert logps is None and tokens.dtype == torch.int64
    found = torch.bincount(tokens, minlength=6)
    assert found[1] == found[4] == 0
    kept = torch.tensor([0, 2, 3, 5])
    expected = logits[kept].softmax(-1) * count
    chi_square = ((found[kept] - expected) ** 2 / expected).sum()
    assert chi_square < 16.27  # 3 degrees of freedom, p = 0.001


def test_a_row_does_not_depend_on_those_beside_it() -> None:
    torch.manual_seed(0)
    logits, k, sampler = torch.randn(3, 50) * 2, torch.tensor([5, 40, 20]), TopKSampler(never)

    def tokens(rows: list[int]) -> list[list[int]]:
        own = generators(*rows)
        steps = [sampler(logits[rows].clone(), own, k[rows], None)[0].tolist() for _ in range(8)]
        return [list(row) for row in zip(*steps, strict=True)]

    together = tokens([0, 1, 2])
    assert len({tuple(row) for row in together}) == 3
    assert together == [tokens([row])[0] for row in range(3)]
    assert tokens([2, 0]) == [together[2], together[0]]


def test_last_bits_of_the_logits_change_nothing() -> None:
    """In another batch a prompt's logits differ in their last bits, and near-equal ones swap their ranks."""
    torch.manual_seed(0)
    k, sampler = torch.tensor([200]), TopKSampler(never)
    logits = torch.randn(300, 1, 200).bfloat16().float()  # with many ties, as in a bf16 model
    before, after = (
        [sampler(row + shift * torch.randn(row.shape), own, k, None)[0].item() for row in logits]
        for shift in (0.0, 1e-6)
        for own in [generators(3)]
    )
    assert before == after


def test_rows_without_a_seed_leave_seeded_ones_alone() -> None:
    logits, k, sampler = torch.randn(2, 50), torch.tensor([10, 10]), TopKSampler(never)
    alone = [sampler(logits[:1], own, k[:1], None)[0].item() for own in [generators(3)] for _ in range(8)]
    mixed = [sampler(logits, own, k, None)[0].tolist() for own in [generators(3)] for _ in range(8)]
    assert [row[0] for row in mixed] == alone
    assert len({row[1] for row in mixed}) > 1


def test_without_top_k_or_with_top_p_vllm_samples() -> None:
    asked = []
    sampler = TopKSampler(lambda *arguments: asked.append(arguments) or (torch.tensor([7]), None))
    logits = torch.randn(1, 8)
    assert sampler(logits, {}, None, None)[0].item() == 7
    assert sampler(logits, {}, torch.tensor([2]), torch.tensor([0.9]))[0].item() == 7
    assert len(asked) == 2
