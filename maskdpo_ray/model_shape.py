"""The shape of a decoder, and what follows from it: its parameters, and what training keeps of a token.

`counted_shape.py` counts both on a model in a folder; here are published ones by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from maskdpo_ray.errors import ConfigError, shown
from maskdpo_ray.training_config import LoraConfig

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
