"""The loop with each strategy and unit, several examples of a question among them: stopped and resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_run
import pytest
from fake_run import pairs_of, results, run
from fakes import Events, Stopped

from maskdpo_ray.config.schema import Config, MaskConfig, ObjectiveConfig, PairsConfig
from maskdpo_ray.records import CONTRADICTORY, NO_HALLUCINATION

pytestmark = pytest.mark.usefixtures("no_fsync")

CASES: dict[str, dict[str, Any]] = {
    "all_pairs": {"pairs": PairsConfig("all_pairs", max_pairs=2)},
    "correct_incorrect": {
        "pairs": PairsConfig("correct_incorrect", options={"correct": 0.6, "incorrect": 0.4}),
        "objective": ObjectiveConfig("ipo"),
    },
    "unpaired": {"pairs": PairsConfig("unpaired", options={"threshold": 0.5}), "objective": ObjectiveConfig("kto")},
    "sentences": {
        "pairs": PairsConfig("unpaired"),
        "objective": ObjectiveConfig("kto"),
        "mask": MaskConfig(unit="sentence"),
    },
    "sft": {"pairs": PairsConfig("unpaired", options={"threshold": 0.5}), "objective": ObjectiveConfig("sft")},
    "balance": {"mask": MaskConfig(balance=0.5)},
    "detail": {"pairs": PairsConfig(score="detail", score_options={"half": 2})},
}


@pytest.mark.parametrize("name", CASES)
def test_a_stopped_run_ends_as_one_that_nothing_stopped(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fake_run.config_for

    def config_for(*given: Any, **options: Any) -> Config:
        return replace(made(*given, **options), **CASES[name])

    monkeypatch.setattr(fake_run, "config_for", config_for)
    events = run(tmp_path / "whole")
    pairs = pairs_of(tmp_path / "whole", 0)
    by_question: dict[str, int] = {}
    for pair in pairs:
        by_question[pair["question_id"]] = by_question.get(pair["question_id"], 0) + 1
    most = max(by_question.values())
    assert most == {"all_pairs": 2, "detail": 1}.get(name, most) and (most > 1) == (name not in ("balance", "detail"))
    assert any(None in (pair["chosen"], pair["rejected"]) for pair in pairs) == (
        name in ("unpaired", "sentences", "sft")
    )
    summary = json.loads((tmp_path / "whole/run/iter_000/pairs-summary.json").read_text())
    assert summary["pairs"] == len(pairs)
    right, wrong = (
        sum(each["label"] == label for pair in pairs if pair[side] for each in pair[side]["annotation"]["sentences"])
        for side, label in (("chosen", NO_HALLUCINATION), ("rejected", CONTRADICTORY))
    )
    assert summary["balance"] == ({"claim": pytest.approx(min(1, 0.5 * right / wrong))} if name == "balance" else {})
    for number, kind in enumerate(("label", "step", "publish")):
        stop_at = [at for at, event in enumerate(events) if event[0] == kind][-2]
        path = tmp_path / kind
        with pytest.raises(Stopped):
            run(path, Events(stop_at), shuffle=number)
        run(path, shuffle=number + 7)
        assert results(path) == results(tmp_path / "whole")
