"""An adapter's folder as the model: merged once, checked, in its place; what can't be merged is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from maskdpo_ray.config.schema import Config, DeepspeedConfig, ModelConfig, RolloutConfig, RunConfig, VllmConfig
from maskdpo_ray.errors import ModelError
from maskdpo_ray.models import adapters
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.models.origin import Origin
from maskdpo_ray.training import rounding, tree_check


@pytest.fixture
def adapter(small_model: Path, tmp_path: Path) -> Path:
    """Folder of an adapter of the small model, far from doing nothing."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float32)
    described = peft.LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(model, described)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.add_(0.4 * torch.randn_like(parameter))
    wrapped.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def config_of(folder: Path, tmp_path: Path, dtype: str = "fp32") -> Config:
    return Config(
        run=RunConfig(dir=str(tmp_path / "runs")),
        model=ModelConfig(str(folder)),
        rollout=RolloutConfig(max_new_tokens=16),
        vllm=VllmConfig(dtype="float32" if dtype == "fp32" else "bfloat16"),
        ds=DeepspeedConfig(param_dtype=dtype),
    )


def loaded(folder: Path | str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def with_adapter(adapter: Path, base: Path) -> torch.Tensor:
    return tree_check.logps(peft.PeftModel.from_pretrained(loaded(base), adapter).eval())


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-5), ("bf16", 0.1)])
def test_the_merged_folder_is_a_model_that_gives_what_base_and_adapter_give(
    adapter: Path, small_model: Path, tmp_path: Path, dtype: str, tolerance: float, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(adapter, tmp_path, dtype)
    merged = adapters.merged(config)
    folder = Path(merged.model.model_name_or_path)
    assert folder.parent == tmp_path / "runs" / ".merged" and merged == replace(config, model=ModelConfig(str(folder)))
    assert capsys.readouterr().err.startswith(f"model: merge the adapter {adapter} with {small_model} into {folder}")
    model = model_folder.load(merged.model)
    assert model.tokenizer.chat_template and model.config.vocab_size == loaded(small_model).config.vocab_size
    assert {each.dtype for each in load_file(folder / "model.safetensors").values()} == {
        torch.float32 if dtype == "fp32" else torch.bfloat16
    }
    expected, before = with_adapter(adapter, small_model), tree_check.logps(loaded(small_model))
    assert (before - expected).abs().mean() > 0.3
    assert (tree_check.logps(loaded(folder)) - expected).abs().mean() < tolerance


def test_the_merged_folders_card_has_the_bases_licence(adapter: Path, small_model: Path, tmp_path: Path) -> None:
    base = shutil.copytree(small_model, tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: mit\nlanguage: en\nbase_model: org/tiny\n---\n")
    described = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(described | {"base_model_name_or_path": str(base)}))
    merged = adapters.merged(config_of(adapter, tmp_path)).model.model_name_or_path
    assert Origin.of(merged) == Origin.of(str(base)) == Origin("org/tiny", "mit", languages=("en",))


def test_merged_once(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until adapter, base or dtype is another one."""
    first = adapters.merged(config_of(adapter, tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(adapters, "_merge", None)
        assert adapters.merged(config_of(adapter, tmp_path)) == first
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({name: 2 * weight for name, weight in weights.items()}, adapter / "adapter_model.safetensors")
    others = [adapters.merged(config_of(adapter, tmp_path, dtype)) for dtype in ("fp32", "bf16")]
    assert len({each.model.model_name_or_path for each in (first, *others)}) == 3


def test_a_merge_that_fails_leaves_nothing(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "stochastic", lambda exact, dtype, seed: 1.5 * exact)
    with pytest.raises(ModelError, match=r"expected log-probs of .* with the adapter, .* merged they differ by \d"):
        adapters.merged(config_of(adapter, tmp_path))
    assert list((tmp_path / "runs" / ".merged").iterdir()) == []


def test_a_dry_run_writes_nothing(adapter: Path, small_model: Path, tmp_path: Path) -> None:
    found = adapters.merged(config_of(adapter, tmp_path), dry_run=True)
    assert found.model.model_name_or_path == str(small_model) and not (tmp_path / "runs").exists()


def test_an_adapters_own_tokenizer_goes_along(adapter: Path, small_model: Path, tmp_path: Path) -> None:
    shutil.copy(small_model / "tokenizer_config.json", adapter)
    (adapter / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    folder = Path(adapters.merged(config_of(adapter, tmp_path)).model.model_name_or_path)
    assert model_folder.load_tokenizer(ModelConfig(str(folder))).chat_template == "{{ messages[0].content }}!"


def test_other_folders_are_left_as_they_are(small_model: Path, tmp_path: Path) -> None:
    config = config_of(small_model, tmp_path)
    assert adapters.merged(config) is config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"peft_type": "PROMPT_TUNING"},
            "peft_type: expected 'LORA', whose weights can be merged, got 'PROMPT_TUNING'",
        ),
        (
            {"base_model_name_or_path": "nowhere/at-all"},
            "base_model_name_or_path: expected the folder of a model, or a model of the Hub, got 'nowhere/at",
        ),
        (
            {"base_model_name_or_path": None},
            "base_model_name_or_path: expected the folder of a model, with config.json",
        ),
    ],
)
def test_adapters_that_are_refused(adapter: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ModelError) as caught:
        adapters.merged(config_of(adapter, tmp_path))
    assert str(caught.value).startswith(f"{file}: {message}") and "\n" not in str(caught.value)


@pytest.mark.parametrize("dry_run", [False, True])
def test_broken_adapters_are_refused(adapter: Path, small_model: Path, tmp_path: Path, dry_run: bool) -> None:
    """Also where nothing is merged."""
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match="adapter_config.json: expected JSON, got: "):
        adapters.merged(config_of(adapter, tmp_path), dry_run)
    described = {"peft_type": "LORA", "base_model_name_or_path": str(small_model), "target_modules": ["q_proj"], "r": 4}
    (adapter / "adapter_config.json").write_text(json.dumps(described))
    weights = adapter / "adapter_model.safetensors"
    for content in (weights.read_bytes()[:-4], b"version https://git-lfs.github.com/spec/v1\n"):
        weights.write_bytes(content)
        with pytest.raises(ModelError, match=f"^{weights}: expected a whole safetensors file .*, got: ") as caught:
            adapters.merged(config_of(adapter, tmp_path), dry_run)
        assert "\n" not in str(caught.value)
    save_file({"model.norm.weight": torch.ones(2)}, weights)
    with pytest.raises(ModelError, match="expected tensors of a LoRA adapter, got 'model.norm.weight'"):
        adapters.merged(config_of(adapter, tmp_path), dry_run)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"expected adapter_model.safetensors, found none \(pickled weights"):
        adapters.merged(config_of(adapter, tmp_path), dry_run)


def test_an_adapter_of_another_model(adapter: Path, small_model: Path, tmp_path: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: weight[:, :-1].contiguous() for name, weight in weights.items()}, adapter / "adapter_model.safetensors"
    )
    with pytest.raises(ModelError, match=f"expected an adapter of {small_model}, got: ") as caught:
        adapters.merged(config_of(adapter, tmp_path))
    assert "\n" not in str(caught.value)
