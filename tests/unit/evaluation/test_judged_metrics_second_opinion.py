"""A second evaluator in a run: judged beside the annotator, committed with the answers, and compared in print."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import fake_run
import fakes
import pytest
import test_summary
from fake_run import ITERATIONS, results
from fakes import Events, Stopped
from msgspec import structs
from test_preflight import base_config
from test_run_folder import CONFIG, VERSIONS, unit
from test_summary import FULL, QUESTIONS, make

from actors.host import EvaluationActor
from maskdpo_ray.config.resources import Plan
from maskdpo_ray.config.schema import ClusterConfig, Config, EvalConfig, ModelConfig
from maskdpo_ray.errors import ConfigError, DataError, EvaluatorError, RunFolderError
from maskdpo_ray.evaluation import judged_metrics
from maskdpo_ray.evaluation.evaluators import protocol
from maskdpo_ray.records import JudgedFact, Judgement, Question, Rollout, Surprisal, encode_line, to_json
from maskdpo_ray.report.summary import build, render
from maskdpo_ray.stages import preflight
from maskdpo_ray.store.question_log import log_path
from maskdpo_ray.store.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("no_fsync")

JUDGED_CONFIG = {**CONFIG, "eval": {"evaluator": "factscore"}}


@pytest.fixture(autouse=True)
def judged_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs of fake_run, with a second evaluator."""
    plain = fake_run.config_for

    def config_for(*arguments: Any, **options: Any) -> Config:
        config = plain(*arguments, **options)
        return replace(config, eval=replace(config.eval, evaluator="factscore"))

    monkeypatch.setattr(fake_run, "config_for", config_for)


def test_held_out_answers_are_judged_and_the_rest_is_as_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = fake_run.run(tmp_path / "with")
    judged_questions = [event[1] for event in events.of("judge")]
    assert sorted(judged_questions) == sorted((*fake_run.HELDOUT, *fake_run.TRANSFER) * (ITERATIONS + 1))
    found = results(tmp_path / "with")
    for version in range(ITERATIONS + 1):
        score = found[f"eval_{version:03d}/heldout-judged.json"]["metrics"]["score"]
        assert score["per_replication"] == [1.0, 0.0]  # as the fakes answer
        assert (f"eval_{version:03d}/heldout-judged-gain.json" in found) == (version > 0)
    monkeypatch.undo()
    fake_run.run(tmp_path / "without")
    without = results(tmp_path / "without")
    found, without = (
        {name: value for name, value in each.items() if "judge" not in name and not name.endswith("README.md")}
        for each in (found, without)  # a model card shows the second evaluator's figures
    )
    for version in range(ITERATIONS + 1):
        for split in ("heldout", "transfer"):
            lines = [json.loads(line) for line in found[log_path(version, split)]]
            assert all(len(line["judgements"]) == len(line["rollouts"]) for line in lines)
            found[log_path(version, split)] = [
                encode_line(line | {"judgements": []}).decode().strip() for line in lines
            ]
    assert found == without


@pytest.mark.parametrize("stop_at", [2, 3, 4, 9, 30])
def test_goes_on_after_a_stop_without_judging_twice(tmp_path: Path, stop_at: int) -> None:
    fake_run.run(tmp_path / "whole")
    with pytest.raises(Stopped):
        fake_run.run(tmp_path / "stopped", Events(stop_at))
    kept = {name for log, name in fake_run.committed(tmp_path / "stopped") if log == log_path(0, "heldout")}
    resumed = fake_run.run(tmp_path / "stopped")
    first = [event[1] for event in resumed.of("judge")][: len(fake_run.HELDOUT) - len(kept)]
    assert not kept & set(first)
    assert results(tmp_path / "stopped") == results(tmp_path / "whole")


def judgements(name: str) -> list[Judgement]:
    return [fakes.judge(rollout) for rollout in unit(name)[0]]


