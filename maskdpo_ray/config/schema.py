"""How a config's sections say what a value must be.

The sections of the config that training reads: batches and schedule, optimizer, sharding, adapters, savings.

Config sections for annotation, pairs and evaluation.

Option values that vLLM, Ray and W&B refuse, reported before they start, naming the option.

Taken from vLLM 0.29.0 (`SamplingParams._verify_args`, `SchedulerConfig`, `ModelConfig.verify_with_parallel_config`,
`kv_cache_utils.check_enough_kv_cache_memory`), Ray 2.55.0 (`ray_option_utils`, `_raylet.prepare_resources`) and W&B
(`Settings.validate_project`).

The config: every option, its one default and its meaning. `config_file.py` and `cli.py` read it.

Names follow OpenRLHF's dotted ones where the thing is the same (`adam.lr`, `train.batch_size`,
`ds.zero_stage`, `rollout.n_samples_per_prompt`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from maskdpo_ray.errors import ConfigError, shown
from maskdpo_ray.records import LABELS


def require(condition: bool, name: str, expected: str, got: object) -> None:
    """Raise ConfigError, one line, unless `condition` holds of the option `name`."""
    if not condition:
        raise ConfigError(f"{name}: expected {expected}, got {shown(got)}")


def require_some(count: int | None, name: str) -> None:
    """Raise ConfigError unless the option `name` is a count above 0, or none."""
    require(count is None or count >= 1, name, "at least 1", count)


@dataclass(frozen=True)
class TrainConfig:
    num_ranks: int = 1
    """DeepSpeed ranks, one Ray actor (and one GPU) each."""
    beta: float = 0.1
    """DPO's beta: how dear it is to leave the reference (Mask-DPO eq. 6)."""
    reference: Literal["initial", "previous"] = "previous"
    """Reference policy of an iteration: the one before the run, or the one before the iteration."""
    max_epochs: int = 3
    """Passes over an iteration's pairs."""
    batch_size: int = 64
    """Pairs per optimizer step, over all ranks."""
    micro_batch_size: int = 8
    """Pairs per forward pass and rank, at most; they are merged into one prefix tree."""
    max_tokens_per_gpu: int = 8192
    """Tokens that a rank computes per forward pass, at most, shared ones counted once; a pair that has more of them
    has a pass of its own."""
    lr_scheduler: Literal[
        "cosine", "cosine_with_min_lr", "linear", "polynomial", "inverse_sqrt", "constant", "constant_with_warmup"
    ] = "cosine"
    """Learning rate over an iteration's steps: a schedule of transformers.get_scheduler."""
    lr_warmup_ratio: float = 0.03
    """Share of the steps that warm up."""
    min_lr_ratio: float = 0.1
    """Lowest learning rate, as a share of the highest (only for `cosine_with_min_lr`)."""
    max_norm: float = 1.0
    """Gradient clipping; 0 for none."""
    save_steps: int = 50
    """Optimizer steps from one DeepSpeed checkpoint to the next; a stopped training resumes from it. -1 or 0: none."""

    def __post_init__(self) -> None:
        for name in ("num_ranks", "max_epochs", "batch_size", "micro_batch_size", "max_tokens_per_gpu"):
            require(getattr(self, name) >= 1, f"train.{name}", "at least 1", getattr(self, name))
        require(self.beta > 0, "train.beta", "above 0", self.beta)
        require(0 <= self.lr_warmup_ratio < 1, "train.lr_warmup_ratio", "0 to below 1", self.lr_warmup_ratio)
        require(0 <= self.min_lr_ratio <= 1, "train.min_lr_ratio", "0 to 1", self.min_lr_ratio)
        require(self.max_norm >= 0, "train.max_norm", "at least 0", self.max_norm)
        require(self.save_steps >= -1, "train.save_steps", "at least -1 (none)", self.save_steps)
        require(
            self.batch_size >= self.num_ranks,
            "train.batch_size",
            f"at least train.num_ranks ({self.num_ranks}): a pair for every rank",
            self.batch_size,
        )


