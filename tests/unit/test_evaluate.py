"""`maskdpo_ray.evaluate` over fakes: the figures of a run, answers of a file, comparisons, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import pytest
import yaml
from fakes import RIGHT, WRONG, CharChat, Events, Stopped

from actors import weights
from maskdpo_ray import evaluate
from maskdpo_ray.config import cli
from maskdpo_ray.errors import UserError
from maskdpo_ray.evaluation import judged_metrics
from maskdpo_ray.evaluation import metrics as evaluation
from maskdpo_ray.evaluation.intervals import compare
from maskdpo_ray.loop import Loop
from maskdpo_ray.models.folder import ModelFolder
from maskdpo_ray.records import encode_line, encode_record, to_json
from maskdpo_ray.report import tables
from maskdpo_ray.stages import preflight
from maskdpo_ray.store import run_folder as own_folder
from maskdpo_ray.store.files import read_json
from maskdpo_ray.store.question_log import read_questions
from maskdpo_ray.store.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("once")
SPLITS = {"train": ("a", "b", "c"), "eval": ("h0", "h1", "h2"), "transfer": ("t0", "t1")}
FILES = ("heldout.json", "heldout-judged.json", "transfer.json", "transfer-judged.json")


def write(path: Path, values: Sequence[Any]) -> None:
    path.write_bytes(b"".join(map(encode_line, values)))


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    """Questions, without documents where they are learned from, and a config."""
    for split, names in SPLITS.items():
        given = {
            "facts": {"table": "countries", "entity": "Rwanda"},
            "document": None if split == "train" else "Rwanda",
        }
        write(tmp_path / f"{split}.jsonl", [{"id": name, "prompt": f"What of {name}?", **given} for name in names])
    config = {
        "run": {"name": "eval", "dir": str(tmp_path), "iterations": 1},
        "model": {"model_name_or_path": str(tiny_model)},
        "data": {split: str(tmp_path / f"{split}.jsonl") for split in SPLITS},
        "rollout": {"n_samples_per_prompt": 2, "max_new_tokens": 64},
        "train": {"batch_size": 2, "max_epochs": 1},
        "eval": {"n_samples_per_prompt": 2, "bootstrap_samples": 100, "evaluator": "factscore"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def prepare(folder: Path, *arguments: str) -> evaluate.Job:
    words = [word.replace("{}", str(folder)) for word in arguments]
    return evaluate.prepare([*words, "--config", str(folder / "config.yaml")])


def run(job: evaluate.Job, stop_at: int | None = None) -> tuple[Events, dict[str, Any]]:
    """Work of `python -m maskdpo_ray.evaluate`, without Ray."""
    events = Events(stop_at)
    with own_folder.open_run(job.config) as (run_folder, tracker):
        if not job.is_finished(run_folder):
            given = job.answers
            policy = given.policy if given else weights.publish(job.config.model.model_name_or_path, 0)
            run_folder.begin(policy, job.inputs())
            groups = fakes.groups(job.config, events)
            job.run(policy, replace(groups, engines=given or groups.engines), run_folder, tracker)
        return events, job.summary(run_folder)


@pytest.fixture
def loop(folder: Path) -> Path:
    """The folder of a whole run with the same config: evaluations of policies 0 and 1."""
    config = cli.parse(["--config", str(folder / "config.yaml"), "--run.name", "loop"]).config
    prepared, groups = preflight.check(config), fakes.groups(config, Events(), shuffle=3)
    initial = weights.publish(config.model.model_name_or_path, 0)
    with own_folder.open_run(config) as (run_folder, tracker):
        inputs = (config, prepared.train, prepared.evaluation, CharChat(), initial)
        Loop(*inputs, groups, run_folder, tracker).run()
    return folder / "loop"


def results(evaluated: Path) -> dict[str, bytes]:
    return {name: (evaluated / name).read_bytes() for name in FILES}


def rollouts(evaluated: Path) -> list[str]:
    logs = [read_questions(evaluated / f"{split}-questions.jsonl") for split in ("heldout", "transfer")]
    return [encode_record(each).decode()[:-1] for log in logs for question in log for each in question.rollouts]


def test_a_base_model_has_the_figures_of_a_runs_policy_0(folder: Path, loop: Path) -> None:
    before = set(folder.iterdir())
    job = prepare(folder)
    assert set(folder.iterdir()) == before
    for part in ("evaluate ", "rollout engines: 1", "annotation actors: 1", "evaluation actors: 1"):
        assert part in job.describe()
    assert "heldout 3 questions x 2, transfer 2 questions x 2 answers" in job.describe()
    assert "ranks" not in job.describe()
    events, summary = run(job)
    assert events.of("load") == [("load", 0)]
    assert results(folder / "eval/eval_000") == results(loop / "eval_000")
    assert sorted(rollouts(folder / "eval/eval_000")) == sorted(rollouts(loop / "eval_000"))
    assert summary["remarks"] == [] and list(summary["subjects"]) == ["this"]
    text = tables.render(summary)
    assert "this: " in text and "Change" not in text and "after" not in text


def test_answers_of_a_file_have_the_figures_of_the_run_that_gave_them(folder: Path, loop: Path) -> None:
    (folder / "answers.jsonl").write_text("\n".join(rollouts(loop / "eval_001")[::-1][1:]))
    with pytest.raises(UserError, match="question '..': expected 2 answers, as there are to '..', got 1$"):
        prepare(folder, "{}/answers.jsonl")
    (folder / "answers.jsonl").write_text("\n".join(rollouts(loop / "eval_001")))
    # What the config says of replications does not matter.
    job = prepare(folder, "{}/answers.jsonl", "--eval.n_samples_per_prompt", "7")
    assert "heldout 3 questions x 2," in job.describe() and "rollout engines" not in job.describe()
    events, summary = run(job)
    assert not events.of("load") and not events.of("answer")
    assert results(folder / "eval/eval_000") == results(loop / "eval_001")
    assert [entry["replications"] for entry in summary["evaluations"]["heldout"]] == [2]
    with own_folder.open_run(job.config) as (run_folder, _):
        assert {rollout.policy_version for rollout, _ in run_folder.evaluated(0, "heldout").answers()} == {0}


TEXTS = {"h1": (RIGHT, WRONG, RIGHT), "h0": (f"{RIGHT} {WRONG}", WRONG, RIGHT)}


def short_lines() -> list[dict[str, Any]]:
    """Answers without token ids, those to one question not together."""
    return [{"question_id": name, "text": texts[i]} for i in range(3) for name, texts in TEXTS.items()]


def test_texts_alone(folder: Path, once: ModelFolder) -> None:
    """Replications in the file's order, tokens by the tokenizer; questions without answers are left out."""
    given = short_lines()
    given[0]["finish_reason"] = "length"
    write(folder / "answers.jsonl", given)
    job = prepare(folder, "{}/answers.jsonl")
    assert {split: [q.id for q in asked] for split, asked in job.prepared.evaluation.items()} == {
        "heldout": ["h0", "h1"]
    }
    run(job)
    with own_folder.open_run(job.config) as (run_folder, _):
        found = {(r.question_id, r.sample): r for r, _ in run_folder.evaluated(0, "heldout").answers()}
    assert {key: rollout.text for key, rollout in found.items()} == {
        (name, i): text for name, texts in TEXTS.items() for i, text in enumerate(texts)
    }
    encode = once.tokenizer.encode
    for key, rollout in found.items():
        eos = [] if key == ("h1", 0) else [once.tokenizer.eos_token_id]
        assert list(rollout.token_ids) == [*encode(rollout.text, add_special_tokens=False), *eos]
    metrics = read_json(folder / "eval/eval_000/heldout.json", evaluation.Evaluation).metrics
    assert metrics["cut_off"].per_replication == (0.5, 0, 0)


