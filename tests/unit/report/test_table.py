"""The table of an experiment: its figures, the paper's beside them, and what it says of the direction."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path
from typing import Any

import fakes
import pytest

from maskdpo_ray.config import experiment as experiment_file
from maskdpo_ray.config.experiment import Experiment
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.evaluation import metrics
from maskdpo_ray.evaluation.intervals import Change, compare
from maskdpo_ray.records import encode_line
from maskdpo_ray.report.comparison import FinishedRun
from maskdpo_ray.report.experiments import table
from maskdpo_ray.report.experiments.table import METRICS

FILE = """\
base: base.yaml
options: {eval.bootstrap_samples: 200}
seeds: [1, 2]
arms: {masked: {}, unmasked: {mask.policy: vanilla}}
baseline: unmasked
paper:
  masked: {table: table 2, score: 0.7753}
  unmasked: {table: table 2, score: 0.6844}
direction: {above: masked, below: unmasked, metric: score}
"""
TOPICS = [f"topic {number}" for number in range(8)]


def experiment_in(folder: Path, text: str = FILE) -> Experiment:
    (folder / "base.yaml").write_text("model: {model_name_or_path: m}\n")
    (folder / "mask.yaml").write_text(text)
    return experiment_file.read(folder / "mask.yaml", folder, tuple(METRICS))


def evaluation(name: str, share: float) -> metrics.Evaluation:
    """Statistics of two answers to a question a topic, of four sentences each, right by chance."""
    questions = [fakes.question(topic) for topic in TOPICS]
    answers = []
    for each in questions:
        for sample in range(2):
            rng = random.Random(f"{name}/{each.id}/{sample}")
            text = " ".join(fakes.RIGHT if rng.random() < share else fakes.WRONG for _ in range(4))
            rollout = fakes.Rollout(each.id, sample, (1,), text, "stop", 0)
            answers.append((rollout, fakes.label(rollout)))
    return metrics.evaluate(questions, answers, seed=1, bootstrap_samples=200)


def finished(folder: Path, name: str, share: float) -> FinishedRun:
    """A run that keeps policy 1."""
    before, after = evaluation(f"{name.partition('-')[2]}/before", 0.5), evaluation(name, share)
    for version, each in enumerate((before, after)):
        (folder / name / f"eval_{version:03d}").mkdir(parents=True)
        (folder / name / f"eval_{version:03d}" / "heldout.json").write_bytes(encode_line(each))
    return FinishedRun({}, 1, {}, Change(0.0, 0.0, 0.0, 0.0, 0.0), "", folder / name, 1)


def runs_of(folder: Path, masked: float = 0.9, unmasked: float = 0.5) -> dict[str, FinishedRun]:
    shares = {"masked": masked, "unmasked": unmasked}
    names = [(arm, f"{arm}-seed{seed}") for seed in (1, 2) for arm in shares]
    return {name: finished(folder, name, shares[arm]) for arm, name in names}


def test_figures(tmp_path: Path) -> None:
    """Means over seeds; with one seed the interval over topics is that of `intervals.compare`."""
    runs = runs_of(tmp_path)
    found = table.build(experiment_in(tmp_path), runs, {})
    masked, unmasked = found.arms
    scores = {name: run.evaluation("heldout", metrics.Evaluation) for name, run in runs.items()}
    score = {name: each.metrics["score"].mean for name, each in scores.items() if each is not None}
    figure = masked.figures["score"]
    assert figure.after.mean == pytest.approx((score["masked-seed1"] + score["masked-seed2"]) / 2)
    expected = {seed: score[f"masked-seed{seed}"] - score[f"unmasked-seed{seed}"] for seed in ("1", "2")}
    assert figure.difference is not None and figure.difference.per_seed == pytest.approx(expected)
    assert (masked.paper, figure.paper_difference) == ({"score": 0.7753}, pytest.approx(0.0909))
    assert unmasked.figures["score"].difference is None and unmasked.figures["score"].paper_difference is None
    assert (found.topics, found.bootstrap_samples, masked.seeds, masked.kept) == (8, 200, (1, 2), (1, 1))
    assert "recall" not in masked.figures and "transfer_score" not in masked.figures  # these questions have none
    one = table.build(
        experiment_in(tmp_path, FILE.replace("[1, 2]", "[1]")),
        {name: run for name, run in runs.items() if name.endswith("1")},
        {},
    )
    gain = compare(scores["unmasked-seed1"], scores["masked-seed1"], seed=1, bootstrap_samples=200).metrics["score"]
    single = one.arms[0].figures["score"].difference
    assert single is not None
    assert (single.mean, single.over_topics.low, single.over_topics.high) == pytest.approx(
        (gain.gain, gain.low, gain.high)
    )


@pytest.mark.parametrize(
    ("masked", "unmasked", "holds", "words"),
    [
        (0.9, 0.3, True, "the direction holds, and the interval excludes 0."),
        (0.55, 0.5, None, ""),
        (0.2, 0.8, False, "the direction does not hold, and the interval excludes 0."),
    ],
)
def test_direction(tmp_path: Path, masked: float, unmasked: float, holds: bool | None, words: str) -> None:
    found = table.build(experiment_in(tmp_path), runs_of(tmp_path, masked, unmasked), {}).direction
    assert found is not None and found.difference is not None and found.difference.mean is not None
    assert found.sentence.startswith("The paper has masked above unmasked by score (0.775 and 0.684; table 2). Here ")
    assert found.sentence.endswith(words) and "over 8 topics and 2 seeds" in found.sentence
    assert found.holds == (found.difference.mean > 0 if holds is None else holds)
    if not found.difference.over_topics_and_seeds.excludes_0 and found.holds:
        assert "it may be chance" in found.sentence


def test_missing_runs_are_named_and_the_rest_is_compared(tmp_path: Path) -> None:
    runs = runs_of(tmp_path)
    del runs["unmasked-seed2"]
    found = table.build(experiment_in(tmp_path), runs, {"unmasked-seed2": "exit code 1"})
    figure = found.arms[0].figures["score"]
    assert figure.difference is not None and list(figure.difference.per_seed) == ["1"]
    assert list(figure.after.per_seed) == ["1", "2"] and found.arms[1].missing == {"2": "exit code 1"}
    text = table.markdown(found)
    assert "| unmasked (baseline) | 1 of 2 |" in text and "- unmasked, seed 2: exit code 1" in text


def test_without_any_run(tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path)
    found = table.build(experiment, {}, {run.name: "exit code 1" for run in experiment.runs})
    assert found.topics == 0 and found.direction is not None and found.direction.holds is None
    assert table.markdown(found).count("exit code 1") == 4 and not table.pictures(found)
    assert "| masked in table 2 |  |  | 0.775 |" in table.markdown(found)


def test_other_topics_are_refused(tmp_path: Path) -> None:
    runs = runs_of(tmp_path)
    file = tmp_path / "masked-seed1" / "eval_001" / "heldout.json"
    file.write_bytes(file.read_bytes().replace(b"topic of topic 3", b"topic of topic x"))
    with pytest.raises(RunFolderError, match="mask: heldout: the evaluations are of different topics"):
        table.build(experiment_in(tmp_path), runs, {})


def test_files(tmp_path: Path) -> None:
    found = table.build(experiment_in(tmp_path), runs_of(tmp_path), {})
    rows = list(csv.DictReader(io.StringIO(table.as_csv(found))))
    by: dict[Any, dict[str, str]] = {(row["arm"], row["metric"], row["figure"]): row for row in rows}
    score = found.arms[0].figures["score"]
    assert score.difference is not None
    row = by["masked", "score", "difference"]
    assert (float(row["value"]), float(row["low_topics"])) == (score.difference.mean, score.difference.over_topics.low)
    assert (row["seeds"], float(row["paper"])) == ("1 2", pytest.approx(0.0909))
    assert by["unmasked", "score", "after"]["paper"] == "0.6844" and ("unmasked", "score", "difference") not in by
    text = table.markdown(found)
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2 and all(len({line.count("|") for line in each}) == 1 for each in tables)
    assert "| masked in table 2 |  |  | 0.775 |" in text
    drawn = table.pictures(found)
    assert {"score", "score-difference"} <= drawn.keys() and "masked: " in drawn["score-difference"].text
