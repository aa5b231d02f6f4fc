"""Pairs of a file to learn from: ours, or preference data of others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskdpo_ray import formats
from maskdpo_ray.annotators.replay import ReplayAnnotator
from maskdpo_ray.errors import AnnotatorError, DataError
from maskdpo_ray.formats.json_items import objects
from maskdpo_ray.formats.own import OwnPairs
from maskdpo_ray.formats.preference import SIDES, Preference
from maskdpo_ray.formats.tokenized import to_pair
from maskdpo_ray.records import UNPARSED, PreferencePair, Question, Rollout, Sentence


@dataclass(frozen=True)
class Reader:
    """How to read one."""

    tokenizer: Any
    max_len: int
    """Of prompt and answer together, tokens."""
    vocab_size: int
    annotations: Path | None
    """Labels of answers that have none, as `annotate` writes them."""
    needs_labels: bool
    """False under a mask to which all labels are the same."""

    def read(self, path: Path) -> Iterator[PreferencePair]:
        """Every pair, in the order of the file. Raises DataError and ModelError, naming the line."""
        labels = None if self.annotations is None else ReplayAnnotator(str(self.annotations))
        own = OwnPairs()
        for where, item in objects(path):
            if "prompt_token_ids" in item:
                pair = own.read(item, where)
            else:
                preference = self._labelled(formats.preference(item, where), labels, path, where)
                pair = to_pair(preference, self.tokenizer, where)
            self._refuse_unfit(pair, where)
            yield pair

    def _labelled(self, preference: Preference, labels: ReplayAnnotator | None, path: Path, where: str) -> Preference:
        for sample, side in enumerate(SIDES):
            answer = getattr(preference, side)
            if answer.sentences is not None:
                continue
            if labels is not None:
                sentences = _looked_up(preference.question_id, sample, answer.text, labels, where)
            elif self.needs_labels:
                raise DataError(
                    f"{where}: {side}: expected labelled sentences, got none; label them first, "
                    f"python -m maskdpo_ray.annotate {path} -o labels.jsonl, and add --annotations labels.jsonl"
                )
            else:
                sentences = (Sentence(0, len(answer.text), UNPARSED),)
            preference = replace(preference, **{side: replace(answer, sentences=sentences)})
        return preference

    def _refuse_unfit(self, pair: PreferencePair, where: str) -> None:
        """Refuse what the model can't take in."""
        if not pair.prompt_token_ids:
            raise DataError(f"{where}: prompt_token_ids: expected at least one, got none")
        for side in SIDES:
            ids = (*pair.prompt_token_ids, *getattr(pair, side).rollout.token_ids)
            if len(ids) > self.max_len:
                raise DataError(
                    f"{where}: {side}: expected at most {self.max_len} tokens with the prompt "
                    f"(vllm.max_model_len, by default the model's context), got {len(ids)}"
                )
            if bad := [token for token in ids if not 0 <= token < self.vocab_size]:
                raise DataError(
                    f"{where}: {side}: expected token ids below the model's vocab_size {self.vocab_size}, got {bad[0]}"
                )


def _looked_up(question_id: str, sample: int, text: str, labels: ReplayAnnotator, where: str) -> tuple[Sentence, ...]:
    answer = Rollout(question_id, sample, (), text, "stop", 0)
    try:
        return labels.annotate([(Question(question_id, "", ()), answer)])[0].sentences
    except AnnotatorError as error:
        raise DataError(f"{where}: {error}") from None
