"""Ways of a micro-batch into a model: one prefix tree, or a padded row for each response.

A tree is exact where a token's output depends on the tokens before it alone, and these are told by positions and an
attention mask. Layers that carry a state along the row, windows and positions that are counted along the row need
padded rows, which any causal model takes: padding stands behind all that counts.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass, replace
from typing import Any

from maskdpo_ray.config.schema import SavingsConfig
from maskdpo_ray.errors import one_line


@dataclass(frozen=True)
class Way:
    """How a model takes a micro-batch."""

    obstacle: str | None = None
    """Why not as a prefix tree; None: as one."""
    takes_positions: bool = True
    """Whether the model's head can be run at some positions only (`logits_to_keep`)."""
    is_eager: bool = False
    """Whether padded rows need transformers' "eager" attention."""

    def savings(self, wanted: SavingsConfig) -> SavingsConfig:
        """The savings among those `wanted` that the model allows."""
        is_tree = wanted.prefix_tree and self.obstacle is None
        return replace(wanted, prefix_tree=is_tree, head_at_targets=wanted.head_at_targets and self.takes_positions)

    def describe(self, wanted: SavingsConfig) -> str:
        """One line for the user."""
        if self.savings(wanted).prefix_tree:
            return "training: as prefix trees, in which answers share the tokens that they begin with"
        return f"training: on padded rows, one for each answer: {self.obstacle or 'savings.prefix_tree is off'}"


def of_config(config: Any, max_len: int, trust_remote_code: bool = False) -> Way:
    """The way of a model by its config and code. Builds it without weights.

    Args:
        config: as transformers reads it.
        max_len: longest sequence, tokens.

    Raises ModelError for a model that is not causal.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code)
    except Exception as error:
        if not trust_remote_code:
            raise
        # Custom code may need weights to be built; a rank, which has them, looks again.
        return Way(_by_fields(config, max_len) or f"its code can't be built without weights ({one_line(error)})")
    return of_model(model, max_len)


def of_model(model: Any, max_len: int) -> Way:
    """`of_config` of a model whose weights are on the meta device; its attention is changed."""
    from maskdpo_ray.training import tree_attention

    takes = inspect.signature(type(model).forward).parameters
    by_attention, asked = tree_attention.look(model)  # raises for a model that is not causal, whatever else it is
    name, obstacle = type(model).__name__, None
    if getattr(model, "_is_stateful", False):
        obstacle = f"{name} has recurrent layers"
    elif "position_ids" not in takes:
        obstacle = f"{name} takes no position_ids"
    windows = [each.window for each in asked]
    obstacle = obstacle or _by_fields(model.config, max_len, windows) or by_attention
    return Way(obstacle, "logits_to_keep" in takes, any(each.is_eager for each in asked))


def _by_fields(config: Any, max_len: int, windows: list[int | None] | None = None) -> str | None:
    """Fields of the config that speak against a tree of sequences of up to `max_len` tokens.

    `windows`: those that the layers ask their attention for, where this is known.
    """
    from maskdpo_ray.training.tree_attention import FULL, SLIDING, layer_types, window

    if getattr(config, "alibi", False):
        return "alibi: positions are counted along the row"
    if getattr(config, "attn_temperature_tuning", False):
        return "attn_temperature_tuning: scores depend on the place in the row"
    types, size = layer_types(config), window(config)
    if others := sorted(set(types) - {FULL, SLIDING}):
        return f"layer_types: {others[0]}"
    if size is None and SLIDING in types:
        return "layer_types: sliding_attention without a sliding_window"
    expected = [size if each == SLIDING else None for each in types]
    # A window that no sequence fills changes nothing.
    given, expected = ([w if w and w < max_len else None for w in each] for each in (windows or [], expected))
    if given != expected and any(given + expected):
        return f"sliding_window: {size}, of which the model's attention is not told"
    return None


def ropes(config: Any) -> list[dict[str, Any]]:
    """The rope parameters of a config of transformers: one for all layers, or one for each type of layers."""
    given = getattr(config, "rope_parameters", None) or {}
    return [each for each in (given, *given.values()) if isinstance(each, dict) and "rope_type" in each]


_CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length")
"""Fields of decoders by which vLLM 0.29 tells the longest sequence (`ModelArchConfigConvertorBase`)."""


def contexts(config: Any) -> dict[str, Any]:
    """Fields of a config that say how long a sequence may be; none of a recurrent model."""
    return {name: value for name in _CONTEXTS if (value := getattr(config, name, None)) is not None}


def longest(config: Any, wanted: int | None) -> int | None:
    """Tokens of the longest sequence that an engine takes: `wanted`, or vLLM's default; None where that is a guess."""
    if wanted is not None or not (found := contexts(config)):
        return wanted
    # `_get_and_verify_max_len`: longer ones would change what a longrope model makes of short ones.
    is_longrope = any(each["rope_type"] == "longrope" for each in ropes(config))
    original = getattr(config, "original_max_position_embeddings", None) if is_longrope else None
    return min(found.values()) if original is None else original


def fix_longrope(model: Any, max_len: int) -> None:
    """Have a longrope model take the factors of sequences of `max_len` tokens for all, as its engine does.

    transformers takes those that the longest sequence of a pass needs, so that a token's output would depend on the
    other answers of a micro-batch. vLLM 0.29 decides once, by max_model_len (`Phi3LongRoPEScaledRotaryEmbedding`).
    """
    for module in model.modules():
        types = getattr(module, "rope_type", None)
        for layer_type, rope_type in types.items() if isinstance(types, dict) else [(None, types)]:
            if rope_type == "longrope":
                _fix_factors(module, layer_type, max_len)


def _fix_factors(module: Any, layer_type: str | None, max_len: int) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config, prefix = module.config, "" if layer_type is None else f"{layer_type}_"
    before = getattr(module, f"{prefix}original_inv_freq")
    # Beyond the original context they are the long ones.
    factors, _ = ROPE_INIT_FUNCTIONS["longrope"](config, before.device, seq_len=max_len, layer_type=layer_type)
    module.register_buffer(f"{prefix}inv_freq", factors.to(before.dtype), persistent=False)
    fixed = f"longrope of {max_len} tokens"  # no type that transformers updates in a pass
    if layer_type is None:
        module.rope_type = fixed
    else:
        module.rope_type = {**module.rope_type, layer_type: fixed}