def test_other_questions(folder: Path) -> None:
    """Also those that the config learns from: who names them knows."""
    write(folder / "answers.jsonl", [{"question_id": "a", "text": RIGHT}])
    job = prepare(folder, "{}/answers.jsonl", "--questions", "{}/train.jsonl", "--eval.evaluator", "none")
    assert [question.id for question in job.prepared.evaluation["heldout"]] == ["a"]
    _, summary = run(job)
    assert summary["evaluations"].keys() == {"heldout"}


def test_against_a_run(folder: Path, loop: Path) -> None:
    """The gain is that of `compare`, by both judges; by default over the last policy."""
    _, summary = run(prepare(folder, "--against", "{}/loop:0"))
    for _, after in summary["evaluations"].values():
        assert {change["gain"] for change in after["gain"].values()} <= {0, None}  # the same answers
    job = prepare(folder, "--against", "{}/loop")
    assert f"compared with policy 1 of {loop}" in job.describe()
    assert "resumed: " in job.describe() and "evaluate-transfer 0" in job.describe()
    events, summary = run(job)
    assert events == []
    options = {"seed": 1, "bootstrap_samples": 100}
    for split in ("heldout", "transfer"):
        before, after = summary["evaluations"][split]
        assert (before["name"], before["version"], after["name"], after["version"]) == ("before", 1, "after", 0)
        for name, kind, entry in (
            (f"{split}.json", evaluation.Evaluation, after),
            (f"{split}-judged.json", judged_metrics.JudgedEvaluation, after["judged"]),
        ):
            sides = [read_json(at / name, kind) for at in (loop / "eval_001", folder / "eval/eval_000")]
            assert entry["gain"] == to_json(compare(*sides, **options))["metrics"]
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert {remark.partition(":")[0] for remark in summary["remarks"]} == {"heldout, after", "transfer, after"}
    assert any("the second evaluator, factscore," in remark for remark in summary["remarks"])
    text = tables.render(summary)
    for part in (f"before: policy 1 of {loop}", "Change from before to after, per answer", "by factscore"):
        assert part in text
    assert max(map(len, tables.render({**summary, "subjects": {}, "folder": "x"}).splitlines())) <= 80


