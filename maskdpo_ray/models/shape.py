"""Shape of a model, counted on the model itself: transformers builds it from its config, without weights.

Which weights are tied, what a missing field means and how many norms a layer has differs from model to model, and
only transformers knows it.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskdpo_ray.config.schema import LoraConfig
from maskdpo_ray.errors import ConfigError, ModelError, one_line, shown
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.models import lora_targets
from maskdpo_ray.terminal import quiet
from maskdpo_ray.training import ways

_COUNTS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings")
_FIELDS = (
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings", "max_position_embeddings",
)  # fmt: skip
SIZES = {
    "135m": ("llama", 576, 1536, 30, 9, 3, 64, 49152, True, 8192),
    "360m": ("llama", 960, 2560, 32, 15, 5, 64, 49152, True, 8192),
    "1.7b": ("llama", 2048, 8192, 24, 32, 32, 64, 49152, True, 8192),
    "1b": ("llama", 2048, 8192, 16, 32, 8, 64, 128256, True, 131072),
    "3b": ("llama", 3072, 8192, 28, 24, 8, 128, 128256, True, 131072),
    "8b": ("llama", 4096, 14336, 32, 32, 8, 128, 128256, False, 131072),
    "70b": ("llama", 8192, 28672, 80, 64, 8, 128, 128256, False, 131072),
    "0.5b": ("qwen2", 896, 4864, 24, 14, 2, 64, 151936, True, 32768),
    "1.5b": ("qwen2", 1536, 8960, 28, 12, 2, 128, 151936, True, 32768),
    "7b": ("qwen2", 3584, 18944, 28, 28, 4, 128, 152064, False, 32768),
    "14b": ("qwen2", 5120, 13824, 48, 40, 8, 128, 152064, False, 32768),
    "32b": ("qwen2", 5120, 27648, 64, 40, 8, 128, 152064, False, 32768),
    "72b": ("qwen2", 8192, 29568, 80, 64, 8, 128, 152064, False, 32768),
    "internlm2-7b": ("llama", 4096, 14336, 32, 32, 8, 128, 92544, False, 32768),
    "qwen2.5-3b": ("qwen2", 2048, 11008, 36, 16, 2, 128, 151936, True, 32768),
    "qwen3-0.6b": ("qwen3", 1024, 3072, 28, 16, 8, 128, 151936, True, 40960),
    "qwen3-1.7b": ("qwen3", 2048, 6144, 28, 16, 8, 128, 151936, True, 40960),
    "qwen3-4b": ("qwen3", 2560, 9728, 36, 32, 8, 128, 151936, True, 40960),
    "qwen3-8b": ("qwen3", 4096, 12288, 36, 32, 8, 128, 151936, False, 40960),
    "qwen3-14b": ("qwen3", 5120, 17408, 40, 40, 8, 128, 151936, False, 40960),
    "qwen3-32b": ("qwen3", 5120, 25600, 64, 64, 8, 128, 151936, False, 40960),
    "mistral-7b": ("llama", 4096, 14336, 32, 32, 8, 128, 32768, False, 32768),
    "mistral-small-24b": ("llama", 5120, 32768, 40, 32, 8, 128, 131072, False, 32768),
}
"""Published models, `_FIELDS` of each: SmolLM2 (135m, 360m, 1.7b), Llama 3.1 (8b, 70b) and 3.2 (1b, 3b), Qwen2.5 (0.5b
to 72b), InternLM2 (ANAH-v2's annotator), which transformers does not know, Qwen3, and Mistral 7B v0.3 and Small 3. The
layers of InternLM2 and Mistral have the sizes of Llama's."""
_SERIES = {
    "smollm2": ("135m", "360m", "1.7b"),
    "llama-3.1": ("8b", "70b"),
    "llama-3.2": ("1b", "3b"),
    "llama-3.3": ("70b",),
    "qwen2.5": ("0.5b", "1.5b", "7b", "14b", "32b", "72b"),
}
"""Names before a size in `SIZES`, and the sizes that a series has there."""
_BEHIND = re.compile(r"(-(instruct|chat|base|it|hf|v0\.3|\d{4}))+$")
_TOKENS = 8
_ATTENTION = "maskdpo_counted"
_EXPECTED = "expected a decoder that transformers builds (--model_size and --annotator_size take published ones)"
_UNKNOWN = "no estimate for recurrent and linear layers or a model's own attention, got"
_WITHOUT = "a run does without: --dry_run checks the rest, engines and ranks say at the start what memory they lack"


@dataclass(frozen=True)
class ModelShape:
    """A decoder with transformers' attention interface."""

    name: str
    weights: tuple[int, ...]
    """Elements of each, in the order of the model; tied ones once."""
    linear_layers: Mapping[str, tuple[int, int]]
    """{dotted path: (inputs, outputs)}."""
    head: str | None
    """Path of the LM head."""
    hidden_size: int
    num_layers: int
    num_heads: int
    vocab_size: int
    context: int
    """Longest sequence, tokens."""
    caches: tuple[tuple[int, int], ...]
    """(heads, elements of one head's key and value together) of each attention."""
    kept_per_token: Callable[[int, bool], int] = field(compare=False, repr=False)
    """(bytes of a weight, `savings.lean_layers`) -> bytes that autograd keeps of one token, of all but the LM head."""
    config: Any = field(default=None, compare=False, repr=False)
    """The model's config, as transformers reads it."""

    @property
    def parameters(self) -> int:
        return sum(self.weights)

    @property
    def has_experts(self) -> bool:
        """Whether it is a mixture of experts."""
        return self.config is not None and _has_experts(self.config)

    def adapters(self, lora: LoraConfig) -> list[int]:
        """Elements of LoRA's tensors: two for each linear layer that gets adapters; none at rank 0."""
        return [
            lora.rank * size
            for path, sizes in self.linear_layers.items()
            if lora.rank and lora.adapts(path) and (lora.modules is not None or path != self.head)
            for size in sizes
        ]


@functools.cache
def of_size(name: str, option: str) -> ModelShape:
    """A published model. Raises ConfigError about the option."""
    from transformers import AutoConfig

    size = published(name)
    if size is None:
        raise ConfigError(f"{option}: expected one of {', '.join(SIZES)}, got {shown(name)}")
    fields: dict[str, Any] = dict(zip(_FIELDS, SIZES[size], strict=True))
    return _counted(size, AutoConfig.for_model(**fields))


def published(name: str) -> str | None:
    """The key in `SIZES` of a model that is named as published, with or without its owner or a folder before it.

    `Qwen/Qwen3-8B`, `models/Llama-3.1-8B-Instruct`, `8b`; None for any other.
    """
    last = name.lower().rstrip("/").rpartition("/")[2].partition("@")[0].removeprefix("meta-")
    last = _BEHIND.sub("", last)
    series, _, size = last.rpartition("-")
    return last if last in SIZES else size if size in _SERIES.get(series, ()) else None


def of_folder(folder: Path, trust_remote_code: bool = False) -> ModelShape:
    """The model that config.json in `folder` describes; nothing else is read there.

    Raises ModelError (one line).
    """
    file = folder / "config.json"
    config = _read(file, trust_remote_code)
    try:
        shape = _counted(folder.name, config, trust_remote_code)
    except Exception as error:  # fields that contradict each other make transformers raise errors of all kinds
        raise ModelError(f"{file}: {_EXPECTED}, got: {type(error).__name__}: {one_line(error)}") from error
    if len(shape.caches) < shape.num_layers:
        kind = type(_built(config, trust_remote_code)).__name__
        attending = f"{len(shape.caches)} of {shape.num_layers} layers use transformers' attention interface"
        raise ModelError(f"{file}: {_UNKNOWN} {kind}: {attending}; {_WITHOUT}")
    return shape


def _read(file: Path, trust_remote_code: bool) -> Any:
    """The config, as transformers reads it. Raises ModelError, for a model whose size it doesn't tell as well."""
    from transformers import AutoConfig

    try:
        described = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file}: expected the config of a model, got: {one_line(error)}") from None
    if not isinstance(described, dict):
        raise ModelError(f"{file}: expected an object, got {type(described).__name__}")
    model_folder.check_plain(file.parent, described)
    try:
        config = AutoConfig.from_pretrained(file.parent, trust_remote_code=trust_remote_code)
    except Exception as error:  # as in `of_folder`
        raise ModelError(f"{file}: {_EXPECTED}, got: {one_line(error)}") from error
    for name in ("quantization_config", "is_encoder_decoder"):
        if value := getattr(config, name, None):
            raise ModelError(f"{file}: {name}: expected a decoder with plain weights, got {shown(value)}")
    for name in _COUNTS:
        value = getattr(config, name, None)
        if value is None:
            raise ModelError(f"{file}: {_UNKNOWN} {shown(config.model_type)}, which has no {name}; {_WITHOUT}")
        if type(value) is not int or value < 1:
            raise ModelError(f"{file}: {name}: expected a whole number above 0, got {shown(value)}")
    return config


