"""Say whether a config's models fit into memory, and how many GPUs it takes, before anything is started.

python -m maskdpo_ray.plan --config configs/paper.yaml --model_size 8b --annotator_size internlm2-7b --num_gpus 16

The exit code is 0 when everything fits, 1 when not. Without --config every option has its default, and a GPU's option
means cluster.device cuda. docs/sizing.md says how large the error is.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from maskdpo_ray.config import cli
from maskdpo_ray.config.cli import Parser, count, number
from maskdpo_ray.config.file import Given
from maskdpo_ray.config.resources import ANNOTATORS, ENGINES, Plan
from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import ConfigError, printable, shown
from maskdpo_ray.models import adapters, memory, other_folders, remedy, shape
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.models.folder import ModelFolder
from maskdpo_ray.models.memory import GIB, Estimate, Machines, Models
from maskdpo_ray.models.shape import ModelShape
from maskdpo_ray.stages import hub_models, preflight
from maskdpo_ray.training import ways

_PROMPT_TOKENS = 1024
_GPU_OPTIONS = ("gpu_memory_gib", "num_gpus")


def main(argv: list[str]) -> None:
    """Print the estimate; ends with 1 when something does not fit. Raises UserError for bad input."""
    command = _parser().parse(argv, without_file=_given)
    own = command.own
    named = {"model": command.config.model.model_name_or_path, "annotation": _judge_folder(command.config)}
    sized = {"model": own.model_size, "annotation": own.annotator_size}
    unsized = [section for section, size in sized.items() if size is None and not _is_published(named[section])]
    command = hub_models.local(command, with_weights=False, sections=unsized)
    config = adapters.merged(command.config, dry_run=True)
    preflight.check_gpus(config)
    models, machines = _models(own, config), _machines(own, config)
    way = ways.of_config(models.policy.config, models.max_len(config), config.model.trust_remote_code)
    rows = [] if way.obstacle is None else [way.describe(config.savings)]
    config = replace(config, savings=way.savings(config.savings))
    found = memory.estimates(config, models, machines)
    if assumed := _assumed(own, config, "cluster.device" in command.given):
        print(f"Assumed: {'; '.join(assumed)}")
    print("\n".join([*_report(config, models, machines, found), *rows]))
    if _is_short(config, machines) or not all(estimate.fits for estimate in found):
        raise SystemExit(1)


def _given(own: Namespace) -> dict[str, Given]:
    """Config that the options describe where there is no file. Raises ConfigError when they name no model."""
    given = {}
    if own.model_size is not None:
        given["model.model_name_or_path"] = Given(own.model_size, "--model_size")
    elif getattr(own, "model.model_name_or_path") is None:
        raise ConfigError("--model_size: expected the size of a model, or --config with a model's folder, got nothing")
    if any(getattr(own, name) is not None for name in _GPU_OPTIONS):
        given["cluster.device"] = Given("cuda", "--num_gpus, --gpu_memory_gib")
    return given


def _assumed(own: Namespace, config: Config, is_device_given: bool) -> list[str]:
    """Assumptions about the machines that no option states."""
    if config.cluster.device == "cpu":
        return [] if is_device_given else ["CPUs alone (--num_gpus or --gpu_memory_gib says otherwise)"]
    size = ["GPUs of 80 GiB (--gpu_memory_gib)"] * (own.gpu_memory_gib is None)
    return size + ["as many GPUs as it takes (--num_gpus)"] * (own.num_gpus is None)


def _parser() -> Parser:
    parser = Parser("plan", __doc__, "[--model_size SIZE] [options]")
    sizes = ", ".join(shape.SIZES)
    longest = f"what vllm.max_model_len leaves beside an answer, or {_PROMPT_TOKENS} without that"
    add = parser.add_argument
    add("--model_size", metavar="SIZE", help=f"in place of the policy's folder, or a name as published: {sizes}")
    add("--annotator_size", metavar="SIZE", help="in place of the folder of a judge on a GPU")
    add("--gpu_memory_gib", type=_gib, metavar="GIB", help="memory of a GPU (default: 80)")
    add("--num_gpus", type=number, metavar="N", help="GPUs of all nodes (default: as many as it takes)")
    add("--num_nodes", type=count, metavar="N", default=1, help="nodes (default: 1)")
    add("--node_memory_gib", type=_gib, metavar="GIB", help="a node's own memory (default: on a CPU this machine's)")
    add("--disk_gib", type=_gib, metavar="GIB", help="free disk for the run folder (default: not judged)")
    add("--prompt_tokens", type=count, metavar="N", help=f"longest prompt (default: {longest})")
    return parser.add_config(is_required=False)


def _gib(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) or not float(text):
        raise ArgumentTypeError(f"expected GiB above 0, got {shown(text)}")
    return float(text)


def _models(own: Namespace, config: Config) -> Models:
    folder = config.model.model_name_or_path
    if own.model_size is not None:
        policy = shape.of_size(own.model_size, "--model_size")
    elif os.path.isfile(os.path.join(folder, "config.json")):
        policy = shape.of_folder(Path(folder), config.model.trust_remote_code)
    elif _is_published(folder):
        policy = shape.of_size(folder, "model.model_name_or_path")
    else:
        expected = f"expected a folder with config.json, a published model or --model_size, got {shown(folder)}"
        raise ConfigError(f"model.model_name_or_path: {expected}{other_folders.described(folder)}")
    return Models(policy, _annotator(own, config), _prompt_tokens(own, config, policy))


def _prompt_tokens(own: Namespace, config: Config, policy: ModelShape) -> int:
    """Tokens of the longest prompt. Refuses what a run would: sequences that the policy can't take."""
    file = Path(config.model.model_name_or_path) / "config.json"
    limit = model_folder.max_len(ModelFolder(file, policy.config, None, policy.context), config.vllm)
    longest, answer = own.prompt_tokens, config.rollout.max_new_tokens
    if answer >= limit:
        expected = f"expected less than the model's context ({limit}), which also holds the prompt"
        raise ConfigError(f"rollout.max_new_tokens: {expected}, got {answer}")
    if longest is None:
        longest = limit - answer if config.vllm.max_model_len is not None else _PROMPT_TOKENS
    if longest + answer > limit:
        expected = f"at most {limit - answer}, which an answer leaves (rollout.max_new_tokens)"
        raise ConfigError(f"--prompt_tokens: expected {expected}, got {longest}")
    return longest


