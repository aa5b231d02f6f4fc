"""Before an actor starts: every bad model, config or questions file is one line, through the command line too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from maskdpo_ray import run
from maskdpo_ray.config.resources import Plan
from maskdpo_ray.config.schema import (
    AnnotationConfig,
    Config,
    DataConfig,
    MaskConfig,
    ModelConfig,
    RolloutConfig,
    RunConfig,
    VllmConfig,
)
from maskdpo_ray.errors import ConfigError, DataError, ModelError, UserError
from maskdpo_ray.stages import preflight

REPOSITORY = Path(__file__).resolve().parents[3]
Change = Callable[[Config, Path], Config]
FACTS = {"table": "countries", "entity": "Rwanda"}


def base_config(model: Path, folder: Path) -> Config:
    lines = [{"id": f"q{i}", "topic": f"t{i}", "prompt": f"What is {i}?", "facts": FACTS} for i in range(6)]
    questions = folder / "questions.jsonl"
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Config(
        model=ModelConfig(model_name_or_path=str(model)),
        data=DataConfig(train=str(questions), num_eval_topics=2),
        rollout=RolloutConfig(max_new_tokens=64),
    )


@pytest.fixture
def config(tiny_model: Path, tmp_path: Path) -> Config:
    """A config that passes."""
    return base_config(tiny_model, tmp_path)


def with_model(config: Config, tmp_path: Path, change: Callable[[Path], None]) -> Config:
    """The config with a changed copy of its model (links to what stays)."""
    folder = tmp_path / "changed-model"
    folder.mkdir()
    for file in Path(config.model.model_name_or_path).iterdir():
        if file.suffix == ".safetensors":
            (folder / file.name).symlink_to(file)
        else:
            shutil.copy(file, folder / file.name)
    change(folder)
    return replace(config, model=ModelConfig(model_name_or_path=str(folder)))


def edited(name: str, **fields: Any) -> Callable[[Path], None]:
    """Set fields of a JSON file of the model; None removes one."""

    def change(folder: Path) -> None:
        value = {**json.loads((folder / name).read_text()), **fields}
        (folder / name).write_text(json.dumps({k: v for k, v in value.items() if v is not None}))

    return change


def removed(pattern: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for file in list(folder.glob(pattern)):
            file.unlink()

    return change


def written(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def model(change: Callable[[Path], None]) -> Change:
    return lambda config, tmp_path: with_model(config, tmp_path, change)


def section(**sections: Any) -> Change:
    return lambda config, _: replace(config, **sections)


def cut_in_half(folder: Path) -> None:
    """Replace the link to the weights by a part of them."""
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[: len(content) // 2])


def small_vocabulary(folder: Path) -> None:
    """A model of the first 1000 tokens."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    rows = tensors["model.embed_tokens.weight"][:1000].copy()
    save_file({**tensors, "model.embed_tokens.weight": rows}, folder / "model.safetensors", {"format": "pt"})
    edited("config.json", vocab_size=1000)(folder)


def indexed(folder: Path) -> None:
    """Weights in two files, of which one is missing."""
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    written(
        "model.safetensors.index.json", json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "b.safetensors"}})
    )(folder)


LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def questions(*lines: dict[str, Any], split: str = "train", **data: Any) -> Change:
    def change(config: Config, tmp_path: Path) -> Config:
        file = tmp_path / "other.jsonl"
        file.write_text("".join(json.dumps({"facts": FACTS, **line}) + "\n" for line in lines))
        if split != "train":
            return replace(config, data=replace(config.data, **{split: str(file)}))
        return replace(config, data=DataConfig(train=str(file), **{"num_eval_topics": 1, **data}))

    return change


