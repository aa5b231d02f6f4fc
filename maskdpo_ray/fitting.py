"""Memory check of each group of actors; `remedy.py` proposes changes if a group doesn't fit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from maskdpo_ray.config.schema import Config
from maskdpo_ray.engine_sizing import GIB, Engine, in_flight
from maskdpo_ray.model_shape import ModelShape
from maskdpo_ray.models.memory import Moment, Pass, Term, TrainingRank, bytes_of, largest_pass
from maskdpo_ray.plan import ActorGroup, Plan
from maskdpo_ray.requirement import require

_RANK_PROCESS = int(0.6 * GIB)
"""Of a rank without a model, on a CPU: measured."""
_ENGINE_PROCESSES = int(1.8 * GIB)
"""Of an engine's actor and vLLM's processes, on a CPU, without weights and KV cache: measured."""
_OTHERS = int(1.5 * GIB)
"""Ray's processes, the driver, and actors that label by rules: an assumption."""
_CUDA = 2 * GIB
_SLACK = 0.05
"""What CUDA's context and NCCL take of a rank's GPU, and the share that the allocator loses: assumptions."""
_KEPT = 0.4
"""The share of what a step frees that glibc keeps, on a CPU: measured, 0.1 to 0.5 of it."""
ENGINES, ANNOTATORS = "rollout engines", "annotation actors"


@dataclass(frozen=True)
class Machines:
    """What is there."""

    gpu_memory: int
    """Bytes of each GPU."""
    num_gpus: int | None
    """Of all nodes; none: as many as it takes."""
    num_nodes: int
    node_memory: int | None
    """Bytes of a node's own memory; none: not known."""


@dataclass(frozen=True)
class Models:
    """The models of a run, and the longest prompt."""

    policy: ModelShape
    annotator: ModelShape | None
    """Of a judge that has a GPU."""
    prompt_tokens: int

    def max_len(self, config: Config) -> int:
        """Longest sequence of an engine, tokens."""
        return config.vllm.max_model_len or self.policy.context


@dataclass(frozen=True)
class Verdict:
    """Of one group: its fullest moment, beside what it has."""

    group: str
    memory: str
    """Which one, in words."""
    moment: Moment
    has: int | None
    """Bytes; none: not known."""
    hint: str = ""
    """Advice if it does not fit and no option that `remedy.py` tries helps."""
    remarks: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return self.has is None or self.moment.size <= self.has


def verdicts(config: Config, models: Models, machines: Machines) -> list[Verdict]:
    """One for each group of actors that has a memory of its own, and for the nodes' memory where it is known."""
    if config.cluster.device == "cpu":
        return [_cpu(config, models, machines), _cpu_cache(config, models)]
    found = [_ranks(config, models, machines), _engines(config, models, machines)]
    if models.annotator is not None:
        found.append(_annotators(config, models.annotator, machines))
    return [*found, _host(config, models, machines)]


def gpu_groups(config: Config) -> list[ActorGroup]:
    """The groups of actors that have GPUs."""
    return [group for group in Plan(config).groups() if group.gpus]


def gpus_needed(config: Config) -> tuple[int, str]:
    """(GPUs of all groups, the sum in words). Parts of a GPU are put together within a group."""
    groups = gpu_groups(config)
    terms = " + ".join(f"{group.count} x {group.gpus:g} ({group.name})" for group in groups)
    return sum(math.ceil(group.count * group.gpus - 1e-6) for group in groups), terms


def policy_bytes(config: Config, shape: ModelShape) -> int:
    """Of a published policy's weights."""
    return bytes_of(config.ds.param_dtype) * shape.parameters


def step_bytes(config: Config, shape: ModelShape) -> int:
    """That a rank sends in an optimizer step of one micro-batch: gradients, and weights back (rings)."""
    ranks, lora = config.train.num_ranks, config.lora
    trained = sum(shape.adapters(lora)) if lora.rank else shape.parameters
    share = bytes_of(config.ds.param_dtype) * (ranks - 1) / ranks
    if config.ds.zero_stage == 3:  # gathered for the forward and for the backward pass
        return int(share * (2 * shape.parameters + trained))
    return int(share * 3 * trained)


def _on_gpu(moment: Moment) -> Moment:
    rest = _CUDA + int(_SLACK * moment.size)
    return Moment(moment.name, (*moment.terms, Term("CUDA, NCCL and the allocator (assumed)", rest)))


def _rank_moment(config: Config, models: Models) -> tuple[Moment, Pass]:
    largest = largest_pass(config, models.prompt_tokens)
    return TrainingRank(models.policy, config, largest).fullest(), largest


def _pass_remark(models: Models, largest: Pass) -> str:
    return (
        f"a pass of at most {largest.tokens} tokens and {largest.targets} targets, were all prompts of "
        f"{models.prompt_tokens} tokens (--prompt_tokens) and all answers cut off"
    )


def _ranks(config: Config, models: Models, machines: Machines) -> Verdict:
    moment, largest = _rank_moment(config, models)
    remark = _pass_remark(models, largest)
    return Verdict("training ranks", "GPU", _on_gpu(moment), machines.gpu_memory, remarks=(remark,))


def engine(config: Config, models: Models) -> Engine:
    """A rollout engine."""
    vllm, on_gpu = config.vllm, config.cluster.device == "cuda"
    gpus = vllm.tensor_parallel_size if on_gpu else 0
    return Engine(models.policy, config.engine_dtype, gpus, models.max_len(config), vllm.max_num_seqs)