def _annotator(own: Namespace, config: Config) -> ModelShape | None:
    """Shape of a judge on a GPU; none where rules label, or a judge elsewhere."""
    has_gpu = config.cluster.device == "cuda" and config.cluster.gpus_per_annotator
    if own.annotator_size is not None:
        if not has_gpu:
            where = "annotators have no GPU (cluster.gpus_per_annotator)"
            raise ConfigError(f"--annotator_size: expected none where {where}, got {shown(own.annotator_size)}")
        return shape.of_size(own.annotator_size, "--annotator_size")
    if not has_gpu:
        return None
    options, folder = memory.judge_options(config), _judge_folder(config)
    if isinstance(folder, str) and os.path.isfile(os.path.join(folder, "config.json")):
        return shape.of_folder(Path(folder), options.get("trust_remote_code") is True)
    if _is_published(folder):
        return shape.of_size(folder, "--annotator_size")
    raise ConfigError(
        "--annotator_size: expected the size of the annotator's model, as annotators have a GPU "
        f"(cluster.gpus_per_annotator) and there is no folder {shown(folder)}"
    )


def _judge_folder(config: Config) -> Any:
    return memory.judge_options(config).get("model") or (config.annotation.options or {}).get("model")


def _is_published(name: Any) -> bool:
    """Whether a model that is not here is named as a published one: its shape needs neither files nor a network."""
    return isinstance(name, str) and not os.path.isdir(name) and shape.published(name) is not None