@dataclass(frozen=True)
class AdamConfig:
    lr: float = 5e-6
    """Highest learning rate (Mask-DPO appendix A: 5e-6, for 8B)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's betas."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""

    def __post_init__(self) -> None:
        require(self.lr > 0, "adam.lr", "above 0", self.lr)
        valid = all(0 <= b < 1 for b in self.betas)
        require(valid, "adam.betas", "two numbers from 0 to below 1", self.betas)
        require(self.eps > 0, "adam.eps", "above 0", self.eps)
        require(self.weight_decay >= 0, "adam.weight_decay", "at least 0", self.weight_decay)


@dataclass(frozen=True)
class DeepspeedConfig:
    zero_stage: Literal[2, 3] = 2
    """ZeRO stage: 2 shards gradients and optimizer state over the ranks, 3 the weights too."""
    param_dtype: Literal["bf16", "fp32"] = "bf16"
    """Dtype of weights and activations; master weights are fp32 in any case."""
    adam_offload: bool = False
    """Keep the optimizer's state in CPU memory (GPU only)."""


@dataclass(frozen=True)
class LoraConfig:
    rank: int = 0
    """Train low-rank adapters of this rank beside frozen weights (LoRA); 0: train all weights."""
    alpha: int = 16
    """What an adapter adds is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout before the adapters."""
    target_modules: str = "all-linear"
    """Which modules get adapters: `all-linear`, or names separated by commas."""

    def __post_init__(self) -> None:
        require(self.rank >= 0, "lora.rank", "at least 0 (0: none)", self.rank)
        require(self.alpha >= 1, "lora.alpha", "at least 1", self.alpha)
        require(0 <= self.dropout < 1, "lora.dropout", "0 to below 1", self.dropout)
        require(self.modules is None or all(self.modules), "lora.target_modules", "names", self.target_modules)

    @property
    def modules(self) -> list[str] | None:
        """`target_modules` one by one; None: all linear layers but the LM head."""
        names = [name.strip() for name in self.target_modules.split(",")]
        return None if names == ["all-linear"] else names

    def adapts(self, path: str) -> bool:
        """Whether a linear layer of this dotted path gets adapters."""
        return self.modules is None or any(means(name, path) for name in self.modules)


def means(name: str, path: str) -> bool:
    """Whether a name among `lora.target_modules` means the module of this dotted path: PEFT goes by its last parts."""
    return f".{path}".endswith(f".{name}")


@dataclass(frozen=True)
class SavingsConfig:
    """Work that a masked objective does not need, left out. Each keeps loss and gradients, up to rounding."""

    cut_tails: bool = True
    """Leave out the tokens after an answer's last one with weight."""
    head_at_targets: bool = True
    """Run the LM head only where the next token has weight."""
    reference_once: bool = True
    """Compute reference log-probs once per pair and iteration, and keep them on disk; off: in every step anew."""
    prefix_tree: bool = True
    """Compute what answers of a micro-batch begin with in common once; off: one padded row for each answer."""
    group_pairs: bool = True
    """Put the pairs of a step that share most into one micro-batch; off: in the order of the epoch."""
    lean_layers: bool = True
    """Keep less of norms and MLPs for the backward pass, and compute it again there."""


_EACH = 64
"""Default number of questions in flight per annotation or evaluation actor."""


