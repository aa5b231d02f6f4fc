"""Memory of each group of actors at its fullest moment, beside what it has: one estimate from shapes and a config.

Weights, optimizer, KV cache and gradients between passes are counted; activations, buffers and allocators are
estimated, and a GPU's runtime is assumed. The sums follow DeepSpeed 0.19.6 (`runtime/zero/stage_1_and_2.py`,
`stage3.py`) with OpenRLHF's config, which leaves bucket sizes at DeepSpeed's defaults on GPUs (`actors/strategy.py`
lowers them on CPUs). tests/e2e/test_sized.py compares them with the tensors of real ranks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

from maskdpo_ray.config.resources import ANNOTATORS, ENGINES, EVALUATORS, OTHER_ENGINES, RANKS, Plan
from maskdpo_ray.config.schema import BATCHED_TOKENS, Config
from maskdpo_ray.errors import require
from maskdpo_ray.models.shape import ModelShape
from maskdpo_ray.training.objectives import protocol as objectives

GIB = 2**30
ERROR = 0.05
"""Largest relative error of a rank's sum beside its measured peak, on CPUs (tests/unit/models/test_memory.py)."""

_BUCKET = 500_000_000
"""Elements of DeepSpeed's buffer for gradients on their way to other ranks (`reduce_bucket_size`), on GPUs."""
_AT_A_TIME = 2**24
"""The same on CPUs, and elements whose gradients exist in fp32 at a time (`actors/strategy.py`)."""
_LIVE = 1_000_000_000
"""Elements that ZeRO-3 keeps gathered (`stage3_max_live_parameters`), and of a part of its step (`sub_group_size`)."""
_PERSISTENT = 100_000
"""ZeRO-3 holds smaller tensors whole (`stage3_param_persistence_threshold`)."""
_FP32 = 4
_ADAM = 8
"""Bytes of Adam's two moments per weight."""
_CUDA, _SLACK = 2 * GIB, 0.05
"""CUDA's context and NCCL on a rank's GPU, and the share that its allocator loses: assumed."""
_ENGINE_RUNTIME = int(1.5 * GIB)
"""CUDA's context, NCCL and captured graphs of an engine: assumed."""
_KEPT = 0.4
"""Share of what a step frees that glibc keeps: measured."""
_RANK_PROCESS, _ENGINE_PROCESSES = int(0.6 * GIB), int(1.8 * GIB)
"""A rank without a model, and an engine's processes without weights and KV cache: measured, on a CPU."""
_NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8
"""Bytes of a weight in 4 bits: each block of 64 has a constant of 8 bits, and 256 of these one of 32 bits (QLoRA, arXiv
2305.14314, section 3, "Double Quantization")."""
_COPY = "copy of all weights"
_OTHERS = int(1.5 * GIB)
"""Ray's processes, the driver, and actors that label by rules: assumed."""
_ENGINE_AT_REST = int(0.6 * GIB)
"""On a CPU, a colocated engine's actor while ranks train: measured."""

DISK = "the run folder's disk"
ANSWERING = "engines and judges of one GPU"
Terms = dict[str, int]
"""Name -> bytes."""


@dataclass(frozen=True)
class Machines:
    """The hardware to run on."""

    gpu_memory: int
    """Bytes of each GPU."""
    num_gpus: int | None
    """On all nodes; none: as many as it takes."""
    num_nodes: int
    node_memory: int | None
    """Bytes of a node's own memory; none: not known."""
    disk: int | None = None
    """Free bytes where the run folder is; none: not known."""


@dataclass(frozen=True)
class Models:
    """The models of a run, and the longest prompt."""

    policy: ModelShape
    annotator: ModelShape | None
    """A judge's that has a GPU."""
    prompt_tokens: int

    def max_len(self, config: Config) -> int:
        """Longest sequence of an engine, tokens."""
        return config.vllm.max_model_len or self.policy.context


@dataclass(frozen=True)
class Estimate:
    """Memory of one group at its fullest moment, beside what it has."""

    group: str
    moment: str
    """The moment, and which memory, in words."""
    terms: Terms
    has: int | None
    """Bytes; none: not known."""
    remarks: tuple[str, ...] = ()
    hint: str = ""
    """Advice if it does not fit and no option that `remedy.py` tries helps."""

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(self.terms.values())

    @property
    def fits(self) -> bool:
        return self.has is None or self.size <= self.has


