"""Pairs as TRL's preference data, with token ids and weights beside the text: what the bridges read.

The ids are those that were sampled, and the weights belong to them: text that is encoded again may give others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from maskdpo_ray.config.schema import Config, ObjectiveConfig
from maskdpo_ray.data.formats import trainers
from maskdpo_ray.data.formats.preference import SIDES, Preference
from maskdpo_ray.errors import DataError, shown
from maskdpo_ray.pairing.examples import usable_example
from maskdpo_ray.records import DropReason, PreferencePair

NAME = "masked"
"""Value of `export --to`."""
PROMPT = "prompt_tokens"
COLUMNS = (PROMPT, *(f"{side}_{part}" for side in SIDES for part in ("tokens", "weights")))
"""Columns beside TRL's: token ids, and one weight for each of an answer's."""


def row(pair: PreferencePair, preference: Preference, config: Config, tokenizer: Any) -> dict[str, Any] | DropReason:
    """One of our pairs under the config's mask, or why nothing can be learned from it by comparing its two answers.

    Args:
        preference: the same pair as text.
        tokenizer: that of the policy which sampled the answers.
    """
    # Whatever the run's objective was, these trainers compare two whole answers.
    compared = replace(config, objective=ObjectiveConfig(), mask=replace(config.mask, unit="answer"))
    example = usable_example(pair, 0, compared, tokenizer)
    if isinstance(example, DropReason):
        return example
    item = {**trainers.to_trl(preference), PROMPT: list(example.prompt_token_ids)}
    for side, response in zip(SIDES, example.responses, strict=True):
        item[f"{side}_tokens"] = list(response.token_ids)
        item[f"{side}_weights"] = list(response.weights)
    return item


def side(item: Mapping[str, Any], name: str) -> tuple[Sequence[int], Sequence[float]]:
    """(token ids, weights) of a row's side. Raises DataError when they aren't there or don't fit."""
    absent = [column for column in COLUMNS if item.get(column) is None]
    if absent:
        expected = f"the columns of `python -m maskdpo_ray.export --to {NAME}`"
        raise DataError(f"{shown(item.get('question_id'))}: expected {expected}, found no {', '.join(absent)}")
    tokens, weights = item[f"{name}_tokens"], item[f"{name}_weights"]
    if len(tokens) != len(weights):
        where = f"{shown(item.get('question_id'))}: {name}_weights"
        raise DataError(f"{where}: expected one for each of {len(tokens)} tokens, got {len(weights)}")
    return tokens, weights