def _machines(own: Namespace, config: Config) -> Machines:
    is_cpu = config.cluster.device == "cpu"
    for name in _GPU_OPTIONS:
        if is_cpu and getattr(own, name) is not None:
            raise ConfigError(f"--{name}: expected none where cluster.device is cpu, got {getattr(own, name):g}")
    node = None if own.node_memory_gib is None else int(own.node_memory_gib * GIB)
    if node is None and is_cpu:
        node = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    gpus, split_gpus = own.num_gpus, config.vllm.tensor_parallel_size
    if gpus is not None and split_gpus > max(1, gpus // own.num_nodes):
        expected = f"expected at most the {gpus // own.num_nodes} GPUs of a node"
        raise ConfigError(f"vllm.tensor_parallel_size: {expected}, got {split_gpus}")
    disk = None if own.disk_gib is None else int(own.disk_gib * GIB)
    return Machines(int((own.gpu_memory_gib or 80) * GIB), gpus, own.num_nodes, node, disk)


def _is_short(config: Config, machines: Machines) -> bool:
    return machines.num_gpus is not None and Plan(config).gpus() > machines.num_gpus


def _report(config: Config, models: Models, machines: Machines, found: Sequence[Estimate]) -> Iterator[str]:
    """Lines about the models, each group's memory, GPUs, advice, network and the error of it all."""
    yield f"Policy {_described(models.policy)}; longest prompt: {models.prompt_tokens} tokens"
    if models.annotator is not None:
        yield f"Annotator {_described(models.annotator)}"
    for estimate in found:
        yield f"\n{estimate.group}, {estimate.moment}"
        yield from (f"{_gib_of(size):>10} GiB  {name}" for name, size in estimate.terms.items() if size)
        yield from estimate.remarks
        yield _verdict(estimate)
    yield ""
    if config.cluster.device == "cuda":
        needed, most, terms = Plan(config).gpus(), machines.num_gpus, Plan(config).gpu_terms()
        word = "NOT ENOUGH" if _is_short(config, machines) else "enough"
        yield f"GPUs: {needed} = {terms}" if most is None else f"GPUs: {needed} of {most} = {terms}: {word}"
    yield from _advice(config, models, machines, found)
    engines, (policy, step) = config.rollout.num_engines, memory.traffic(config, models.policy)
    sums = f"a policy of {_gib_of(policy)} GiB to {engines} engines = {_gib_of(engines * policy)} GiB"
    yield f"Crosses the network in an iteration: {sums}"
    if config.train.num_ranks > 1:
        yield f"  and {_gib_of(step)} GiB from each rank in an optimizer step of one micro-batch"
    if config.ds.load_in_4bit:
        yield "NOT MEASURED: weights in 4 bits (ds.load_in_4bit), which are counted as QLoRA's paper has them"
    if any(model is not None and model.has_experts for model in (models.policy, models.annotator)):
        yield "NOT MEASURED: mixtures of experts; their weights are counted, what a pass of them takes is estimated"
    measured = "" if config.cluster.device == "cpu" else " on CPUs; nothing has been measured on GPUs yet"
    yield f"Error of a rank's sum: at most {memory.ERROR:.0%}, as measured{measured} (docs/sizing.md)"


def _gib_of(size: int) -> str:
    return f"{size / GIB:,.2f}"


def _described(model: ModelShape) -> str:
    return f"{printable(model.name)}: {model.parameters:,} parameters"


def _verdict(estimate: Estimate) -> str:
    size, group = _gib_of(estimate.size), estimate.group
    if estimate.has is None:
        option = "--disk_gib" if group == memory.DISK else "--node_memory_gib"
        return f"{group}: {size} GiB; how much there is is not known ({option})"
    if estimate.fits:
        return f"{group}: fits, {size} of {_gib_of(estimate.has)} GiB"
    hint = f"; {estimate.hint}" if estimate.hint else ""
    return f"{group}: DOES NOT FIT, {size} of {_gib_of(estimate.has)} GiB{hint}"


def _advice(config: Config, models: Models, machines: Machines, found: Sequence[Estimate]) -> Iterator[str]:
    """If something does not fit, options that make it fit, or that there are none."""
    misfits = {estimate.group for estimate in found if not estimate.fits}
    if not misfits - {ANNOTATORS} and not _is_short(config, machines):
        return
    most, on_gpus = machines.num_gpus, config.cluster.device == "cuda"
    shared = Plan(config).colocated()
    groups = Plan(config).gpu_groups()
    needs = [math.ceil(1 if group.name == ENGINES else group.gpus) for group in groups]
    least = max(needs, default=0) if shared else sum(needs)
    if most is not None and most < least:
        names = " and ".join(
            f"one of the {group.name}" for group, need in zip(groups, needs, strict=True) if not shared or need == least
        )
        apart = "" if shared else ", which rollout.ahead keeps apart"
        yield f"A run of this config takes {least} GPUs or more, for {names}{apart}: no option makes do with {most}"
        return
    fits = "all but the annotation actors fit" if ANNOTATORS in misfits else "it fits"
    if remedied := remedy.find(config, models, machines):
        yield f"{fits.capitalize()} with: {_options(config, remedied)}"
    elif models.prompt_tokens > _PROMPT_TOKENS and (remedied := _with_shorter_prompts(config, models, machines)):
        yield f"If prompts have at most {_PROMPT_TOKENS} tokens, {fits} with: {_options(config, remedied)}"
    elif on_gpus:
        there = f"{'' if most is None else f'{most} '}GPUs of {_gib_of(machines.gpu_memory)} GiB"
        yield f"No options make it fit on {there}: take a smaller model, or more or larger GPUs"
    else:
        yield "No options make it fit: take a smaller model, or more memory"


def _with_shorter_prompts(config: Config, models: Models, machines: Machines) -> Config | None:
    """The config that fits when longer prompts are dropped, if there is one."""
    max_len = _PROMPT_TOKENS + config.rollout.max_new_tokens
    shorter = replace(config, vllm=replace(config.vllm, max_model_len=max_len))
    return remedy.find(shorter, replace(models, prompt_tokens=_PROMPT_TOKENS), machines)


def _options(config: Config, remedied: Config) -> str:
    """Options that differ, as a command line takes them, and the number of GPUs."""
    words = " ".join(f"--{name} {_word(value)}" for name, value in remedy.options(config, remedied).items())
    return words + (f", on {Plan(remedied).gpus()} GPUs" if config.cluster.device == "cuda" else "")


def _word(value: object) -> str:
    """A value as a shell takes it."""
    return shlex.quote(json.dumps(value)) if isinstance(value, bool | dict) else str(value)


if __name__ == "__main__":
    cli.start(main)
