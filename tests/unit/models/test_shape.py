"""Counts on a model without weights, beside real models of the same classes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from maskdpo_ray.config.schema import Config, LoraConfig, ModelConfig, SavingsConfig
from maskdpo_ray.errors import ConfigError, ModelError
from maskdpo_ray.models import shape as shapes
from maskdpo_ray.models.memory import EngineMemory, Pass, RankMemory
from maskdpo_ray.models.shape import SIZES, ModelShape, of_size
from maskdpo_ray.training import lean_layers, prefix_tree, tree_attention

SHAPE = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 50, "max_position_embeddings": 64, "pad_token_id": None,
}  # fmt: skip
HEADS = {"head_dim": 8}
MLA = {
    "num_key_value_heads": 4, "q_lora_rank": 12, "kv_lora_rank": 10, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4,
    "v_head_dim": 6,
}  # fmt: skip
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 3, "long_factor": [4.0] * 3}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "mistral": HEADS,
    "qwen2": {},
    "qwen3": HEADS,
    "gemma": HEADS,
    "gemma2": {**HEADS, "attn_logit_softcapping": None},
    "cohere": {},
    "phi3": {"rope_scaling": LONGROPE, "original_max_position_embeddings": 32},
    "minicpm3": MLA,
    "starcoder2": {},
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {**HEADS, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "olmoe": {"num_experts": 8, "num_experts_per_tok": 2},
}
"""By model_type, what differs from SHAPE. None says whether the LM head is the embedding."""
EXACT = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2")
"""In the others LayerNorm keeps its means in bfloat16 on CPUs alone, or values are a part of a larger tensor, of which
attention makes a copy on CPUs."""


def counted(folder: Path, kind: str, **changes: Any) -> ModelShape:
    described = {"model_type": kind, **SHAPE, **KINDS[kind], **changes}
    (folder / "config.json").write_text(json.dumps(described))
    return shapes.of_folder(folder)


def real(folder: Path, width: int = 4) -> Any:
    """With weights, in memory."""
    config = AutoConfig.from_pretrained(folder)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32 if width == 4 else torch.bfloat16)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_those_of_the_model(kind: str, tmp_path: Path) -> None:
    shape = counted(tmp_path, kind)
    parameters = list(real(tmp_path).parameters())
    assert list(shape.weights) == [parameter.numel() for parameter in parameters]
    assert shape.parameters == sum(parameter.numel() for parameter in parameters)


def test_a_head_that_config_json_leaves_out_is_tied_as_the_models_class_says(tmp_path: Path) -> None:
    untied = {kind: counted(tmp_path, kind, tie_word_embeddings=False).parameters for kind in KINDS}
    tied = {kind for kind in KINDS if counted(tmp_path, kind).parameters == untied[kind] - 50 * 24}
    assert tied == {"gemma", "gemma2", "cohere", "minicpm3", "starcoder2"}


@pytest.mark.parametrize("modules", ["all-linear", "q_proj, down_proj", "o_proj,lm_head"])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "phi3", "minicpm3"])
def test_adapters_are_those_of_peft(kind: str, modules: str, tmp_path: Path) -> None:
    shape, lora = counted(tmp_path, kind, tie_word_embeddings=False), LoraConfig(rank=3, target_modules=modules)
    names = lora.modules or modules
    model = get_peft_model(real(tmp_path), PeftConfig(r=3, target_modules=names, task_type="CAUSAL_LM"))
    assert shape.adapters(lora) == [p.numel() for p in model.parameters() if p.requires_grad]


def kept(model: Any, tokens: int) -> int:
    """Bytes that autograd keeps of one pass on a CPU, but for token ids and what describes the tree."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.is_floating_point():
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    tree = prefix_tree.build([range(tokens)], [[1]], [[1.0]])
    assert len(tree.token_ids) == tokens
    token_ids, depths = torch.from_numpy(tree.token_ids)[None], torch.from_numpy(tree.depths)[None]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        arguments = tree_attention.arguments(model, tree, "cpu")
        output = model(input_ids=token_ids, position_ids=depths, use_cache=False, logits_to_keep=1, **arguments)
    assert output.logits.requires_grad
    return sum(saved.values())


@pytest.mark.parametrize(("width", "is_lean"), [(2, True), (2, False), (4, True)])
@pytest.mark.parametrize("kind", KINDS)
def test_activations_are_those_that_autograd_keeps(kind: str, width: int, is_lean: bool, tmp_path: Path) -> None:
    found = counted(tmp_path, kind).kept_per_token(width, is_lean)
    model = real(tmp_path, width)
    tree_attention.install(model)
    if is_lean:
        lean_layers.install(model)
    expected = (kept(model, 30) - kept(model, 20)) / 10
    expected += 8 - width * SHAPE["hidden_size"]  # a token's id; the LM head's input
    if kind in EXACT:
        assert found == expected
    else:
        assert expected <= found <= 1.2 * expected


def test_what_lean_layers_leave_as_it_is_counts_in_full(tmp_path: Path) -> None:
    """Lean layers: of Phi-3 they have the norms, not the MLP; of StarCoder2 nothing."""

    def activations(shape: ModelShape, is_lean: bool) -> int:
        config = Config(model=ModelConfig("model"), savings=SavingsConfig(lean_layers=is_lean))
        backward = RankMemory(shape, config, Pass(8192, 1)).moments()["backward pass"]
        return backward["activations"]

    saved = {}
    for kind in ("llama", "phi3", "starcoder2"):
        shape = counted(tmp_path, kind)
        saved[kind] = activations(shape, False) - activations(shape, True)
        assert activations(shape, False) == 8192 * shape.kept_per_token(2, False)
    mlp = 2 * 2 * 40 * 2  # of a token in bf16: what SiLU makes of the gate, and its product with `up`, in two layers
    assert saved == {"llama": saved["phi3"] + 8192 * mlp, "phi3": saved["phi3"], "starcoder2": 0}
    assert saved["phi3"] == 8192 * 5 * 4 * 24  # the inputs of five norms, in fp32


