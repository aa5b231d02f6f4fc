"""Everything that can be checked before an actor starts: fail now, not after an hour."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskdpo_ray import annotators, questions
from maskdpo_ray.config import Config
from maskdpo_ray.errors import ConfigError, ModelError
from maskdpo_ray.masking import MaskPolicy
from maskdpo_ray.pairs import STRATEGIES
from maskdpo_ray.records import Question


@dataclass(frozen=True)
class Prepared:
    """Checked inputs of a run."""

    train: Sequence[Question]
    evaluation: dict[str, Sequence[Question]]
    """By split: `heldout`, and `transfer` when there is a second domain."""
    tokenizer: Any
    render: Callable[[Question], list[int]]


def check(config: Config) -> Prepared:
    """Load questions and tokenizer and check all that the config names.

    Raises UserError (one line) for whatever a run would trip over later.
    """
    MaskPolicy.from_config(config.mask.policy)
    if config.pairs.strategy not in STRATEGIES:
        raise ConfigError(f"pairs.strategy: expected one of {', '.join(STRATEGIES)}, got {config.pairs.strategy!r}")
    annotators.build(config.annotation.annotator)
    train, evaluation = _questions(config)
    context = _check_model(Path(config.model.model_name_or_path))
    tokenizer = _tokenizer(config)
    limit = config.vllm.max_model_len or context
    if limit > context:
        raise ConfigError(f"vllm.max_model_len: expected at most the model's {context}, got {limit}")
    every = [*train, *(question for split in evaluation.values() for question in split)]
    questions.check_prompts(tokenizer, every, limit, config.rollout.max_new_tokens)
    return Prepared(train, evaluation, tokenizer, lambda question: questions.render(tokenizer, question))


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
    if not file.is_file():
        raise ModelError(
            f"model.model_name_or_path: expected a Hugging Face folder with config.json, got {str(folder)!r}"
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"model.model_name_or_path: expected safetensors in {str(folder)!r}, found none")
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file}: expected JSON, got {error}") from error
    if not isinstance(described, dict):
        raise ModelError(f"{file}: expected an object, got {type(described).__name__}")
    context = described.get("max_position_embeddings")
    if not isinstance(context, int):
        raise ModelError(f"{file}: max_position_embeddings: expected a number, got {context!r}")
    return context


def _tokenizer(config: Config) -> Any:
    from transformers import AutoConfig, AutoTokenizer

    path = config.model.model_name_or_path
    try:
        AutoConfig.from_pretrained(path, trust_remote_code=config.model.trust_remote_code)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model.model_name_or_path: unknown model in {path!r}: {str(error).splitlines()[0]}"
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=config.model.trust_remote_code)
    except (OSError, ValueError) as error:
        raise ModelError(f"model.model_name_or_path: no tokenizer in {path!r}: {str(error).splitlines()[0]}") from error
    if not tokenizer.chat_template:
        raise ModelError(f"model.model_name_or_path: expected a chat template in {path!r}, found none")
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model.model_name_or_path: expected an EOS token in {path!r}, found none")
    return tokenizer
