"""Models that pass: weights as they are stored in the wild. And the longest sequence of each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import BertConfig

from maskdpo_ray.config.schema import ModelConfig, VllmConfig
from maskdpo_ray.errors import ConfigError, ModelError
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.models.folder import ModelFolder

FILE = Path("m/config.json")
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


@pytest.mark.parametrize(
    ("name", "wanted", "expected"),
    [
        ("llama", None, 512),
        ("llama", 100, 100),
        ("gpt2", None, 512),  # which calls it n_positions
        ("phi longrope", None, 16),  # vLLM's default: the context that it was trained on first
        ("phi longrope", 200, 200),
        ("mamba", 200, 200),
    ],
)
def test_the_longest_sequence(name: str, wanted: int | None, expected: int) -> None:
    model = ModelFolder(FILE, families.config(name), None, None)
    assert model_folder.max_len(model, VllmConfig(max_model_len=wanted)) == expected


def test_a_longest_sequence_that_nothing_tells_or_that_is_too_long() -> None:
    recurrent = ModelFolder(FILE, families.config("mamba"), None, None)
    with pytest.raises(ConfigError, match="^vllm.max_model_len: expected a number, as m/config.json names no longest"):
        model_folder.max_len(recurrent, VllmConfig())
    with pytest.raises(ConfigError, match="^vllm.max_model_len: expected at most the model's 512, got 513$"):
        model_folder.max_len(ModelFolder(FILE, families.config("llama"), None, 512), VllmConfig(max_model_len=513))


def test_a_model_that_is_not_causal_is_refused() -> None:
    model = ModelFolder(FILE, BertConfig(**families.ENCODER), None, 512)
    with pytest.raises(ModelError) as caught:
        model.way(512)
    expected = "BertSelfAttention: expected attention to tokens before alone, got is_causal=False"
    assert str(caught.value) == f"m/config.json: model_type: 'bert' can't be trained: {expected}"
