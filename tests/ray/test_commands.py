"""The commands that start actors of one kind, on a real local Ray."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import fake_engine
import fake_rank
import fakes
import pytest
import ray.cloudpickle
from shared_ray import SharedRay

from maskdpo_ray import annotate, cluster, evaluate, train
from maskdpo_ray.annotation import protocol
from maskdpo_ray.annotation.replay import ReplayAnnotator
from maskdpo_ray.data import questions
from maskdpo_ray.data.formats import WRITERS
from maskdpo_ray.data.formats.preference import Answer, Preference
from maskdpo_ray.records import CONTRADICTORY, NO_HALLUCINATION, Rollout, Sentence, encode_line

# Worker processes don't have tests/ on their path: the fakes travel to them by value.
for module in (fakes, fake_engine, fake_rank):
    ray.cloudpickle.register_pickle_by_value(module)


def write(path: Path, values: list[Any]) -> str:
    path.write_bytes(b"".join(map(encode_line, values)))
    return str(path)


def config(tmp_path: Path, model: Path, **sections: Any) -> list[str]:
    # Engines that no machine has room for: neither command starts one.
    room = {"cpus_per_engine": 1000, "cpus_per_rank": 0.1, "start_timeout_s": 120, "step_timeout_s": 60}
    values = {
        "run": {"name": "run", "dir": str(tmp_path)},
        "model": {"model_name_or_path": str(model)},
        "cluster": room,
        **sections,
    }
    (tmp_path / "config.yaml").write_text(json.dumps(values))
    return ["--config", str(tmp_path / "config.yaml")]


def test_annotate(tmp_path: Path, cluster_of_all: SharedRay, capsys: pytest.CaptureFixture[str]) -> None:
    """Rules on two actors give what they give without Ray; called again, the command has nothing left to do."""
    asked = questions.load("builtin:countries")[:4]
    texts = [f"The capital of {question.topic} is {city}." for question in asked for city in ("Kigali", "Paris")]
    rollouts = [Rollout(asked[i // 2].id, i % 2, (), text, "stop", 0) for i, text in enumerate(texts)]
    output = str(tmp_path / "labels.jsonl")
    options = config(tmp_path, tmp_path / "model", annotation={"num_actors": 2, "max_in_flight": 2})
    call = [write(tmp_path / "rollouts.jsonl", rollouts), "-o", output, *options]
    annotate.main(call)
    assert cluster_of_all.actors_left() == []
    assert f"8 answers -> {output}: " in capsys.readouterr().out
    items = [(asked[i // 2], rollout) for i, rollout in enumerate(rollouts)]
    rules = protocol.build("facts")
    rules.start()
    assert ReplayAnnotator(output).annotate(items) == rules.annotate(items)
    written = Path(output).read_bytes()
    annotate.main(call)
    assert "is finished: nothing is left to do" in capsys.readouterr().out
    assert Path(output).read_bytes() == written


def test_train(
    tmp_path: Path,
    tiny_model: Path,
    cluster_of_all: SharedRay,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two ranks, each with its share of every batch, no engine; called again, it says that it is finished."""

    def answer(text: str, label: str) -> Answer:
        return Answer(text, (Sentence(0, len(text), label),))

    sides = answer("This is right.", NO_HALLUCINATION), answer("This is wrong.", CONTRADICTORY)
    prompt = ({"role": "user", "content": "What?"},)
    pairs = [WRITERS["trl"](Preference(f"q{number}", "t", prompt, *sides)) for number in range(5)]
    log = tmp_path / "rank.jsonl"
    rank = type("Rank", (fake_rank.FakeRank,), {"log": str(log)})
    monkeypatch.setattr(cluster, "Cluster", functools.partial(cluster.Cluster, rank=rank))
    options = config(tmp_path, tiny_model, train={"num_ranks": 2, "batch_size": 4, "max_epochs": 1})
    call = [write(tmp_path / "pairs.jsonl", pairs), *options]
    train.main(call)
    assert cluster_of_all.actors_left() == []
    notes = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [note["ids"] for note in notes if note["event"] == "step"]
    trained = [name for ids in steps for batch in ids for name in batch]
    assert sorted(trained) == [f"q{number}#{number}" for number in range(5)]
    said = capsys.readouterr().out
    assert "learned from 5 of 5 pairs" in said and str(tmp_path / "run/iter_000/policy") in said
    assert json.loads((tmp_path / "run/summary.json").read_text())["steps"] == 2
    train.main(call)
    assert "is finished: nothing is left to do" in capsys.readouterr().out
    assert len(log.read_text().splitlines()) == len(notes)


def test_evaluate(
    tmp_path: Path,
    tiny_model: Path,
    cluster_of_all: SharedRay,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A model without ranks, then its answers without engines: the same figures, and a gain of nothing."""
    engine = type("Engine", (fake_engine.FakeEngine,), {"log": str(tmp_path / "engine.jsonl")})
    monkeypatch.setattr(cluster, "Cluster", functools.partial(cluster.Cluster, engine=engine))
    sections = {
        "data": {"train": "builtin:elements", "eval": write(tmp_path / "asked.jsonl", some_countries(3))},
        "rollout": {"max_new_tokens": 64, "num_engines": 2},
        "eval": {"n_samples_per_prompt": 2, "bootstrap_samples": 100, "evaluator": "factscore"},
    }
    options = config(tmp_path, tiny_model, **sections)
    # Ranks that no machine has room for.
    call = [*options, "--run.name", "base", "--cluster.cpus_per_engine", "0.1", "--cluster.cpus_per_rank", "1000"]
    evaluate.main(call)
    notes = [json.loads(line) for line in (tmp_path / "engine.jsonl").read_text().splitlines()]
    assert len([note for note in notes if note["event"] == "generate"]) == 3
    given = str(tmp_path / "base/eval_000/heldout-questions.jsonl")
    evaluate.main([given, *options, "--against", str(tmp_path / "base")])
    assert cluster_of_all.actors_left() == []
    for name in ("heldout.json", "heldout-judged.json"):
        files = [tmp_path / run / "eval_000" / name for run in ("base", "run")]
        assert files[0].read_bytes() == files[1].read_bytes()
    said = capsys.readouterr().out
    assert f"before: policy 0 of {tmp_path}/base" in said and f"after: the answers of {given}" in said
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["evaluations"]["heldout"][1]["gain"]["correct_facts"]["gain"] == 0
    evaluate.main(call)
    assert "is finished: nothing is left to do" in capsys.readouterr().out
    assert len((tmp_path / "engine.jsonl").read_text().splitlines()) == len(notes)


def some_countries(count: int) -> list[dict[str, Any]]:
    """Questions as a file has them."""
    asked = questions.load("builtin:countries")[:count]
    return [{name: getattr(question, name) for name in questions.FIELDS} for question in asked]