@dataclass(frozen=True)
class AnnotationConfig:
    annotator: str = "facts"
    """Annotator that labels sentences: `facts` and `claims` (rules over fact tables), `anah` (a judge that reads
    documents), `classifier` (an NLI model), `replay` (a file of labels), or your own: `python:package.module:Class`."""
    options: dict[str, Any] | None = None
    """Keyword arguments of the annotator: {name: value}, the names as its class has them."""
    num_actors: int = 1
    """Annotation actors."""
    max_in_flight: int | None = None
    """Questions handed to all annotation actors together and not yet labelled; none: 64 for each."""
    max_unparsed: float = 0.2
    """Share of the sentences: with more of them `unparsed`, of at least 50 in the run folder, the run stops."""

    def __post_init__(self) -> None:
        require(0 <= self.max_unparsed <= 1, "annotation.max_unparsed", "0 to 1", self.max_unparsed)
        require(self.num_actors >= 1, "annotation.num_actors", "at least 1", self.num_actors)
        require_some(self.max_in_flight, "annotation.max_in_flight")

    @property
    def in_flight(self) -> int:
        """`max_in_flight`, or its default."""
        return self.max_in_flight or _EACH * self.num_actors


@dataclass(frozen=True)
class PairsConfig:
    strategy: Literal["best_worst"] = "best_worst"
    """How pairs are made of scored answers: `best_worst` (Mask-DPO section 2.2)."""
    min_facts: int = 1
    """Fewest `no_hallucination` sentences of a chosen answer; 0: even one that states nothing, whose score is 1."""
    next_best: bool = True
    """If the best answer has fewer: choose the best of those that have enough; false: drop the question."""
    ties: Literal["first", "most_facts"] = "first"
    """Tie-break between answers with the same score: `first`, the one sampled first, or `most_facts`, for chosen the
    one with most `no_hallucination` sentences, for rejected the one with most wrong ones, and the first of those."""
    cut_off: Literal["drop", "keep"] = "drop"
    """Whether answers that `rollout.max_new_tokens` cut off can be chosen or rejected: `keep` as any other."""

    def __post_init__(self) -> None:
        require(self.min_facts >= 0, "pairs.min_facts", "at least 0", self.min_facts)


@dataclass(frozen=True)
class EvalConfig:
    n_samples_per_prompt: int = 5
    """R: replications, one answer per question each (Mask-DPO section 3.1: five); one when evaluation is greedy."""
    temperature: float | None = None
    """Sampling temperature of evaluated answers, 0 for greedy ones; none: `rollout.temperature`."""
    top_k: int | None = None
    """The same for top-k, 1 for greedy answers (Mask-DPO table 1); none: `rollout.top_k`."""
    top_p: float | None = None
    """The same for top-p; none: `rollout.top_p`."""
    bootstrap_samples: int = 2000
    """Resamples of topics behind the 95% intervals."""
    evaluator: str | None = None
    """A second opinion on held-out answers, beside the annotator's: `factscore` (facts against documents),
    `short_answer` (against standard answers), or a class of your own: `python:package.module:Class`; none: no other."""
    options: dict[str, Any] | None = None
    """Keyword arguments of the evaluator: {name: value}, the names as its class has them."""
    perplexity_model: str | None = None
    """Hugging Face folder of a causal language model that measures the perplexity of held-out answers, with or without
    an evaluator; none: not measured."""
    num_actors: int = 1
    """Evaluation actors, when there is an evaluator or a perplexity model."""
    max_in_flight: int | None = None
    """Questions handed to all evaluation actors together and not yet judged; none: 64 for each."""
    max_unparsed: float = 0.2
    """Share of the evaluator's facts: with more of them `unparsed`, of at least 50 in the run folder, the run stops."""

    def __post_init__(self) -> None:
        require(0 <= self.max_unparsed <= 1, "eval.max_unparsed", "0 to 1", self.max_unparsed)
        for name in ("n_samples_per_prompt", "num_actors"):
            require(getattr(self, name) >= 1, f"eval.{name}", "at least 1", getattr(self, name))
        require_some(self.max_in_flight, "eval.max_in_flight")
        temperature, top_k, top_p = self.temperature, self.top_k, self.top_p
        require(temperature is None or temperature >= 0, "eval.temperature", "at least 0 (greedy)", temperature)
        require(top_k is None or top_k >= 1 or top_k == -1, "eval.top_k", "at least 1 or -1 (all)", top_k)
        require(top_p is None or 0 < top_p <= 1, "eval.top_p", "above 0, at most 1", top_p)
        samples, model = self.bootstrap_samples, self.perplexity_model
        require(100 <= samples <= 10**5, "eval.bootstrap_samples", "100 to 100000", samples)
        has_use = self.evaluator is not None or not self.options
        require(has_use, "eval.options", "none without eval.evaluator", self.options)
        require(model is None or bool(model.strip()), "eval.perplexity_model", "the folder of a model", model)

    @property
    def in_flight(self) -> int:
        """`max_in_flight`, or its default."""
        return self.max_in_flight or _EACH * self.num_actors

    @property
    def is_greedy(self) -> bool:
        """Whether evaluation decodes greedily, so that all answers to a question are the same."""
        return self.top_k == 1 or self.temperature == 0

    @property
    def replications(self) -> int:
        """Answers to each question: `n_samples_per_prompt`, or 1 if greedy."""
        return 1 if self.is_greedy else self.n_samples_per_prompt

    @property
    def is_judged(self) -> bool:
        """Whether evaluation actors judge held-out answers."""
        return self.evaluator is not None or self.perplexity_model is not None