@dataclass(frozen=True)
class Pass:
    """The largest forward pass of a rank."""

    tokens: int
    """Nodes of the prefix tree, or tokens of the padded rows."""
    targets: int
    """Rows of logits."""
    mask: int = 0
    """Elements of the attention mask of padded rows."""


def largest_pass(config: Config, prompt_tokens: int) -> Pass:
    """The largest micro-batch that the config admits, if every answer is as long as allowed and shares nothing with
    another but its prompt."""
    train, savings, answer = config.train, config.savings, config.rollout.max_new_tokens
    row = prompt_tokens + answer
    pair = row + answer if savings.prefix_tree else 2 * row
    tokens = min(train.micro_batch_size * pair, max(train.max_tokens_per_gpu, pair))
    targets = min(tokens, 2 * answer * train.micro_batch_size) if savings.head_at_targets else tokens
    return Pass(tokens, targets, 0 if savings.prefix_tree else tokens * row)


class RankMemory:
    """Memory of the fullest of `train.num_ranks` training ranks."""

    def __init__(self, shape: ModelShape, config: Config, largest: Pass) -> None:
        self._shape, self._config, self._pass = shape, config, largest
        self._width, self._ranks = bytes_of(config.ds.param_dtype), config.train.num_ranks
        self._is_sharded, self._is_offloaded = config.ds.zero_stage == 3, config.ds.adam_offload
        self._on_gpu = config.cluster.device == "cuda"
        adapters = shape.adapters(config.lora)
        self._weights = [*shape.weights, *adapters]
        self._trained = adapters or self._weights
        self._shard = math.ceil(sum(self._trained) / self._ranks)
        # With adapters the reference is the policy with them off, unless it is an older policy.
        is_own = bool(adapters) and (config.train.reference == "previous" or config.run.iterations == 1)
        objective = objectives.load(config.objective.name, config.objective.options)
        is_in_each_step = objective.needs_reference and (objective.needs_kl or not config.savings.reference_once)
        layers = shape.linear_layers.items() if config.ds.load_in_4bit else ()
        self._packed = [math.prod(sizes) for path, sizes in layers if path != shape.head]
        """Elements of each weight in 4 bits."""
        self._has_second_model = is_in_each_step and not is_own
        self._reads_distribution = objective.needs_kl

    def lasting(self) -> Terms:
        """Memory that stays taken from the first optimizer step of an iteration to its end, on the rank's device."""
        total, optimizer = sum(self._weights), 0 if self._is_offloaded else self._shard
        if self._is_sharded and self._ranks > 1:
            total = math.ceil(total / self._ranks) + sum(size for size in self._weights if size < _PERSISTENT)
        packed = sum(self._packed)
        weights = self._width * (total - packed) + int(_NF4 * packed)
        return {
            "weights": weights,
            "fp32 master weights": _FP32 * optimizer,
            "Adam's moments": _ADAM * optimizer,
            "fp32 gradients": _FP32 * optimizer if self._is_sharded else 0,
            "reference model in every step": weights if self._has_second_model else 0,
        }

    def moments(self) -> dict[str, Terms]:
        """The moments of which one is the fullest: what each needs beside `lasting`, on the rank's device."""
        width, total, trained = self._width, sum(self._weights), sum(self._trained)
        in_use = min(_BUCKET if self._on_gpu else _AT_A_TIME, trained)
        bucket = _BUCKET if self._on_gpu else in_use  # CPUs give memory only where it is written to
        if self._is_sharded:
            held, step = 0, (bucket * width if self._on_gpu else 0) + _FP32 * min(self._shard, _LIVE)
        else:
            # DeepSpeed sums them in the weights' dtype here, whatever grad_accum_dtype says.
            held = 0 if self._is_offloaded else width * _elements_of_whole_tensors(self._trained, self._ranks)
            part = self._shard if self._on_gpu else min(self._shard, _AT_A_TIME + max(self._trained))
            step = 0 if self._is_offloaded else part * (width if width == _FP32 else width + _FP32)
        has_several_passes = self._config.train.batch_size > self._ranks
        buckets = bucket + max(self._trained) + (in_use if self._ranks > 1 else 0)
        return {
            "backward pass": {
                "gradients of this rank's share": held * (2 if has_several_passes else 1),
                "DeepSpeed's gradient buckets": width * buckets,
                "gathered weights": width * min(total, _LIVE) if self._is_sharded else 0,
                "the largest 4-bit weight as numbers": width * max(self._packed, default=0),
                **self._activations(),
            },
            "optimizer step": {"gradients of this rank's share": held, "gradients, flat and in fp32": step},
            # A GPU holds one gathered or merged tensor at a time, the node's memory the copy.
            "save_policy": {_COPY: 0 if self._on_gpu else width * total},
        }

    def fullest(self) -> tuple[str, Terms]:
        """The fullest of the moments."""
        return max(self.moments().items(), key=lambda moment: sum(moment[1].values()))

    def on_cpu(self) -> tuple[str, Terms]:
        """(the fullest moment, all that the rank's process holds then), where ranks have no GPU."""
        moment, beside = self.fullest()
        freed = sum(beside.values()) - beside.get(_COPY, 0)  # glibc returns blocks as large as weights
        process = {"freed, but kept by the allocator": int(_KEPT * freed), "process": _RANK_PROCESS}
        return moment, {**self.lasting(), **beside, **process}

    def on_host(self) -> int:
        """Bytes in a node's own memory, for a rank on a GPU: its optimizer, with `ds.adam_offload`.

        The file of a model that it loads is mapped, and no memory that others would lack.
        """
        # Masters, moments and gradients, and a copy of the weights on their way back.
        return (_FP32 + _ADAM + _FP32 + self._width) * self._shard if self._is_offloaded else 0

    def copied(self) -> int:
        """Bytes of all weights, which rank 0 on a GPU copies to its node's memory to write them."""
        return self._width * sum(self._weights)

    def policy(self) -> int:
        """Bytes of a published policy."""
        return self._width * self._shape.parameters

    def checkpoint(self) -> int:
        """Bytes of a DeepSpeed checkpoint of all ranks: weights, master weights and moments."""
        return self._width * sum(self._weights) + (_FP32 + _ADAM) * sum(self._trained)

    def _activations(self) -> Terms:
        """Memory that autograd keeps of one pass, and beside it the logits or a layer's gradients."""
        shape, tokens, width = self._shape, self._pass.tokens, self._width
        layers = tokens * shape.kept_per_token(width, self._config.savings.lean_layers)
        layers += shape.num_layers * width * self._pass.mask  # each layer has a mask of its own, in floats
        # A divergence over the vocabulary takes the reference's logits beside the policy's and their gradients.
        num_logits = 3 if self._reads_distribution else 2
        layer, logits = math.ceil(layers / shape.num_layers), num_logits * width * self._pass.targets * shape.vocab_size
        if not self._config.model.gradient_checkpointing_enable:
            return {"activations": layers, "logits or a layer: gradients": max(logits, layer)}
        inputs = width * tokens * shape.hidden_size * shape.num_layers
        return {
            "inputs of layers (checkpointed)": inputs,
            "logits and their gradients, or one layer recomputed": max(logits, 2 * layer),
        }


