"""A run goes on with the questions, and the results, that it left."""

import json
import shutil
from datetime import datetime
from pathlib import Path

import bad_input
import pytest
import yaml
from msgspec.structs import replace
from test_preflight import base_config
from test_run_folder import CONFIG, open_folder
from transformers.utils import chat_template_utils

from maskdpo_ray import run, train
from maskdpo_ray.config import cli
from maskdpo_ray.config.schema import AnnotationConfig, Config, ModelConfig
from maskdpo_ray.data import questions
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.models import chat
from maskdpo_ray.records import Policy, Question
from maskdpo_ray.stages import preflight
from maskdpo_ray.store.run_folder import RunFolder

INITIAL = Policy(0, "model", "c" * 64)


def asked(name, **facts):
    return Question(name, f"topic of {name}", ({"role": "user", "content": f"{name}?"},), facts=facts)


SPLITS = {"train": [asked("a", x=1, y="é"), asked("b")], "heldout": [asked("h")], "transfer": [asked("t")]}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    path = tmp_path_factory.mktemp("begun") / "run"
    with open_folder(path) as folder:
        folder.begin(INITIAL, SPLITS)
        file = folder.write_json("eval_000/heldout.json", {"score": 1})
        folder.finish("evaluate-heldout", 0, [file])
    return path


@pytest.fixture
def copy(begun, tmp_path):
    shutil.copytree(begun, tmp_path / "run")
    return tmp_path / "run"


def begin(path, splits):
    with open_folder(path) as folder:
        folder.begin(INITIAL, splits)


def check(path, splits):
    RunFolder.check(path, CONFIG, splits)


def test_the_same_questions_go_on(copy):
    check(copy, SPLITS)
    begin(copy, SPLITS)
    reordered = replace(SPLITS["train"][0], facts={"y": "é", "x": 1})  # an object's fields have no order
    begin(copy, {**SPLITS, "train": [reordered, SPLITS["train"][1]]})


@pytest.mark.parametrize(
    ("split", "others"),
    [
        ("train", [asked("a", x=2, y="é"), asked("b")]),
        ("train", [asked("a", x=1, y="é")]),
        ("train", [*SPLITS["train"], asked("c")]),
        ("train", SPLITS["train"][::-1]),
        ("heldout", [replace(asked("h"), topic="another")]),
        ("heldout", [replace(asked("h"), prompt=({"role": "user", "content": "h!"},))]),
        ("transfer", []),
    ],
)
def test_other_questions_are_refused(copy, split, others):
    ledger = (copy / "ledger.jsonl").read_bytes()
    for attempt in (check, begin):
        with pytest.raises(RunFolderError) as caught:
            attempt(copy, {**SPLITS, split: others})
        assert str(caught.value) == (
            f"data, {split} questions: expected those that the run in {copy} began with, got others; "
            "give them back or choose another run.name"
        )
    assert (copy / "ledger.jsonl").read_bytes().startswith(ledger)


@pytest.mark.parametrize("change", [lambda file: edit(file), lambda file: file.unlink()])
def test_another_tokenizer_or_template_is_refused(tmp_path, change):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("chat_template.jinja", "tokenizer.json", "README.md"):
        (model / name).write_text("{}")
    initial = Policy(0, str(model), "c" * 64)
    for _ in range(2):
        with open_folder(tmp_path / "run") as folder:
            folder.begin(initial, SPLITS)
        edit(model / "README.md")
    change(model / "chat_template.jinja")
    with open_folder(tmp_path / "run") as folder, pytest.raises(RunFolderError) as caught:
        folder.begin(initial, SPLITS)
    expected = (
        f"model.model_name_or_path: expected {model}/chat_template.jinja as the run in {tmp_path}/run began with it"
    )
    assert str(caught.value).startswith(f"{expected}, got ")


def edit(file):
    file.write_text(file.read_text() + " ")


def named(folder):
    """A config whose options name a file, a model's folder and no file; and what may be done to them."""
    (folder / "judge").mkdir()
    for name in ("t.yaml", "judge/config.json", "judge/model.safetensors", "d.jsonl"):
        (folder / name).write_text("{}")
    judge = {"model": str(folder / "judge"), "stop": ["no file", "n" * 300]}
    options = {"templates": str(folder / "t.yaml"), "judge": "vllm", "judge_options": judge}
    return {
        **CONFIG,
        "annotation": {"annotator": "anah", "options": options},
        "eval": {"evaluator": "factscore", "options": {"documents": str(folder / "d.jsonl")}},
    }


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("t.yaml", "annotation.options.templates"),
        ("judge/config.json", "annotation.options.judge_options.model"),
        ("judge/model.safetensors", "annotation.options.judge_options.model"),
        ("d.jsonl", "eval.options.documents"),
    ],
)
@pytest.mark.parametrize("change", [edit, Path.unlink])
def test_changed_files_of_the_options_are_refused(tmp_path, name, option, change):
    config, path = named(tmp_path), tmp_path / "run"
    with RunFolder.open(path, config, {}) as folder:
        folder.begin(INITIAL, SPLITS)

    def attempts():
        RunFolder.check(path, config, SPLITS)
        with RunFolder.open(path, config, {}) as folder:
            folder.begin(INITIAL, SPLITS)

    attempts()
    change(tmp_path / name)
    expected = f"{option}: expected the file as the run in {path} began with it, got another; "
    with pytest.raises(RunFolderError) as caught:
        RunFolder.check(path, config, SPLITS)
    assert str(caught.value).startswith(expected)
    with RunFolder.open(path, config, {}) as folder, pytest.raises(RunFolderError) as caught:
        folder.begin(INITIAL, SPLITS)
    assert str(caught.value).startswith(expected)