@quiet()
def _counted(name: str, config: Any, trust_remote_code: bool = False) -> ModelShape:
    model = _built(config, trust_remote_code)
    linears, head = lora_targets.linear_layers(model), model.get_output_embeddings()
    hidden_size, layers, heads, vocab_size, context = (getattr(config, each) for each in _COUNTS)
    return ModelShape(
        name=name,
        weights=tuple(parameter.numel() for parameter in model.parameters()),
        linear_layers={path: lora_targets.sizes(layer) for path, layer in linears.items()},
        head=next((path for path, module in linears.items() if module is head), None),
        hidden_size=hidden_size,
        num_layers=layers,
        num_heads=heads,
        vocab_size=vocab_size,
        context=context,
        caches=tuple(_forward(model, _TOKENS)[1]),
        kept_per_token=functools.cache(functools.partial(_kept_per_token, config, trust_remote_code)),
        config=config,
    )


@quiet()
def _built(config: Any, trust_remote_code: bool, width: int = 2) -> Any:
    """The model on the meta device, its weights of `width` bytes."""
    import torch
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config)
    for each in ways.ropes(config):
        each["rope_type"] = "default"  # others ask for the longest position, and there are no values
    dtype = torch.float32 if width == 4 else torch.bfloat16
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)


def _has_experts(config: Any) -> bool:
    return any("experts" in name and bool(value) for name, value in config.to_dict().items())


