"""A perplexity model in a run: beside an evaluator or alone, committed with the answers, and told in print."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_run
import pytest
from fake_run import ITERATIONS, results
from fakes import Events, Stopped
from test_preflight import base_config
from test_summary import FULL, QUESTIONS, make

from maskdpo_ray.config.resources import Plan
from maskdpo_ray.config.schema import ClusterConfig, Config, EvalConfig, ModelConfig
from maskdpo_ray.errors import ConfigError, DataError, EvaluatorError
from maskdpo_ray.evaluation import judged_metrics
from maskdpo_ray.evaluation.evaluators import protocol
from maskdpo_ray.evaluation.evaluators.perplexity import WithPerplexity
from maskdpo_ray.records import JudgedFact, Judgement, Question, Rollout, Surprisal, to_json
from maskdpo_ray.report.summary import build, render
from maskdpo_ray.stages import preflight

pytestmark = pytest.mark.usefixtures("no_fsync")

ITEMS = [(QUESTIONS[0], Rollout("q0", sample, (1,), "text", "stop", 0)) for sample in range(2)]
SURPRISALS = [Surprisal(2.5, 2), None]
FACTS = (JudgedFact("f", "supported"),)


class Scripted:
    """An evaluator of one's own, and a language model: each gives back what it was told to."""

    def __init__(self, reply: Any = None, max_concurrency: int = 1, num_gpus: int = 0) -> None:
        self.reply, self.max_concurrency, self.num_gpus, self.starts = reply, max_concurrency, num_gpus, 0

    def start(self) -> None:
        self.starts += 1

    def judge(self, items: Any) -> Any:
        return self.reply

    def check(self, question: Question) -> None:
        raise ZeroDivisionError if self.reply is None else DataError("refused by the language model")

    measure = judge


def test_judgements_come_with_surprisals() -> None:
    judgements = [Judgement("q0", 0, FACTS), Judgement("q0", 1, (), abstained=True)]
    evaluator, model = Scripted(judgements, max_concurrency=16, num_gpus=2), Scripted(SURPRISALS)
    both, alone = WithPerplexity(evaluator, model), WithPerplexity(None, model)
    for each in (both, alone):
        each.start()
    assert (evaluator.starts, model.starts) == (1, 2)
    assert both.judge(ITEMS) == [Judgement("q0", 0, FACTS, False, SURPRISALS[0]), judgements[1]]
    assert alone.judge(ITEMS) == [Judgement("q0", 0, (), surprisal=SURPRISALS[0]), Judgement("q0", 1, ())]
    assert [(each.max_concurrency, protocol.num_gpus(each)) for each in (both, alone)] == [(16, 2), (1, 0)]