def test_built_in_questions_have_a_checksum(tmp_path):
    splits = {"train": questions.load("builtin:countries"), "transfer": questions.load("builtin:elements")}
    begin(tmp_path / "r", splits)
    check(tmp_path / "r", {name: list(split) for name, split in splits.items()})


def test_a_dry_run_refuses_edited_questions(tiny_model, tmp_path):
    wanted = base_config(tiny_model, tmp_path)
    file, data = tmp_path / "config.yaml", Path(wanted.data.train)
    stored = {
        "model": {"model_name_or_path": str(tiny_model)},
        "data": {"train": str(data), "num_eval_topics": 2},
        "run": {"dir": str(tmp_path / "runs"), "name": "r"},
    }
    file.write_text(yaml.safe_dump(stored))
    argv = ["--config", str(file), "--dry_run"]
    config = cli.parse(argv).config
    prepared = preflight.check(config)
    with RunFolder.open(tmp_path / "runs/r", cli.resolved(config), {}) as folder:
        folder.begin(INITIAL, {"train": prepared.train, **prepared.evaluation})
    run.main(argv)
    data.write_text(data.read_text().replace("What is", "Who is"))
    with pytest.raises(RunFolderError, match="data, train questions: expected those that the run in"):
        run.main(argv)


def test_other_weights_are_refused(copy):
    with open_folder(copy) as folder, pytest.raises(RunFolderError, match="model.model_name_or_path: expected the"):
        folder.begin(replace(INITIAL, checksum="d" * 64), SPLITS)


@pytest.mark.parametrize("content", [None, '{"score":2}\n'])
def test_a_changed_evaluation_is_refused_at_the_start(copy, content):
    """Gains, the summary and the question whether a run is finished rest on it."""
    file = copy / "eval_000/heldout.json"
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    for attempt in (RunFolder.check, open_folder):
        with pytest.raises(RunFolderError, match=f"{file}: .* stage 'evaluate-heldout' left"):
            attempt(copy, CONFIG)


DATED = "{% if strftime_now is defined %}Today is {{ strftime_now('%d %b %Y') }}.\n{% endif %}"


def on(monkeypatch, day):
    """Set the clock of chat templates."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2025, 1, day, 23, 59)

    monkeypatch.setattr(chat, "datetime", Clock)
    monkeypatch.setattr(chat_template_utils, "datetime", Clock)


def test_a_run_over_midnight_goes_on_with_its_prompts(tmp_path, monkeypatch):
    """With a template that prints the day, as Llama 3.2's."""
    bad_input.small_model(tmp_path / "model")
    template = tmp_path / "model/chat_template.jinja"
    template.write_text(DATED + template.read_text())
    (tmp_path / "pairs.jsonl").write_text(json.dumps(bad_input.TRL))
    (tmp_path / "config.yaml").write_text(bad_input.CONFIG)
    monkeypatch.chdir(tmp_path)
    argv = ["pairs.jsonl", "--config", "config.yaml", "--mask.policy", "vanilla"]
    on(monkeypatch, 1)
    first = train.prepare(argv)
    with RunFolder.open("runs/r", cli.resolved(first.config), {}) as folder:
        first.begin(INITIAL, folder)
    on(monkeypatch, 2)
    again = train.prepare(argv)  # it would refuse other pairs
    assert again.examples == first.examples and again.rendered_at == datetime(2025, 1, 1, 23, 59)
    other = train.prepare([*argv, "--run.name", "other"])
    assert other.examples != first.examples and other.rendered_at.day == 2


def test_moved_files_are_the_same(tmp_path):
    """The run resumes if model, questions and named files have moved but have the same contents."""

    def config_of(place):
        labels = {"annotator": "replay", "options": {"file": f"{place}/labels.jsonl"}}
        return cli.resolved(Config(model=ModelConfig(f"{place}/model"), annotation=AnnotationConfig(**labels)))

    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "labels.jsonl").write_text("other" if name == "c" else "the same")
    with RunFolder.open(tmp_path / "run", config_of(tmp_path / "a"), {}) as folder:
        folder.begin(INITIAL, SPLITS)
    (tmp_path / "run").rename(tmp_path / "moved")
    for _ in range(2):
        with RunFolder.open(tmp_path / "moved", config_of(tmp_path / "b"), {}) as folder:
            folder.begin(INITIAL, SPLITS)
    with pytest.raises(RunFolderError, match="^annotation.options.file: expected "):
        RunFolder.check(tmp_path / "moved", config_of(tmp_path / "c"), SPLITS)
