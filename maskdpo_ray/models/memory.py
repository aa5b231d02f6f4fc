"""What a training rank holds in memory at its fullest moments, summed from a model's shape and a config.

The sums follow DeepSpeed 0.19.6 (`runtime/zero/stage_1_and_2.py`, `stage3.py`) with OpenRLHF's config, which leaves
bucket sizes at DeepSpeed's defaults on GPUs (`actors/strategy.py` lowers them on CPUs), and transformers' models with
the attention of `tree_attention.py` and, unless `savings.lean_layers` is off, the layers of `lean_layers.py`.
tests/e2e/test_sized.py compares them with the tensors of a real rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from maskdpo_ray.config.schema import Config
from maskdpo_ray.model_shape import ModelShape

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
