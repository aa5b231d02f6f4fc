"""One training step of each family of models on a real rank, against each answer's row alone, by plain transformers.

The rank decides by itself whether a model takes prefix trees or padded rows. Nothing is shared with what it is compared
with: no padding, no mask, all logits, "eager" attention, one response at a time.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import rank_processes
import torch
import torch.nn.functional as F
from plain_training import BETA, TRAIN, Member, config, examples
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from maskdpo_ray.config.schema import Config, LoraConfig, ModelConfig, RolloutConfig, VllmConfig

pytestmark = pytest.mark.timeout(600)

DEFAULT = {"gemma 2", "qwen3-next", "mamba", "qwen3 experts"}
"""The others are nightly."""
BATCH = [0, 1, 2, 3, 4]


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
class Own(LlamaConfig):
    model_type = "own"
class Model(LlamaForCausalLM):
    config_class = Own
    def forward(self, input_ids, attention_mask=None, position_ids=None, use_cache=None, logits_to_keep=0):
        return super().forward(
            input_ids, attention_mask=attention_mask, use_cache=use_cache, logits_to_keep=logits_to_keep
        )
"""
"""A model that ignores `position_ids`, and takes no arguments that it does not know."""


def config_of() -> Config:
    # Beyond the context that longrope was trained on first, where an engine takes the long factors for all sequences.
    train = replace(TRAIN, lr_scheduler="constant")
    given = replace(config(2, "fp32"), train=train)
    return replace(given, vllm=VllmConfig(max_model_len=512), rollout=RolloutConfig(max_new_tokens=64))


def rank_main(rank: int, world: int, port: int, model: str, folder: str, changes: dict[str, Any]) -> None:
    """One step, and the log-probs before it; what the tests check goes to `folder`."""
    from deepspeed.utils import safe_get_full_grad
    from transformers import dynamic_module_utils

    torch.set_num_threads(1)
    dynamic_module_utils.HF_MODULES_CACHE = f"{folder}/modules"
    given = replace(config_of(), **changes)
    member = Member(given, rank, world, port, folder, examples())
    trainer = member.trainer
    member.begin(model, 1, 5, logps=member.logps(model), starts_at_reference=True)
    logps = [array.tolist() for example in member.logps() for array in example]
    engine, gradients = trainer._engine, {}
    step = engine.step

    def watched() -> None:
        for path, parameter in engine.module.named_parameters():
            if (gradient := safe_get_full_grad(parameter)) is not None:
                gradients[path] = gradient.float().clone()
        step()

    engine.step = watched
    report = trainer.train_step(BATCH)
    save_file(gradients, f"{folder}/gradients.safetensors")
    trainer.save_policy(f"{folder}/policy")
    trainer.release()
    published = [array.tolist() for example in member.published_logps(f"{folder}/policy") for array in example]
    is_tree = trainer._way.savings(trainer._config.savings).prefix_tree
    trainer.close()
    found = {"step": report, "logps": logps, "published": published, "is_tree": is_tree}
    Path(f"{folder}/report.json").write_text(json.dumps(found))


def plain_logps(model: Any) -> list[torch.Tensor]:
    """Log-probs of each response's tokens, each in a pass of its own, 0 where the weight is 0."""
    found = []
    for example in examples():
        for response in example.responses:
            ids = torch.tensor([*example.prompt_token_ids, *response.token_ids])
            logits = model(input_ids=ids[None], use_cache=False).logits[0].float()
            logps = logits.log_softmax(-1)[len(example.prompt_token_ids) - 1 : -1]
            picked = logps.gather(1, torch.tensor(response.token_ids)[:, None])[:, 0]
            found.append(torch.where(torch.tensor(response.weights) > 0, picked, 0.0))
    return found


def loss_of(logps: list[torch.Tensor], reference: list[torch.Tensor]) -> torch.Tensor:
    """Mask-DPO (arXiv 2503.02846), eq. 6."""
    weights = [torch.tensor(response.weights) for example in examples() for response in example.responses]
    rewards = [BETA * (w * (one - other)).sum() for w, one, other in zip(weights, logps, reference, strict=True)]
    margins = torch.stack([chosen - rejected for chosen, rejected in zip(rewards[::2], rewards[1::2], strict=True)])
    return -F.logsigmoid(margins).mean()


def plain_model(name: str, folder: Path) -> Any:
    options: dict[str, Any] = {}
    if name == "phi longrope":
        rope = families.FAMILIES[name][1]["rope_parameters"]
        options["rope_parameters"] = {**rope, "short_factor": rope["long_factor"]}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()
    if model._can_set_attn_implementation():
        model.set_attn_implementation("eager")
    return model


