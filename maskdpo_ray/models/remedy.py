"""Search for options with which a config fits, checked by the same estimate that refuses it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from maskdpo_ray.config.resources import ANNOTATORS, Plan
from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.models import memory
from maskdpo_ray.models.memory import GIB, Machines, Models

_LEAST_TOKENS = 512
"""Smallest `train.max_tokens_per_gpu` tried."""
_MOST_GPUS = 64
"""Largest number of GPUs tried if none is given."""
_LORA_RANK = 16
Lever = tuple[str, Callable[[Config, Models, Machines], Any]]
"""(option, its value one step further)."""
_LEVERS: tuple[Lever, ...] = (
    ("model.gradient_checkpointing_enable", lambda config, *_: True),
    ("vllm.max_model_len", lambda config, models, _: models.prompt_tokens + config.rollout.max_new_tokens),
    ("vllm.cpu_kv_cache_gib", lambda config, models, _: _cache_gib(config, models)),
    ("cluster.colocate", lambda config, *_: True),
    ("vllm.gpu_memory_utilization", lambda config, *_: max(0.1, round(config.vllm.gpu_memory_utilization - 0.1, 2))),
    ("annotation.options", memory.sharing_judge),
    ("ds.zero_stage", lambda config, *_: 3),
    ("train.num_ranks", lambda config, *_: 2 * config.train.num_ranks),
    ("train.num_ranks", lambda config, *_: max(1, config.train.num_ranks // 2)),
    ("train.max_tokens_per_gpu", lambda config, *_: max(_LEAST_TOKENS, config.train.max_tokens_per_gpu // 2)),
    ("vllm.tensor_parallel_size", lambda config, *_: 2 * config.vllm.tensor_parallel_size),
    ("ds.adam_offload", lambda config, *_: config.cluster.device == "cuda"),
    ("train.save_steps", lambda config, *_: -1),
    ("lora.rank", lambda config, *_: config.lora.rank or _LORA_RANK),
)
"""Mildest first: time is cheapest, then GPUs, then changes of the training itself."""


def find(config: Config, models: Models, machines: Machines) -> Config | None:
    """The config with which all groups fit on the available GPUs; None if there is none.

    The mildest step that brings it closer is taken, or an earlier one undone, again and again; then those are dropped,
    harshest first, without which it fits as well. The memory of annotation actors is left out: it depends on the
    judge's own options.
    """

    def made(taken: Sequence[Lever]) -> Config | None:
        made: Config | None = config
        for name, value in taken:
            made = made and _changed(made, {name: value(made, models, machines)})
        return _on_the_gpus(made, machines)

    def lack(taken: Sequence[Lever]) -> float:
        return _lack(made(taken), models, machines)

    taken: list[Lever] = []
    lacking, closer = lack(taken), True
    while lacking and closer:
        closer = False
        shorter = [taken[:n] + taken[n + 1 :] for n in range(len(taken))]
        for other in (*([*taken, lever] for lever in _LEVERS), *shorter):
            if (less := lack(other)) < lacking:
                taken, lacking, closer = other, less, True
                break
    if lacking:
        return None
    for lever in sorted(taken, key=_LEVERS.index, reverse=True):
        fewer = list(taken)
        fewer.remove(lever)
        taken = taken if lack(fewer) else fewer
    return made(taken)


def options(config: Config, other: Config) -> dict[str, Any]:
    """Options of `other` that differ from `config`'s: {dotted name: value}."""
    ours, theirs = dataclasses.asdict(config), dataclasses.asdict(other)
    return {
        f"{section}.{name}": value
        for section, fields in theirs.items()
        for name, value in fields.items()
        if value != ours[section][name]
    }


def _changed(config: Config, options: dict[str, Any]) -> Config | None:
    """The config with these options; None if they are invalid together."""
    try:
        for name, value in options.items():
            section, field = name.split(".")
            part = dataclasses.replace(getattr(config, section), **{field: value})
            config = dataclasses.replace(config, **{section: part})
    except ConfigError:
        return None
    return config


def _lack(config: Config | None, models: Models, machines: Machines) -> float:
    """Need of the groups above what they have, as shares of that, and missing GPUs."""
    if config is None:
        return math.inf
    split, gpus = config.vllm.tensor_parallel_size, Plan(config).gpus()
    of_a_node = (machines.num_gpus or _MOST_GPUS) // machines.num_nodes
    if config.cluster.device == "cuda" and (split > max(1, of_a_node) or models.policy.num_heads % split):
        return math.inf
    short = max(0, gpus - (_MOST_GPUS if machines.num_gpus is None else machines.num_gpus))
    needs = [each for each in memory.estimates(config, models, machines) if each.group != ANNOTATORS]
    return short + sum(each.size / each.has - 1 for each in needs if not each.fits and each.has)


def _cache_gib(config: Config, models: Models) -> int:
    """The smallest cache that holds the longest sequence."""
    needed = memory.rollout_engine(config, models).kv_per_token() * models.max_len(config)
    return max(config.vllm.cpu_kv_cache_gib, math.ceil(needed / GIB))


def _on_the_gpus(config: Config | None, machines: Machines) -> Config | None:
    """Fewer engines, or judges as well, where there are too few GPUs for all."""
    most, fewer = machines.num_gpus, {"rollout.num_engines": 1}
    if config is None or most is None or Plan(config).gpus() <= most:
        return config
    for more in ({}, {"annotation.num_actors": 1, "eval.num_actors": 1}):
        least = _changed(config, fewer := fewer | more)
        if least is not None and (spare := most - Plan(least).gpus()) >= 0:
            split = config.vllm.tensor_parallel_size
            engines = most // split if config.cluster.colocate else 1 + spare // split
            return _changed(least, {"rollout.num_engines": min(config.rollout.num_engines, engines)})
    return least