def test_against_an_evaluation_of_fewer_answers(folder: Path) -> None:
    """Another number of replications, and other options of the judge: compared, and remarked on."""
    run(prepare(folder, "--run.name", "base"))
    write(folder / "answers.jsonl", [{"question_id": name, "text": RIGHT} for name in SPLITS["eval"]])
    more = ["--eval.options", "{passages: 2}", "--against", "{}/base"]
    _, summary = run(prepare(folder, "{}/answers.jsonl", *more))
    assert list(summary["evaluations"]) == ["heldout"]
    before, after = summary["evaluations"]["heldout"]
    assert (before["replications"], after["replications"], after["gain"]["score"]["after"]) == (2, 1, 1.0)
    assert summary["remarks"][-1] == "the two were judged with different eval.options"
    assert "3 questions, 1 answers each" in tables.render(summary)


def test_against_answers_that_were_sampled(folder: Path) -> None:
    run(prepare(folder, "--run.name", "base"))
    _, summary = run(prepare(folder, "--eval.top_k", "1", "--eval.temperature", "0.8", "--against", "{}/base"))
    assert summary["remarks"][-1] == "the two were sampled with different eval.top_k"


@pytest.mark.parametrize("stop_at", [0, 1, 5, 12, 15])
def test_goes_on_after_a_stop(folder: Path, stop_at: int) -> None:
    """Before loading, within each split, before its last question is judged: it ends with the same figures."""
    with pytest.raises(Stopped):
        run(prepare(folder), stop_at)
    events, _ = run(prepare(folder))
    done = max(0, (stop_at - 1) // 3)
    assert len(events.of("answer")) == 5 - done
    run(prepare(folder, "--run.name", "whole"))
    assert results(folder / "eval/eval_000") == results(folder / "whole/eval_000")


def changed_answers(folder: Path) -> None:
    write(folder / "answers.jsonl", short_lines())
    run(prepare(folder, "{}/answers.jsonl"))
    write(folder / "answers.jsonl", short_lines()[::-1])


def changed_questions(folder: Path) -> None:
    run(prepare(folder))
    file = folder / "eval.jsonl"
    file.write_text(file.read_text().replace("What of h0", "What is h0"))


def given(*items: Any) -> Callable[[Path], None]:
    return lambda folder: write(folder / "answers.jsonl", items)


def base(*more: str, damage: str | None = None) -> Callable[[Path], None]:
    """An evaluation to compare with."""

    def evaluated(folder: Path) -> None:
        run(prepare(folder, "--run.name", "base", *more))
        if damage is not None:
            file = folder / "base" / damage
            file.write_bytes(file.read_bytes().replace(b"0.5", b"0.6", 1))

    return evaluated


def of_other_topics(folder: Path) -> None:
    base()(folder)
    (folder / "eval.jsonl").write_text((folder / "eval.jsonl").read_text().replace('"h0"', '"h9"'))


def half_an_evaluation(folder: Path) -> None:
    with pytest.raises(Stopped):
        run(prepare(folder, "--run.name", "base"), stop_at=12)


def of_a_loop(folder: Path) -> None:
    """Leave a run folder that the loop began with this config."""
    prepared = prepare(folder)
    with own_folder.open_run(prepared.config) as (run_folder, _):
        policy = weights.publish(prepared.config.model.model_name_or_path, 0)
        asked = {"train": preflight.check(prepared.config).train, **prepared.prepared.evaluation}
        run_folder.begin(policy, asked)


ANSWERS = "{}/answers.jsonl"
ANSWER = {"question_id": "h0", "text": RIGHT}
REFUSED: dict[str, tuple[Callable[[Path], Any], list[str], str]] = {
    "questions without answers": (given(), ["--questions", "{}/eval.jsonl"], "--questions: expected ANSWERS to them, "),
    "no such file": (given(), ["{}/nowhere"], "nowhere: expected a JSON file, got: No such file"),
    "empty file": (given(), [ANSWERS], "answers.jsonl: expected JSON objects, got none"),
    "unknown question": (
        given(ANSWER, {"question_id": "a", "text": RIGHT}),
        [ANSWERS],
        "answers.jsonl:2: question_id: expected that of a held-out question (--questions), got 'a'",
    ),
    "pair": (given({"prompt": "p", "chosen": "a", "rejected": "b"}), [ANSWERS], "answers.jsonl:1: expected an answer,"),
    "finish": (
        given({**ANSWER, "finish_reason": "eos"}),
        [ANSWERS],
        "answers.jsonl:1: finish_reason: expected stop or length, got 'eos'",
    ),
    "counts": (
        given(ANSWER, ANSWER, {**ANSWER, "question_id": "t0"}),
        [ANSWERS],
        "{}/answers.jsonl: question 't0': expected 2 answers, as there are to 'h0', got 1",
    ),
    "nothing to judge by": (
        given({"question_id": "a", "text": RIGHT}),
        [ANSWERS, "--questions", "{}/train.jsonl"],
        "question 'a': document: expected a text for the factscore evaluator",
    ),
    "other answers": (
        changed_answers,
        [ANSWERS],
        "answers: expected those that the run in {}/eval began with, got oth",
    ),
    "no answers": (changed_answers, [], "data, heldout questions: expected those that the run in {}/eval began with"),
    "other questions": (changed_questions, [], "data, heldout questions: expected those that the run in {}/eval began"),
    "other options": (
        base(),
        ["--run.name", "base", "--rollout.temperature", "0.5"],
        "rollout.temperature: expected 0.8, as the run in {}/base began with, got 0.5",
    ),
    "a run of the loop": (
        of_a_loop,
        [],
        "data, train questions: expected those that the run in {}/eval began with, got",
    ),
    "in a run folder": (
        base(),
        ["--run.dir", "{}/base"],
        "{}/base/eval: expected a place outside of run folders, got one in that of {}/base",
    ),
    "against nothing": (
        given(),
        ["--against", "{}/nowhere:1"],
        "--against: expected a run folder, or FOLDER:VERSION, got '{}/nowhere:1'",
    ),
    "against half an evaluation": (
        half_an_evaluation,
        ["--against", "{}/base"],
        "--against: {}/base: expected a finished evaluation (heldout, transfer), got none",
    ),
    "against no such version": (
        base(),
        ["--against", "{}/base:3"],
        "(heldout, transfer) of policy 3, got those of policies 0",
    ),
    "against other topics": (
        of_other_topics,
        ["--against", "{}/base"],
        "--against: {}/base/eval_000/heldout.json: the evaluations are of different topics: 'h0' is in one only",
    ),
    "against fewer splits": (
        lambda folder: (given(ANSWER)(folder), run(prepare(folder, ANSWERS, "--run.name", "base"))),
        ["--against", "{}/base"],
        "expected a finished evaluation (heldout, transfer), got none",
    ),
    "against another annotator": (
        base("--annotation.annotator", "claims"),
        ["--against", "{}/base"],
        "annotation.annotator: expected 'claims', as in {}/base (--against), got 'facts'",
    ),
    "against no evaluator": (
        base("--eval.evaluator", "none"),
        ["--against", "{}/base"],
        "eval.evaluator: expected None, as in {}/base (--against), got 'factscore'",
    ),
    "against a changed evaluation": (
        base(damage="eval_000/transfer.json"),
        ["--against", "{}/base"],
        "base/eval_000/transfer.json: changed after stage 'evaluate-transfer' left it",
    ),
}


@pytest.mark.parametrize(("change", "arguments", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_it_refuses(folder: Path, change: Callable[[Path], Any], arguments: list[str], message: str) -> None:
    change(folder)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(UserError) as caught:
        prepare(folder, *arguments, "--data.max_dropped", "0")
    assert message.replace("{}", str(folder)) in str(caught.value) and "\n" not in str(caught.value)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_the_loop_refuses_an_evaluations_folder(folder: Path) -> None:
    job = prepare(folder)
    run(job)
    asked = {"train": preflight.check(job.config).train, **job.prepared.evaluation}
    with pytest.raises(UserError, match="^data, train questions: expected those that the run in "):
        RunFolder.check(folder / "eval", cli.resolved(job.config), asked)


def test_other_weights_are_refused(folder: Path) -> None:
    with pytest.raises(Stopped):
        run(prepare(folder), stop_at=4)
    job = prepare(folder)
    other = fakes.write_policy(folder / "other", 0, b"other")
    with (
        own_folder.open_run(job.config) as (run_folder, _),
        pytest.raises(UserError, match="^model.model_name_or_path: "),
    ):
        run_folder.begin(other, job.inputs())


def test_development_topics_are_for_runs(folder: Path) -> None:
    """They are what a run's choice goes by; an evaluation on its own has none to make."""
    job = prepare(folder, "--data.num_dev_topics", "1", "--run.keep", "best", "--run.patience", "1")
    assert list(job.prepared.evaluation) == ["heldout", "transfer"]


def test_greedy_answers_beside_sampled_ones(folder: Path) -> None:
    """Engines give them; answers that are given are all there is."""
    job = prepare(folder, "--eval.greedy", "true")
    assert "x 2 answers, and a greedy one each" in job.describe()
    events, summary = run(job)
    assert len(events.of("answer")) == 2 * (3 + 2)
    (entry,) = summary["evaluations"]["heldout"]
    assert entry["greedy"]["gain"] is None and entry["greedy"]["metrics"].keys() == entry["metrics"].keys()
    lines = [{"question_id": name, "text": "This is right."} for name in SPLITS["eval"]]
    write(folder / "answers.jsonl", lines)
    given = prepare(folder, "{}/answers.jsonl", "--eval.greedy", "true", "--run.name", "given")
    assert "greedy one" not in given.describe() and not given.config.eval.greedy