BATCHED_TOKENS = {"cpu": 32768, "cuda": 8192}
"""Most tokens that an engine computes per step, by `cluster.device`. On a CPU a whole prompt must fit."""
_MOST_SAMPLES = 16384
_MOST_SEQUENCES = 32768
_TEMPERATURES = (0.01, 2.0)
"""Range of temperatures: vLLM refuses higher ones and clamps lower ones."""
_LEAST_SHARE = 1e-4
"""Smallest fraction of a resource that Ray counts."""
_NOT_IN_PROJECTS = "/\\#?%:"
_GIB = 2**30


def check_limits(config: Config) -> None:
    """Raise ConfigError, naming the option, for a value that one of them would refuse for any model."""
    vllm, cluster, project = config.vllm, config.cluster, config.logger.wandb_project
    for section, sampling in (("rollout", config.rollout), ("eval", config.eval)):
        count, temperature, top_k = sampling.n_samples_per_prompt, sampling.temperature, sampling.top_k
        expected = f"at most {_MOST_SAMPLES}, as many as vLLM samples of a prompt"
        require(count <= _MOST_SAMPLES, f"{section}.n_samples_per_prompt", expected, count)
        lowest, highest = _TEMPERATURES
        expected = f"{lowest} to {highest:g}, which vLLM samples at"
        # In evaluation none means the value of rollouts, and 0 greedy.
        is_sampled = not temperature or lowest <= temperature <= highest
        require(is_sampled, f"{section}.temperature", expected, temperature)
        require((top_k or 0) < 2**31, f"{section}.top_k", "less than 2^31, or -1 (all)", top_k)
    require(vllm.max_num_seqs <= _MOST_SEQUENCES, "vllm.max_num_seqs", f"at most {_MOST_SEQUENCES}", vllm.max_num_seqs)
    for name, share in vars(cluster).items():
        if name.startswith(("cpus_per_", "gpus_per_")):
            require(share == 0 or share >= _LEAST_SHARE, f"cluster.{name}", f"0, or at least {_LEAST_SHARE}", share)
        if name.startswith("gpus_per_"):
            is_share = share <= 1 or share == int(share)
            require(
                is_share, f"cluster.{name}", "a whole number where it is above 1: Ray shares out single GPUs", share
            )
    is_name = bool(project.strip()) and len(project) <= 128 and not set(_NOT_IN_PROJECTS) & set(project)
    require(is_name, "logger.wandb_project", f"a name of 1 to 128 characters, none of {_NOT_IN_PROJECTS}", project)


