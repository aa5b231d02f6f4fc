"""From text to what the policy learns from: answers as token ids, prompts rendered by its chat template."""

from __future__ import annotations

from typing import Any

from maskdpo_ray import questions
from maskdpo_ray.errors import DataError, MaskError, ModelError
from maskdpo_ray.formats.preference import SIDES, Preference
from maskdpo_ray.pairs import scored
from maskdpo_ray.records import Annotation, PreferencePair, Question, Rollout
from maskdpo_ray.spelling import special_ids, token_spans
from maskdpo_ray.stages import Answered

POLICY_VERSION = 0
"""Of answers that no policy of ours sampled: they count as the initial policy's."""


def to_answered(preference: Preference, tokenizer: Any, where: str) -> Answered:
    """The question and its two answers, chosen first, tokenized once and ended by EOS.

    Raises DataError when an answer has no token ids that spell it or a text holds the tokenizer's special tokens,
    ModelError when the tokenizer has no EOS or no chat template.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{tokenizer.name_or_path}: expected an EOS token, got none")
    for i, message in enumerate(preference.prompt):
        _encode(message["content"], tokenizer, f"{where}: prompt[{i}]")
    question = Question(preference.question_id, preference.topic, preference.prompt)
    rollouts = []
    for sample, side in enumerate(SIDES):
        text = getattr(preference, side).text
        token_ids = (*_encode(text, tokenizer, f"{where}: {side}"), tokenizer.eos_token_id)
        try:
            token_spans(tokenizer, token_ids, text)
        except MaskError as error:
            raise DataError(f"{where}: {side}: expected text that the tokenizer spells back, got: {error}") from None
        rollouts.append(Rollout(question.id, sample, token_ids, text, "stop", POLICY_VERSION))
    return Answered(question, tuple(questions.render(tokenizer, question)), tuple(rollouts))


def to_pair(preference: Preference, tokenizer: Any, where: str) -> PreferencePair:
    """A labelled preference as a pair to learn from. Raises DataError, also without labels, and ModelError."""
    answered = to_answered(preference, tokenizer, where)
    answers = []
    for rollout, side in zip(answered.rollouts, SIDES, strict=True):
        sentences = getattr(preference, side).sentences
        if not sentences:
            raise DataError(f"{where}: {side}: expected labelled sentences, got none")
        answers.append(scored(rollout, Annotation(rollout.question_id, rollout.sample, sentences)))
    chosen, rejected = answers
    return PreferencePair(
        preference.question_id, preference.topic, answered.prompt_token_ids, chosen, rejected, POLICY_VERSION
    )


def _encode(text: str, tokenizer: Any, where: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    if special := special_ids(tokenizer, ids):
        name = tokenizer.convert_ids_to_tokens(min(special))
        raise DataError(f"{where}: expected text without special tokens (no chat template is applied), got {name!r}")
    return ids
