"""Everything that can be checked before an actor starts: fail now, not after an hour."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from maskdpo_ray import annotators, engine_limits, evaluators, lora_targets, model_folder, questions
from maskdpo_ray.annotators import Annotator
from maskdpo_ray.config import Config, DataConfig
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.evaluators import Evaluator
from maskdpo_ray.evaluators.guarded import Guarded
from maskdpo_ray.evaluators.perplexity import Perplexity
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
    evaluator: Evaluator | None = None
    """None where nothing but the annotator judges."""


def check(config: Config) -> Prepared:
    """Load questions and tokenizer and check all that the config names.

    Raises UserError (one line) for whatever a run would trip over later.
    """
    MaskPolicy.from_config(config.mask.policy)
    annotator, evaluator = judges(config)
    train, evaluation = load_questions(config.data)
    held_out = [question for split in evaluation.values() for question in split]
    check_judges(annotator, None, train)
    check_judges(annotator, evaluator, held_out)
    model = model_folder.load(config.model)
    lora_targets.check(config.lora, config.model, model.config)
    limit = model_folder.max_len(model, config.vllm)
    if config.rollout.max_new_tokens >= limit:
        raise ConfigError(
            f"rollout.max_new_tokens: expected less than the model's context ({limit}), which also holds the prompt, "
            f"got {config.rollout.max_new_tokens}"
        )
    engine_limits.check_model(config, model.config, model.file, limit)
    tokenizer, every = model.tokenizer, [*train, *held_out]
    questions.check_prompts(tokenizer, every, limit, config.rollout.max_new_tokens, model.config.vocab_size)
    return Prepared(
        train, evaluation, annotator, tokenizer, lambda question: questions.render(tokenizer, question), evaluator
    )


def judges(config: Config) -> tuple[Annotator, Evaluator | None]:
    """The annotator and, where there is one, the second evaluator, not started. Raises ConfigError and ModelError."""
    annotator, evaluator = annotators.build(config.annotation.annotator, config.annotation.options), _evaluator(config)
    _refuse_few_gpus("gpus_per_annotator", annotators.num_gpus(annotator), config.cluster.gpus_per_annotator)
    if evaluator is not None:
        _refuse_few_gpus("gpus_per_evaluator", evaluators.num_gpus(evaluator), config.cluster.gpus_per_evaluator)
    return annotator, evaluator


def check_judges(annotator: Annotator, evaluator: Evaluator | None, asked: Iterable[Question]) -> None:
    """Ask both whether they can judge answers to these questions. Raises UserError for the first that they can't."""
    for question in asked:
        annotators.check(annotator, question)
        if evaluator is not None:
            evaluators.check(evaluator, question)


def _evaluator(config: Config) -> Evaluator | None:
    options = config.eval
    evaluator = None if options.evaluator is None else evaluators.build(options.evaluator, options.options)
    if options.perplexity_model is None:
        return evaluator
    device = "cuda" if config.cluster.gpus_per_evaluator > 0 else "cpu"
    return Guarded(evaluator, Perplexity(options.perplexity_model, config.rollout.max_new_tokens, device))


def _refuse_few_gpus(name: str, needed: int, reserved: float) -> None:
    """Raise ConfigError. Several actors may share one GPU, so any part of it will do; Ray gives more only whole."""
    if reserved <= needed - 1:
        expected = f"expected more than {needed - 1}, as its model runs on {needed} (device: cuda)"
        raise ConfigError(f"cluster.{name}: {expected}, got {reserved:g}")


def load_questions(data: DataConfig) -> tuple[list[Question], dict[str, Sequence[Question]]]:
    """(those to learn from, the evaluated ones by split). Raises DataError."""
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
