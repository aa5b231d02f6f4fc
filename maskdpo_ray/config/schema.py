"""The config: every option, its one default and its meaning. `config_file.py` and `cli.py` read it.

Names follow OpenRLHF's dotted ones where the thing is the same (`adam.lr`, `train.batch_size`,
`ds.zero_stage`, `rollout.n_samples_per_prompt`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from maskdpo_ray import engine_limits
from maskdpo_ray.judging_config import AnnotationConfig, EvalConfig, PairsConfig
from maskdpo_ray.records import LABELS
from maskdpo_ray.requirement import require, require_some
from maskdpo_ray.training_config import AdamConfig, DeepspeedConfig, LoraConfig, SavingsConfig, TrainConfig


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
        engine_limits.check(self)
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