def check_engine_limits(config: Config, model: Any, file: Path, max_len: int) -> None:
    """Refuse options that vLLM would refuse for an engine of this model.

    Args:
        model: the model's config, as transformers reads it from `file`.
        max_len: longest sequence of the run, tokens.

    Raises ConfigError, naming the option.
    """
    split, where = config.vllm.tensor_parallel_size, f"of {file}"
    for name, count in _split(model):
        expected = f"a divisor of {name}, {count}, {where}"
        # Fewer KV heads than GPUs are replicated instead.
        is_whole = count % split == 0 or (name == "num_key_value_heads" and split % count == 0)
        require(is_whole, "vllm.tensor_parallel_size", expected, split)
    if config.cluster.device != "cpu":
        return
    most = BATCHED_TOKENS["cpu"]
    require(max_len <= most, "vllm.max_model_len", f"at most {most} on a CPU, as a prompt is computed whole", max_len)
    each = _cache_bytes(model, 4 if config.engine_dtype == "float32" else 2)
    if each is not None:
        gib = config.vllm.cpu_kv_cache_gib
        room, needed = gib * _GIB // each, math.ceil(max_len * each / _GIB)
        expected = f"at most {room} (by default it is the model's limit), the longest sequence that fits into "
        expected += f"vllm.cpu_kv_cache_gib: {gib}, or {needed} there"
        require(max_len <= room, "vllm.max_model_len", expected, max_len)


def _split(model: Any) -> Iterator[tuple[str, int]]:
    """(name, count) of each quantity that is split over the GPUs of an engine."""
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        count = getattr(model, name, None)
        if type(count) is int and count > 0:
            yield name, count


