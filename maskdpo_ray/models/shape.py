"""The shape of a decoder, and what follows from it: its parameters, and what training keeps of a token.

`counted_shape.py` counts both on a model in a folder; here are published ones by name.

The shape of a model in a folder, counted on the model itself: transformers builds it from config.json, no weights.

Which weights are tied, what a missing field means and how many norms a layer has differs from model to model, and
only transformers knows it.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from maskdpo_ray.config.schema import LoraConfig
from maskdpo_ray.errors import ConfigError, ModelError, one_line, shown
from maskdpo_ray.models import folder as plain_model
from maskdpo_ray.models import lora_targets
from maskdpo_ray.terminal import quiet
from maskdpo_ray.training import lean_layers, tree_attention

_FP32 = 4


@dataclass(frozen=True)
class ModelShape:
    """A Llama-like decoder: attention with grouped keys, a gated MLP, a norm before each, and one at the end."""

    name: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    is_tied: bool
    """Whether the LM head is the embedding."""
    context: int
    """Longest sequence, tokens."""
    attention_bias: bool = False
    """Of queries, keys and values."""
    takes_lean_layers: bool = True
    """Whether `lean_layers.py` knows its norms and MLPs."""
    has_plain_cache: bool = True
    """Whether every layer caches keys and values of `num_kv_heads` x `head_dim`; else that is a bound."""
    described: Any = field(default=None, compare=False, repr=False)
    """What transformers reads in its config.json; none of a published one, which attends to all tokens before."""

    @property
    def query_size(self) -> int:
        """Width of all heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of the keys, and of the values."""
        return self.num_kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        return sum(self.tensors())

    def linears(self) -> dict[str, tuple[int, int]]:
        """{path: (inputs, outputs)} within one layer, the names as in Llama, Mistral and Qwen."""
        hidden, inner = self.hidden_size, self.intermediate_size
        return {
            "self_attn.q_proj": (hidden, self.query_size),
            "self_attn.k_proj": (hidden, self.kv_size),
            "self_attn.v_proj": (hidden, self.kv_size),
            "self_attn.o_proj": (self.query_size, hidden),
            "mlp.gate_proj": (hidden, inner),
            "mlp.up_proj": (hidden, inner),
            "mlp.down_proj": (inner, hidden),
        }

    def tensors(self) -> list[int]:
        """Elements of every weight, in the order of the model."""
        biased = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj") if self.attention_bias else ()
        layer: list[int] = []
        for name, (inputs, outputs) in self.linears().items():
            layer += [inputs * outputs] + [outputs] * (name in biased)
        layer += [self.hidden_size] * 2
        embedding = self.vocab_size * self.hidden_size
        return [embedding, *layer * self.num_layers, self.hidden_size, *[embedding] * (not self.is_tied)]

    def adapters(self, lora: LoraConfig) -> list[int]:
        """Elements of LoRA's tensors: two for each linear layer that gets adapters."""
        layers = range(self.num_layers)
        linears = {f"model.layers.{n}.{name}": sizes for n in layers for name, sizes in self.linears().items()}
        if lora.modules is not None:  # `all-linear` leaves out the LM head
            linears["lm_head"] = (self.hidden_size, self.vocab_size)
        return [lora.rank * size for path, sizes in linears.items() if lora.adapts(path) for size in sizes]

    def kept_per_token(self, width: int, is_lean: bool) -> float:
        """Bytes that autograd keeps of one token in all layers: inputs of each product, and what norms and SiLU need.

        Args:
            width: bytes of a weight.
            is_lean: whether norms and SiLU are computed again where that is possible (`savings.lean_layers`).
        """
        is_lean = is_lean and self.takes_lean_layers
        in_fp32 = 0 if is_lean else 2 * _FP32  # RMSNorm computes in it
        hidden = (in_fp32 + 4 * width) * self.hidden_size
        attention = 2 * width * (self.query_size + self.kv_size)  # queries, keys, values and what they give
        gated = (2 if is_lean else 4) * width * self.intermediate_size
        return self.num_layers * (hidden + attention + gated + 2 * _FP32)


def _llama(name: str, hidden: int, inner: int, layers: int, heads: int, is_tied: bool) -> ModelShape:
    head_dim = 64 if name == "1b" else 128
    return ModelShape(name, hidden, inner, layers, heads, 8, head_dim, 128256, is_tied, 131072)


