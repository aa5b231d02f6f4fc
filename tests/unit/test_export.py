"""`maskdpo_ray.pairs` and `maskdpo_ray.export`: what they write, and one line for what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from maskdpo_ray import export, pairs
from maskdpo_ray.data import questions
from maskdpo_ray.data.formats import WRITERS
from maskdpo_ray.data.formats.preference import SIDES
from maskdpo_ray.data.rows import preferences as read
from maskdpo_ray.errors import ConfigError, DataError, UserError
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.pairing import masked_pairs
from maskdpo_ray.pairing.scoring import scored
from maskdpo_ray.records import (
    CONTRADICTORY,
    LABELS,
    NO_HALLUCINATION,
    UNVERIFIABLE,
    Annotation,
    CommittedQuestion,
    DropReason,
    PairsSummary,
    PreferencePair,
    Rollout,
    Sentence,
    encode_line,
    from_json,
)
from maskdpo_ray.stages.preflight import Prepared

ASKED = ("q0", "q1", "q2")
FACTS = {"table": "countries", "entity": "Rwanda"}


@pytest.fixture(scope="module")
def tokenizer(bundled_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bundled_model)


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path, tokenizer: Any) -> Path:
    """Questions, a config, and per question two answers with their labels; q2's are both right."""
    lines = [{"id": name, "topic": f"t-{name}", "prompt": f"What is {name}?", "facts": FACTS} for name in ASKED]
    write(tmp_path / "questions.jsonl", lines)
    write(tmp_path / "held-out.jsonl", [{"id": "h0", "prompt": "What else?", "facts": FACTS}])
    data = {"train": str(tmp_path / "questions.jsonl"), "eval": str(tmp_path / "held-out.jsonl")}
    config = {
        "model": {"model_name_or_path": str(tiny_model)},
        "data": data,
        "rollout": {"max_new_tokens": 64},
        "mask": {"eos": "chosen"},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    rollouts, annotations = [], []
    for name in ASKED:
        for sample, label in enumerate((NO_HALLUCINATION, CONTRADICTORY if name != "q2" else NO_HALLUCINATION)):
            text = f"Answer {sample} to {name}."
            ids = (*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id)
            rollouts.append(Rollout(name, sample, ids, text, "stop", 0))
            annotations.append(Annotation(name, sample, (Sentence(0, len(text), label),)))
    write(tmp_path / "rollouts.jsonl", rollouts)
    write(tmp_path / "annotations.jsonl", annotations)
    return tmp_path


def write(path: Path, values: Sequence[Any]) -> None:
    path.write_bytes(b"".join(map(encode_line, values)))


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def make_pairs(folder: Path, *more: str) -> None:
    files = [str(folder / name) for name in ("rollouts.jsonl", "annotations.jsonl")]
    # Options first: argparse takes their values for files if it can.
    pairs.main(["--config", str(folder / "config.yaml"), *more, *files, "-o", str(folder / "pairs.jsonl")])


def test_pairs_are_those_of_the_loop(folder: Path, tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    make_pairs(folder, "--adam.lr", "1e-5")
    written = [from_json(PreferencePair, value) for value in lines_of(folder / "pairs.jsonl")]
    asked = {question.id: question for question in questions.load(str(folder / "questions.jsonl"))}
    assert [pair.question_id for pair in written] == ["q0", "q1"]
    for pair in written:
        assert pair.prompt_token_ids == tuple(Chat(tokenizer).prompt_ids(asked[pair.question_id]))
        assert (pair.chosen.rollout.sample, pair.rejected.rollout.sample) == (0, 1)
        assert (pair.chosen.score, pair.rejected.score, pair.topic) == (1.0, 0.0, f"t-{pair.question_id}")
    assert capsys.readouterr().out == f"2 pairs -> {folder / 'pairs.jsonl'}; dropped: 1 same_score\n"


def test_a_dry_run_reads_all_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_pairs(folder, "--dry_run")
    assert not (folder / "pairs.jsonl").exists()
    assert capsys.readouterr().out == f"2 pairs would go to {folder / 'pairs.jsonl'}; dropped: 1 same_score\n"
    changed(lambda v: v.pop(), "annotations.jsonl")(folder)
    with pytest.raises(DataError, match="annotations.jsonl: expected as many lines as"):
        make_pairs(folder, "--dry_run")


@pytest.mark.parametrize("name", ["rollouts.jsonl", "annotations.jsonl", "questions.jsonl", "config.yaml"])
def test_pairs_do_not_replace_what_they_are_made_of(folder: Path, name: str) -> None:
    kept = (folder / name).read_bytes()
    (folder / "pairs.jsonl").symlink_to(name)
    with pytest.raises(DataError, match=f"expected a file to write, got .*/{name}, which is read"):
        make_pairs(folder, "--force")
    assert (folder / name).read_bytes() == kept


FILES = ("rollouts.jsonl", "annotations.jsonl")


def changed(change: Callable[[list[Any]], Any], *names: str) -> Callable[[Path], None]:
    """Change the lines of the named files, of both without names."""

    def apply(folder: Path) -> None:
        for name in names or FILES:
            values = lines_of(folder / name)
            change(values)
            write(folder / name, values)

    return apply


BAD_PAIRS: dict[str, tuple[Callable[[Path], None], str]] = {
    "field": (changed(lambda v: v[1].pop("text"), "rollouts.jsonl"), "rollouts.jsonl:2: missing field 'text' in"),
    "finish": (
        changed(lambda v: v[1].update(finish_reason="foo"), "rollouts.jsonl"),
        "rollouts.jsonl:2: finish_reason: expected stop or length, got 'foo'",
    ),
    "question": (
        changed(lambda v: v[1].update(question_id="h0"), "rollouts.jsonl"),
        "rollouts.jsonl:2: question_id: expected a training question, got 'h0'",
    ),
    "labels of another": (
        changed(lambda v: v.insert(0, v.pop(1)), "annotations.jsonl"),
        "annotations.jsonl:1: annotator: question 'q0', answer 0: expected its annotation, got",
    ),
    "span": (
        changed(lambda v: v[2]["sentences"][0].update(end=99), "annotations.jsonl"),
        "annotations.jsonl:3: annotator: question 'q1', answer 0, sentence 0: expected a span within 0 to",
    ),
    "fewer labels": (changed(lambda v: v.pop(), "annotations.jsonl"), "annotations.jsonl: expected as many lines as"),
    "fewer answers": (changed(lambda v: v.pop(), "rollouts.jsonl"), "rollouts.jsonl: expected as many lines as"),
    "sample twice": (
        changed(lambda v: v[1].update(sample=0)),
        "rollouts.jsonl:1: sample: expected a number of its own for each answer to 'q0', got [0, 0]",
    ),
    "two policies": (
        changed(lambda v: v[1].update(policy_version=1), "rollouts.jsonl"),
        "rollouts.jsonl:1: policy_version: expected one for all answers to 'q0', got [0, 1]",
    ),
    "apart": (
        changed(lambda v: v.append(v.pop(0))),
        "rollouts.jsonl:6: question_id: expected all answers to 'q0' together, got more",
    ),
    "no pair": (changed(lambda v: v.__delitem__(slice(4))), "none of 1 questions gave a pair: 1 same_score; more"),
}


@pytest.mark.parametrize(("change", "message"), BAD_PAIRS.values(), ids=BAD_PAIRS.keys())
def test_bad_files_are_refused_by_line_and_leave_nothing(
    folder: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], message: str
) -> None:
    train = questions.load(str(folder / "questions.jsonl"))
    # Checking the model takes a second, and it is the same one every time.
    monkeypatch.setattr(pairs, "check", lambda config: Prepared(train, {}, None, Chat(tokenizer)))  # type: ignore[arg-type]
    change(folder)
    before = set(folder.iterdir())
    with pytest.raises(DataError) as caught:
        make_pairs(folder, "--data.max_dropped", "0")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert set(folder.iterdir()) == before


def test_ids_that_do_not_spell_the_text_drop_the_pair(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(lambda v: v[0].update(token_ids=[5, 2]), "rollouts.jsonl")(folder)
    make_pairs(folder)
    assert f"1 {DropReason.NOT_LOCATED}" in capsys.readouterr().out


def test_labels_may_come_by_text(folder: Path) -> None:
    """Labels as `annotate` writes them: in any order, equal answers once."""
    make_pairs(folder)
    expected = (folder / "pairs.jsonl").read_bytes()
    rollouts, labels = (lines_of(folder / name) for name in ("rollouts.jsonl", "annotations.jsonl"))
    lines = [{**label, "text": rollout["text"]} for rollout, label in zip(rollouts, labels, strict=True)]
    write(folder / "annotations.jsonl", lines[::-1])
    make_pairs(folder, "--force")
    assert (folder / "pairs.jsonl").read_bytes() == expected
    write(folder / "annotations.jsonl", lines[1:])
    with pytest.raises(DataError, match="question 'q0', answer 0: expected a line with its text, found none"):
        make_pairs(folder, "--force", "--data.max_dropped", "0")


@pytest.fixture
def run_folder(folder: Path) -> Path:
    """Pairs of q0 and q1, as a file and as a run with q2: complete in two iterations, under way in a third."""
    rollouts = [from_json(Rollout, value) for value in lines_of(folder / "rollouts.jsonl")]
    annotations = [from_json(Annotation, value) for value in lines_of(folder / "annotations.jsonl")]
    answers = [scored(r, a) for r, a in zip(rollouts, annotations, strict=True)]
    made = [PreferencePair(f"q{i}", f"t-q{i}", (1,), answers[2 * i], answers[2 * i + 1], 0) for i in range(2)]
    write(folder / "pairs.jsonl", made)
    outcomes = (((made[0],), ()), ((made[1],), ()), ((), ("same_score",)))
    committed = [
        CommittedQuestion.of(f"q{i}", rollouts[2 * i : 2 * i + 2], annotations[2 * i : 2 * i + 2], *outcome)
        for i, outcome in enumerate(outcomes)
    ]
    for iteration in range(3):
        iteration_dir = folder / f"iter_{iteration:03d}"
        iteration_dir.mkdir()
        write(iteration_dir / "questions.jsonl", committed)
        if iteration < 2:
            write(iteration_dir / "pairs-summary.json", [PairsSummary(3, 2, {"same_score": 1}, {}, logged=2)])
    return folder


@pytest.mark.parametrize("to", WRITERS)
def test_export_keeps_text_and_labels(run_folder: Path, to: str) -> None:
    output = run_folder / "out.jsonl"
    export.main([str(run_folder / "pairs.jsonl"), "--to", to, "-o", str(output), *asked(run_folder)])
    first = [value for _, value in read(output)][0]
    pair = from_json(PreferencePair, lines_of(run_folder / "pairs.jsonl")[0])
    assert first.prompt == ({"role": "user", "content": "What is q0?"},)
    assert (first.question_id, first.topic) == ("q0", "t-q0")
    for side in ("chosen", "rejected"):
        assert getattr(first, side).text == getattr(pair, side).rollout.text
        assert getattr(first, side).sentences == getattr(pair, side).annotation.sentences


@pytest.mark.parametrize("to", [*WRITERS, "masked"])
def test_a_table_holds_what_the_lines_do(run_folder: Path, to: str) -> None:
    """View of other tools: pyarrow's own rows of the Parquet file, one column for each field."""
    lines, table = run_folder / "out.jsonl", run_folder / "out.parquet"
    for output in (lines, table):
        export.main([str(run_folder), "--to", to, "-o", str(output)])
    found = pyarrow.parquet.read_table(table).to_pylist()
    assert len(found) == 4
    assert [_without_nulls(row) for row in found] == [_without_nulls(row) for row in lines_of(lines)]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def asked(folder: Path) -> list[str]:
    return ["--questions", str(folder / "questions.jsonl")]


def test_questions_of_a_run_are_pairs_and_answers_with_labels(run_folder: Path) -> None:
    """Every command that takes pairs, or answers and labels, takes the file of a run that has both."""
    log, files = run_folder / "iter_000/questions.jsonl", [run_folder / name for name in ("a.jsonl", "b.jsonl")]
    for source, output in zip((log, run_folder / "pairs.jsonl"), files, strict=True):
        export.main([str(source), "--to", "trl", "-o", str(output), *asked(run_folder)])
    assert files[0].read_bytes() == files[1].read_bytes()
    make_pairs(run_folder, "--force")
    expected = (run_folder / "pairs.jsonl").read_bytes()
    config = ["--config", str(run_folder / "config.yaml")]
    for sources in ([str(log)], [str(log), str(log)], [str(run_folder / "rollouts.jsonl"), str(log)]):
        pairs.main([*config, "--force", *sources, "-o", str(run_folder / "pairs.jsonl")])
        assert (run_folder / "pairs.jsonl").read_bytes() == expected
    with pytest.raises(DataError, match="rollouts.jsonl:1: expected a question of a run, or a file of labels"):
        pairs.main([*config, str(run_folder / "rollouts.jsonl"), "-o", str(run_folder / "p.jsonl")])


def test_masked_pairs_have_the_sampled_ids_and_the_weights_of_the_config(run_folder: Path, tokenizer: Any) -> None:
    output = run_folder / "out.jsonl"
    export.main([str(run_folder), "--to", "masked", "-o", str(output)])
    found = lines_of(output)
    assert [item["question_id"] for item in found] == ["q0", "q1"] * 2
    pair = from_json(PreferencePair, lines_of(run_folder / "pairs.jsonl")[0])
    item = found[0]
    assert item["prompt_tokens"] == list(pair.prompt_token_ids)
    for side, answer in pair.sides().items():
        assert tuple(item[f"{side}_tokens"]) == answer.rollout.token_ids
        assert item[side] == [{"role": "assistant", "content": answer.rollout.text}]
    # mask.eos: chosen
    assert item["chosen_weights"] == [1.0] * len(item["chosen_tokens"])
    assert item["rejected_weights"] == [1.0] * (len(item["rejected_tokens"]) - 1) + [0.0]
    assert set(masked_pairs.COLUMNS) < set(item)
    # Our own reader takes it for TRL's, as text.
    assert [value.question_id for _, value in read(output)] == ["q0", "q1"] * 2


def test_masked_pairs_under_another_config(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of pairs has no config, and a run's pairs may be weighed by another one."""
    config = json.loads((run_folder / "config.yaml").read_text())
    nothing = {side: {label: float(label == UNVERIFIABLE) for label in LABELS} for side in SIDES}
    for name, mask in (("ones", {"policy": "vanilla"}), ("none", {"policy": nothing})):
        (run_folder / f"{name}.yaml").write_text(json.dumps({**config, "mask": mask}))
    files = [run_folder / "of-run.jsonl", run_folder / "of-file.jsonl"]
    given = ["--to", "masked", "--config", str(run_folder / "ones.yaml")]
    export.main([str(run_folder), "--iteration", "0", "-o", str(files[0]), *given])
    export.main([str(run_folder / "pairs.jsonl"), "-o", str(files[1]), *given, *asked(run_folder)])
    assert files[0].read_bytes() == files[1].read_bytes()
    weights = [weight for item in lines_of(files[0]) for side in SIDES for weight in item[f"{side}_weights"]]
    assert set(weights) == {1.0}
    capsys.readouterr()
    more = ["--force", "--to", "masked", "--config", str(run_folder / "none.yaml")]
    export.main([str(run_folder), "-o", str(files[0]), *more])
    assert capsys.readouterr().out.endswith("; dropped: 4 nothing_to_learn\n") and not lines_of(files[0])


def test_masked_pairs_are_refused_where_weights_depend_on_all_pairs(run_folder: Path) -> None:
    config = json.loads((run_folder / "config.yaml").read_text())
    (run_folder / "other.yaml").write_text(json.dumps({**config, "mask": {"balance": 1}}))
    given = ["--to", "masked", "--config", str(run_folder / "other.yaml"), "-o", str(run_folder / "out")]
    with pytest.raises(ConfigError, match="mask.balance: expected none for --to masked, as only training knows all"):
        export.main([str(run_folder), *given])


def test_masked_pairs_need_a_config_and_others_take_none(run_folder: Path) -> None:
    out = ["-o", str(run_folder / "out")]
    with pytest.raises(DataError, match="--config: expected the mask and model for --to masked, got nothing"):
        export.main([str(run_folder / "pairs.jsonl"), "--to", "masked", *out, *asked(run_folder)])
    with pytest.raises(DataError, match="--config: expected --to masked, which alone weighs tokens, got trl"):
        export.main([str(run_folder), "--to", "trl", "--config", str(run_folder / "config.yaml"), *out])


def test_a_damaged_question_is_dropped_by_reason(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = run_folder / "iter_000/questions.jsonl"
    changed(lambda v: v[2].update(annotations=[]), "iter_000/questions.jsonl")(run_folder)
    more = ["--config", str(run_folder / "config.yaml"), "--data.max_dropped", "0.5"]
    pairs.main([*more, str(log), "-o", str(run_folder / "p.jsonl")])
    assert len(lines_of(run_folder / "p.jsonl")) == 2
    assert "dropped 1 invalid_field: " in capsys.readouterr().out


def test_a_run_of_another_version_is_refused(run_folder: Path) -> None:
    opened = {"stage": "open", "time": 1.0, "schema": 1, "pid": 1, "host": "h", "versions": {}, "changed": {}}
    write(run_folder / "ledger.jsonl", [opened])
    with pytest.raises(UserError, match="schema: expected 3, got 1: a run folder of an earlier version"):
        export.main([str(run_folder), "--to", "trl", "-o", str(run_folder / "out")])


def test_export_of_a_run_takes_what_is_complete(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = run_folder / "out.jsonl"
    export.main([str(run_folder), "--to", "trl", "-o", str(output)])
    assert [value["question_id"] for value in lines_of(output)] == ["q0", "q1"] * 2
    assert "4 pairs of " in capsys.readouterr().out
    export.main([str(run_folder), "--to", "trl", "-o", str(output), "--iteration", "1", "--force"])
    assert len(lines_of(output)) == 2


BAD_EXPORTS: dict[str, tuple[list[str], type[UserError], str]] = {
    "there already": (["{}", "-o", "{}/held-out.jsonl"], DataError, "held-out.jsonl: expected no such file yet, got"),
    "its pairs": (
        ["{}", "-o", "{}/iter_000/questions.jsonl", "--force"],
        DataError,
        "/iter_000/questions.jsonl, which is read",
    ),
    "its questions": (["{}", "-o", "{}/questions.jsonl", "--force"], DataError, "/questions.jsonl, which is read"),
    "a folder": (["{}", "-o", "{}", "--force"], DataError, "expected a file to write, got a folder"),
    "nowhere": (["{}", "-o", "{}/no/out"], DataError, "expected a file in a folder that exists, got none at"),
    "incomplete": (["{}", "-o", "{}/out", "--iteration", "2"], DataError, "found no iter_002 that has them"),
    "no questions": (["{}/pairs.jsonl", "-o", "{}/out"], DataError, "--questions: expected the questions that"),
    "iteration of a file": (["{}/pairs.jsonl", "-o", "{}/out", "--iteration", "0"], DataError, "--iteration: expected"),
    "no pairs": (
        ["{}/rollouts.jsonl", "-o", "{}/out", "--questions", "{}/questions.jsonl"],
        DataError,
        "rollouts.jsonl:1: unknown field 'sample' in the preference pair",
    ),
    "other questions": (
        ["{}/pairs.jsonl", "-o", "{}/out", "--questions", "{}/held-out.jsonl"],
        DataError,
        "pairs.jsonl:1: question_id: expected one of ",
    ),
    "no source": (["{}/nowhere", "-o", "{}/out"], DataError, "nowhere: expected a run folder, or a file of its pairs"),
    "format": (
        ["{}", "-o", "{}/out", "--to", "dpo"],
        ConfigError,
        "--to: expected one of anah, trl, openrlhf, masked, got 'dpo' (",
    ),
    "no output": (["{}"], ConfigError, "-o/--output: expected a value, got nothing (see --help)"),
    "no value": (["{}", "-o"], ConfigError, "-o/--output: expected a value, got nothing (see --help)"),
    "iteration": (
        ["{}", "-o", "{}/out", "--iteration=-1"],
        ConfigError,
        "--iteration: expected a whole number of at least 0",
    ),
    "digits": (["{}", "-o", "{}/out", "--iteration", "9" * 5000], ConfigError, f"0, got '{'9' * 76}... (see --help"),
    "flag": (["{}", "-o", "{}/out", "--force=yes"], ConfigError, "--force: expected no value, got 'yes' (see --help"),
    "option": (
        ["{}", "-o", "{}/out", "--itration", "1"],
        ConfigError,
        "--itration: unknown option; did you mean --iteration?",
    ),
    "long source": (
        ["x" * 5000, "-o", "{}/out", "--questions", "builtin:countries"],
        DataError,
        "no such file or folder",
    ),
}


@pytest.mark.parametrize(("arguments", "kind", "message"), BAD_EXPORTS.values(), ids=BAD_EXPORTS.keys())
def test_bad_exports_are_refused_and_leave_nothing(
    run_folder: Path, arguments: list[str], kind: type[UserError], message: str
) -> None:
    before = set(run_folder.iterdir())
    to = [] if "--to" in arguments else ["--to", "trl"]
    with pytest.raises(kind) as caught:
        export.main([argument.replace("{}", str(run_folder)) for argument in arguments] + to)
    assert message in str(caught.value)
    assert set(run_folder.iterdir()) == before


BAD_CONTENTS: dict[str, tuple[Callable[[list[Any]], Any], str]] = {
    "lost": (lambda v: v.pop(0), "questions.jsonl: expected 2 pairs, as pairs-summary.json beside it says, got 1"),
    "twice": (lambda v: v.__setitem__(1, v[0]), "questions.jsonl:2: pairs[0]: expected each pair once, got that of "),
    "topic": (
        lambda v: v[1]["pairs"][0].update(topic="x"),
        "questions.jsonl:2: topic: expected 't-q1', its question's, ",
    ),
    "score": (
        lambda v: v[1]["pairs"][0].update(chosen_score=None),
        "questions.jsonl:2: pairs[0]: chosen: score: expected 1.0, ",
    ),
    "answers": (
        lambda v: v[1]["pairs"][0].update(chosen=7),
        "questions.jsonl:2: question 'q1': pairs[0]: expected one answer",
    ),
    "labels": (lambda v: v[1]["annotations"].pop(), "questions.jsonl:2: question 'q1': rollouts and annotations"),
}


@pytest.mark.parametrize(("change", "message"), BAD_CONTENTS.values(), ids=BAD_CONTENTS.keys())
def test_damaged_pairs_are_not_exported(run_folder: Path, change: Callable[[list[Any]], Any], message: str) -> None:
    changed(change, "iter_001/questions.jsonl")(run_folder)
    before = set(run_folder.iterdir())
    with pytest.raises(DataError) as caught:
        export.main([str(run_folder), "--to", "trl", "-o", str(run_folder / "out")])
    assert f"iter_001/{message}" in str(caught.value) and "\n" not in str(caught.value)
    assert set(run_folder.iterdir()) == before


@pytest.mark.parametrize("command", ["annotate", "export", "pairs", "train"])
def test_python_m_runs_them_and_shows_one_line(command: str, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", f"maskdpo_ray.{command}", "one", "--no_option"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