@dataclass(frozen=True)
class Case:
    """A family, what a rank reported of its model, and the plain model."""

    name: str
    folder: Path
    report: dict[str, Any]
    model: Any


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[] if name in DEFAULT else [pytest.mark.nightly]) for name in families.FAMILIES],
)
def case(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name, folder = request.param, tmp_path_factory.mktemp("family")
    families.build(name, spread=0.05).save_pretrained(folder / "model")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model / file, folder / "model" / file)
    rank_processes.run(rank_main, 1, str(folder / "model"), str(folder), {})
    report = json.loads((folder / "report.json").read_text())
    return Case(name, folder, report, plain_model(name, folder / "model"))


def test_it_goes_the_way_that_serves_it(case: Case) -> None:
    assert case.report["is_tree"] == (case.name in {*families.TREES, "phi longrope"})


def test_log_probs_equal_those_of_a_row_alone(case: Case) -> None:
    with torch.no_grad():
        for got, expected in zip(case.report["logps"], plain_logps(case.model), strict=True):
            np.testing.assert_allclose(got, expected.numpy(), atol=1e-5, rtol=0)


def test_gradients_equal_those_of_rows_alone(case: Case) -> None:
    logps = plain_logps(case.model)
    loss = loss_of(logps, [each.detach() for each in logps])
    case.model.zero_grad()
    loss.backward()
    assert case.report["step"]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    got = load_file(case.folder / "gradients.safetensors")
    expected = {path: each.grad for path, each in case.model.named_parameters() if each.grad is not None}
    norm = torch.stack([each.norm() for each in expected.values()]).norm().item()
    assert norm > 1e-2 and case.report["step"]["grad_norm"] == pytest.approx(norm, rel=2e-5)
    for path, gradient in expected.items():
        assert (got[path] - gradient).norm().item() <= 1e-5 * norm, path


def test_the_published_policy_is_a_model_of_the_family_that_has_moved(case: Case) -> None:
    model = plain_model(case.name, case.folder / "policy")
    assert type(model) is type(case.model)
    with torch.no_grad():
        after, before = plain_logps(model), plain_logps(case.model)
        assert loss_of(after, before).item() < math.log(2)
    for got, expected in zip(case.report["published"], after, strict=True):
        np.testing.assert_allclose(got, expected.numpy(), atol=1e-5, rtol=0)


def test_a_model_with_code_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    """The code goes along with the published policy, and a rank sees that a tree would be wrong."""
    folder = tmp_path / "model"
    families.build("llama", spread=0.05).save_pretrained(folder)
    (folder / "own.py").write_text(OWN_CODE)
    described = json.loads((folder / "config.json").read_text())
    auto = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"}
    own = {**described, "model_type": "own", "architectures": ["Model"], "auto_map": auto}
    (folder / "config.json").write_text(json.dumps(own))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model / file, folder / file)
    changes = {"model": ModelConfig(str(folder), trust_remote_code=True)}
    rank_processes.run(rank_main, 1, str(folder), str(tmp_path), changes)
    report = json.loads((tmp_path / "report.json").read_text())
    assert not report["is_tree"] and (tmp_path / "policy" / "own.py").is_file()
    for got, expected in ((report["logps"], folder), (report["published"], tmp_path / "policy")):
        plain = LlamaForCausalLM(LlamaConfig(**{**described, "auto_map": None}))
        plain.load_state_dict(load_file(expected / "model.safetensors"), strict=False)
        plain.tie_weights()
        with torch.no_grad():
            for one, other in zip(got, plain_logps(plain.eval()), strict=True):
                np.testing.assert_allclose(one, other.numpy(), atol=1e-5, rtol=0)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["jamba", "qwen3.5", "gemma 2"])
def test_adapters_beside_a_model_on_rows(name: str, tiny_model: Path, tmp_path: Path) -> None:
    """Published weights are what was trained, also of recurrent layers."""
    families.build(name, spread=0.05).save_pretrained(tmp_path / "model")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model / file, tmp_path / "model" / file)
    changes = {"lora": LoraConfig(rank=3, alpha=12)}
    rank_processes.run(rank_main, 1, str(tmp_path / "model"), str(tmp_path), changes)
    report = json.loads((tmp_path / "report.json").read_text())
    model, before = plain_model(name, tmp_path / "policy"), plain_model(name, tmp_path / "model")
    with torch.no_grad():
        after = plain_logps(model)
        assert loss_of(after, plain_logps(before)).item() < math.log(2)
    for got, expected in zip(report["published"], after, strict=True):
        np.testing.assert_allclose(got, expected.numpy(), atol=1e-5, rtol=0)
