"""The least run that still has real engines, ranks and actors: what it costs is their start.

Its model has one layer and knows letters only, so answers are letters, and so are facts: figures mean nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bad_input
import yaml

OPTIONS = {
    "rollout.max_in_flight": 2,  # questions finish one after the other, so that a run can be stopped among them
    "train.save_steps": 1,
    "vllm.dtype": "float32",  # in bfloat16 an answer depends on those decoded beside it
    "vllm.enforce_eager": True,
    "vllm.cpu_kv_cache_gib": 1,
    "eval.bootstrap_samples": 100,
}
"""Options that let any run be stopped at any moment and compared byte for byte."""
_NUM_QUESTIONS = 12
_CONFIG = """\
model: {{model_name_or_path: {folder}/model}}
data: {{train: {folder}/questions.jsonl, num_eval_topics: 4}}
rollout: {{n_samples_per_prompt: 4, max_new_tokens: 128}}
annotation: {{annotator: "python:docs.numbers_annotator:NumbersAnnotator"}}
train: {{batch_size: 2}}
eval: {{n_samples_per_prompt: 2, perplexity_model: {folder}/model}}
"""
_STORY = """\
model: {{model_name_or_path: {folder}/model}}
data: {{train: {folder}/questions.jsonl, transfer: {folder}/transfer.jsonl}}
rollout: {{n_samples_per_prompt: 4, max_new_tokens: 128}}
annotation:
  annotator: anah
  options: {{judge: http, judge_options: {{base_url: "{judge}", model: scripted}}}}
eval: {{n_samples_per_prompt: 2, perplexity_model: {folder}/model, evaluator: factscore}}
"""


def write_config(folder: Path, options: dict[str, Any] = OPTIONS) -> Path:
    """The config of a run on a model and questions of `folder`, made too, with `options` by dotted name."""
    bad_input.small_model(folder / "model")
    digits = "012345678"  # every number with a 9 is wrong
    document = " ".join([*digits, *(tens + ones for tens in digits for ones in digits)])
    _write_questions(folder / "questions.jsonl", "q", _NUM_QUESTIONS, document)
    return _write(folder, _CONFIG.format(folder=folder), options)


def write_story(folder: Path, judge: str, sizes: dict[str, Any]) -> Path:
    """The config of a run with every part: a judge at this address, another domain to transfer to, two evaluators.

    `sizes`: options by dotted name, the numbers of questions among them.
    """
    bad_input.small_model(folder / "model")
    num_train = sizes["data.max_questions"] + sizes["data.num_eval_topics"]
    _write_questions(folder / "questions.jsonl", "q", num_train, "Rwanda is a country. Its capital is Kigali.")
    _write_questions(folder / "transfer.jsonl", "t", sizes["data.num_transfer_topics"], "Gold is a metal.")
    return _write(folder, _STORY.format(folder=folder, judge=judge), {**OPTIONS, **sizes})


def _write_questions(file: Path, name: str, count: int, document: str) -> None:
    questions = [
        {"id": f"{name}{n}", "topic": f"topic {name}{n}", "prompt": f"What is {name}{n}?", "document": document}
        for n in range(count)
    ]
    file.write_text("".join(f"{json.dumps(question)}\n" for question in questions))


def _write(folder: Path, text: str, options: dict[str, Any]) -> Path:
    config = folder / "config.yaml"
    config.write_text(with_options(text, options))
    return config


def with_options(text: str, options: dict[str, Any]) -> str:
    """A config's YAML with other values, by dotted name."""
    values = yaml.safe_load(text)
    for name, value in options.items():
        section, field = name.split(".")
        values.setdefault(section, {})[field] = value
    return yaml.safe_dump(values)