def test_faults_are_named_as_without_a_language_model() -> None:
    with_model = WithPerplexity(Scripted(), Scripted(SURPRISALS))
    with pytest.raises(EvaluatorError, match="^evaluator: expected a list of 2 judgements, got NoneType$"):
        with_model.judge(ITEMS)
    with pytest.raises(ConfigError, match="^eval.evaluator: Scripted.check of question 'q0': ZeroDivisionError"):
        protocol.check(with_model, QUESTIONS[0])
    with pytest.raises(DataError, match="^refused by the language model$"):
        protocol.check(WithPerplexity(None, Scripted(SURPRISALS)), QUESTIONS[0])
    with pytest.raises(ConfigError, match="num_gpus: expected a whole number, 0 or more, got -1"):
        WithPerplexity(Scripted(num_gpus=-1), Scripted())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"perplexity_model": " "}, "eval.perplexity_model: expected the folder of a model, got ' '"),
        ({"perplexity_model": "m", "options": {"a": 1}}, "eval.options: expected none without eval.evaluator, got "),
        ({"perplexity_model": "m", "num_actors": 0}, "eval.num_actors: expected at least 1, got 0"),
    ],
)
def test_bad_options_are_one_line(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EvalConfig(**options)
    assert str(caught.value).startswith(expected)


def test_checked_and_planned_before_a_run(tiny_model: Path, tmp_path: Path) -> None:
    config = replace(base_config(tiny_model, tmp_path), eval=EvalConfig(perplexity_model=str(tiny_model)))
    prepared = preflight.check(config)
    assert isinstance(prepared.evaluator, WithPerplexity) and prepared.evaluator._perplexity._device == "cpu"
    assert "evaluation actors" in [group.name for group in Plan(config).groups()]
    on_gpu = preflight.check(replace(config, cluster=ClusterConfig(gpus_per_evaluator=0.5))).evaluator
    assert isinstance(on_gpu, WithPerplexity) and on_gpu._perplexity._device == "cuda"
    with pytest.raises(DataError, match="question .*: document: expected a text for the factscore evaluator"):
        preflight.check(replace(config, eval=replace(config.eval, evaluator="factscore")))
    rollout = replace(config.rollout, max_new_tokens=2000)  # the policy has a larger context than the other model
    short = tmp_path / "short"
    short.mkdir()
    for file in tiny_model.iterdir():
        (short / file.name).symlink_to(file)
    described = json.loads((tiny_model / "config.json").read_text())
    (short / "config.json").unlink()
    (short / "config.json").write_text(json.dumps(described | {"max_position_embeddings": 2010}))
    config = replace(config, rollout=rollout, eval=EvalConfig(perplexity_model=str(short)))
    with pytest.raises(DataError, match="eval.perplexity_model: question 'q.': expected a prompt of 1 to 10 tokens"):
        preflight.check(config)
    with pytest.raises(ConfigError, match="^eval.perplexity_model: expected the folder of a model, .*, got 'nowhere'"):
        preflight.check(replace(config, eval=EvalConfig(perplexity_model="nowhere")))


@pytest.fixture
def runs_with_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs of fake_run, with a perplexity model and no evaluator."""
    plain = fake_run.config_for

    def config_for(*arguments: Any, **options: Any) -> Config:
        config = plain(*arguments, **options)
        return replace(config, eval=replace(config.eval, perplexity_model="models/lm"))

    monkeypatch.setattr(fake_run, "config_for", config_for)


@pytest.mark.usefixtures("runs_with_a_model")
def test_a_run_without_an_evaluator(tmp_path: Path) -> None:
    fake_run.run(tmp_path / "whole")
    with pytest.raises(Stopped):
        fake_run.run(tmp_path / "stopped", Events(9))
    fake_run.run(tmp_path / "stopped")
    found = results(tmp_path / "whole")
    assert found == results(tmp_path / "stopped")
    for version in range(ITERATIONS + 1):
        metrics = found[f"eval_{version:03d}/heldout-judged.json"]["metrics"]
        assert list(metrics) == ["nats_per_token", "unread"]
        assert metrics["nats_per_token"]["per_replication"] == [2.0, 3.0]  # as the fakes answer
    tracked = {name for line in fake_run.metrics_of(tmp_path / "whole") for name in line if "judged" in name}
    assert tracked == {f"eval/{split}-judged/{name}" for split in ("heldout", "transfer") for name in metrics}
    summary = build(tmp_path / "whole" / "run")
    assert "Perplexity of the answers under models/lm" in render(summary) and "Two judges" not in render(summary)


def write(folder: Path, *versions: Surprisal | None, evaluator: str | None = None, model: str = "models/lm") -> None:
    """Verdicts with what the model finds in every answer, by version of the policy."""
    for version, surprisal in enumerate(versions):
        rows = [Judgement(q.id, r, FACTS, surprisal=surprisal) for q in QUESTIONS for r in range(2)]
        result = judged_metrics.evaluate(
            evaluator, QUESTIONS, rows, perplexity_model=model, seed=3, bootstrap_samples=200
        )
        (folder / f"eval_{version:03d}/heldout-judged.json").write_text(json.dumps(to_json(result)))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            Surprisal(4.0, 2),
            Surprisal(6.0, 2),
            ["ANSWERS READ LESS LIKE LANGUAGE to models/lm: perplexity 7.389 -> 20.09"],
        ),
        (Surprisal(6.0, 2), Surprisal(4.0, 2), []),
        (Surprisal(4.0, 2), Surprisal(4.0, 2), []),
        (
            Surprisal(4.0, 2),
            None,
            [
                "models/lm could read no answer on one of the two sides",
                "more answers are too long for models/lm, whose perplexity leaves them out: 0.000 -> 1.000",
            ],
        ),
        (Surprisal(0.0, 0), Surprisal(4.0, 2), ["models/lm could read no answer on one of the two sides"]),
    ],
)
@pytest.mark.parametrize("evaluator", [None, "factscore"])
def test_language_that_decays_is_said_in_words(
    tmp_path: Path, evaluator: str | None, before: Surprisal, after: Surprisal | None, expected: list[str]
) -> None:
    make(tmp_path, FULL, FULL)
    write(tmp_path, before, after, evaluator=evaluator)
    said = [remark for remark in build(tmp_path)["remarks"] if "models/lm" in remark]
    assert said == [f"heldout, after 1: {remark}" for remark in expected]


def test_a_change_within_noise_is_no_alarm(tmp_path: Path) -> None:
    make(tmp_path, FULL, FULL)
    for version, nats in enumerate(([2.0, 4.0] * 5, [4.0, 2.5] * 5)):  # by topic: some rise, some fall
        rows = [
            Judgement(question.id, r, (), surprisal=Surprisal(nats[number], 1))
            for number, question in enumerate(QUESTIONS)
            for r in range(2)
        ]
        result = judged_metrics.evaluate(None, QUESTIONS, rows, perplexity_model="lm", seed=3, bootstrap_samples=200)
        (tmp_path / f"eval_{version:03d}/heldout-judged.json").write_text(json.dumps(to_json(result)))
    assert "LANGUAGE" not in " ".join(build(tmp_path)["remarks"])


def test_perplexities_in_the_table(tmp_path: Path) -> None:
    make(tmp_path, FULL, FULL, FULL)
    write(tmp_path, Surprisal(4.0, 2), Surprisal(6.0, 2), None, evaluator="factscore")
    summary = build(tmp_path)
    lines = [line.split() for line in render(summary).splitlines()]
    title = lines.index("Perplexity of the answers under models/lm".split())
    assert lines[title + 4 : title + 7] == [
        "before 7.389 7.389 to 7.389 0.0%".split(),
        "after 1 20.09 20.09 to 20.09 2.718 2.718 to 2.718 0.0%".split(),
        "after 2 100.0%".split(),
    ]
    assert any(line[:3] == ["Two", "judges:", "the"] for line in lines), "the evaluator's own part stays"


def test_eighty_columns(tmp_path: Path) -> None:
    make(tmp_path, *[FULL] * 12)
    surprisals = [Surprisal(nats, 1) for nats in (11.123, 12.5, *[10_000.0] * 10)]
    write(tmp_path, *surprisals, model="/somewhere/very/long/" + "models/" * 12)
    summary = build(tmp_path)
    summary["folder"], summary["remarks"] = "runs/x", []
    text = render(summary)
    assert max(map(len, text.splitlines())) <= 80 and "inf to inf" in text and "…" not in text


def test_config_is_judged() -> None:
    assert not Config(model=ModelConfig("m")).eval.is_judged
    assert EvalConfig(evaluator="factscore").is_judged and EvalConfig(perplexity_model="m").is_judged
