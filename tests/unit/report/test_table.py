"""The table of an experiment: its figures, the paper's beside them, and what it says of the direction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import fakes
import pytest
from evaluated_arms import FILE, TOPICS, experiment_in, runs_of

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.evaluation import judged_metrics, metrics
from maskdpo_ray.evaluation.choice import Candidate, Choice
from maskdpo_ray.evaluation.intervals import compare
from maskdpo_ray.records import Judgement, Surprisal, encode_line
from maskdpo_ray.report.experiments import table, written


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
    found = table.build(experiment_in(tmp_path), runs_of(tmp_path, masked, unmasked), {}).directions[0]
    assert found.difference is not None and found.difference.mean is not None
    assert found.sentence.startswith("The paper has masked above unmasked by score (0.775 and 0.684; table 2). Here ")
    assert found.sentence.endswith(words) and "over 8 topics and 2 seeds" in found.sentence
    assert found.holds == (found.difference.mean > 0 if holds is None else holds)
    if not found.difference.over_topics_and_seeds.excludes_0 and found.holds:
        assert "it may be chance" in found.sentence


def test_several_directions(tmp_path: Path) -> None:
    claim = experiment_in(tmp_path).directions[0]
    other = replace(claim, above="unmasked", below="masked", metric="incorrect_facts")
    experiment = replace(experiment_in(tmp_path), directions=(claim, other))
    found = table.build(experiment, runs_of(tmp_path, 0.9, 0.3), {})
    assert [each.holds for each in found.directions] == [True, True]
    said = "\n\n".join(each.sentence for each in found.directions)
    assert written.markdown(found).startswith(f"# Experiment {experiment.name}\n\n{said}\n\nMeans over seeds")


def test_perplexity(tmp_path: Path) -> None:
    """Nats per token of all answers, before and after."""
    runs = runs_of(tmp_path)
    questions = [fakes.question(topic) for topic in TOPICS]
    for run in runs.values():
        for version, nats in enumerate((3.0, 2.0)):
            judged = [Judgement(each.id, 0, (), surprisal=Surprisal(nats * 4, 4)) for each in questions]
            found = judged_metrics.evaluate(None, questions, judged, "gpt2", seed=1, bootstrap_samples=200)
            (run.folder / f"eval_{version:03d}" / "heldout-judged.json").write_bytes(encode_line(found))
    figure = table.build(experiment_in(tmp_path), runs, {}).arms[0].figures["nats_per_token"]
    assert (figure.before, figure.after.mean) == (3.0, 2.0)
    assert figure.difference is not None and figure.difference.mean == 0.0


def test_missing_runs_are_named_and_the_rest_is_compared(tmp_path: Path) -> None:
    runs = runs_of(tmp_path)
    del runs["unmasked-seed2"]
    found = table.build(experiment_in(tmp_path), runs, {"unmasked-seed2": "exit code 1"})
    figure = found.arms[0].figures["score"]
    assert figure.difference is not None and list(figure.difference.per_seed) == ["1"]
    assert list(figure.after.per_seed) == ["1", "2"] and found.arms[1].missing == {"2": "exit code 1"}
    text = written.markdown(found)
    assert "| unmasked (baseline) | 1 of 2 |" in text and "- unmasked, seed 2: exit code 1" in text


def test_without_any_run(tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path)
    found = table.build(experiment, {}, {run.name: "exit code 1" for run in experiment.runs})
    assert found.topics == 0 and [each.holds for each in found.directions] == [None]
    assert written.markdown(found).count("exit code 1") == 4 and not written.pictures(found)
    assert "| masked in table 2 |  |  | 0.775 |" in written.markdown(found)


def test_other_topics_are_refused(tmp_path: Path) -> None:
    runs = runs_of(tmp_path)
    file = tmp_path / "masked-seed1" / "eval_001" / "heldout.json"
    file.write_bytes(file.read_bytes().replace(b"topic of topic 3", b"topic of topic x"))
    with pytest.raises(RunFolderError, match="mask: heldout: the evaluations are of different topics"):
        table.build(experiment_in(tmp_path), runs, {})


def test_gains_over_the_start(tmp_path: Path) -> None:
    """With intervals of each seed, which are those of `intervals.compare`."""
    runs = runs_of(tmp_path)
    found = table.build(experiment_in(tmp_path), runs, {})
    score = found.arms[0].figures["score"]
    assert score.gain is not None and score.before is not None and score.after.mean is not None
    assert score.gain.mean == pytest.approx(score.after.mean - score.before)
    for seed in ("1", "2"):
        run = runs[f"masked-seed{seed}"]
        sides = [run.evaluation("heldout", metrics.Evaluation, version) for version in (0, 1)]
        assert sides[0] is not None and sides[1] is not None
        expected = compare(sides[0], sides[1], seed=1, bootstrap_samples=200).metrics["score"]
        of_seed = score.gain.of_each[seed]
        assert (score.gain.per_seed[seed], of_seed.low, of_seed.high) == pytest.approx(
            (expected.gain, expected.low, expected.high)
        )


def test_kinds_of_fact(tmp_path: Path) -> None:
    """Means over the seeds of what the evaluations have; the least ratio is of a single seed."""
    runs = runs_of(tmp_path)
    kinds = {"1": (0.5, 0.5, 0.25, 0.25), "2": (0.6, 0.2, 0.8, 0.8)}  # correct, incorrect: before, then after
    for seed, (*before, right, wrong) in kinds.items():
        for version, (correct, incorrect) in enumerate((before, (right, wrong))):
            file = runs[f"masked-seed{seed}"].folder / f"eval_{version:03d}/heldout.json"
            values = json.loads(file.read_text())
            values["kinds"] = {"capital": {"correct": correct, "incorrect": incorrect}}
            if seed == "1" and version:
                values["kinds"]["area"] = {"correct": 0.5, "incorrect": 0.0}
            file.write_text(json.dumps(values))
    found = table.build(experiment_in(tmp_path), runs, {}).arms[0].kinds
    capital, area = found["capital"], found["area"]
    assert (capital.stated_before, capital.stated_after) == pytest.approx((0.9, 1.05))
    assert (capital.correct_before, capital.correct_after) == pytest.approx((0.55, 0.525))
    assert capital.least == pytest.approx(0.5)
    assert (area.stated_before, area.stated_after, area.least) == (0.0, 0.25, None)


def test_choices_are_those_of_the_newest_policies(tmp_path: Path) -> None:
    runs = runs_of(tmp_path)
    assert table.build(experiment_in(tmp_path), runs, {}).arms[0].choices == {}
    choices = [
        Choice("best", best, best, "recall", tuple(Candidate(each, 0.5, 0.5, 0.5, ()) for each in range(best + 1)))
        for best in range(2)
    ]
    for version, choice in enumerate(choices):
        (runs["masked-seed2"].folder / f"eval_{version:03d}/choice.json").write_bytes(encode_line(choice))
    assert table.build(experiment_in(tmp_path), runs, {}).arms[0].choices == {"2": choices[1]}
