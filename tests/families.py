"""Families of causal language models, each as the config of a tiny one that transformers builds."""

from __future__ import annotations

from typing import Any

SHAPE: dict[str, Any] = {
    "vocab_size": 2000, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": None, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
ENDS: dict[str, Any] = {key: SHAPE[key] for key in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")}
RECURRENT = {**ENDS, "hidden_size": 32, "num_hidden_layers": 2}
ENCODER: dict[str, Any] = {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"} | {
    "pad_token_id": 1, "bos_token_id": 0
}  # fmt: skip
FULL, SLIDING, LINEAR, CHUNKED = "full_attention", "sliding_attention", "linear_attention", "chunked_attention"
HEADS = {"head_dim": 8}
WINDOW = {"sliding_window": 8}
LINEAR_HEADS = {
    **HEADS, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "layer_types": [LINEAR, FULL],
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
MAMBA_HEADS = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 4, "mamba_chunk_size": 8}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {**SHAPE, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", SHAPE),
    "gpt2": (
        "gpt2",
        {**ENDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    ),
    "opt": (
        "opt",
        {
            **{**ENDS, "pad_token_id": 1}, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 512, "word_embed_proj_dim": 32,
        },
    ),
    "mixtral": ("mixtral", {**SHAPE, **LOCAL_EXPERTS, "sliding_window": None, "output_router_logits": True}),
    "qwen3 experts": ("qwen3_moe", {**SHAPE, **HEADS, **EXPERTS, "moe_intermediate_size": 16}),
    "deepseek v3": (
        "deepseek_v3",
        {
            **SHAPE, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16,
            "v_head_dim": 12, "num_key_value_heads": 4, "first_k_dense_replace": 1, "n_routed_experts": 4,
            "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 16, "n_shared_experts": 1,
        },
    ),
    "falcon": ("falcon", SHAPE),
    "mistral": ("mistral", {**SHAPE, **WINDOW}),
    "gemma 2": ("gemma2", {**SHAPE, **HEADS, **WINDOW, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0}),
    "gemma 3": ("gemma3_text", {**SHAPE, **HEADS, **WINDOW, "layer_types": [SLIDING, FULL]}),
    "gpt-oss": ("gpt_oss", {**SHAPE, **HEADS, **WINDOW, **LOCAL_EXPERTS, "layer_types": [SLIDING, FULL],
                            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
    "phi longrope": (
        "phi3",
        {
            **SHAPE, "sliding_window": None, "original_max_position_embeddings": 16,
            "rope_parameters": {
                "rope_theta": 1e4, "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
            },
        },
    ),
    "llama 4": (
        "llama4_text",
        {
            **SHAPE, **HEADS, "intermediate_size_mlp": 48, "num_local_experts": 2, "layer_types": [CHUNKED, FULL],
            "no_rope_layers": [1, 0], "attention_chunk_size": 8, "floor_scale": 8, "attn_scale": 0.5,
            "attn_temperature_tuning": True,
        },
    ),
    "qwen3-next": (
        "qwen3_next",
        {**SHAPE, **LINEAR_HEADS, **EXPERTS, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    ),
    "qwen3.5": ("qwen3_5_text", {**SHAPE, **LINEAR_HEADS}),
    "jamba": (
        "jamba",
        {
            **SHAPE, **EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
            "expert_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False,
        },
    ),
    "mamba": ("mamba", {**RECURRENT, "state_size": 4}),
    "mamba 2": (
        "mamba2",
        {**RECURRENT, "state_size": 4, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8},
    ),
    "bamba": ("bamba", {**SHAPE, **MAMBA_HEADS, "attn_layer_indices": [1]}),
    "falcon alibi": ("falcon", {**SHAPE, "alibi": True}),
    "bloom": ("bloom", {**ENDS, "hidden_size": 32, "n_layer": 2, "n_head": 4, "seq_length": 512}),
    "lfm2": ("lfm2", {**SHAPE, "layer_types": ["conv", FULL]}),
    "minimax": ("minimax", {**SHAPE, **LOCAL_EXPERTS, "layer_types": [LINEAR, FULL]}),
    "roberta": ("roberta", {**ENCODER, "is_decoder": True}),
}  # fmt: skip
"""Name -> (model_type, fields)."""
TREES = (
    "llama", "qwen2", "gpt2", "opt", "mixtral", "qwen3 experts", "deepseek v3", "falcon", "mistral", "gemma 2",
    "gemma 3", "gpt-oss",
)  # fmt: skip
"""Those that a prefix tree serves; the others are trained on padded rows."""


def config(name: str) -> Any:
    """The config of a family's model."""
    from transformers import AutoConfig

    kind, fields = FAMILIES[name]
    return AutoConfig.for_model(kind, **fields)


def build(name: str, spread: float = 0.15) -> Any:
    """The family's model in float32, its random weights far from a uniform distribution."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config(name)).float().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(spread * torch.randn_like(parameter))
    return model
