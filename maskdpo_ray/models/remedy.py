"""Search for options that make a config fit, checked by the same estimates that refuse it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from itertools import product
from typing import Any

from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.models import memory
from maskdpo_ray.models.memory import GIB, Machines, Models

Options = dict[str, Any]
"""Dotted name -> value."""
Choice = tuple[float, Options]
"""(cost, changed options)"""
_MOST_GPUS = 64
"""Largest number of GPUs tried if none is given."""
_LEAST_TOKENS = 512
"""Smallest `train.max_tokens_per_gpu` tried."""
_LORA_RANK = 16
_UNWELCOME = {"checkpointing": 1.0, "smaller pass": 1.0, "ZeRO-3": 1.0, "twice the ranks": 1.5, "half the ranks": 1.5}


_UNWELCOME |= {"shorter context": 1.0, "larger cache": 0.5, "twice the split": 2.0, "offload": 6.0, "LoRA": 12.0}
"""Cost of each kind of change: time is cheapest, then GPUs, then anything that changes training."""


def find(config: Config, models: Models, machines: Machines) -> Options | None:
    """The cheapest changes with which all groups fit on the available GPUs; None if there are none.

    The memory of annotation actors is left out: it depends on the judge's own options.
    """
    for engine in _sorted(_engine_choices(config, models, machines)):
        if not _fit(changed(config, engine), models, machines, memory.ENGINES):
            continue
        for rank in _sorted(_rank_choices(config, machines)):
            candidate = _on_the_gpus(changed(config, {**engine, **rank}), machines)
            if candidate is not None and _fit(candidate, models, machines):
                return _differences(config, candidate)
    return None


def fewest_gpus(config: Config) -> int:
    """Fewest GPUs for a run of this config: an engine, a rank, and one actor of each other kind that uses GPUs."""
    groups = [group for group in memory.gpu_groups(config) if group.name != "rollout engines"]
    return 1 + sum(math.ceil(group.gpus) for group in groups)


def _fit(config: Config | None, models: Models, machines: Machines, only: str | None = None) -> bool:
    if config is None:
        return False
    groups = [each for each in memory.verdicts(config, models, machines) if each.group != memory.ANNOTATORS]
    return all(each.fits for each in groups if only is None or each.group == only)


def _engine_choices(config: Config, models: Models, machines: Machines) -> Iterator[Choice]:
    least = models.prompt_tokens + config.rollout.max_new_tokens
    lengths: list[Choice] = [(0.0, {})]
    if least < models.max_len(config):
        lengths.append((_UNWELCOME["shorter context"], {"vllm.max_model_len": least}))
    for (cost, length), (more, split) in product(lengths, _split_choices(config, models, machines)):
        yield cost + more, {**length, **split}


def _split_choices(config: Config, models: Models, machines: Machines) -> Iterator[Choice]:
    yield 0.0, {}
    if config.cluster.device == "cpu":
        for length in (models.max_len(config), models.prompt_tokens + config.rollout.max_new_tokens):
            gib = math.ceil(memory.engine(config, models).kv_per_token() * length / GIB)
            if gib > config.vllm.cpu_kv_cache_gib:
                yield _UNWELCOME["larger cache"] * gib, {"vllm.cpu_kv_cache_gib": gib}
        return
    now = config.vllm.tensor_parallel_size
    of_a_node = _MOST_GPUS if machines.num_gpus is None else machines.num_gpus // machines.num_nodes
    for doublings, split in _doubled(now, of_a_node):
        if models.policy.num_heads % split == 0:
            yield _UNWELCOME["twice the split"] * doublings, {"vllm.tensor_parallel_size": split}


def _rank_choices(config: Config, machines: Machines) -> Iterator[Choice]:
    """Combinations of the options that a rank's memory depends on."""
    on_gpu, train = config.cluster.device == "cuda", config.train
    tokens = [train.max_tokens_per_gpu >> halvings for halvings in range(1, 20)]
    most = _MOST_GPUS if machines.num_gpus is None else machines.num_gpus
    ranks: list[Choice] = [(0.0, {})]
    if on_gpu:
        ranks += [
            (_UNWELCOME["twice the ranks"] * n, {"train.num_ranks": r}) for n, r in _doubled(train.num_ranks, most)
        ]
    halves = [(n, train.num_ranks >> n) for n in range(1, train.num_ranks.bit_length())]
    ranks += [(_UNWELCOME["half the ranks"] * n, {"train.num_ranks": r}) for n, r in halves]
    levers: list[list[Choice]] = [
        _either("checkpointing", not config.model.gradient_checkpointing_enable, "model.gradient_checkpointing_enable"),
        [(0.0, {})]
        + [
            (_UNWELCOME["smaller pass"] * (n + 1), {"train.max_tokens_per_gpu": size})
            for n, size in enumerate(tokens)
            if size >= _LEAST_TOKENS
        ],
        _either("ZeRO-3", config.ds.zero_stage == 2, "ds.zero_stage", 3),
        _either("offload", on_gpu and not config.ds.adam_offload, "ds.adam_offload"),
        _either("LoRA", not config.lora.rank, "lora.rank", _LORA_RANK),
        ranks,
    ]
    for choices in product(*levers):
        yield sum(cost for cost, _ in choices), {name: v for _, options in choices for name, v in options.items()}


def _either(what: str, is_possible: bool, name: str, value: Any = True) -> list[Choice]:
    return [(0.0, {}), (_UNWELCOME[what], {name: value})] if is_possible else [(0.0, {})]


def _doubled(count: int, most: int) -> Iterator[tuple[int, int]]:
    """(doublings, count) of repeated doubling of `count`."""
    for doublings in range(1, 10):
        if count << doublings <= most:
            yield doublings, count << doublings


def _sorted(choices: Iterator[Choice]) -> list[Options]:
    return [options for _, options in sorted(choices, key=lambda choice: choice[0])]


def changed(config: Config, options: Options) -> Config | None:
    """The config with these options; None if they are invalid together."""
    sections: dict[str, Options] = {}
    for name, value in options.items():
        section, field = name.split(".")
        sections.setdefault(section, {})[field] = value
    try:
        parts = {name: dataclasses.replace(getattr(config, name), **values) for name, values in sections.items()}
        return dataclasses.replace(config, **parts)
    except ConfigError:
        return None


def _on_the_gpus(config: Config | None, machines: Machines) -> Config | None:
    """Reduce engines and judges if there are too few GPUs for all; None if that is not enough."""
    most = machines.num_gpus
    if config is None or most is None or memory.gpus_needed(config)[0] <= most:
        return config
    engines = config.rollout.num_engines
    for judges in (False, True):
        fewer: Options = {}
        if judges:
            fewer = {"annotation.num_actors": 1, "eval.num_actors": 1}
        one = changed(config, {"rollout.num_engines": 1, **fewer})
        if one is None:
            return None
        spare = most - memory.gpus_needed(one)[0]
        if spare >= 0:
            more = min(engines, 1 + spare // config.vllm.tensor_parallel_size)
            return changed(config, {"rollout.num_engines": more, **fewer})
    return None


def _differences(config: Config, other: Config) -> Options:
    return {
        f"{section.name}.{field.name}": getattr(new, field.name)
        for section in dataclasses.fields(config)
        if (new := getattr(other, section.name)) != (old := getattr(config, section.name))
        for field in dataclasses.fields(new)
        if getattr(new, field.name) != getattr(old, field.name)
    }
