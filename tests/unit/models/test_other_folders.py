"""Error lines about paths that are not model folders: kind and conversion command. The commands are run."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from maskdpo_ray import plan
from maskdpo_ray.config.schema import ModelConfig
from maskdpo_ray.errors import ModelError, UserError
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.models import other_folders

ADAPTER = '{"base_model_name_or_path": "a/b", "peft_type": "LORA", "r": 8, "target_modules": ["q_proj"]}'
"""Config of a LoRA adapter, whose folder is often given as the model."""

FOLDERS: dict[str, tuple[dict[str, str], str]] = {
    "an adapter": (
        {"adapter_config.json": ADAPTER},
        "an adapter of 'a/b'; merge the two and give '{}-merged': python -c ",
    ),
    "an adapter of nothing": ({"adapter_config.json": "{"}, "an adapter; merge it into its model first"),
    "GGUF": ({"model-q4_k_m.gguf": ""}, "weights of another format (GGUF, which llama.cpp reads)"),
    "ONNX": ({"config.txt": "", "model.onnx": ""}, "weights of another format (ONNX)"),
    "Meta's own": ({"consolidated.00.pth": "", "params.json": "{}"}, "pickled weights, which are code as well"),
    "pickled, no config": ({"pytorch_model.bin": ""}, "pickled weights, which are code as well"),
    "DeepSpeed's": (
        {"latest": "global_step50", "global_step50/mp_rank_00_model_states.pt": "", "zero_to_fp32.py": ""},
        "a checkpoint of DeepSpeed; take its weights out, then put config.json and tokenizer of its model beside them: "
        "python {}/zero_to_fp32.py {} {}-model --safe_serialization",
    ),
    "DeepSpeed's, within": ({"mp_rank_00_model_states.pt": ""}, "a checkpoint of DeepSpeed; take its weights out ("),
    "FSDP's": (
        {"__0_0.distcp": "", ".metadata": ""},
        "a checkpoint of FSDP; join its weights, then put config.json and tokenizer of its model beside them: "
        "accelerate merge-weights {} {}-model",
    ),
    "a run": (
        {"ledger.jsonl": "", "iter_000/policy/config.json": "{}", "iter_001/policy/config.json": "{}"},
        "a run folder; give one of its policies, the newest is '{}/iter_001/policy'",
    ),
    "a run that has begun": ({"ledger.jsonl": "", "iter_000/pairs.jsonl": ""}, "a run folder that holds no policy yet"),
    "an iteration of a run": (
        {"pairs.jsonl": "", "policy/config.json": "{}"},
        "a folder of model folders; give one of them: '{}/policy'",
    ),
    "a Trainer's output": (
        {"checkpoint-500/config.json": "{}", "checkpoint-1000/config.json": "{}"},
        "a folder of model folders; give one of them: '{}/checkpoint-1000', '{}/checkpoint-500'",
    ),
    "a Hub's cache": (
        {"refs/main": "abc", "snapshots/abc/config.json": "{}"},
        "a folder of model folders; give one of them: '{}/snapshots/abc'",
    ),
    "many models": (
        {f"m{i}/config.json": "{}" for i in range(5)},
        "a folder of model folders; give one of them: '{}/m4', '{}/m3', '{}/m2' and 2 more",
    ),
    "a pipeline of diffusers": (
        {"model_index.json": "{}", "unet/config.json": "{}"},
        "a pipeline of diffusers, no language model",
    ),
    "a data set": ({"dataset_info.json": "{}", "data-00000-of-00001.arrow": ""}, "a data set"),
    "weights alone": ({"model.safetensors": ""}, "weights without a config.json"),
    "a tokenizer": ({"tokenizer.json": "{}"}, "a tokenizer without a model"),
    "nothing": ({}, "an empty folder"),
    "anything": ({"a": "", "b": "", "c": "", "d": ""}, "a folder of 'a', 'b', 'c' ..."),
}


def made(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(tmp_path: Path, name: str) -> None:
    files, expected = FOLDERS[name]
    folder = made(tmp_path / "given", files)
    said = f", {expected.replace('{}', str(folder))}"
    assert other_folders.described(str(folder)).startswith(said)
    with pytest.raises(ModelError) as refused:  # in a run as well
        model_folder.load(ModelConfig(str(folder)))
    assert str(refused.value).startswith("model.model_name_or_path: expected a Hugging Face folder with config.json")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("models/smolm2", "and there is no such folder; did you mean 'models/smollm2'?"),
        ("models/other", "and there is no such folder"),  # the Hub has no user of this name
        (
            "org/other",
            "and there is no such folder in 'org', which is a folder here; the Hub's model is hf://org/other",
        ),
        (
            "hf://datasets/a/b",
            "the address of a data set; a model of the Hub is org/name, org/name@revision or hf://org",
        ),
        ("https://huggingface.co/a", "an address of no model; a model of the Hub is org/name, org/name@revision or hf"),
        ("/no/such/model", "and there is no such folder"),
        ("nowhere", "and there is no such folder"),
        ("model.gguf", "a file of GGUF, which llama.cpp reads"),
        ("models/smollm2/model.safetensors", "a file; give its folder, 'models/smollm2'"),
        ("notes.txt", "a file; a model is a folder"),
    ],
)
def test_what_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, expected: str) -> None:
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "models" / "smollm2", {"config.json": "{}", "model.safetensors": ""})
    Path("org").mkdir()
    for name in ("model.gguf", "notes.txt"):
        Path(name).touch()
    assert other_folders.described(path).endswith(f", {expected}") or expected in other_folders.described(path)


def test_a_home_that_no_shell_has_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    expected = ", which is not expanded: write '/home/me/models/m'"
    assert other_folders.described("~/models/m") == expected


def test_what_may_not_be_looked_at(tmp_path: Path) -> None:
    assert other_folders.described("m" * 300) == ", and there is no such folder"


def run_command(said: str) -> None:
    """Run the `python -c CODE` that a line ends in, as a shell would hand it over."""
    words = shlex.split(said[said.index("python -c ") :])
    assert words[:2] == ["python", "-c"] and len(words) == 3
    exec(words[2], {})


def test_the_command_that_merges_an_adapter(small_model: Path, tmp_path: Path) -> None:
    """The merged folder is a valid model with the same outputs as model and adapter."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path / 'it\'s an "adapter"'
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(small_model)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.save_pretrained(folder)
    said = other_folders.described(str(folder))
    assert f"an adapter of {str(small_model)!r}" in said
    run_command(said)

    merged = f"{folder}-merged"
    model_folder.load(ModelConfig(merged))
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(small_model), folder)(ids).logits
        got = AutoModelForCausalLM.from_pretrained(merged)(ids).logits
        plain = AutoModelForCausalLM.from_pretrained(small_model)(ids).logits
    assert torch.allclose(got, expected, atol=1e-5)
    assert (plain - expected).abs().max() > 1e-3