@quiet()
def _kept_per_token(config: Any, trust_remote_code: bool, width: int, is_lean: bool) -> int:
    if width == 4 and _has_experts(config):  # their grouped products take bf16 alone on the meta device
        return 2 * _kept_per_token(config, trust_remote_code, 2, is_lean)
    model = _built(config, trust_remote_code, width)
    if is_lean:
        from maskdpo_ray.training import lean_layers

        lean_layers.install(model)
    fewer, more = (_forward(model, tokens)[0] for tokens in (_TOKENS, 2 * _TOKENS))
    return (more - fewer) // _TOKENS


def _forward(model: Any, tokens: int) -> tuple[int, list[tuple[int, int]]]:
    """(bytes that autograd keeps of a pass without the LM head, `ModelShape.caches`)."""
    import torch
    from transformers import AttentionInterface

    caches: list[tuple[int, int]] = []

    def attend(_: Any, query: Any, key: Any, value: Any, *__: Any, **___: Any) -> Any:
        """[1, H, N, D], [1, K, N, D], [1, K, N, E] -> [1, N, H, E]; keeps the three, as all ways of attention do."""
        caches.append((key.shape[1], key.shape[3] + value.shape[3]))
        kept = sum((each * each).sum() for each in (query, key, value))  # autograd keeps the operands of a product
        return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3]) + kept, None

    AttentionInterface.register(_ATTENTION, attend)
    model.set_attn_implementation(_ATTENTION)
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.base_model(input_ids=ids, position_ids=ids, use_cache=False)
    del output  # until here it held what is kept: no two storages had one address
    return sum(kept.values()), caches
