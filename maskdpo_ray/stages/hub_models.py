"""The options of a command that name a model on the Hub, each with the local folder in its place."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

from maskdpo_ray.annotation import protocol as annotators
from maskdpo_ray.annotation.llm import judge as judges
from maskdpo_ray.config import file as config_file
from maskdpo_ray.config import hub_name, plugins, schema
from maskdpo_ray.config.cli import CommandLine
from maskdpo_ray.config.file import located
from maskdpo_ray.config.hub_name import HubName
from maskdpo_ray.config.schema import MODEL, Config
from maskdpo_ray.evaluation.evaluators import protocol as evaluators
from maskdpo_ray.models import hub
from maskdpo_ray.store import fingerprint, run_folder
from maskdpo_ray.terminal import note

Swap = Callable[[str, Any, bool], Any]
"""(dotted option, its value, whether the model's own code may be run) -> the value; of a Hub's model its folder."""


def local(
    command: CommandLine,
    resumes: bool = False,
    with_weights: bool = True,
    sections: Collection[str] = tuple(config_file.sections()),
) -> CommandLine:
    """The command line, in whose config all models are folders.

    Args:
        resumes: whether the command works in the run's folder: a model without a revision is then the commit that the
            run began with.
        with_weights: whether the weights are needed.
        sections: those of the config whose models the command needs.

    Raises UserError, one line, for a model that can't be had.
    """
    begun: dict[str, Any] = {}
    if resumes and _names_hub(command.config):
        path = run_folder.run_path(command.config)
        begun = config_file.flatten(fingerprint.read_config(path / "config.yaml") or {})

    def swap(option: str, value: Any, with_code: bool) -> Any:
        if option.partition(".")[0] not in sections:
            return value
        then = hub_name.parsed(begun[option]) if isinstance(begun.get(option), str) else None
        return _folder(option, value, with_code, with_weights, then)

    with located(command.given, command.config_path):
        return dataclasses.replace(command, config=_swapped(command.config, swap))


def judge_options(judge: str, options: Mapping[str, Any], field: str) -> dict[str, Any]:
    """Options of a judge, in which all models are folders. Raises UserError as `local` does."""
    return _options(judges.find(judge, field), options, f"{field}.judge_options", _folder)


def _folder(option: str, value: Any, with_code: bool, with_weights: bool = True, then: HubName | None = None) -> Any:
    """The folder of a model on the Hub; any other value as it is.

    Args:
        then: model and commit that the option named when the run began.
    """
    name = hub_name.parsed(value) if isinstance(value, str) else None
    if name is None:
        if isinstance(value, str) and os.path.isdir(value) and hub_name.parsed(f"hf://{value}") is not None:
            note(f"{option}: the folder {value} here is taken; hf://{value} is the Hub's model of this name")
        return value
    if name.revision is None and then is not None and then.repo == name.repo:
        name = then
    return hub.folder(name, option, with_weights, with_code)


def _names_hub(config: Config) -> bool:
    found = []

    def look(_: str, value: Any, __: bool) -> Any:
        found.append(isinstance(value, str) and hub_name.parsed(value) is not None)
        return value

    _swapped(config, look)
    return any(found)


def _swapped(config: Config, swap: Swap) -> Config:
    """The config with `swap` of every option that names a model, also of those of annotators, evaluators, judges."""
    sections: dict[str, dict[str, Any]] = {}
    for option in schema.marked(MODEL):
        section, name = option.split(".")
        value = getattr(getattr(config, section), name)
        sections.setdefault(section, {})[name] = swap(option, value, config.model.trust_remote_code)
    annotation, evaluation = config.annotation, config.eval
    if annotation.options:
        kind = annotators.find(annotation.annotator, annotation.options)
        sections["annotation"] = {"options": _options(kind, annotation.options, "annotation.options", swap)}
    if evaluation.evaluator is not None and evaluation.options:
        kind = evaluators.find(evaluation.evaluator)
        sections["eval"]["options"] = _options(kind, evaluation.options, "eval.options", swap)
    made = {name: dataclasses.replace(getattr(config, name), **changed) for name, changed in sections.items()}
    return dataclasses.replace(config, **made)


def _options(kind: type, options: Mapping[str, Any], field: str, swap: Swap) -> dict[str, Any]:
    """Keyword arguments of a class, and below them those of its judge."""
    may_run = options.get("trust_remote_code") is True
    models = {name for name in plugins.marked(kind, MODEL) if name in options}
    found = {name: swap(f"{field}.{name}", each, may_run) if name in models else each for name, each in options.items()}
    judge, of_judge = judges.named(kind, options), options.get("judge_options")
    if judge is not None and isinstance(of_judge, Mapping):
        found["judge_options"] = _options(judges.find(judge, field), of_judge, f"{field}.judge_options", swap)
    return found
