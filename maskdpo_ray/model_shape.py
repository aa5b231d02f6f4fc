"""The shape of a decoder: what its config.json says of its size, and the parameters that follow from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskdpo_ray.errors import ConfigError, ModelError, shown
from maskdpo_ray.training_config import LoraConfig


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
    attention_bias: bool = False
    """Of queries, keys and values."""
    output_bias: bool = False
    """Of attention's output."""
    mlp_bias: bool = False
    head_norms: bool = False
    """Norms of the queries and keys of a head."""
    context: int | None = None
    """Longest sequence, tokens, where it is known."""

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
        biased = {
            "self_attn.q_proj": self.attention_bias,
            "self_attn.k_proj": self.attention_bias,
            "self_attn.v_proj": self.attention_bias,
            "self_attn.o_proj": self.output_bias,
        }
        layer: list[int] = []
        for name, (inputs, outputs) in self.linears().items():
            layer += [inputs * outputs] + [outputs] * biased.get(name, self.mlp_bias)
        layer += [self.head_dim] * 2 * self.head_norms + [self.hidden_size] * 2
        embedding = self.vocab_size * self.hidden_size
        return [embedding, *layer * self.num_layers, self.hidden_size, *[embedding] * (not self.is_tied)]

    def adapters(self, lora: LoraConfig) -> list[int]:
        """Elements of LoRA's tensors: two for each linear layer that gets adapters."""
        layers = range(self.num_layers)
        linears = {f"model.layers.{n}.{name}": sizes for n in layers for name, sizes in self.linears().items()}
        if lora.modules is not None:  # `all-linear` leaves out the LM head
            linears["lm_head"] = (self.hidden_size, self.vocab_size)
        return [lora.rank * size for path, sizes in linears.items() if lora.adapts(path) for size in sizes]


def _llama(name: str, hidden: int, inner: int, layers: int, heads: int, is_tied: bool) -> ModelShape:
    head_dim = 64 if name == "1b" else 128
    return ModelShape(name, hidden, inner, layers, heads, 8, head_dim, 128256, is_tied, context=131072)


def _qwen(
    name: str, hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int = 152064
) -> ModelShape:
    is_tied = vocab == 151936  # the small ones
    shape = (hidden, inner, layers, heads, kv_heads, hidden // heads, vocab, is_tied)
    return ModelShape(name, *shape, attention_bias=True, context=32768)


def _smollm(name: str, hidden: int, inner: int, layers: int, heads: int, kv_heads: int) -> ModelShape:
    return ModelShape(name, hidden, inner, layers, heads, kv_heads, 64, 49152, is_tied=True, context=8192)


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
        ModelShape("internlm2-7b", 4096, 14336, 32, 32, 8, 128, 92544, is_tied=False, context=32768),
    )
}
"""Published models by what they are called: SmolLM2 (135m, 360m, 1.7b), Llama 3.1 (8b, 70b) and 3.2 (1b, 3b),
Qwen2.5 (0.5b, 1.5b, 7b, 14b, 32b, 72b), and InternLM2 (ANAH-v2's annotator)."""


def of_size(name: str, option: str) -> ModelShape:
    """A known size. Raises ConfigError about the option."""
    if name.lower() not in SIZES:
        raise ConfigError(f"{option}: expected one of {', '.join(SIZES)}, got {shown(name)}")
    return SIZES[name.lower()]


def of_folder(folder: Path) -> ModelShape:
    """What config.json in `folder` says, as Llama, Mistral and Qwen write it. Raises ModelError (one line)."""
    file = folder / "config.json"
    try:
        described = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file}: expected the config of a model, got: {error}") from None
    if not isinstance(described, dict):
        raise ModelError(f"{file}: expected an object, got {type(described).__name__}")
    if experts := sorted(name for name in described if "experts" in name and described[name]):
        raise ModelError(f"{file}: {experts[0]}: expected a dense decoder (its size can't be told from this file)")
    hidden, heads = (_count(file, described, name) for name in ("hidden_size", "num_attention_heads"))
    kind = described.get("model_type")
    bias = bool(described.get("attention_bias", kind == "qwen2"))
    return ModelShape(
        name=folder.name,
        hidden_size=hidden,
        intermediate_size=_count(file, described, "intermediate_size"),
        num_layers=_count(file, described, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=_count(file, described, "num_key_value_heads", heads),
        head_dim=_count(file, described, "head_dim", max(1, hidden // heads)),
        vocab_size=_count(file, described, "vocab_size"),
        is_tied=bool(described.get("tie_word_embeddings", False)),
        attention_bias=bias,
        output_bias=bias and kind != "qwen2",
        mlp_bias=bool(described.get("mlp_bias", False)),
        head_norms=kind == "qwen3",
        context=_count(file, described, "max_position_embeddings"),
    )


def _count(file: Path, described: dict[str, Any], name: str, default: int | None = None) -> int:
    value = described.get(name)
    if value is None:
        value = default
    if type(value) is not int or value < 1:
        raise ModelError(f"{file}: {name}: expected a whole number above 0, got {shown(value)}")
    return value