def _qwen(
    name: str, hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int = 152064
) -> ModelShape:
    is_tied = vocab == 151936  # the small ones
    shape = (hidden, inner, layers, heads, kv_heads, hidden // heads, vocab, is_tied, 32768)
    return ModelShape(name, *shape, attention_bias=True)


def _smollm(name: str, hidden: int, inner: int, layers: int, heads: int, kv_heads: int) -> ModelShape:
    return ModelShape(name, hidden, inner, layers, heads, kv_heads, 64, 49152, True, 8192)


SIZES = {
    shape.name: shape
    for shape in (
        _smollm("135m", 576, 1536, 30, 9, 3),
        _smollm("360m", 960, 2560, 32, 15, 5),
        _smollm("1.7b", 2048, 8192, 24, 32, 32),
        _llama("1b", 2048, 8192, 16, 32, is_tied=True),
        _llama("3b", 3072, 8192, 28, 24, is_tied=True),
        _llama("8b", 4096, 14336, 32, 32, is_tied=False),
        _llama("70b", 8192, 28672, 80, 64, is_tied=False),
        _qwen("0.5b", 896, 4864, 24, 14, 2, 151936),
        _qwen("1.5b", 1536, 8960, 28, 12, 2, 151936),
        _qwen("7b", 3584, 18944, 28, 28, 4),
        _qwen("14b", 5120, 13824, 48, 40, 8),
        _qwen("32b", 5120, 27648, 64, 40, 8),
        _qwen("72b", 8192, 29568, 80, 64, 8),
        ModelShape("internlm2-7b", 4096, 14336, 32, 32, 8, 128, 92544, False, 32768, takes_lean_layers=False),
    )
}
"""Published models by what they are called: SmolLM2 (135m, 360m, 1.7b), Llama 3.1 (8b, 70b) and 3.2 (1b, 3b),
Qwen2.5 (0.5b, 1.5b, 7b, 14b, 32b, 72b), and InternLM2 (ANAH-v2's annotator)."""


def of_size(name: str, option: str) -> ModelShape:
    """A known size. Raises ConfigError about the option."""
    if name.lower() not in SIZES:
        raise ConfigError(f"{option}: expected one of {', '.join(SIZES)}, got {shown(name)}")
    return SIZES[name.lower()]


_TOKENS = 8
_ATTENTION = "maskdpo_counted"
_EXPECTED = "expected a decoder that transformers builds (--model_size and --annotator_size take published ones)"


@dataclass(frozen=True)
class CountedShape(ModelShape):
    """Any decoder with transformers' attention interface."""

    weights: tuple[int, ...] = ()
    """Elements of each, in the order of the model."""
    linear_layers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """{path: (inputs, outputs)}."""
    head: str | None = None
    """Path of the LM head."""
    kept: Callable[[int, bool], int] = field(default=lambda width, is_lean: 0, compare=False, repr=False)
    """`kept_per_token`."""

    def tensors(self) -> list[int]:
        """Elements of every weight, in the order of the model."""
        return list(self.weights)

    def adapters(self, lora: LoraConfig) -> list[int]:
        """Elements of LoRA's tensors: two for each linear layer that gets adapters."""
        return [
            lora.rank * size
            for path, sizes in self.linear_layers.items()
            if lora.adapts(path) and (lora.modules is not None or path != self.head)
            for size in sizes
        ]

    def kept_per_token(self, width: int, is_lean: bool) -> int:
        """Bytes that autograd keeps of one token, of all but the LM head: see `ModelShape.kept_per_token`."""
        return self.kept(width, is_lean)


@quiet()
def of_folder(folder: Path, trust_remote_code: bool = False, is_trained: bool = False) -> CountedShape:
    """The model that config.json in `folder` describes; nothing else is read there.

    Args:
        is_trained: refuse a model whose attention training can't compute, as `model_folder.load` does.

    Raises ModelError (one line).
    """
    file = folder / "config.json"
    config = _config(file, trust_remote_code)
    try:
        model = _build(config, trust_remote_code)
        caches = _forward(model, _TOKENS)[1]
    except Exception as error:  # what doesn't fit together makes transformers raise errors of all kinds
        raise ModelError(f"{file}: {_EXPECTED}, got: {type(error).__name__}: {one_line(error)}") from error
    if not caches:
        kind = type(model).__name__
        raise ModelError(f"{file}: {_EXPECTED} and that has its attention interface, got {kind}, which lacks it")
    if is_trained and not trust_remote_code:
        tree_attention.check(_build(config, trust_remote_code), file)
    layers = _count(file, config, "num_hidden_layers")
    linears = lora_targets.linear_layers(model)
    head = model.get_output_embeddings()
    # vLLM keeps a latent of some models that have one, and keys and values of others.
    is_plain = len(caches) == layers and len(set(caches)) == 1 and len(set(caches[0][1:])) == 1
    return CountedShape(
        name=folder.name,
        hidden_size=_count(file, config, "hidden_size"),
        intermediate_size=_count(file, config, "intermediate_size"),
        num_layers=layers,
        num_heads=_count(file, config, "num_attention_heads"),
        num_kv_heads=max(heads for heads, *_ in caches),
        head_dim=max(max(sizes) for _, *sizes in caches),
        vocab_size=_count(file, config, "vocab_size"),
        is_tied=head is not None and head.weight is model.get_input_embeddings().weight,
        context=_count(file, config, "max_position_embeddings"),
        has_plain_cache=is_plain and not getattr(config, "kv_lora_rank", None),
        described=config,
        weights=tuple(parameter.numel() for parameter in model.parameters()),
        linear_layers={path: lora_targets.sizes(layer) for path, layer in linears.items()},
        head=next((path for path, module in linears.items() if module is head), None),
        kept=functools.cache(functools.partial(_kept_per_token, config, trust_remote_code)),
    )


def _config(file: Path, trust_remote_code: bool) -> Any:
    """As transformers reads it. Raises ModelError for models whose size it doesn't tell, too."""
    from transformers import AutoConfig

    try:
        described = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file}: expected the config of a model, got: {one_line(error)}") from None
    if not isinstance(described, dict):
        raise ModelError(f"{file}: expected an object, got {type(described).__name__}")
    plain_model.check_plain(file.parent, described)
    try:
        config = AutoConfig.from_pretrained(file.parent, trust_remote_code=trust_remote_code)
    except Exception as error:  # as in `of_folder`
        raise ModelError(f"{file}: {_EXPECTED}, got: {one_line(error)}") from error
    fields = config.to_dict()
    if experts := sorted(name for name in fields if "experts" in name and fields[name]):
        raise ModelError(f"{file}: {experts[0]}: expected a dense decoder (its size can't be told from this file)")
    for name in ("quantization_config", "is_encoder_decoder"):
        if value := getattr(config, name, None):
            raise ModelError(f"{file}: {name}: expected a decoder with plain weights, got {shown(value)}")
    return config