def _elements_of_whole_tensors(sizes: Sequence[int], ranks: int) -> int:
    """Elements of the tensors of which a rank's share of the whole holds a part, on the rank with most."""
    ends = list(accumulate(sizes))
    cuts = [ends[-1] * rank / ranks for rank in range(ranks + 1)]
    tensors = list(zip(sizes, ends, strict=True))
    shares = zip(cuts, cuts[1:], strict=False)
    return max(sum(size for size, end in tensors if end > first and end - size < last) for first, last in shares)


def bytes_of(dtype: str) -> int:
    """Bytes of an element of a dtype of the config: bf16, bfloat16, fp32, float32 ..."""
    return _FP32 if dtype.endswith("32") else 2


@dataclass(frozen=True)
class EngineMemory:
    """Memory of a vLLM engine on one of its GPUs, or on a CPU."""

    shape: ModelShape
    dtype: str
    gpus: int
    """0 on a CPU."""
    max_len: int
    """Longest sequence, tokens."""
    max_num_seqs: int

    def kv_per_token(self) -> int:
        """Bytes of one token's keys and values on one GPU; a bound where a model caches a latent of both (MLA)."""
        split = max(1, self.gpus)
        return bytes_of(self.dtype) * sum(math.ceil(heads / split) * size for heads, size in self.shape.caches)

    def terms(self) -> Terms:
        """All but the KV cache, and the KV cache of one sequence: the least with which vLLM starts."""
        width, shape, split = bytes_of(self.dtype), self.shape, max(1, self.gpus)
        tokens = BATCHED_TOKENS["cuda"] if self.gpus else self.max_len
        layer = tokens * shape.kept_per_token(width, True) // shape.num_layers
        return {
            "weights" if split == 1 else f"weights / {split}": width * shape.parameters // split,
            "activations and logits": layer + 2 * _FP32 * self.max_num_seqs * shape.vocab_size,
            "CUDA, NCCL, graphs (assumed)": _ENGINE_RUNTIME if self.gpus else 0,
            f"KV cache of one sequence of {self.max_len} tokens": self.kv_per_token() * self.max_len,
        }


