"""What a training rank holds in memory at its fullest moments, summed from a model's shape and a config.

The sums follow DeepSpeed 0.19.6 (`runtime/zero/stage_1_and_2.py`, `stage3.py`) with OpenRLHF's config, which leaves
bucket sizes at DeepSpeed's defaults on GPUs (`actors/strategy.py` lowers them on CPUs), and transformers' models with
the attention of `tree_attention.py` and, unless `savings.lean_layers` is off, the layers of `lean_layers.py`.
tests/e2e/test_sized.py compares them with the tensors of a real rank.

What a vLLM engine needs of its memory: weights, room to work, and a KV cache for the answers under way.

Memory check of each group of actors; `remedy.py` proposes changes if a group doesn't fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from maskdpo_ray.config.resources import ActorGroup, Plan
from maskdpo_ray.config.schema import BATCHED_TOKENS, Config, require
from maskdpo_ray.models.shape import ModelShape

_BUCKET = 500_000_000
"""Elements of DeepSpeed's buffer for gradients on their way to other ranks (`reduce_bucket_size`), on GPUs."""
_AT_A_TIME = 2**24
"""The same on CPUs, and elements whose gradients are there in fp32 together (`actors/strategy.py`)."""
_LIVE = 1_000_000_000
"""Elements that ZeRO-3 keeps gathered (`stage3_max_live_parameters`), and of a part of its step (`sub_group_size`)."""
_PERSISTENT = 100_000
"""ZeRO-3 holds smaller tensors whole (`stage3_param_persistence_threshold`)."""
_ROWS = 128
"""Rows of logits that are there in float32 at a time (`token_logps.py`)."""
_SCORES = 2**22
"""Attention weights of a layer on CPUs are taken for so many at most: what they are depends on what pairs share."""
_FP32 = 4
_ADAM = 8
"""Bytes of Adam's two moments per weight."""


@dataclass(frozen=True)
class Term:
    """A part of a sum."""

    name: str
    size: int
    """Bytes."""
    is_exact: bool = False
    """Whether it follows from shapes; else it is a bound, or an estimate."""


