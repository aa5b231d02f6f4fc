"""Judges (models that reply to conversations) as evaluators use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maskdpo_ray.annotators import judge as judges
from maskdpo_ray.annotators.judge import Judge
from maskdpo_ray.annotators.plugins import require
from maskdpo_ray.errors import ConfigError, ModelError


def build(judge: str | None, options: Mapping[str, Any] | None) -> Judge | None:
    """The judge that `eval.options.judge` names, not started; None without one. Raises ConfigError."""
    is_name = judge is None or isinstance(judge, str)
    require(is_name, "eval.options.judge", "a name or none", judge)
    require(options is None or isinstance(options, Mapping), "eval.options.judge_options", "a mapping", options)
    require(judge is not None or not options, "eval.options.judge_options", "none without eval.options.judge", options)
    if judge is None:
        return None
    try:
        return judges.build(judge, options or {})
    except ConfigError as error:
        raise ConfigError(_ours(error)) from error


def start(judge: Judge) -> None:
    """Start it. Raises UserError, one line, when that fails."""
    try:
        judge.start()
    except (ConfigError, ModelError) as error:
        raise type(error)(_ours(error)) from error


def _ours(error: Exception) -> str:
    # Judges know themselves as the annotators' option.
    return str(error).replace("annotation.options", "eval.options")
