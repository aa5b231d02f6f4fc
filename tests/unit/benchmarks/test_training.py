"""The pure parts of the training benchmarks: counted work, ratios and tables, order, the authors' rule."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import pytest

from benchmarks import ablation, by_trl, gpu_check, measures, training
from benchmarks.workload import Workload
from maskdpo_ray.records import Annotation, Rollout, ScoredAnswer, Sentence

SHAPE = measures.Shape(hidden=8, intermediate=16, layers=2, heads=4, kv_heads=2, head_dim=2, vocabulary=100)


def workload(**options: Any) -> Workload:
    return Workload(pairs="pairs.jsonl", model="model", num_pairs=4, batch_size=2, epochs=2, **options)


def outcome(seconds: float, gib: float, **details: Any) -> dict[str, Any]:
    return {"seconds": seconds, "peak_rss": gib * measures.GIB, "losses": [0.7, 0.6], "details": details}


def test_flops_are_those_of_the_matrices_that_torch_multiplies() -> None:
    """Against torch's own counter, on a forward pass of a real model with as many tokens, heads and rows."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaForCausalLM

    config = gpu_check.config_of("tiny")
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(input_ids=torch.zeros(2, 16, dtype=torch.long), use_cache=False)
    # Eager attention computes the whole square; the rotations are one small product.
    work = measures.Work(tokens=32, attended=2 * 16 * 16, head_rows=32)
    expected = measures.forward_flops(work, measures.Shape.of(config))
    assert counted.get_total_flops() == pytest.approx(expected, rel=1e-3)


def test_work_adds_up_and_training_is_three_forwards() -> None:
    work = measures.Work(1, 2, 3) + measures.Work(10, 20, 30)
    assert work == measures.Work(11, 22, 33)
    layer = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16
    assert measures.forward_flops(work, SHAPE) == 2 * layer * 2 * 11 + 4 * 8 * 2 * 22 + 2 * 8 * 100 * 33
    assert measures.training_flops(work, SHAPE) == 3 * measures.forward_flops(work, SHAPE)
    assert measures.causal([1, 3]) == 1 + 6


def test_a_table_lines_up() -> None:
    assert measures.table(["a", "b"], [["long", "1"]]) == "| a    | b |\n|------|---|\n| long | 1 |"
    assert measures.shown_spread(measures.spread([3.0, 1.0, 2.0])) == "2.00 (1.00-3.00)"


def test_ratios_are_of_medians() -> None:
    found = [
        training.summary("ours", [outcome(1, 1, flops=5.0), outcome(2, 1, flops=5.0)], workload(), 10.0),
        training.summary("trl", [outcome(8, 4), outcome(8, 4)], workload(), 10.0),
        training.summary("openrlhf", [{"failed": "no CUDA"}], workload(), 10.0),
    ]
    assert found[0]["pairs_per_second"] == {"median": 6.0, "min": 4.0, "max": 8.0}
    assert found[0]["share_of_matrix_rate"] == {"median": 0.375, "min": 0.25, "max": 0.5}
    assert training.ratios(found) == {
        "ours": {"speed/trl": 6.0, "memory/trl": 0.25},
        "trl": {"speed/trl": 1.0, "memory/trl": 1.0},
    }
    shown = training.shown(found)
    assert "6.00 / -" in shown and "0.25 / -" in shown and "failed: no CUDA" in shown
    assert "0.7000" in training.shown_losses(found)


def test_a_contender_may_name_its_micro_batch() -> None:
    given = Namespace(trl_weights="bf16", trl_gradient_checkpointing=False)
    assert training.options_of("ours", given) == {}
    assert training.options_of("ours-vanilla:2", given) == {"train.micro_batch_size": 2}
    assert training.options_of("trl:8", given)["micro_batch_size"] == 8
    with pytest.raises(SystemExit, match="trl:x"):
        training.options_of("trl:x", given)


def test_a_workload_crosses_processes_and_keeps_our_order() -> None:
    from maskdpo_ray.training import batches

    own = workload(options={"micro_batch_size": 2})
    assert Workload.from_json(own.to_json()) == own
    flat = [index for batch in batches.epoch_batches(4, 2, 2, own.seed) for index in batch]
    assert [index for epoch in own.order() for index in epoch] == flat
    assert own.num_steps == 4
    sampler = by_trl.InOurOrder(own.order())
    sampler.set_epoch(1)
    assert list(sampler) == own.order()[1]


class Words:
    """A tokenizer of words."""

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[str]]:
        return {"input_ids": text.split()}


def answer(num_tokens: int, *labels: str) -> ScoredAnswer:
    text = "One two. Three four."
    spans = [(0, 8), (9, 20)]
    sentences = tuple(Sentence(*span, label) for span, label in zip(spans, labels, strict=True))
    rollout = Rollout("q", 0, tuple(range(num_tokens)), text, "stop", 0)
    return ScoredAnswer(rollout, Annotation("q", 0, sentences), 0.5)


def test_the_authors_rule_counts_the_tokens_of_each_sentence_alone() -> None:
    # Five tokens: a separator between the sentences is one, which their rule doesn't know of.
    kept = by_trl.authors_mask(answer(5, "no_hallucination", "contradictory"), "chosen", Words())
    assert kept == [True, True, False, False, True]
    kept = by_trl.authors_mask(answer(5, "no_hallucination", "contradictory"), "rejected", Words())
    assert kept == [False, False, True, True, True]
    assert by_trl.authors_mask(answer(3, "no_hallucination", "contradictory"), "chosen", Words()) is None


def test_the_ablation_has_a_row_for_each_saving() -> None:
    rows = ablation.variants(without_each=True)
    assert len(rows) == 2 + 2 * len(ablation.SAVINGS) and len(ablation.SAVINGS) >= 5
    assert not any(rows["none"].values()) and all(rows["all"].values())
    assert [name for name, on in rows["only cut_tails"].items() if on] == ["savings.cut_tails"]
    assert [name for name, on in rows["all but cut_tails"].items() if not on] == ["savings.cut_tails"]