@pytest.mark.parametrize("kind", KINDS)
def test_caches_are_those_of_the_model(kind: str, tmp_path: Path) -> None:
    shape = counted(tmp_path, kind)
    cache = real(tmp_path)(input_ids=torch.arange(7)[None], use_cache=True).past_key_values
    size = sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))
    per_token = EngineMemory(shape, "float32", 1, 64, 1).kv_per_token()
    if kind == "minicpm3":  # caches the latent that keys and values are made of: theirs is a bound
        assert 7 * per_token > size
    else:
        assert 7 * per_token == size


HYBRID = json.dumps({"model_type": "jamba", **SHAPE, "attn_layer_offset": 1, "attn_layer_period": 2})
BAD = [
    ("{", "config.json: expected the config of a model, got: "),
    ("[]", "config.json: expected an object, got list"),
    ('{"hidden_size": 8}', "config.json: expected a decoder that transformers builds (--model_size and --annotator_"),
    ('{"model_type": "internlm2"}', "config.json: expected a decoder that transformers builds (--model_size and "),
    ('{"model_type": "llama", "hidden_size": "8"}', "config.json: expected a decoder that transformers builds"),
    ('{"model_type": "llama", "num_hidden_layers": 0}', "num_hidden_layers: expected a whole number above 0, got 0"),
    ('{"model_type": "llama", "num_hidden_layers": 5000}', "config.json: num_hidden_layers: expected at most 1000"),
    ('{"model_type": "mamba", "num_hidden_layers": 1}', "got 'mamba', which has no num_attention_heads; a run does"),
    ('{"model_type": "llama", "quantization_config": {"bits": 4}}', "config.json: quantization_config: expected a d"),
    ('{"model_type": "falcon", "num_hidden_layers": 1}', "got FalconForCausalLM: 0 of 1 layers use "),
    (HYBRID, "got JambaForCausalLM: 1 of 2 layers use transformers' attention interface; a run does without"),
]


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_a_config_that_tells_no_size(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError) as caught:
        shapes.of_folder(tmp_path)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="adapter_config.json: expected a whole model, got an adapter"):
        counted(tmp_path, "llama")


def test_shapes_are_values(tmp_path: Path) -> None:
    shape = counted(tmp_path, "llama")
    assert shape == counted(tmp_path, "llama") != dataclasses.replace(shape, vocab_size=51)


PUBLISHED = {
    "135m": 134_515_008,
    "360m": 361_821_120,
    "1.7b": 1_711_376_384,
    "1b": 1_235_814_400,
    "3b": 3_212_749_824,
    "8b": 8_030_261_248,
    "70b": 70_553_706_496,
    "0.5b": 494_032_768,
    "1.5b": 1_543_714_304,
    "7b": 7_615_616_512,
    "14b": 14_770_033_664,
    "32b": 32_763_876_352,
    "72b": 72_706_203_648,
    "internlm2-7b": 7_737_708_544,
    "qwen2.5-3b": 3_085_938_688,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "mistral-7b": 7_248_023_552,
    "mistral-small-24b": 23_572_403_200,
}
"""Elements of the published safetensors, tied ones once."""


def by_hand(kind: str, hidden: int, inner: int, layers: int, heads: int, kv: int, dim: int, vocab: int) -> int:
    """Parameters of a model of one of these kinds, without the LM head."""
    attention = hidden * dim * (2 * heads + 2 * kv)
    attention += {"qwen2": dim * (heads + 2 * kv), "qwen3": 2 * dim}.get(kind, 0)  # biases; norms of queries and keys
    return vocab * hidden + layers * (attention + 3 * hidden * inner + 2 * hidden) + hidden


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str) -> None:
    assert SIZES.keys() == PUBLISHED.keys()
    *fields, is_tied, _ = SIZES[name]
    head = 0 if is_tied else fields[1] * fields[-1]
    assert by_hand(*fields) + head == PUBLISHED[name]


@pytest.mark.parametrize("name", ["135m", "8b", "1.5b", "qwen3-4b"])
def test_parameters_are_counted_on_the_model(name: str) -> None:
    assert of_size(name, "--model_size").parameters == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("8B", "8b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "8b"),
        ("meta-llama/Meta-Llama-3.1-70B", "70b"),
        ("models/Llama-3.2-3B-Instruct/", "3b"),
        ("meta-llama/Llama-3.3-70B-Instruct", "70b"),
        ("models/smollm2-135m-instruct", "135m"),
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct@a1b2c3", "1.7b"),
        ("Qwen/Qwen2.5-1.5B-Instruct", "1.5b"),
        ("Qwen/Qwen2.5-3B", "qwen2.5-3b"),  # not Llama's
        ("Qwen/Qwen3-8B", "qwen3-8b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b"),
        ("mistralai/Mistral-Small-24B-Instruct-2501", "mistral-small-24b"),
        ("meta-llama/Meta-Llama-3-8B", None),
        ("Qwen/Qwen2.5-8B", None),
        ("mistralai/Mistral-7B-Instruct-v0.1", None),
        ("models/ours-8b", None),
        ("", None),
    ],
)
def test_published_models_by_name(name: str, size: str | None) -> None:
    assert shapes.published(name) == size


def test_an_unknown_size() -> None:
    with pytest.raises(ConfigError, match=r"--model_size: expected one of 135m, .*, got '9b'"):
        of_size("9b", "--model_size")
