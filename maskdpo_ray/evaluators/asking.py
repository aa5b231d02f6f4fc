"""Judges (models that reply to conversations) as evaluators use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maskdpo_ray.annotation import plugins
from maskdpo_ray.annotation.llm import judge as judges
from maskdpo_ray.annotation.llm.judge import Judge

_FIELD = "eval.options"


def build(judge: str | None, options: Mapping[str, Any] | None, max_tokens: int) -> Judge | None:
    """The judge that `eval.options.judge` names, not started; None without one. Raises ConfigError as `judges.build`.

    `max_tokens`: the longest reply.
    """
    is_name = judge is None or isinstance(judge, str)
    plugins.require(is_name, f"{_FIELD}.judge", "a name or none", judge)
    plugins.require(options is None or isinstance(options, Mapping), f"{_FIELD}.judge_options", "a mapping", options)
    plugins.require(
        judge is not None or not options, f"{_FIELD}.judge_options", f"none without {_FIELD}.judge", options
    )
    return None if judge is None else judges.build(judge, options or {}, max_tokens, _FIELD)


def start(judge: Judge) -> None:
    """Start it. Raises UserError, one line, when that fails."""
    judges.start(judge, _FIELD)