def test_judgements_are_part_of_the_unit(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with RunFolder.open(path, JUDGED_CONFIG, VERSIONS) as folder:
        for name in ("h0", "h1"):
            folder.evaluated(0, "heldout").commit(fakes.committed(name, *unit(name)[:2], judgements=judgements(name)))
        for wrong in ([], judgements("h3")[:1], judgements("h4")):
            with pytest.raises(ValueError, match="rollouts and judgements are not of the same answers"):
                folder.evaluated(0, "heldout").commit(fakes.committed("h3", *unit("h3")[:2], judgements=wrong))
        assert list(folder.evaluated(0, "heldout").judgements()) == [*judgements("h0"), *judgements("h1")]
    file = path / "eval_000/heldout-questions.jsonl"
    file.write_bytes(file.read_bytes()[:-5])  # as a power loss may leave it
    with RunFolder.open(path, JUDGED_CONFIG, VERSIONS) as folder:
        assert folder.evaluated(0, "heldout").question_ids == {"h0"}
        assert list(folder.evaluated(0, "heldout").judgements()) == judgements("h0")


def test_a_run_without_a_second_evaluator_takes_none_on(tmp_path: Path) -> None:
    """Nor is its log, which has no judgements, taken for a damaged one."""
    path = tmp_path / "run"
    with RunFolder.open(path, CONFIG, VERSIONS) as folder:
        folder.evaluated(0, "heldout").commit(fakes.committed("h0", *unit("h0")[:2]))
        with pytest.raises(ValueError, match="rollouts and judgements"):
            folder.evaluated(0, "heldout").commit(fakes.committed("h1", *unit("h1")[:2], judgements=judgements("h1")))
    with pytest.raises(RunFolderError, match=r"eval.evaluator: expected .*, as the run in"):
        RunFolder.check(path, JUDGED_CONFIG)


def write_judged(folder: Path, *policies: str, name: str = "factscore") -> None:
    """ "+" supported, "-" not, "?" unparsed: the facts that the second evaluator finds in every answer."""
    verdicts = {"+": "supported", "-": "unsupported", "?": "unparsed"}
    for version, facts in enumerate(policies):
        found = tuple(JudgedFact("f", verdicts[fact], "'Pardon?'") for fact in facts)
        rows = [Judgement(question.id, replication, found) for question in QUESTIONS for replication in range(2)]
        result = judged_metrics.evaluate(name, QUESTIONS, rows, seed=3, bootstrap_samples=200)
        (folder / f"eval_{version:03d}/heldout-judged.json").write_text(json.dumps(to_json(result)))


@pytest.mark.parametrize(
    ("after", "facts", "remark"),
    [
        (test_summary.SHORT, ("+-", "++-"), "agrees: its score rose: 0.500 -> 0.667"),
        (test_summary.SHORT, ("+-", "+--"), "DISAGREES: its score fell: 0.500 -> 0.333"),
        (FULL, ("+-", "++-"), "alone sees a change: its score rose: 0.500 -> 0.667"),
        (test_summary.SHORT, ("+-", "+-"), "sees no change beyond noise: 0.500 -> 0.500"),
        (test_summary.SHORT, ("+-", ""), "could score no answer on one of the two sides"),
    ],
)
def test_both_judges_side_by_side_and_in_words(tmp_path: Path, after: Any, facts: tuple[str, str], remark: str) -> None:
    make(tmp_path, FULL, after)
    write_judged(tmp_path, *facts)
    summary = build(tmp_path)
    said = [each for each in summary["remarks"] if "the second evaluator, factscore, " in each]
    assert remark in said[0] and len(said) == 1
    last = summary["evaluations"]["heldout"][-1]["judged"]
    assert last["metrics"]["correct_facts"]["mean"] == facts[1].count("+")
    text = render(summary)
    lines = [line.split() for line in text.splitlines()]
    assert ["second", "before", "0.500", "1.00", "1.00"] in lines and "length penalty" in text
    assert ["annotator", "before", "0.450", "2.00", "2.50"] in lines
    assert max(map(len, text.replace(summary["folder"], "runs/x").splitlines())) <= 80


def test_a_score_bought_with_short_answers_is_said_in_words(tmp_path: Path) -> None:
    make(tmp_path, FULL, FULL)
    write_judged(tmp_path, "++++++--", "++")  # 0.75 * exp(1 - 10 / 8), 1 * exp(1 - 10 / 2)
    assert build(tmp_path)["remarks"][-1] == (
        "heldout, after 1: the second evaluator, factscore, says that ANSWERS STATE TOO LITTLE for it: "
        "with length penalty 0.584 -> 0.018"
    )


@pytest.mark.parametrize(("facts", "share"), [("+-+?", "25.0%"), ("??", "100.0%")])
def test_what_the_second_evaluator_could_not_read_is_shown(tmp_path: Path, facts: str, share: str) -> None:
    make(tmp_path, FULL)
    write_judged(tmp_path, facts)
    said = f"{share} of the facts of the second evaluator, factscore, are unparsed, such as 'f' ('Pardon?')"
    assert build(tmp_path)["remarks"] == [f"heldout, before: {said}"]
    file = tmp_path / "eval_000/heldout-judged.json"
    stored = json.loads(file.read_text())
    del stored["unparsed_example"]  # as earlier versions wrote it
    file.write_text(json.dumps(stored))
    assert build(tmp_path)["remarks"] == []


def test_a_lost_file_of_the_second_evaluator_is_one_line(tmp_path: Path) -> None:
    make(tmp_path, FULL, FULL)
    write_judged(tmp_path, "+", "+")
    (tmp_path / "eval_000/heldout-judged.json").unlink()
    with pytest.raises(RunFolderError, match=r"expected heldout-judged.json of policies \[0, 1\], got those of \[1\]"):
        build(tmp_path)


def test_a_long_evaluator_name_fits(tmp_path: Path) -> None:
    make(tmp_path, FULL, FULL)
    write_judged(tmp_path, "+", "+", name="python:some.package.with_long.names:AnEvaluatorOfSomebodys")
    summary = build(tmp_path)
    summary["folder"], summary["remarks"] = "runs/x", []
    assert max(map(len, render(summary).splitlines())) <= 80


ROLLOUT = Rollout("q0", 0, (1,), "text", "stop", 0)
GOOD = Judgement("q0", 0, (JudgedFact("f", "supported"),))


class Scripted:
    """An evaluator that gives back what it was told to."""

    def __init__(self, reply: Any) -> None:
        self.reply, self.starts = reply, 0

    def start(self) -> None:
        self.starts += 1

    def judge(self, items: Any) -> Any:
        return self.reply


def test_the_actor_starts_its_evaluator_once() -> None:
    scripted = Scripted([GOOD])
    actor, stored = EvaluationActor(), fakes.Held(scripted)
    assert actor.ready(stored) and [actor.judge(stored, QUESTIONS[0], [ROLLOUT]) for _ in range(2)] == [[GOOD]] * 2
    assert scripted.starts == 1


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (None, "evaluator: expected a list of 1 judgements, got NoneType"),
        ([], "got 0"),
        (["x"], "question 'q0', answer 0: expected a Judgement, got str"),
        ([structs.replace(GOOD, sample=1)], "expected its judgement, got that of question 'q0', answer 1"),
        ([structs.replace(GOOD, facts=["f"])], "facts: expected a tuple, got list"),
        ([structs.replace(GOOD, facts=("f",))], "fact 0: expected a JudgedFact, got str"),
        (
            [structs.replace(GOOD, facts=(JudgedFact("f", "true"),))],
            "fact 0: verdict: expected one of supported, unsupp",
        ),
        ([structs.replace(GOOD, facts=(JudgedFact(3, "supported"),))], "fact 0: text: expected Unicode text, got 3"),
        (
            [structs.replace(GOOD, facts=(JudgedFact("f\ud800", "supported"),))],
            "fact 0: text: expected Unicode text, got 'f",
        ),
        (
            [structs.replace(GOOD, facts=(JudgedFact("f", "supported", 3),))],
            "fact 0: evidence: expected Unicode text or None, ",
        ),
        (
            [structs.replace(GOOD, facts=(JudgedFact("f", "supported", "\ud800"),))],
            "fact 0: evidence: expected Unicode text ",
        ),
        ([structs.replace(GOOD, abstained=None)], "abstained: expected true or false, got None"),
        (
            [structs.replace(GOOD, surprisal=2.0)],
            "surprisal: expected None or a Surprisal of a finite number and a whole one, ",
        ),
        (
            [structs.replace(GOOD, surprisal=Surprisal(nan, 3))],
            "and a whole one, got Surprisal(nats=nan, num_tokens=3)",
        ),
        (
            [structs.replace(GOOD, surprisal=Surprisal(1.0, 0.5))],
            "and a whole one, got Surprisal(nats=1.0, num_tokens=0.5)",
        ),
    ],
)
def test_a_reply_that_does_not_fit_is_one_line(reply: Any, message: str) -> None:
    with pytest.raises(EvaluatorError) as caught:
        EvaluationActor().judge(fakes.Held(Scripted(reply)), QUESTIONS[0], [ROLLOUT])
    assert message in str(caught.value) and "\n" not in str(caught.value)