BAD: dict[str, tuple[Change, type[UserError], str]] = {
    "no folder": (
        section(model=ModelConfig(model_name_or_path="nowhere/model")),
        ModelError,
        "model.model_name_or_path: expected a Hugging Face folder with config.json, got 'nowhere/model'",
    ),
    "path too long": (
        section(model=ModelConfig(model_name_or_path="m" * 300)),
        ModelError,
        f"expected a Hugging Face folder with config.json, got '{'m' * 300}'",
    ),
    "Git LFS pointer": (
        model(lambda f: (f / "model.safetensors").unlink() or written("model.safetensors", LFS_POINTER)(f)),
        ModelError,
        "model.safetensors: expected a whole safetensors file (no Git LFS pointer), got: ",
    ),
    "truncated weights": (
        model(cut_in_half),
        ModelError,
        "model.safetensors: expected a whole safetensors file (no Git LFS pointer), got: ",
    ),
    "one more file of weights": (
        model(written("more.safetensors", LFS_POINTER)),
        ModelError,
        "more.safetensors: expected a whole safetensors file (no Git LFS pointer), got: ",
    ),
    "missing part of the weights": (
        model(indexed),
        ModelError,
        "/b.safetensors: expected a whole safetensors file (no Git LFS pointer), got: ",
    ),
    "index without files": (
        model(written("model.safetensors.index.json", '{"weight_map": ["a"]}')),
        ModelError,
        "model.safetensors.index.json: weight_map: expected {tensor: file in the folder}, got ['a']",
    ),
    "no safetensors": (
        model(removed("*.safetensors")),
        ModelError,
        "model.model_name_or_path: expected safetensors in ",
    ),
    "config is no JSON": (model(written("config.json", "{")), ModelError, "config.json: expected JSON, got: "),
    "config is a list": (model(written("config.json", "[]")), ModelError, "config.json: expected an object"),
    "config is no text": (
        model(lambda f: (f / "config.json").write_bytes(b"\xff\xfe") and None),
        ModelError,
        "config.json: expected JSON, got: ",
    ),
    "context length of 0": (
        model(edited("config.json", max_position_embeddings=0)),
        ModelError,
        "max_position_embeddings: expected a whole number above 0, got 0",
    ),
    "no layers": (
        model(edited("config.json", num_hidden_layers=-1)),
        ModelError,
        "num_hidden_layers: expected a whole number above 0, got -1",
    ),
    "config of another type": (
        model(edited("config.json", hidden_size="abc")),
        ModelError,
        ", got: Validation error for field 'hidden_size': TypeError: Field 'hidden_size' expected int, got str",
    ),
    "unknown architecture": (
        model(edited("config.json", model_type="nobody")),
        ModelError,
        "model.model_name_or_path: ",
    ),
    "no chat template": (
        model(removed("chat_template.jinja")),
        ModelError,
        "model.model_name_or_path: expected a chat template in ",
    ),
    "no EOS": (
        model(edited("tokenizer_config.json", eos_token=None)),
        ModelError,
        "model.model_name_or_path: expected an EOS token in ",
    ),
    "weights of another model": (
        model(edited("config.json", intermediate_size=64)),
        ModelError,
        "model.layers.0.mlp.down_proj.weight: expected the shape [64, 64] of config.json, got [64, 128]",
    ),
    "weights of a smaller model": (
        model(edited("config.json", num_hidden_layers=3)),
        ModelError,
        "expected a weight for every parameter of config.json, got none for 9: model.layers.2.input_layernorm.weight",
    ),
    "encoder and decoder": (
        model(edited("config.json", model_type="bart", is_encoder_decoder=True)),
        ModelError,
        "config.json: is_encoder_decoder: expected false, got true",
    ),
    "tokenizer of another model": (
        model(small_vocabulary),
        ModelError,
        "config.json: vocab_size: expected the tokenizer's 49152 or more, got 1000",
    ),
    "no tokenizer": (
        model(removed("tokenizer*")),
        ModelError,
        "model.model_name_or_path: expected a tokenizer (tokenizer.json is missing) in ",
    ),
    "tokenizer is no JSON": (
        model(written("tokenizer.json", "{")),
        ModelError,
        "model.model_name_or_path: expected a tokenizer in ",
    ),
    "tokenizer is empty": (
        model(written("tokenizer.json", "{}")),
        ModelError,
        "model.model_name_or_path: expected a tokenizer in ",
    ),
    "generation config can't be saved": (
        model(written("generation_config.json", '{"temperature": 0.9, "top_p": 0.6}')),
        ModelError,
        "generation_config.json: expected settings that transformers saves, got: ",
    ),
    **{
        f"template {problem}": (model(written("chat_template.jinja", template)), kind, message)
        for problem, template, kind, message in (
            ("is broken", "{% for %}", ModelError, ": expected a chat template that takes a question, got TemplateS"),
            ("fails", "{{ 1 + 'a' }}", ModelError, ": expected a chat template that takes a question, got TypeError: "),
            ("is silent", "{% if no %}{% endif %}", DataError, ": expected text from the model's chat template, got 0"),
            ("is all special", "<|im_start|>", DataError, ": expected text from the model's chat template, got 1"),
        )
    },
    "max_model_len": (
        section(vllm=VllmConfig(max_model_len=4096)),
        ConfigError,
        "vllm.max_model_len: expected at most the model's 2048, got 4096",
    ),
    "answers fill the context": (
        section(rollout=RolloutConfig(max_new_tokens=2048)),
        ConfigError,
        "rollout.max_new_tokens: expected less than the model's context (2048), which also holds the prompt, got 2048",
    ),
    "prompt too long": (
        questions({"id": "long", "prompt": "word " * 3000}, {"id": "b", "prompt": "x"}),
        DataError,
        "question 'long': expected a prompt of at most 1984 tokens",
    ),
    "no confidence": (
        section(mask=MaskConfig(confidence=True)),
        ConfigError,
        "mask.confidence: expected an annotator that gives labels a confidence, got facts, which gives none with its o",
    ),
    "sentences of pairs": (section(mask=MaskConfig(unit="sentence")), ConfigError, "mask.unit: expected answer, as "),
    "annotator": (
        section(annotation=AnnotationConfig(annotator="oracle")),
        ConfigError,
        "annotation.annotator: expected one of ",
    ),
    **{
        f"unanswerable {split} question": (
            questions(*({"id": f"f{i}", "prompt": f"x{i}", "facts": facts} for i in range(2)), split=split),
            DataError,
            message,
        )
        for split, facts, message in (
            ("train", None, ': facts: expected {"table": ..., "entity": ...} for the facts annotator, got None'),
            ("eval", {**FACTS, "entity": "Malii"}, ": facts.entity: expected an entity of the table countries, got 'M"),
            ("transfer", {**FACTS, "table": "x"}, ": facts.table: expected one of countries, elements, got 'x'"),
            ("eval", {**FACTS, "asks": "capital"}, ": facts.asks: expected the names of the facts that it asks for, "),
        )
    },
    "no questions file": (section(data=DataConfig(train="nowhere.jsonl")), DataError, "nowhere.jsonl: expected a"),
    "questions folder is none": (section(data=DataConfig(train="/dev")), DataError, "/dev: expected files in .jsonl"),
    "unknown table": (section(data=DataConfig(train="builtin:planets")), DataError, "builtin:planets: expected one"),
    "too few topics": (questions({"prompt": "x"}, num_eval_topics=1), DataError, "data.num_eval_topics: "),
    "all topics reserved": (
        lambda c, _: replace(c, data=replace(c.data, num_reserved_topics=6)),
        DataError,
        "data.num_reserved_topics: expected fewer than the 6 topics of data.train, got 6",
    ),
    "too few topics for development": (
        lambda c, _: replace(c, data=replace(c.data, num_dev_topics=4)),
        DataError,
        "data.num_dev_topics: expected fewer than the 4 topics of data.train that are not held out, got 4",
    ),
    "more topics than there are to learn from": (
        lambda c, _: replace(c, data=replace(c.data, max_topics=5)),
        DataError,
        "data.max_topics: expected at most the 4 topics of data.train to learn from, got 5",
    ),
    "no file of topics": (
        lambda c, folder: replace(c, data=replace(c.data, topics=str(folder / "none.txt"))),
        DataError,
        "data.topics: expected a file of topics, one a line, got '",
    ),
    "same questions on both sides": (
        lambda c, _: replace(c, data=DataConfig(train=c.data.train, eval=c.data.train)),
        DataError,
        "stands in both training",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(config: Config, tmp_path: Path, name: str) -> None:
    change, kind, expected = BAD[name]
    with pytest.raises(kind) as caught:
        preflight.check(change(config, tmp_path))
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message


def test_good_input(config: Config) -> None:
    prepared = preflight.check(config)
    assert len(prepared.train) == 4
    assert {split: len(held) for split, held in prepared.evaluation.items()} == {"heldout": 2}
    question = prepared.train[0]
    text = prepared.chat.tokenizer.decode(prepared.chat.prompt_ids(question))
    assert question.prompt[-1]["content"] in text and text.endswith("<|im_start|>assistant\n")


def test_the_way_of_the_model_is_said(config: Config, tmp_path: Path) -> None:
    assert preflight.check(config).way.startswith("training: as prefix trees")
    change = model(edited("config.json", alibi=True))
    line = "training: on padded rows, one for each answer: alibi: positions are counted along the row"
    assert preflight.check(change(config, tmp_path)).way == line


def test_transfer_and_limits(config: Config) -> None:
    data = replace(config.data, transfer="builtin:elements", num_transfer_topics=3, max_questions=2)
    prepared = preflight.check(replace(config, data=data))
    assert len(prepared.train) == 2
    assert {split: len(held) for split, held in prepared.evaluation.items()} == {"heldout": 2, "transfer": 3}


def test_reserved_topics_are_those_that_would_be_held_out(config: Config) -> None:
    held = preflight.load_questions(config.data).questions["heldout"]
    reserved = preflight.load_questions(replace(config.data, num_reserved_topics=2)).questions
    asked = {question.topic for split in reserved.values() for question in split}
    assert len(asked) == 4 and not asked & {question.topic for question in held}


def test_what_is_learned_from_is_a_part_and_what_is_held_out_stays(config: Config, tmp_path: Path) -> None:
    """Topics of a file, so many of them, so many questions of each, and so many in all."""
    data = DataConfig(train="builtin:countries-many", num_eval_topics=40)
    every = preflight.load_questions(data).questions
    topics = [question.topic for question in every["train"][::3]]
    assert len(topics) == len(set(topics)) == 114
    (tmp_path / "topics.txt").write_text("\n".join(sorted(topics[20:60])))
    cases = (
        (replace(data, max_topics=38), topics[:38], 3),
        (replace(data, questions_per_topic=1), topics, 1),
        (replace(data, topics=str(tmp_path / "topics.txt")), topics[20:60], 3),
        (replace(data, topics=str(tmp_path / "topics.txt"), max_topics=5, questions_per_topic=2), topics[20:25], 2),
    )
    for changed, expected, most in cases:
        found = preflight.load_questions(changed).questions
        assert found["heldout"] == every["heldout"]
        learned = found["train"]
        assert [each.topic for each in learned] == [topic for topic in expected for _ in range(most)]
        assert set(map(str, learned)) <= set(map(str, every["train"]))
    (tmp_path / "topics.txt").write_text(f"{topics[0]}\n{every['heldout'][0].topic}\n")
    with pytest.raises(DataError, match=r"topics.txt:2: expected a topic to learn from, got '.*', which is held out"):
        preflight.load_questions(replace(data, topics=str(tmp_path / "topics.txt")))


@pytest.mark.parametrize("is_held_out_file", [False, True])
def test_development_topics_are_drawn_behind_the_held_out_ones(
    config: Config, tmp_path: Path, is_held_out_file: bool
) -> None:
    if is_held_out_file:
        other = {"id": "h", "topic": "h", "prompt": "What is h?", "facts": FACTS}
        (tmp_path / "eval.jsonl").write_text(json.dumps(other) + "\n")
        config = replace(config, data=replace(config.data, eval=str(tmp_path / "eval.jsonl")))
    before = preflight.check(config)
    with_dev = replace(config, data=replace(config.data, num_dev_topics=2))
    prepared = preflight.check(with_dev)
    assert prepared.evaluation["heldout"] == before.evaluation["heldout"]
    topics = [{q.topic for q in asked} for asked in (prepared.train, prepared.evaluation["dev"])]
    assert len(topics[1]) == 2 and not topics[0] & topics[1]
    assert topics[0] | topics[1] == {q.topic for q in before.train}
    assert "dev" not in before.evaluation
    other_seed = replace(with_dev, data=replace(with_dev.data, split_seed=3))
    drawn = [{q.topic for q in preflight.check(each).evaluation["dev"]} for each in (with_dev, with_dev, other_seed)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_plan_says_what_is_kept(config: Config, tmp_path: Path) -> None:
    data, best = replace(config.data, num_dev_topics=1), RunConfig(keep="best", patience=2)
    said = preflight.describe(Plan(replace(config, data=data, run=best)), 3, {"heldout": 2, "dev": 1}, tmp_path)
    assert "kept: the best policy on dev questions; ends after 2 iterations without a better one" in said
    assert "dev 1 questions x 5" in said
    assert "kept" not in preflight.describe(Plan(config), 4, {"heldout": 2}, tmp_path)


def test_bundled_model_passes(bundled_model: Path, tmp_path: Path) -> None:
    assert len(preflight.check(base_config(bundled_model, tmp_path)).train) == 4


@pytest.fixture
def config_file(config: Config, tmp_path: Path) -> Path:
    """The passing config as a file; runs go to tmp_path/runs."""
    file = tmp_path / "config.yaml"
    file.write_text(
        f"model: {{model_name_or_path: {config.model.model_name_or_path}}}\n"
        f"data: {{train: {config.data.train}, num_eval_topics: 2}}\nrun: {{dir: {tmp_path / 'runs'}}}\n"
    )
    return file


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--rollout.model", "nofolder"],
            "--rollout.model: expected a Hugging Face folder with config.json, got 'nofol",
        ),
        (["--mask.oracle", "runs/none/policy"], "--mask.oracle: expected a Hugging Face folder with config.json, got "),
        (
            ["--mask.oracle", "no/none/policy"],
            "'no/none/policy', and there is no such folder: a run of the name 'none' leaves it; run that first",
        ),
        (
            ["--rollout.answers", "datset"],
            "--rollout.answers: expected sampled, dataset or a file of answers, got 'datset'; did you mean dataset?",
        ),
        (
            ["--rollout.chosen_answers", "docment"],
            "--rollout.chosen_answers: expected document, dataset or a file of answers, got 'docment'; "
            "did you mean document?",
        ),
        (["--rollout.answers", "one.jsonl"], "--rollout.answers: expected two answers or more to a question, which "),
        (["--rollout.answers", "other.jsonl"], "question_id: expected that of a training question, got 'other'"),
        (
            ["--pairs.shares", "{questions: 1, atoms: 1}"],
            "--pairs.shares.atoms: expected 0 without atoms.n_samples_per",
        ),
    ],
)
def test_errors_name_the_option_that_is_to_blame(
    config_file: Path,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [question.id for question in preflight.load_questions(config.data).questions["train"]]
    for file, ids in {"one.jsonl": names, "other.jsonl": ["other", *names]}.items():
        Path(file).write_text("".join(json.dumps({"question_id": name, "text": "Kigali."}) + "\n" for name in ids))
    with pytest.raises(UserError) as caught:
        run.main(["--config", str(config_file), "--dry_run", "--data.max_dropped", "0", *arguments])
    assert expected in str(caught.value) and "model.model_name_or_path" not in str(caught.value)


def test_dry_run_checks_and_writes_nothing(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.main(["--config", str(config_file), "--dry_run"])
    assert "4 questions x 32 answers" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="^--vllm.max_model_len: expected at most the model's 2048, got 4096$"):
        run.main(["--config", str(config_file), "--vllm.max_model_len", "4096"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("annotation: {annotator: oracle}", "4: annotation.annotator: expected one of anah, "),
        (
            "mask: {policy: {chosen: {no_fact: 1}, rejected: {no_fact: 1}}}",
            "4: mask.policy.chosen: expected each of no_fact, ",
        ),
    ],
)
def test_errors_name_the_line_of_the_option(config_file: Path, line: str, expected: str) -> None:
    config_file.write_text(f"{config_file.read_text()}{line}\n")
    with pytest.raises(ConfigError) as caught:
        run.main(["--config", str(config_file), "--dry_run"])
    assert str(caught.value).startswith(f"{config_file}:{expected}")


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("model.model_name_or_path", "nowhere", "--model.model_name_or_path: expected a Hugging Face folder with "),
        ("data.train", "nowhere.jsonl", "nowhere.jsonl: expected a JSON file, got: No such file"),
    ],
)
def test_command_line_shows_errors_as_one_line(
    config_file: Path, tmp_path: Path, option: str, value: str, expected: str
) -> None:
    """Exit code 2, one line on stderr, nothing started and nothing written."""
    call = [sys.executable, "-m", "maskdpo_ray.run", "--config", str(config_file), f"--{option}", value]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {expected}")
    assert done.stderr.endswith("\n") and done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_questions_get_the_documents_of_a_corpus(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKDPO_CACHE", str(tmp_path / "cache"))
    texts = ["Rwanda's capital is Kigali.", "Gold is a metal."]
    rows = [*({"body": text} for text in texts), {"body": 3}]
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [{"query": "The capital of Rwanda?"}, {"query": "What is gold?"}, {"query": "Rwanda?", "document": "Mine."}]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    data = replace(
        config.data,
        train=str(tmp_path / "asked.jsonl"),
        num_eval_topics=1,
        columns={"prompt": "query"},
        documents=str(tmp_path / "documents.jsonl"),
        document_columns={"text": "body"},
    )
    splits = preflight.load_questions(data)
    assert {Path(each.source).name: each.counts for each in splits.sources} == {
        "asked.jsonl": {},
        "documents.jsonl": {"invalid_field": 1},
    }
    found = [question for split in splits.questions.values() for question in split]
    assert {question.prompt[0]["content"]: question.document for question in found} == {
        "The capital of Rwanda?": texts[0],
        "What is gold?": "\n\n".join([texts[1], texts[0]]),
        "Rwanda?": "Mine.",
    }


def test_a_column_that_no_question_has(config: Config, tmp_path: Path) -> None:
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps({"prompt": f"{n}?", "title": "a"}) + "\n" for n in "12"))
    data = replace(config.data, train=str(tmp_path / "asked.jsonl"), num_eval_topics=1, columns={"topic": "titel"})
    with pytest.raises(DataError, match="^data.columns.topic: expected a column .*; did you mean title"):
        preflight.load_questions(data)
