"""The benchmark of a whole iteration beside TRL's OnlineDPOTrainer: the same work, the annotator's grades, ratios."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import online_dpo
from maskdpo_ray.stages import preflight

QUICKSTART = Path(__file__).resolve().parents[3] / "configs/quickstart.yaml"


@pytest.fixture
def words(tiny_model: Path) -> list[str]:
    sizes = ["--questions", "4", "--batch_size", "4", "--micro_batch_size", "2", "--threads", "1"]
    return ["--config", str(QUICKSTART), "--model", str(tiny_model), *sizes]


def test_both_get_two_answers_to_the_configs_first_questions(words: list[str], tmp_path: Path) -> None:
    config = online_dpo.config_of(online_dpo.parse(words), str(tmp_path))
    assert (config.run.iterations, config.rollout.n_samples_per_prompt, config.train.max_epochs) == (1, 2, 1)
    assert (config.rollout.temperature, config.rollout.top_k, config.train.beta) == (0.8, 40, 0.1)
    splits = preflight.load_questions(config.data)
    assert len(splits.questions["train"]) == 4 and set(splits.evaluation) == {"heldout"}


def test_trl_is_rewarded_by_the_share_of_correct_sentences(words: list[str], tmp_path: Path) -> None:
    prepared = preflight.check(online_dpo.config_of(online_dpo.parse(words), str(tmp_path)))
    question = prepared.train[0]
    begin = f"The capital of {question.topic} is"
    right, wrong = f"{begin} {question.facts['capital']}.", f"{begin} Ouagadougou."
    answered = [(question, text) for text in (right, wrong, f"{right} {wrong}", "")]
    assert online_dpo.scores(prepared.annotator, answered) == [1.0, 0.0, 0.5, 0.0]


def test_trl_answers_every_question_twice_and_learns(words: list[str]) -> None:
    found = online_dpo.take_part("trl", online_dpo.parse([*words]))
    assert (found["questions"], found["pairs"]) == (4, 4)
    assert found["seconds"] > 0 and 8 <= found["tokens"] <= 8 * 96


def test_contenders_are_compared_turn_by_turn() -> None:
    def outcome(seconds: float, stages: dict[str, float]) -> dict[str, object]:
        return {"questions": 8, "seconds": seconds, "stages": stages, "tokens": 640, "pairs": 7}

    turns = {"ours": [outcome(2, {"collect": 1.5}), outcome(4, {})], "trl": [outcome(6, {}), outcome(16, {})]}
    found = online_dpo.report(turns)
    assert found["questions_per_second"]["ours"] == {"median": 3.0, "min": 2.0, "max": 4.0}
    assert found["over_trl"]["ours"] == {"median": 3.5, "min": 3.0, "max": 4.0}
    assert found["over_trl"]["trl"]["median"] == 1.0
    assert "collect 1.5" in online_dpo.shown(found)


@pytest.mark.parametrize("sizes", [("6", "4", "2"), ("8", "4", "3")])
def test_what_does_not_divide_is_refused(sizes: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    questions, batch, micro_batch = sizes
    with pytest.raises(SystemExit):
        online_dpo.parse(["--questions", questions, "--batch_size", batch, "--micro_batch_size", micro_batch])
    assert "must be a multiple" in capsys.readouterr().err