def _cache_bytes(model: Any, width: int) -> int | None:
    """Bytes of KV cache per token; None if layers keep anything but keys and values of every head."""
    heads = getattr(model, "num_attention_heads", None)
    values = (
        getattr(model, "num_hidden_layers", None),
        getattr(model, "num_key_value_heads", None) or heads,
        getattr(model, "head_dim", None) or (getattr(model, "hidden_size", 0) // heads if heads else None),
    )
    differs = any(getattr(model, name, None) for name in ("kv_lora_rank", "num_kv_shared_layers", "global_head_dim"))
    if differs or not all(type(value) is int and value > 0 for value in values):
        return None
    layers, heads, size = values
    return 2 * layers * heads * size * width


def _check_thinking(value: str | dict[str, str]) -> None:
    expected = "auto, keep, or {open: TAG, close: TAG} with two different tags"
    if isinstance(value, str):
        require(value in ("auto", "keep"), "rollout.thinking", expected, value)
        return
    is_pair = set(value) == {"open", "close"} and all(tag.strip() for tag in value.values())
    require(is_pair and value["open"] != value["close"], "rollout.thinking", expected, value)


@dataclass(frozen=True)
class RunConfig:
    name: str = "run"
    """Name of the run; its folder is `run.dir`/`run.name`."""
    dir: str = "runs"
    """Folder that holds the run folders."""
    seed: int = 1
    """Seeds rollouts, batch order and the bootstrap."""
    iterations: int = 2
    """Rounds of answer, annotate, pair, train (on-policy)."""
    max_failed: float = 0.05
    """Share of the last 100 questions: with more of them failed, the run stops (fewer than 20 tolerate one)."""

    def __post_init__(self) -> None:
        is_folder = bool(self.name.strip()) and "/" not in self.name and self.name not in (".", "..")
        require(is_folder, "run.name", "a folder name", self.name)
        require(len(self.name.encode("utf-8", "replace")) <= 200, "run.name", "at most 200 bytes", self.name)
        require(bool(self.dir.strip()), "run.dir", "a folder", self.dir)
        require(self.iterations >= 1, "run.iterations", "at least 1", self.iterations)
        require(0 <= self.max_failed <= 1, "run.max_failed", "0 to 1", self.max_failed)
        require(0 <= self.seed < 2**31, "run.seed", "0 to 2^31-1", self.seed)


@dataclass(frozen=True)
class ModelConfig:
    model_name_or_path: str = ""
    """Policy to align: a Hugging Face folder with safetensors, a tokenizer and a chat template."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you ask for it."""
    gradient_checkpointing_enable: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    chat_template: str | None = None
    """Jinja file of a chat template that replaces the model's own; published policies include it."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Arguments of the chat template: {name: value}, as in {enable_thinking: false}."""

    def __post_init__(self) -> None:
        path, template = self.model_name_or_path, self.chat_template
        require(bool(path.strip()), "model.model_name_or_path", "the folder of a model", path)
        require(template is None or bool(template.strip()), "model.chat_template", "a file", template)


@dataclass(frozen=True)
class DataConfig:
    train: str = "builtin:countries"
    """Questions to learn from: `builtin:countries`, `builtin:elements`, or a JSON Lines file."""
    eval: str | None = None
    """Held-out questions; none: `data.num_eval_topics` topics are split off `data.train`."""
    split_seed: int = 1
    """Draws the topics that are split off; apart from `run.seed`, so that repeated runs share them."""
    num_eval_topics: int = 40
    """Topics split off for evaluation (ignored when `data.eval` is given); a topic is never on both sides."""
    transfer: str | None = None
    """Questions of another domain, evaluated only, never trained on."""
    num_transfer_topics: int | None = None
    """Use at most this many topics of `data.transfer`; none: all."""
    max_questions: int | None = None
    """Learn from at most this many questions per iteration; none: all."""
    max_dropped: float = 0.05
    """Tolerated share of unusable records in a file: they are dropped and counted; above it the command stops (fewer
    than 20 records count as 20). 0: it stops at the first one."""

    def __post_init__(self) -> None:
        require(0 <= self.max_dropped <= 1, "data.max_dropped", "0 to 1", self.max_dropped)
        require(self.num_eval_topics >= 1, "data.num_eval_topics", "at least 1", self.num_eval_topics)
        for name in ("max_questions", "num_transfer_topics"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"data.{name}", "at least 1", value)
        topics = self.num_transfer_topics
        is_used = topics is None or self.transfer is not None
        require(is_used, "data.num_transfer_topics", "none without data.transfer", topics)
        for name in ("train", "eval", "transfer"):
            value = getattr(self, name)
            require(value is None or bool(value.strip()), f"data.{name}", "a questions file", value)


@dataclass(frozen=True)
class RolloutConfig:
    num_engines: int = 1
    """vLLM engines, one Ray actor each."""
    n_samples_per_prompt: int = 32
    """K: answers sampled per question (Mask-DPO appendix A: 32)."""
    temperature: float = 0.8
    """Sampling temperature (Mask-DPO appendix A: 0.8)."""
    top_k: int = 40
    """Sample among the k most probable tokens (Mask-DPO appendix A: 40)."""
    top_p: float = 1.0
    """Sample among the most probable tokens that hold this much probability."""
    max_new_tokens: int = 1024
    """Longest answer, tokens."""
    max_in_flight: int | None = None
    """Questions handed to all engines together and not yet answered, which bounds the driver's memory; none: as many
    as fill `vllm.max_num_seqs` of every engine and a quarter more, at least 64."""
    ahead: Literal[0, 1] = 0
    """1: the next iteration's questions are answered while the policy that answers them is trained, so that engines
    and ranks work at the same time; from the second iteration on, pairs then come from the policy before the newest.
    0, as in Mask-DPO: on-policy."""
    thinking: str | dict[str, str] = "auto"
    """Tags of thinking blocks in answers, which have no sentences, weight 0 and are not judged: {open: TAG, close:
    TAG}; `auto`: tags in the model's files, and <think> and other known ones; `keep`: blocks are part of the answer.
    """

    def __post_init__(self) -> None:
        _check_thinking(self.thinking)
        for name in ("num_engines", "max_new_tokens"):
            require(getattr(self, name) >= 1, f"rollout.{name}", "at least 1", getattr(self, name))
        require_some(self.max_in_flight, "rollout.max_in_flight")
        require(
            self.n_samples_per_prompt >= 2,
            "rollout.n_samples_per_prompt",
            "at least 2 (a pair needs two answers)",
            self.n_samples_per_prompt,
        )
        require(
            self.temperature > 0,
            "rollout.temperature",
            "above 0 (answers to one question must differ)",
            self.temperature,
        )
        require(self.top_k >= 1 or self.top_k == -1, "rollout.top_k", "at least 1 or -1 (all)", self.top_k)
        require(0 < self.top_p <= 1, "rollout.top_p", "above 0, at most 1", self.top_p)


@dataclass(frozen=True)
class VllmConfig:
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of weights and activations; auto: as in training (ds.param_dtype). In bfloat16 an answer depends a little on the
    requests that are decoded beside it, in float32 hardly ever."""
    tensor_parallel_size: int = 1
    """GPUs per engine."""
    gpu_memory_utilization: float = 0.9
    """Share of a GPU's memory that an engine takes (GPU only)."""
    cpu_kv_cache_gib: int = 2
    """KV cache per engine, GiB (CPU only)."""
    max_model_len: int | None = None
    """Prompt and answer together, tokens; none: the model's own limit."""
    enforce_eager: bool = False
    """Don't compile: starts faster; on CPU compiling gains little."""
    enable_prefix_caching: bool = True
    """Compute a shared prompt once."""
    max_num_seqs: int = 256
    """Sequences that an engine decodes together."""

    def __post_init__(self) -> None:
        for name in ("tensor_parallel_size", "cpu_kv_cache_gib", "max_num_seqs"):
            require(getattr(self, name) >= 1, f"vllm.{name}", "at least 1", getattr(self, name))
        share, length = self.gpu_memory_utilization, self.max_model_len
        require(0 < share <= 1, "vllm.gpu_memory_utilization", "above 0, at most 1", share)
        require(length is None or length >= 2, "vllm.max_model_len", "at least 2", length)


@dataclass(frozen=True)
class MaskConfig:
    policy: str | dict[str, dict[str, float]] = "mask_dpo"
    """`mask_dpo`, `vanilla` (all ones: plain DPO), or {chosen: {label: weight}, rejected: {...}}."""
    eos: Literal["last_sentence", "keep", "drop", "chosen"] = "last_sentence"
    """Weight of the end-of-sequence token: its last sentence's, 1, 0, or 1 in chosen and 0 in rejected answers."""

    def __post_init__(self) -> None:
        if isinstance(self.policy, str):
            known = self.policy in ("mask_dpo", "vanilla")
            require(known, "mask.policy", "mask_dpo, vanilla or {side: {label: weight}}", self.policy)
            return
        for side in ("chosen", "rejected"):
            require(side in self.policy, "mask.policy", "the sides chosen and rejected", sorted(self.policy))
        for side, weights in self.policy.items():
            require(side in ("chosen", "rejected"), "mask.policy", "the sides chosen and rejected", side)
            for label, weight in weights.items():
                require(label in LABELS, f"mask.policy.{side}", f"one of {', '.join(LABELS)}", label)
                require(0 <= weight <= 1, f"mask.policy.{side}.{label}", "0 to 1", weight)
            has_eos = self.eos == "keep" or (self.eos == "chosen" and side == "chosen")
            expected = f"a weight above 0 when mask.eos is {self.eos} (nothing could be learned)"
            require(has_eos or any(weights.values()), f"mask.policy.{side}", expected, weights)


@dataclass(frozen=True)
class LoggerConfig:
    wandb_mode: Literal["disabled", "offline", "online"] = "disabled"
    """Weights & Biases: off, on disk only, or sent (key from WANDB_API_KEY, never from the config)."""
    wandb_project: str = "maskdpo_ray"
    """W&B project."""
    wandb_group: str | None = None
    """W&B group; none: no group."""


@dataclass(frozen=True)
class ClusterConfig:
    address: str | None = None
    """Ray cluster to join: `auto`, or host:port as `ray start` prints it; `local`: start one here; none: RAY_ADDRESS if
    set, else `local`."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where engines and ranks run."""
    cpus_per_engine: float = 1
    """Ray CPUs that a rollout engine reserves."""
    cpus_per_rank: float = 1
    """Ray CPUs that a training rank reserves."""
    cpus_per_annotator: float = 0
    """Ray CPUs that an annotation actor reserves; rules need next to none."""
    gpus_per_annotator: float = 0
    """Ray GPUs that an annotation actor reserves."""
    cpus_per_evaluator: float = 0
    """Ray CPUs that an evaluation actor reserves; rules need next to none."""
    gpus_per_evaluator: float = 0
    """Ray GPUs that an evaluation actor reserves; with any, `eval.perplexity_model` runs there."""
    threads: int | None = None
    """Threads of an engine or rank on CPU, which take turns. None: a node's engines share its cores, its ranks too."""
    start_timeout_s: float = 600
    """Longest that each step of starting may take (engines, annotators, ranks, their joining), seconds."""
    step_timeout_s: float = 1800
    """Longest that an actor may take for the oldest of its calls, seconds; then it is replaced, or a training rank ends
    the run."""

    def __post_init__(self) -> None:
        for name in ("start_timeout_s", "step_timeout_s"):  # below a second nothing would ever be in time
            require(1 <= getattr(self, name) <= 10**7, f"cluster.{name}", "1 to 1e7", getattr(self, name))
        for name, value in vars(self).items():
            if name.startswith(("cpus_per_", "gpus_per_")):
                require(value >= 0, f"cluster.{name}", "at least 0", value)
        require(self.threads is None or 1 <= self.threads <= 1024, "cluster.threads", "1 to 1024", self.threads)


@dataclass(frozen=True)
class Config:
    """A whole run. Sections are the dotted prefixes of the options."""

    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    vllm: VllmConfig = field(default_factory=VllmConfig)
    annotation: AnnotationConfig = field(default_factory=AnnotationConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    adam: AdamConfig = field(default_factory=AdamConfig)
    ds: DeepspeedConfig = field(default_factory=DeepspeedConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    savings: SavingsConfig = field(default_factory=SavingsConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        if self.cluster.device == "cuda":
            require(
                self.ds.param_dtype == "bf16", "ds.param_dtype", "bf16 when cluster.device is cuda", self.ds.param_dtype
            )
        else:
            require(
                not self.ds.adam_offload,
                "ds.adam_offload",
                "false when cluster.device is cpu (nothing to offload to)",
                self.ds.adam_offload,
            )
            require(
                self.vllm.tensor_parallel_size == 1,
                "vllm.tensor_parallel_size",
                "1 when cluster.device is cpu",
                self.vllm.tensor_parallel_size,
            )
        check_limits(self)
        context, answer = self.vllm.max_model_len, self.rollout.max_new_tokens
        require(
            context is None or answer < context,
            "rollout.max_new_tokens",
            f"less than vllm.max_model_len ({context}), which also holds the prompt",
            answer,
        )

    def in_flight(self, num_samples: int) -> int:
        """`rollout.max_in_flight`, or what it means to give none, of questions with `num_samples` answers each."""
        if self.rollout.max_in_flight is not None:
            return self.rollout.max_in_flight
        full = self.rollout.num_engines * self.vllm.max_num_seqs / num_samples
        return max(64, math.ceil(1.25 * full))

    @property
    def engine_dtype(self) -> str:
        """Of the engines' weights and activations: `vllm.dtype`, or training's where that is auto."""
        if self.vllm.dtype == "auto":
            return {"bf16": "bfloat16", "fp32": "float32"}[self.ds.param_dtype]
        return self.vllm.dtype