class Needy:
    def __init__(self, threshold: float) -> None:
        if threshold > 1:
            raise ValueError("above 1")
        self.threshold = threshold

    def check(self, question: Question) -> None:
        sys.exit(0) if self.threshold < 0 else len(None)  # type: ignore[arg-type]

    start = judge = lambda self: None


@pytest.mark.parametrize(("threshold", "expected"), [(0, "TypeError: "), (-1, "SystemExit: 0")])
def test_a_check_of_ones_own_that_fails_is_one_line(threshold: float, expected: str) -> None:
    evaluator = protocol.build("python:test_judged_metrics_second_opinion:Needy", {"threshold": threshold})
    with pytest.raises(ConfigError) as caught:
        protocol.check(evaluator, QUESTIONS[0])
    assert str(caught.value).startswith(f"eval.evaluator: Needy.check of question 'q0': {expected}")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "oracle",
            {},
            "eval.evaluator: expected one of factscore, short_answer, python:package.module:Class; got 'ora",
        ),
        ("python:nowhere:Judge", {}, "eval.evaluator: can't import nowhere of 'python:nowhere:Judge': ModuleNotFound"),
        ("python:json:loads", {}, "eval.evaluator: expected a class loads in json, got <function"),
        ("python:test_judged_metrics_second_opinion:Scripted", {"reply": 1}, "which lacks check"),
        (
            "python:test_judged_metrics_second_opinion:Needy",
            {"x": 1},
            "eval.options: Needy: missing a required argument: 'threshold'",
        ),
        (
            "python:test_judged_metrics_second_opinion:Needy",
            {"threshold": 2},
            "Needy refuses {'threshold': 2}: ValueError: above 1",
        ),
    ],
)
def test_an_evaluator_that_can_not_be_built_is_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        protocol.build(name, options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_config_and_plan() -> None:
    with pytest.raises(ConfigError, match=r"eval.options: expected none without eval.evaluator, got \{'a': 1\}"):
        EvalConfig(options={"a": 1})
    with pytest.raises(ConfigError, match="eval.num_actors: expected at least 1, got 0"):
        EvalConfig(num_actors=0)
    config = Config(
        model=ModelConfig(model_name_or_path="m"),
        eval=EvalConfig(evaluator="factscore", num_actors=2),
        cluster=ClusterConfig(gpus_per_evaluator=1),
    )
    groups = {group.name: (group.count, group.gpus) for group in Plan(config).groups()}
    assert groups["evaluation actors"] == (2, 1)
    assert len(Plan(replace(config, eval=EvalConfig())).groups()) == 3


def test_checked_before_a_run(tiny_model: Path, tmp_path: Path) -> None:
    config = base_config(tiny_model, tmp_path)
    assert preflight.check(config).evaluator is None
    config = replace(config, eval=EvalConfig(evaluator="factscore"))
    with pytest.raises(DataError, match=r"question .*: document: expected a text for the factscore evaluator"):
        preflight.check(config)
    lines = [
        {
            "id": f"q{i}",
            "topic": f"t{i}",
            "prompt": f"What is {i}?",
            "facts": {"table": "countries", "entity": "Rwanda"},
        }
        for i in range(6)
    ]
    held_out = {question.id for question in preflight.check(replace(config, eval=EvalConfig())).evaluation["heldout"]}
    for line in lines:
        if line["id"] in held_out:
            line["document"] = "Rwanda"  # questions that are only trained on need none
    Path(config.data.train).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert preflight.check(config).evaluator is not None