def rollout_engine(config: Config, models: Models) -> EngineMemory:
    """One of the engines that answer."""
    vllm = config.vllm
    gpus = vllm.tensor_parallel_size if config.cluster.device == "cuda" else 0
    return EngineMemory(models.policy, config.engine_dtype, gpus, models.max_len(config), vllm.max_num_seqs)


def in_flight(config: Config, prompt_tokens: int) -> tuple[int, int]:
    """(sequences, tokens in the KV cache) of the answers that one rollout engine has in flight at most; answers to one
    question share their prompt's."""
    rollout, vllm = config.rollout, config.vllm
    samples = rollout.n_samples_per_prompt
    questions = math.ceil(config.in_flight(samples) / rollout.num_engines)
    sequences = min(vllm.max_num_seqs, questions * samples)
    prompts = math.ceil(sequences / samples) if vllm.enable_prefix_caching else sequences
    return sequences, prompts * prompt_tokens + sequences * rollout.max_new_tokens


def traffic(config: Config, shape: ModelShape) -> tuple[int, int]:
    """(bytes of a published policy, bytes that a rank sends in an optimizer step of one micro-batch, over rings)."""
    width, ranks = bytes_of(config.ds.param_dtype), config.train.num_ranks
    trained = sum(shape.adapters(config.lora)) or shape.parameters
    # Gradients once; under ZeRO-2 trained weights twice, under ZeRO-3 all of them, for the forward and backward pass.
    sent = trained + 2 * (shape.parameters if config.ds.zero_stage == 3 else trained)
    return width * shape.parameters, int(width * (ranks - 1) / ranks * sent)


def estimates(config: Config, models: Models, machines: Machines) -> list[Estimate]:
    """One for each group of actors that has a memory of its own, and for the nodes' memory."""
    largest = largest_pass(config, models.prompt_tokens)
    rank, engine = RankMemory(models.policy, config, largest), rollout_engine(config, models)
    remark = (
        f"a pass of at most {largest.tokens} tokens and {largest.targets} targets, if all prompts have "
        f"{models.prompt_tokens} tokens (--prompt_tokens) and all answers are cut off"
    )
    if config.cluster.device == "cpu":
        own = [_machine(config, rank, engine, machines, remark), _cpu_cache(config, models, engine)]
        return [*own, _disk(config, rank, machines)]
    moment, beside = rank.fullest()
    terms = {**rank.lasting(), **beside}
    terms["CUDA, NCCL and the allocator (assumed)"] = _CUDA + int(_SLACK * sum(terms.values()))
    share = config.vllm.gpu_memory_utilization
    has = int(share * machines.gpu_memory)
    words = f"at the start: GPU, {share:g} of it (vllm.gpu_memory_utilization)"
    together: list[Estimate] = []
    if config.cluster.colocate:
        together, at_rest = _answering(config, machines)
        terms[f"{at_rest} x engine or judge at rest: CUDA, NCCL, graphs (assumed)"] = at_rest * _ENGINE_RUNTIME
    return [
        Estimate("training ranks", f"{moment}: GPU", terms, machines.gpu_memory, (remark,)),
        Estimate(ENGINES, words, engine.terms(), has, _room(config, models, engine, has - _without_cache(engine))),
        *([_annotators(config, models.annotator, machines)] if models.annotator else []),
        *together,
        _host(config, rank, machines),
        _disk(config, rank, machines),
    ]