def test_the_command_that_converts_pickled_weights(small_model: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "old"
    shutil.copytree(small_model, folder)
    tensors = load_file(folder / "model.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="expected safetensors in .*, found pickled weights; convert them") as refused:
        model_folder.load(ModelConfig(str(folder)))
    run_command(str(refused.value))
    model_folder.load(ModelConfig(f"{folder}-safetensors"))
    converted = load_file(f"{folder}-safetensors/model.safetensors")
    assert all(torch.equal(converted[name], tensors[name]) for name in converted) and converted


def test_an_optimizers_checkpoint_with_its_models_config(small_model: Path, tmp_path: Path) -> None:
    """A Trainer's checkpoint under ZeRO-3."""
    folder = tmp_path / "checkpoint-10"
    shutil.copytree(small_model, folder)
    (folder / "model.safetensors").unlink()
    (folder / "global_step10").mkdir()
    (folder / "zero_to_fp32.py").touch()
    with pytest.raises(ModelError, match="expected safetensors in .*, found a checkpoint of DeepSpeed; take its"):
        model_folder.load(ModelConfig(str(folder)))


def test_an_adapter_beside_a_model(small_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "both"
    shutil.copytree(small_model, folder)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "a/b"}))
    with pytest.raises(ModelError, match="adapter_config.json: expected a whole model, got an adapter of 'a/b'; merge"):
        model_folder.load(ModelConfig(str(folder)))


def test_plan_says_it_too(tmp_path: Path) -> None:
    folder = made(tmp_path / "adapter", {"adapter_config.json": ADAPTER})
    save_file({"base_model.model.x.lora_A.weight": np.zeros((1, 2))}, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match="base_model_name_or_path: expected the folder of a model, .*, got 'a/b'"):
        plan.main(["--model.model_name_or_path", str(folder)])
