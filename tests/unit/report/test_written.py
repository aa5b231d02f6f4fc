"""Files of an experiment's table: figures are those of the table, and Markdown is whole."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from evaluated_arms import experiment_in, runs_of

from maskdpo_ray.evaluation.choice import Candidate, Choice
from maskdpo_ray.report.experiments import table, written


def test_files(tmp_path: Path) -> None:
    found = table.build(experiment_in(tmp_path), runs_of(tmp_path), {})
    rows = list(csv.DictReader(io.StringIO(written.as_csv(found))))
    by: dict[Any, dict[str, str]] = {(row["arm"], row["metric"], row["figure"]): row for row in rows}
    score = found.arms[0].figures["score"]
    assert score.difference is not None
    row = by["masked", "score", "difference"]
    assert (float(row["value"]), float(row["low_topics"])) == (score.difference.mean, score.difference.over_topics.low)
    assert (row["seeds"], float(row["paper"])) == ("1 2", pytest.approx(0.0909))
    assert by["unmasked", "score", "after"]["paper"] == "0.6844" and ("unmasked", "score", "difference") not in by
    gain = by["masked", "score", "gain"]
    assert score.gain is not None and float(gain["value"]) == score.gain.mean and not gain["paper"]
    text = written.markdown(found)
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 5 and all(len({line.count("|") for line in each}) == 1 for each in tables)
    assert "| masked in table 2 |  |  | 0.775 |" in text
    drawn = written.pictures(found)
    assert {"score", "score-difference"} <= drawn.keys() and "masked: " in drawn["score-difference"].text


def test_a_choice_says_which_policy_is_kept_and_which_fell() -> None:
    candidates = (
        Candidate(0, 0.6, 0.5, 0.545, ()),
        Candidate(1, 0.8, 0.3, 0.436, ("recall",)),
        Candidate(2, None, None, 0.0, ()),
    )
    choice = Choice("best", 0, 0, "recall", candidates)
    cells = [written._candidate(choice, version) for version in range(4)]
    assert cells == ["0.600, 0.500 (0.545), kept", "0.800, 0.300 (0.436), fell: recall", "-, - (0.000)", ""]