def _answering(config: Config, machines: Machines) -> tuple[list[Estimate], int]:
    """(the colocated engines and judges of the fullest GPU, how many of them it has)."""
    taken = {
        ENGINES: config.vllm.gpu_memory_utilization,
        OTHER_ENGINES: config.vllm.gpu_memory_utilization,
        ANNOTATORS: _judge_option(config, "gpu_memory_utilization", 0.9),
        EVALUATORS: 0.0,  # their memory is not counted
    }
    places = {name: found for name, found in Plan(config).places().items() if name != RANKS}
    gpus = [
        Counter(name for name, found in places.items() for each in found if gpu in each)
        for gpu in range(Plan(config).gpus())
    ]
    fullest = max(gpus, key=lambda counts: sum(count * taken[name] for name, count in counts.items()))
    terms = {
        f"{count} x {name}, each {taken[name]:g} of it": int(count * taken[name] * machines.gpu_memory)
        for name, count in fullest.items()
    }
    terms["rank at rest: CUDA and NCCL (assumed)"] = _CUDA
    hint = "lower vllm.gpu_memory_utilization or judge_options.gpu_memory_utilization"
    found = Estimate(ANSWERING, "while they answer: GPU", terms, machines.gpu_memory, hint=hint)
    return [found], max(sum(counts.values()) for counts in gpus)


def _without_cache(engine: EngineMemory) -> int:
    return sum(engine.terms().values()) - engine.kv_per_token() * engine.max_len


def _room(config: Config, models: Models, engine: EngineMemory, cache: int) -> tuple[str]:
    room = max(0, cache) // engine.kv_per_token()
    sequences, tokens = in_flight(config, models.prompt_tokens)
    remark = f"KV cache: room for {room} tokens; {sequences} sequences in flight take at most {tokens}"
    return (remark if room >= tokens else f"{remark}: where answers get that long, some wait",)


def _annotators(config: Config, shape: ModelShape, machines: Machines) -> Estimate:
    option = partial(_judge_option, config)
    gpus, max_len = option("tensor_parallel_size", 1), option("max_model_len", shape.context)
    dtype = str(judge_options(config).get("dtype"))
    judge = EngineMemory(shape, dtype, gpus, max_len, option("max_num_seqs", 256))
    taken, own = option("gpu_memory_utilization", 0.9), config.cluster.gpus_per_annotator / gpus
    share = min(taken, own)
    has = int(share * machines.gpu_memory)
    hint = "give each more GPUs: cluster.gpus_per_annotator, and judge_options.tensor_parallel_size as many"
    if _without_cache(judge) < has:
        hint = f"set a smaller judge_options.max_model_len, or {hint}"
    remark = f"vLLM takes its share of the whole GPU: set judge_options.gpu_memory_utilization to at most {own:g}"
    words = f"GPU, {share:g} of it (judge_options.gpu_memory_utilization, cluster.gpus_per_annotator)"
    remarks = (remark,) if taken > own else ()
    return Estimate(ANNOTATORS, f"at the start: {words}", judge.terms(), has, remarks, hint)


def _judge_option(config: Config, name: str, default: Any) -> Any:
    """A number among `judge_options`. Raises ConfigError when it is none above 0."""
    value = judge_options(config).get(name)
    kinds = (int,) if isinstance(default, int) else (int, float)
    is_number = value is None or (type(value) in kinds and value > 0)
    require(is_number, f"annotation.options.judge_options.{name}", "a number above 0", value)
    return default if value is None else value