def _build(config: Any, trust_remote_code: bool, dtype: torch.dtype = torch.bfloat16) -> Any:
    """The model on the meta device, with an attention that computes nothing."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config)
    for each in plain_model.ropes(config):
        each["rope_type"] = "default"  # others ask for the longest position, and there are no values
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)


def _kept_per_token(config: Any, trust_remote_code: bool, width: int, is_lean: bool) -> int:
    with quiet():
        model = _build(config, trust_remote_code, torch.float32 if width == 4 else torch.bfloat16)
        if is_lean:
            lean_layers.install(model)
        fewer, more = (_forward(model, tokens)[0] for tokens in (_TOKENS, 2 * _TOKENS))
    return (more - fewer) // _TOKENS


def _forward(model: Any, tokens: int) -> tuple[int, list[tuple[int, int, int]]]:
    """(bytes that autograd keeps of a pass without the LM head, (heads, size of keys, of values) of each attention)."""
    from transformers import AttentionInterface

    caches: list[tuple[int, int, int]] = []

    def attend(_: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *__: Any, **___: Any) -> Any:
        caches.append((key.shape[1], key.shape[3], value.shape[3]))
        return _Attention.apply(query, key, value), None

    AttentionInterface.register(_ATTENTION, attend)
    model.set_attn_implementation(_ATTENTION)
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.base_model(input_ids=ids, position_ids=ids, use_cache=False)
    del output  # until here it held what is kept: no two storages had one address
    return sum(kept.values()), caches


class _Attention(torch.autograd.Function):
    """What all ways of attention keep: queries, keys and values; their outputs are kept as inputs of a product."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """[1, H, N, D], [1, K, N, D], [1, K, N, E] -> [1, N, H, E]."""
        ctx.save_for_backward(query, key, value)
        return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> None:
        raise NotImplementedError


def _count(file: Path, config: Any, name: str) -> int:
    value = getattr(config, name, None)
    if type(value) is not int or value < 1:
        raise ModelError(f"{file}: {name}: expected a whole number above 0, got {shown(value)}")
    return value
