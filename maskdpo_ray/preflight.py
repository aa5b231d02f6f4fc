"""Everything that can be checked before an actor starts: fail now, not after an hour."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from maskdpo_ray import annotators, questions
from maskdpo_ray.annotators import Annotator
from maskdpo_ray.config import Config, ModelConfig
from maskdpo_ray.errors import ConfigError, ModelError, shown
from maskdpo_ray.masking import MaskPolicy
from maskdpo_ray.records import Question


@dataclass(frozen=True)
class Prepared:
    """Checked inputs of a run."""

    train: Sequence[Question]
    evaluation: dict[str, Sequence[Question]]
    """By split: `heldout`, and `transfer` when there is a second domain."""
    annotator: Annotator
    tokenizer: Any
    render: Callable[[Question], list[int]]


def check(config: Config) -> Prepared:
    """Load questions and tokenizer and check all that the config names.

    Raises UserError (one line) for whatever a run would trip over later.
    """
    MaskPolicy.from_config(config.mask.policy)
    annotator = annotators.build(config.annotation.annotator, config.annotation.options)
    train, evaluation = _questions(config)
    every = [*train, *(question for split in evaluation.values() for question in split)]
    for question in every:
        annotator.check(question)
    context = _check_model(Path(config.model.model_name_or_path))
    tokenizer = _tokenizer(config.model)
    limit = config.vllm.max_model_len or context
    if limit > context:
        raise ConfigError(f"vllm.max_model_len: expected at most the model's {context}, got {limit}")
    questions.check_prompts(tokenizer, every, limit, config.rollout.max_new_tokens)
    return Prepared(train, evaluation, annotator, tokenizer, lambda question: questions.render(tokenizer, question))


def _questions(config: Config) -> tuple[list[Question], dict[str, Sequence[Question]]]:
    data = config.data
    train = questions.load(data.train)
    if data.eval is None:
        train, heldout = questions.split_by_topic(train, data.num_eval_topics, data.split_seed)
    else:
        heldout = questions.load(data.eval)
    evaluation: dict[str, Sequence[Question]] = {"heldout": heldout}
    if data.transfer is not None:
        transfer = questions.load(data.transfer)
        if data.num_transfer_topics is not None:
            transfer = questions.limit_topics(transfer, data.num_transfer_topics, data.split_seed)
        evaluation["transfer"] = transfer
    questions.check_disjoint(train, heldout, evaluation.get("transfer", []))
    return train[: data.max_questions], evaluation


def _check_model(folder: Path) -> int:
    """The model's context length in tokens. Raises ModelError when the folder is no model."""
    file = folder / "config.json"
    if not os.path.isfile(file):  # Path.is_file raises when the name is too long
        raise ModelError(
            f"model.model_name_or_path: expected a Hugging Face folder with config.json, got {str(folder)!r}"
        )
    described = _json_object(file)
    context = described.get("max_position_embeddings")
    if type(context) is not int or context < 1:
        raise ModelError(f"{file}: max_position_embeddings: expected a whole number above 0, got {shown(context)}")
    _check_weights(folder)
    return context


def _check_weights(folder: Path) -> None:
    """Read the header of every file of weights: a truncated file and a Git LFS pointer have none that fits."""
    files = {file.name for file in folder.glob("*.safetensors")}
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = _json_object(index).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise ModelError(f"{index}: weight_map: expected {{tensor: file}}, got {shown(names)}")
        files.update(names.values())
    if not files:
        raise ModelError(f"model.model_name_or_path: expected safetensors in {str(folder)!r}, found none")
    for name in sorted(files):
        try:
            with safe_open(folder / name, framework="np"):
                pass
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"{folder / name}: expected a whole safetensors file (no Git LFS pointer), got: {_reason(error)}"
            ) from None


def _json_object(file: Path) -> dict[str, Any]:
    """What a JSON file of the model holds. Raises ModelError when it is no object."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file}: expected JSON, got: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{file}: expected an object, got {type(value).__name__}")
    return value


def _tokenizer(model: ModelConfig) -> Any:
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    path = model.model_name_or_path
    _load(AutoConfig, "a model that transformers knows", model)
    tokenizer = _load(AutoTokenizer, "a tokenizer", model)
    if (Path(path) / "generation_config.json").is_file():
        try:  # as saving the trained policy will
            GenerationConfig.from_pretrained(path).validate(strict=True)
        except Exception as error:
            file = Path(path) / "generation_config.json"
            raise ModelError(f"{file}: expected settings that transformers saves, got: {_reason(error)}") from error
    if not tokenizer.chat_template:
        raise ModelError(f"model.model_name_or_path: expected a chat template in {path!r}, found none")
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model.model_name_or_path: expected an EOS token in {path!r}, found none")
    return tokenizer


def _load(kind: Any, expected: str, model: ModelConfig) -> Any:
    path = model.model_name_or_path
    try:
        return kind.from_pretrained(path, trust_remote_code=model.trust_remote_code)
    except Exception as error:  # broken files make transformers raise errors of all kinds
        raise ModelError(f"model.model_name_or_path: expected {expected} in {path!r}, got: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The first line of an error that says something; headings of lists don't."""
    text = repr(error) if isinstance(error, LookupError) else str(error)
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line and not line.endswith(":")), type(error).__name__)