def _engines(config: Config, models: Models, machines: Machines) -> Verdict:
    one, share = engine(config, models), config.vllm.gpu_memory_utilization
    moment, has = Moment("at the start", tuple(one.terms())).nonzero(), int(share * machines.gpu_memory)
    cache = has - sum(term.size for term in moment.terms[:-1])
    words = f"GPU, {share:g} of it (vllm.gpu_memory_utilization)"
    remarks = _cache_remarks(config, models, max(0, cache) // one.kv_per_token())
    return Verdict(ENGINES, words, moment, has, remarks=remarks)


def _cache_remarks(config: Config, models: Models, room: int) -> tuple[str, ...]:
    wanted = in_flight(config, models.prompt_tokens)
    about = "" if config.cluster.device == "cpu" and models.policy.has_plain_cache else "~"
    remark = (
        f"KV cache: room for {about}{room} tokens; {wanted.sequences} sequences under way take at most {wanted.tokens}"
    )
    return (remark if room >= wanted.tokens else f"{remark}: where answers get that long, some wait",)


def _annotators(config: Config, shape: ModelShape, machines: Machines) -> Verdict:
    gpus = _judge_option(config, "tensor_parallel_size", 1)
    max_len = _judge_option(config, "max_model_len", shape.context)
    dtype = str(judge_options(config).get("dtype"))
    judge = Engine(shape, dtype, gpus, max_len, _judge_option(config, "max_num_seqs", 256))
    moment = Moment("at the start", tuple(judge.terms())).nonzero()
    taken, own = _judge_option(config, "gpu_memory_utilization", 0.9), config.cluster.gpus_per_annotator / gpus
    share = min(taken, own)
    has = int(share * machines.gpu_memory)
    hint = "give each more GPUs: cluster.gpus_per_annotator, and judge_options.tensor_parallel_size as many"
    if moment.size - moment.terms[-1].size < has:
        hint = f"set a smaller judge_options.max_model_len, or {hint}"
    remark = f"vLLM takes its share of the whole GPU: set judge_options.gpu_memory_utilization to at most {own:g}"
    words = f"GPU, {share:g} of it (judge_options.gpu_memory_utilization, cluster.gpus_per_annotator)"
    return Verdict(ANNOTATORS, words, moment, has, hint, (remark,) if taken > own else ())


def _judge_option(config: Config, name: str, default: Any) -> Any:
    """A number above 0 of `judge_options`. Raises ConfigError for anything else."""
    value = judge_options(config).get(name)
    if value is None:
        return default
    where = f"annotation.options.judge_options.{name}"
    kinds = (int,) if isinstance(default, int) else (int, float)
    require(type(value) in kinds and value > 0, where, "a number above 0", value)
    return value


def judge_options(config: Config) -> dict[str, Any]:
    """`annotation.options.judge_options`, or nothing."""
    options = (config.annotation.options or {}).get("judge_options")
    return options if isinstance(options, dict) else {}


def _host(config: Config, models: Models, machines: Machines) -> Verdict:
    """The memory of the node that has most ranks, were they spread as Ray packs them: a node full first."""
    per_node = config.train.num_ranks
    if machines.num_gpus is not None:
        per_node = min(per_node, max(1, machines.num_gpus // machines.num_nodes))
    rank = TrainingRank(models.policy, config, largest_pass(config, models.prompt_tokens))
    terms = [Term(f"{per_node} x {term.name}", per_node * term.size) for term in rank.in_host_memory()]
    terms.append(Term(f"{per_node} ranks' processes, Ray and others", per_node * _RANK_PROCESS + _OTHERS))
    hint = "spread the ranks over more nodes (--num_nodes), or take nodes with more memory"
    return Verdict("a node's own memory", "host", Moment("start and save", tuple(terms)), machines.node_memory, hint)


def _cpu(config: Config, models: Models, machines: Machines) -> Verdict:
    """All actors at once, on one machine or spread evenly over several."""

    fullest, largest = _rank_moment(config, models)
    ranks, engines = config.train.num_ranks, config.rollout.num_engines
    weights, *work = engine(config, models).terms()[:3]
    cache = config.vllm.cpu_kv_cache_gib * GIB
    kept = int(_KEPT * sum(term.size for term in fullest.terms if not term.is_exact))
    processes = _ENGINE_PROCESSES + sum(term.size for term in work)
    terms = [
        *(Term(f"{ranks} x rank: {term.name}", ranks * term.size, term.is_exact) for term in fullest.terms),
        Term(f"{ranks} x rank: freed, but kept by the allocator", ranks * kept),
        Term(f"{ranks} x rank: process", ranks * _RANK_PROCESS),
        Term(f"{engines} x engine: weights", engines * weights.size, True),
        Term(f"{engines} x engine: KV cache", engines * cache, True),
        Term(f"{engines} x engine: processes, activations", engines * processes),
        Term("Ray, driver, rules", _OTHERS),
    ]
    has = None if machines.node_memory is None else machines.num_nodes * machines.node_memory
    moment = Moment(fullest.name, tuple(terms)).nonzero()
    return Verdict("all actors", "RAM", moment, has, remarks=(_pass_remark(models, largest),))


def _cpu_cache(config: Config, models: Models) -> Verdict:
    """vLLM starts only when its KV cache can hold the longest sequence."""
    one, has = engine(config, models), config.vllm.cpu_kv_cache_gib * GIB
    moment = Moment("at the start", (one.terms()[-1],))
    remarks = _cache_remarks(config, models, has // one.kv_per_token())
    return Verdict(ENGINES, "KV cache (vllm.cpu_kv_cache_gib)", moment, has, remarks=remarks)
