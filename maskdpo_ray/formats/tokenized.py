"""Conversion of text preferences to training pairs: answers as token ids, rendered by the policy's chat."""

from __future__ import annotations

from maskdpo_ray.data.dropped import Reason
from maskdpo_ray.data.formats.preference import SIDES, Preference
from maskdpo_ray.errors import DataError, RecordError
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.pairs import scored
from maskdpo_ray.records import Annotation, PreferencePair, Rollout

POLICY_VERSION = 0
"""Of answers that no policy of ours sampled: they count as the initial policy's."""


def to_pair(preference: Preference, chat: Chat, where: str) -> PreferencePair:
    """A labelled preference as a training pair: token for token the template's finished conversations.

    Raises RecordError as `Chat.turns` does, and for an answer without a labelled sentence left (`no_sentence`);
    DataError without labels, ModelError when the tokenizer has no chat template.
    """
    given = [getattr(preference, side) for side in SIDES]
    for side, answer in zip(SIDES, given, strict=True):
        if not answer.sentences:
            raise DataError(f"{where}: {side}: expected labelled sentences, got none")
    try:
        prompt_ids, turns = chat.turns(preference.prompt, [answer.text for answer in given])
        answers = []
        for sample, (side, answer, turn) in enumerate(zip(SIDES, given, turns, strict=True)):
            name = preference.question_id
            rollout = Rollout(name, sample, turn.token_ids, turn.text, "stop", POLICY_VERSION, turn.blocks)
            sentences = turn.spans(answer.text, answer.sentences)
            if not sentences:
                raise RecordError(f"{side}: expected a labelled sentence beside thinking, got none", Reason.NO_SENTENCE)
            answers.append(scored(rollout, Annotation(name, sample, sentences)))
    except RecordError as error:
        raise RecordError(f"{where}: {error}", error.reason) from None
    chosen, rejected = answers
    return PreferencePair(preference.question_id, preference.topic, prompt_ids, chosen, rejected, POLICY_VERSION)
