"""The pure parts of the rollout benchmark: the same work for everybody, rates, ratios turn by turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import rollout

QUICKSTART = Path(__file__).resolve().parents[3] / "configs/quickstart.yaml"


def outcome(tokens: float, seconds: float) -> dict[str, float]:
    return {"tokens": tokens, "seconds": seconds, "answers": 8}


def test_work_is_the_configs_first_training_questions(tiny_model: Path) -> None:
    words = ["--config", str(QUICKSTART), "--model", str(tiny_model), "--questions", "3", "--max_new_tokens", "7"]
    work = rollout.Work.of(rollout.parse(words))
    assert len(work.asked) == 3 + rollout.WARM_UP and work.config.engine_dtype == "float32"
    assert (work.config.rollout.max_new_tokens, work.config.rollout.n_samples_per_prompt) == (7, 8)
    assert (
        work.chat.tokenizer.decode(work.chat.prompt_ids(work.asked[0])).count("<|im_start|>assistant") == 3
    )  # two shots


def test_only_what_comes_after_the_warm_up_counts(tiny_model: Path) -> None:
    words = ["--config", str(QUICKSTART), "--model", str(tiny_model), "--questions", "3", "--samples", "2"]
    work, seen = rollout.Work.of(rollout.parse(words)), []

    def answer(asked: list[rollout.Question]) -> rollout.Answers:
        seen.append(len(asked))
        return [((1, 2), "x")] * (2 * len(asked))

    found = work.measured(answer)
    assert seen == [rollout.WARM_UP, 3] and (found["answers"], found["tokens"]) == (6, 12)
    with pytest.raises(ValueError, match="expected 6 answers, got 3"):
        work.measured(lambda asked: [((1,), "x")] * len(asked))


def test_the_pool_is_compared_turn_by_turn() -> None:
    turns = {"pool": [outcome(100, 10), outcome(100, 20)], "vllm": [outcome(90, 10), outcome(110, 20)]}
    found = rollout.report(turns)
    assert found["tokens_per_second"]["vllm"] == {"median": 7.25, "min": 5.5, "max": 9.0}
    assert found["pool_over"]["vllm"]["max"] == pytest.approx(10 / 9)
    assert found["pool_over"]["vllm"]["min"] == pytest.approx(5 / 5.5)
    assert found["pool_over"]["pool"] == {"median": 1.0, "min": 1.0, "max": 1.0}
    assert "| vllm      | 90 " in rollout.shown(found)
