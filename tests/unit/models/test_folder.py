"""Models that pass: weights as they are stored in the wild, and attention that training's trees can have."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import (
    Gemma3TextConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from maskdpo_ray.config.schema import ModelConfig
from maskdpo_ray.errors import ModelError
from maskdpo_ray.models import folder as model_folder

Tensors = dict[str, np.ndarray]


def with_head_and_buffer(tensors: Tensors) -> Tensors:
    head = tensors["model.embed_tokens.weight"].copy()
    buffer = np.zeros(16, np.float32)
    return {**tensors, "lm_head.weight": head, "model.layers.0.self_attn.rotary_emb.inv_freq": buffer}


def without_prefix(tensors: Tensors) -> Tensors:
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("num_files", [1, 2])
@pytest.mark.parametrize("change", [dict, with_head_and_buffer, without_prefix])
def test_weights_that_fit(
    tiny_model: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    change: Callable[[Tensors], Tensors],
    num_files: int,
) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny_model / name, tmp_path / name)
    tensors = change(load_file(tiny_model / "model.safetensors"))
    names = ["model.safetensors"] if num_files == 1 else [f"model-{i}.safetensors" for i in range(num_files)]
    home = {tensor: names[i % num_files] for i, tensor in enumerate(tensors)}
    for name in names:
        part = {tensor: value for tensor, value in tensors.items() if home[tensor] == name}
        save_file(part, tmp_path / name, {"format": "pt"})
    if num_files > 1:
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": home}))
    model = model_folder.load(ModelConfig(str(tmp_path)))
    assert (model.file, model.context, model.config.vocab_size) == (tmp_path / "config.json", 2048, 49152)
    assert capfd.readouterr() == ("", "")


FILE = Path("m/config.json")
FULL, SLIDING = "full_attention", "sliding_attention"
TWO = {"num_hidden_layers": 2}


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(),
        MistralConfig(sliding_window=None),
        MistralConfig(sliding_window=1024),
        Qwen2Config(use_sliding_window=False, sliding_window=64),
        Qwen2MoeConfig(use_sliding_window=False, sliding_window=64),
        Qwen3Config(use_sliding_window=True, sliding_window=64, max_window_layers=2, **TWO),
        Qwen3MoeConfig(use_sliding_window=False, sliding_window=64),
        Gemma3TextConfig(sliding_window=64, layer_types=[FULL, FULL], **TWO),
        Gemma3TextConfig(sliding_window=1024, layer_types=[SLIDING, FULL], **TWO),
    ],
    ids=lambda config: config.model_type,
)
def test_full_attention(config: Any) -> None:
    model_folder.check_attention(config, FILE, 1024)


WINDOW = "sliding_window: expected full attention, or a window of at least 1024 ("


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MistralConfig(sliding_window=1023), WINDOW),
        (Qwen2Config(use_sliding_window=True, sliding_window=64, max_window_layers=1, **TWO), WINDOW),
        (Qwen3MoeConfig(use_sliding_window=True, sliding_window=64), WINDOW),
        (Gemma3TextConfig(sliding_window=512, layer_types=[SLIDING, FULL], **TWO), WINDOW),
        (
            Lfm2Config(layer_types=["conv", FULL], **TWO),
            "layer_types: expected full_attention in every layer, got 'conv'",
        ),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_other_attention_is_refused(config: Any, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        model_folder.check_attention(config, FILE, 1024)
    assert str(caught.value).startswith(f"{FILE}: {message}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 1}, "expected no weights but those of config.json, got 9 more: model.layers.1.input_"),
        ({"architectures": ["FooForCausalLM"]}, "architectures: expected ['LlamaForCausalLM'], got ['FooForCausalLM']"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config: expected none"),
    ],
)
def test_a_config_of_another_model_is_refused(
    tiny_model: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**described, **changes}))
    with pytest.raises(ModelError) as caught:
        model_folder.load(ModelConfig(str(folder)))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_whole_numbers_are_no_weights(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.int8)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="model.norm.weight: expected one of BF16, F16, F32, F64, got I8$"):
        model_folder.load(ModelConfig(str(folder)))