def sharing_judge(config: Config, models: Models, machines: Machines) -> dict[str, Any] | None:
    """`annotation.options` with the least `gpu_memory_utilization` that the judge starts with, if that is less."""
    if models.annotator is None:
        return config.annotation.options
    judge = _annotators(config, models.annotator, machines)
    least = math.ceil(100 * judge.size / machines.gpu_memory) / 100
    if least >= _judge_option(config, "gpu_memory_utilization", 0.9):
        return config.annotation.options
    options = {**judge_options(config), "gpu_memory_utilization": least}
    return {**(config.annotation.options or {}), "judge_options": options}


def judge_options(config: Config) -> Mapping[str, Any]:
    """`annotation.options.judge_options`, or nothing."""
    options = (config.annotation.options or {}).get("judge_options")
    return options if isinstance(options, dict) else {}


def _host(config: Config, rank: RankMemory, machines: Machines) -> Estimate:
    """The memory of the node with most ranks, if they are spread as Ray packs them: a node full first."""
    per_node = config.train.num_ranks
    if machines.num_gpus is not None:
        per_node = min(per_node, max(1, machines.num_gpus // machines.num_nodes))
    terms = {
        f"{per_node} x optimizer (ds.adam_offload)": per_node * rank.on_host(),
        "copy of all weights (rank 0's, to write them)": rank.copied(),
    }
    engines = math.ceil(config.rollout.num_engines / machines.num_nodes) * (2 if config.rollout.model else 1)
    terms[f"{engines} x engine: processes"] = engines * _ENGINE_PROCESSES
    terms[f"{per_node} ranks' processes, Ray and others"] = per_node * _RANK_PROCESS + _OTHERS
    hint = "spread the ranks over more nodes (--num_nodes), or take nodes with more memory"
    return Estimate("a node's own memory", "save_policy: host", terms, machines.node_memory, hint=hint)


def _disk(config: Config, rank: RankMemory, machines: Machines) -> Estimate:
    """The run folder at its fullest: the last iteration's second checkpoint is written beside the first."""
    saves = 2 if config.train.save_steps > 0 else 0
    policies = config.run.iterations
    terms = {
        f"{policies} policies": policies * rank.policy(),
        f"{saves} checkpoints (train.save_steps)": saves * rank.checkpoint(),
    }
    hint = "lower run.iterations"
    words = "last iteration: all but texts and log-probs"
    return Estimate(DISK, words, terms, machines.disk, hint=hint)


def _machine(config: Config, rank: RankMemory, engine: EngineMemory, machines: Machines, remark: str) -> Estimate:
    """All actors at once, on one machine or spread evenly over several; colocated, the fuller of both turns."""
    (moment, of_rank), (weights, work, *_) = rank.on_cpu(), engine.terms().values()
    cache = config.vllm.cpu_kv_cache_gib * GIB
    of_engine = {"weights": weights, "KV cache": cache, "processes, activations": _ENGINE_PROCESSES + work}
    turns = [(moment, of_rank, of_engine)]
    if config.cluster.colocate:
        turns = [
            (moment, of_rank, {"at rest": _ENGINE_AT_REST}),
            ("while engines answer", {"at rest": _RANK_PROCESS}, of_engine),
        ]
    ranks, engines = config.train.num_ranks, config.rollout.num_engines

    def all_actors(of_rank: Terms, of_engine: Terms) -> Terms:
        terms = {f"{ranks} x rank: {name}": ranks * size for name, size in of_rank.items()}
        terms |= {f"{engines} x engine: {name}": engines * size for name, size in of_engine.items()}
        return {**terms, "Ray, driver, rules": _OTHERS}

    moment, terms = max(
        ((moment, all_actors(*parts)) for moment, *parts in turns), key=lambda turn: sum(turn[1].values())
    )
    has = None if machines.node_memory is None else machines.num_nodes * machines.node_memory
    return Estimate("all actors", f"{moment}: RAM", terms, has, (remark,))


def _cpu_cache(config: Config, models: Models, engine: EngineMemory) -> Estimate:
    """vLLM starts only when its KV cache can hold the longest sequence."""
    has, (name, size) = config.vllm.cpu_kv_cache_gib * GIB, list(engine.terms().items())[-1]
    words = "at the start: KV cache (vllm.cpu_kv_cache_gib)"
    return Estimate(ENGINES, words, {name: size}, has, _room(config, models, engine, has))
