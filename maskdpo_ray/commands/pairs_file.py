"""Pairs of a file to learn from: ours, or preference data of others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskdpo_ray.annotation.replay import ReplayAnnotator
from maskdpo_ray.data import formats
from maskdpo_ray.data.dropped import Dropped, Reason
from maskdpo_ray.data.formats.preference import SIDES, Preference
from maskdpo_ray.data.jsonl import objects
from maskdpo_ray.errors import AnnotatorError, RecordError
from maskdpo_ray.formats.tokenized import to_pair
from maskdpo_ray.models import prompts
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.pairing.pair_files import Once, OwnPairs
from maskdpo_ray.records import UNPARSED, PreferencePair, Question, Rollout, Sentence


@dataclass(frozen=True)
class Reader:
    """How to read one."""

    chat: Chat
    max_len: int
    """Of prompt and answer together, tokens."""
    vocab_size: int
    annotations: Path | None
    """Labels of answers that have none, as `annotate` writes them."""
    needs_labels: bool
    """False under a mask to which all labels are the same."""

    def read(self, path: Path, dropped: Dropped | None = None) -> Iterator[PreferencePair]:
        """Read every pair in file order; unusable ones go to `dropped`.

        Raises DataError and ModelError, naming the line.
        """
        dropped = dropped or Dropped(path)
        labels = None if self.annotations is None else ReplayAnnotator(str(self.annotations), dropped.highest)
        own, once = OwnPairs(), Once()

        def pair_of(found: tuple[str, dict[str, Any]]) -> PreferencePair:
            where, item = found
            if "prompt_token_ids" in item:
                pair = own.read(item, where)
            else:
                preference = formats.preference(item, where)
                unnamed = {"question_id": "", "topic": ""} if preference.question_id == where else {}
                once.refuse(replace(preference, **unnamed), where)
                prompts.refuse_left_out(self.chat, preference.prompt, f"{where}: prompt")
                pair = to_pair(self._labelled(preference, labels, path, where), self.chat, where)
            self._refuse_unfit(pair, where)
            return pair

        return dropped.sift(objects(path, dropped), pair_of)

    def _labelled(self, preference: Preference, labels: ReplayAnnotator | None, path: Path, where: str) -> Preference:
        for sample, side in enumerate(SIDES):
            answer = getattr(preference, side)
            if answer.sentences:
                continue
            if labels is not None:
                sentences = _looked_up(preference.question_id, sample, answer.text, labels, where)
            elif self.needs_labels:
                raise RecordError(
                    f"{where}: {side}: expected labelled sentences, got none; label them first, "
                    f"python -m maskdpo_ray.annotate {path} -o labels.jsonl, and add --annotations labels.jsonl",
                    Reason.UNLABELLED,
                )
            else:
                sentences = (Sentence(0, len(answer.text), UNPARSED),)
            preference = replace(preference, **{side: replace(answer, sentences=sentences)})
        return preference

    def _refuse_unfit(self, pair: PreferencePair, where: str) -> None:
        """Refuse what the model can't take in."""
        if not pair.prompt_token_ids:
            raise RecordError(f"{where}: prompt_token_ids: expected at least one, got none", Reason.EMPTY_PROMPT)
        for side in SIDES:
            ids = (*pair.prompt_token_ids, *getattr(pair, side).rollout.token_ids)
            if len(ids) > self.max_len:
                raise RecordError(
                    f"{where}: {side}: expected at most {self.max_len} tokens with the prompt "
                    f"(vllm.max_model_len, by default the model's context), got {len(ids)}",
                    Reason.TOO_LONG,
                )
            if bad := [token for token in ids if not 0 <= token < self.vocab_size]:
                raise RecordError(
                    f"{where}: {side}: expected token ids below the model's vocab_size {self.vocab_size}, got {bad[0]}",
                    Reason.OUTSIDE_VOCABULARY,
                )


def _looked_up(question_id: str, sample: int, text: str, labels: ReplayAnnotator, where: str) -> tuple[Sentence, ...]:
    answer = Rollout(question_id, sample, (), text, "stop", 0)
    try:
        return labels.annotate([(Question(question_id, "", ()), answer)])[0].sentences
    except AnnotatorError as error:
        raise RecordError(f"{where}: {error}", Reason.UNLABELLED) from None