@dataclass(frozen=True)
class Moment:
    """What lies in one memory at one time."""

    name: str
    terms: tuple[Term, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(term.size for term in self.terms)

    @property
    def is_exact(self) -> bool:
        """Whether all of it is."""
        return all(term.is_exact for term in self.terms)

    def nonzero(self) -> Moment:
        return Moment(self.name, tuple(term for term in self.terms if term.size))


@dataclass(frozen=True)
class Pass:
    """The most that one forward pass of a rank computes."""

    tokens: int
    """Nodes of the prefix tree, or tokens of the padded rows."""
    targets: int
    """Rows of logits."""


def largest_pass(config: Config, prompt_tokens: int) -> Pass:
    """The largest micro-batch that the config lets through, were every answer as long as allowed and nothing shared
    but the prompt of a pair."""
    train, savings, answer = config.train, config.savings, config.rollout.max_new_tokens
    pair = prompt_tokens + 2 * answer if savings.prefix_tree else 2 * (prompt_tokens + answer)
    tokens = min(train.micro_batch_size * pair, max(train.max_tokens_per_gpu, pair))
    targets = min(tokens, 2 * answer * train.micro_batch_size) if savings.head_at_targets else tokens
    return Pass(tokens, targets)


class TrainingRank:
    """The memory of the fullest of `train.num_ranks` ranks."""

    def __init__(self, shape: ModelShape, config: Config, largest: Pass) -> None:
        self._shape = shape
        self._pass = largest
        self._ranks = config.train.num_ranks
        self._is_sharded = config.ds.zero_stage == 3
        self._is_offloaded = config.ds.adam_offload
        self._on_gpu = config.cluster.device == "cuda"
        self._checkpoints = config.model.gradient_checkpointing_enable
        self._width = bytes_of(config.ds.param_dtype)
        self._has_tree = config.savings.prefix_tree
        self._is_lean = config.savings.lean_layers
        lora = config.lora
        self._adapters = shape.adapters(lora) if lora.rank else []
        self._all = [*shape.tensors(), *self._adapters]
        self._trained = self._adapters or self._all
        # With adapters the reference is the policy with them off, unless it is an older policy.
        is_own = bool(self._adapters) and (config.train.reference == "previous" or config.run.iterations == 1)
        self._has_second_model = not config.savings.reference_once and not is_own
        pairs = math.ceil(config.train.batch_size / self._ranks)
        self._several_passes = pairs > 1

    def moments(self) -> list[Moment]:
        """The moments of which one is the fullest, on the rank's device."""
        moments = [self._backward(), self._step(), self._save(), self._reference()]
        return [moment.nonzero() for moment in moments]

    def fullest(self) -> Moment:
        return max(self.moments(), key=lambda moment: moment.size)

    def lasting(self) -> list[Term]:
        """From the first optimizer step of an iteration to its end."""
        shard, optimizer = self._of_rank(self._trained), 0 if self._is_offloaded else 1
        terms = [
            Term("weights", self._width * (self._of_rank(self._all) if self._is_sharded else sum(self._all)), True),
            Term("fp32 master weights", optimizer * _FP32 * shard, True),
            Term("Adam's moments", optimizer * _ADAM * shard, True),
        ]
        if self._is_sharded:
            whole = sum(size for size in self._all if size < _PERSISTENT) if self._ranks > 1 else 0
            terms += [
                Term("fp32 gradients", optimizer * _FP32 * shard, True),
                Term("small weights, held whole", self._width * whole, True),
            ]
        if self._has_second_model:
            terms.append(Term("reference model (savings.reference_once: false)", terms[0].size, True))
        return terms

    def in_host_memory(self) -> list[Term]:
        """Of a rank on a GPU, beside the process itself; of rank 0, which writes the policy."""
        shard, file = self._of_rank(self._trained), self._width * sum(self._all)
        terms = []
        if self._is_offloaded:
            # Master weights, moments, gradients, and a copy of the weights on their way back.
            terms.append(Term("optimizer (ds.adam_offload)", (_FP32 + _ADAM + _FP32 + self._width) * shard))
        if self._is_sharded:
            terms.append(Term("all weights (read by every rank at the start, gathered by rank 0 to write them)", file))
        return terms

    def _backward(self) -> Moment:
        width, trained = self._width, sum(self._trained)
        bucket = _BUCKET if self._on_gpu else _AT_A_TIME
        # On a CPU only what is written to takes memory.
        in_bucket = min(bucket, trained)
        terms = self.lasting()
        if not self._is_sharded and not self._is_offloaded:
            # DeepSpeed sums them in the weights' dtype here, whatever grad_accum_dtype says.
            copies = 2 if self._several_passes else 1
            terms.append(Term("gradients of this rank's share", copies * width * self._of_whole_tensors()))
        terms += [
            Term("DeepSpeed's gradient bucket", width * (bucket if self._on_gpu else in_bucket)),
            Term("its copy on the way to other ranks", width * in_bucket if self._ranks > 1 else 0),
            Term("largest gradient", width * max(self._trained)),
        ]
        if self._is_sharded:
            terms.append(Term("gathered weights", width * min(sum(self._all), _LIVE)))
        return Moment("backward pass", (*terms, *self._activations()))

    def _step(self) -> Moment:
        shard = 0 if self._is_offloaded else self._of_rank(self._trained)
        terms = self.lasting()
        if self._is_sharded:
            terms.append(Term("DeepSpeed's gradient bucket", self._width * (_BUCKET if self._on_gpu else 0)))
            terms.append(Term("gradients, flat", _FP32 * min(shard, _LIVE)))
        else:
            held = 0 if self._is_offloaded else self._of_whole_tensors()
            part = shard if self._on_gpu else min(shard, _AT_A_TIME + max(self._trained))
            terms += [
                Term("gradients of this rank's share", self._width * held),
                Term("gradients, flat", self._width * part),
                Term("gradients in fp32", _FP32 * part if self._width < _FP32 else 0),
            ]
        return Moment("optimizer step", tuple(terms))

    def _save(self) -> Moment:
        terms = self.lasting()
        if self._is_sharded and self._on_gpu:
            gathered = Term("largest weight, gathered", self._width * max(self._all))
        else:
            gathered = Term("copy of all weights", self._width * sum(self._all), True)
        return Moment("save_policy on rank 0", (*terms, gathered))

    def _reference(self) -> Moment:
        """Before training begins, with no optimizer."""
        gathered = self._width * min(sum(self._all), _LIVE) if self._is_sharded else 0
        shape, width = self._shape, self._width
        per_token = width * (4 * shape.hidden_size + 4 * shape.query_size + 3 * shape.intermediate_size)
        terms = (
            self.lasting()[0],
            Term("gathered weights", gathered),
            Term("activations of a layer", per_token * self._pass.tokens + self._mask() + self._scores()),
            Term("logits", (width * self._pass.targets + _FP32 * _ROWS) * shape.vocab_size),
        )
        return Moment("reference log-probs", terms)

    def _activations(self) -> list[Term]:
        """What autograd keeps of one pass, and its fullest moment beside: the head's, or a layer's."""
        shape, tokens, targets, width = self._shape, self._pass.tokens, self._pass.targets, self._width
        layers = math.ceil(tokens * shape.kept_per_token(width, self._is_lean)) + shape.num_layers * self._mask()
        layer = math.ceil(layers / shape.num_layers)
        # Logits and their gradient, and a few rows of both in fp32.
        head = (2 * width * targets + 2 * _FP32 * min(_ROWS, targets)) * shape.vocab_size
        head += width * targets * shape.hidden_size
        # A layer's backward pass makes about as much again as its forward pass has left.
        if self._checkpoints:
            return [
                Term("inputs of layers (checkpointed)", width * tokens * shape.hidden_size * shape.num_layers),
                Term("logits and their gradients, or one layer anew", max(head, 2 * layer + self._scores())),
            ]
        return [Term("activations", layers), Term("logits or a layer: gradients", max(head, layer + self._scores()))]

    def _mask(self) -> int:
        """Bytes of transformers' mask of tokens x tokens, in the weights' dtype."""
        return 0 if self._has_tree else self._width * self._pass.tokens**2

    def _scores(self) -> int:
        """Bytes of the attention weights of one layer, while it is computed."""
        scores = self._shape.num_heads * self._pass.tokens**2
        return self._width * min(scores, _SCORES) if self._has_tree and not self._on_gpu else 0

    def _of_rank(self, tensors: Sequence[int]) -> int:
        """Elements of a rank's share: ZeRO-2 cuts the whole, ZeRO-3 each tensor."""
        if self._is_sharded:
            return sum(math.ceil(size / self._ranks) for size in tensors)
        return math.ceil(sum(tensors) / self._ranks)

    def _of_whole_tensors(self) -> int:
        """Elements of the tensors that lie in a rank's share of the whole, be it in part; of the rank with most."""
        share = sum(self._trained) / self._ranks
        held = [0] * self._ranks
        start = 0
        for size in self._trained:
            first, last = int(start / share), math.ceil((start + size) / share)
            for rank in range(first, min(last, self._ranks)):
                held[rank] += size
            start += size
        return max(held)


def bytes_of(dtype: str) -> int:
    """Of one element of a dtype of the config: bf16, bfloat16, fp32, float32 ..."""
    return _FP32 if dtype.endswith("32") else 2


GIB = 2**30
_GPU_RUNTIME = int(1.5 * GIB)
"""CUDA's context, NCCL and captured graphs: an assumption."""


@dataclass(frozen=True)
class Engine:
    """An engine of any purpose; memory is that of one of its GPUs, or of the machine on a CPU."""

    shape: ModelShape
    dtype: str
    gpus: int
    """0 on a CPU."""
    max_len: int
    """Longest sequence, tokens."""
    max_num_seqs: int

    def kv_per_token(self) -> int:
        """Bytes of keys and values of one token, on one GPU; a bound where `shape.has_plain_cache` is off."""
        heads = math.ceil(self.shape.num_kv_heads / max(1, self.gpus))
        return 2 * self.shape.num_layers * heads * self.shape.head_dim * bytes_of(self.dtype)

    def terms(self) -> list[Term]:
        """All but the KV cache, and the KV cache of one sequence: the least with which vLLM starts."""
        width, shape, split = bytes_of(self.dtype), self.shape, max(1, self.gpus)
        tokens = BATCHED_TOKENS["cuda"] if self.gpus else self.max_len
        work = tokens * width * (4 * shape.hidden_size + (3 * shape.intermediate_size + shape.query_size) // split)
        logits = 8 * self.max_num_seqs * shape.vocab_size
        return [
            Term("weights" if split == 1 else f"weights / {split}", width * shape.parameters // split, split == 1),
            Term("activations and logits", work + logits),
            Term("CUDA, NCCL, graphs (assumed)", _GPU_RUNTIME if self.gpus else 0),
            Term(
                f"KV cache of one sequence of {self.max_len} tokens",
                self.kv_per_token() * self.max_len,
                shape.has_plain_cache,
            ),
        ]


@dataclass(frozen=True)
class InFlight:
    """Answers that an engine has under way, were all as long as allowed."""

    sequences: int
    tokens: int
    """In the KV cache; answers to one question share their prompt's."""


def in_flight(config: Config, prompt_tokens: int) -> InFlight:
    """The most of one rollout engine."""
    rollout, vllm = config.rollout, config.vllm
    samples = rollout.n_samples_per_prompt
    questions = math.ceil(config.in_flight(samples) / rollout.num_engines)
    sequences = min(vllm.max_num_seqs, questions * samples)
    prompts = math.ceil(sequences / samples) if vllm.enable_prefix_caching else sequences
    return InFlight(sequences, prompts * prompt_tokens + sequences * rollout.max_new_tokens)


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
