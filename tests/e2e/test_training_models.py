"""Two ranks on models of several kinds, whole and with adapters, under ZeRO-2 and ZeRO-3, against plain torch loops."""

from __future__ import annotations

import functools
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import rank_processes
import torch
import torch.nn.functional as F
from plain_training import ADAM, BETA, TRAIN, Member, config, examples, padded_logps
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, MixtralConfig, PretrainedConfig, Qwen2Config

from actors import strategy
from maskdpo_ray.config.schema import Config, LoraConfig
from maskdpo_ray.errors import ModelError
from maskdpo_ray.training.guards import PublishedPolicy

pytestmark = pytest.mark.timeout(600)

SHAPE = {
    "vocab_size": 2000, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT2 = {
    "vocab_size": 2000, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
MODELS: dict[str, PretrainedConfig] = {
    "biases": Qwen2Config(**SHAPE),
    "experts": MixtralConfig(**SHAPE, num_local_experts=4, router_jitter_noise=0.3, sliding_window=None),
    "tied": GPT2Config(**GPT2),  # with dropout of .1 everywhere by default, and Conv1D in place of linear layers
}
LORA, PLAIN = LoraConfig(rank=3, alpha=12), LoraConfig()
VARIANTS = {"plain-2": (2, PLAIN), "plain-3": (3, PLAIN), "lora-2": (2, LORA), "lora-3": (3, LORA)}
"""Name -> (ZeRO stage, adapters)."""
BATCHES = [[0, 1, 2, 3, 4], [1], [3, 0, 2]]
CONSTANT = replace(TRAIN, lr_scheduler="constant")
SEED = 5
DEFAULT = {"biases-plain-3", "experts-lora-2", "plain-3"}
"""Cases, and refusals by variant; the others are nightly."""


def config_of(variant: str) -> Config:
    stage, lora = VARIANTS[variant]
    return replace(config(stage, "fp32"), train=CONSTANT, adam=replace(ADAM, weight_decay=0.0), lora=lora)


def marks(name: str) -> list[Any]:
    return [] if name in DEFAULT else [pytest.mark.nightly]


def rank_main(rank: int, world: int, port: int, model: str, variant: str, folder: str) -> None:
    """All work of one rank; results for the tests go to `folder`."""
    torch.set_num_threads(1)
    member = Member(config_of(variant), rank, world, port, folder, examples())
    trainer, reference = member.trainer, member.logps(model)
    member.begin(model, len(BATCHES), SEED, logps=reference, starts_at_reference=True)
    steps, trained = member.steps(BATCHES), member.logps()
    trainer.save_policy(f"{folder}/policy")
    trainer.release()
    published = member.published_logps(f"{folder}/policy")
    found = PublishedPolicy.compare(examples(), trained, published, reference).metrics()
    trainer.close()
    if rank == 0:
        Path(f"{folder}/report.json").write_text(json.dumps({"steps": steps, "published": found}))


def refusing_main(rank: int, world: int, port: int, model: str, variant: str, folder: str) -> None:
    """Begin with weights that are not finite; what each rank says goes to `folder`."""
    torch.set_num_threads(1)
    member = Member(config_of(variant), rank, world, port, folder, examples())
    try:
        member.begin(model, 1)
    except ModelError as error:
        Path(f"{folder}/{rank}.txt").write_text(str(error))
    member.trainer.close()


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of folders: MODELS with random weights and a tokenizer; one weight of "not-finite" is infinite."""
    folder = tmp_path_factory.mktemp("models")
    with torch.random.fork_rng(devices=[]):
        for name, config in MODELS.items():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
            model.save_pretrained(folder / name)
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(tiny_model / file, folder / name / file)
    shutil.copytree(folder / "biases", folder / "not-finite")
    weights = load_file(folder / "not-finite/model.safetensors")
    weights["model.norm.weight"][-1] = math.inf
    save_file(weights, folder / "not-finite/model.safetensors", metadata={"format": "pt"})
    return folder


@dataclass(frozen=True)
class Case:
    """Outcome of two ranks with a model: their report, and the folder `policy`."""

    model: Path
    lora: LoraConfig
    folder: Path
    report: dict[str, Any]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((name, variant), id=f"{name}-{variant}", marks=marks(f"{name}-{variant}"))
        for name in MODELS
        for variant in VARIANTS
    ],
)
def case(request: pytest.FixtureRequest, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder, (name, variant) = tmp_path_factory.mktemp("ranks"), request.param
    rank_processes.run(rank_main, 2, str(models / name), variant, str(folder))
    return Case(models / name, VARIANTS[variant][1], folder, json.loads((folder / "report.json").read_text()))


def train_plainly(folder: Path, lora: LoraConfig) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """(steps, weights): Mask-DPO eq. 6 and AdamW on one process, a padded row for each answer, nothing random."""
    model, pairs, steps = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), examples(), []
    with torch.no_grad():
        reference, _ = padded_logps(model, pairs)
    if lora.rank:
        strategy.seed_everything(f"{SEED}/adapters")
        model = strategy.wrap(model, lora)
    model.eval()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adam = torch.optim.AdamW(trained, lr=ADAM.lr, betas=ADAM.betas, eps=ADAM.eps, weight_decay=0.0)
    for batch in BATCHES:
        logps, weights = padded_logps(model, [pairs[i] for i in batch])
        rows = [*batch, *(len(pairs) + i for i in batch)]
        chosen, rejected = (BETA * (weights * (logps - reference[rows, : weights.shape[1]])).sum(-1)).chunk(2)
        loss = -F.logsigmoid(chosen - rejected).mean()
        adam.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, CONSTANT.max_norm)
        adam.step()
        steps.append({"loss": loss.item(), "grad_norm": norm.item()})
    return steps, dict((model.merge_and_unload() if lora.rank else model).named_parameters())


@pytest.fixture(scope="module")
def plain() -> Callable[[Path, LoraConfig], tuple[list[dict[str, float]], dict[str, torch.Tensor]]]:
    """`train_plainly`, which is called once for equal arguments."""
    return functools.cache(train_plainly)


def test_steps_equal_the_plain_ones(case: Case, plain: Any) -> None:
    steps = case.report["steps"]
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)  # random modules would show here first
    for step, expected in zip(steps, plain(case.model, case.lora)[0], strict=True):
        for figure in ("loss", "grad_norm"):
            assert step[figure] == pytest.approx(expected[figure], rel=1e-4, abs=1e-5), figure
    assert steps[-1]["loss"] != pytest.approx(math.log(2), abs=1e-3)


def test_policies_equal_the_plain_ones(case: Case, plain: Any) -> None:
    saved, info = AutoModelForCausalLM.from_pretrained(case.folder / "policy", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    initial = dict(AutoModelForCausalLM.from_pretrained(case.model).named_parameters())
    wrong = moved = 0.0
    for parameter_name, parameter in saved.named_parameters():
        expected = plain(case.model, case.lora)[1][parameter_name]
        wrong += (parameter - expected).square().sum().item()
        moved += (expected - initial[parameter_name]).square().sum().item()
    assert moved > 0
    assert math.sqrt(wrong / moved) < 1e-4


def test_what_is_published_is_what_was_trained(case: Case) -> None:
    found = case.report["published"]
    assert found["published_logp_error"] < 1e-5
    assert found["published_margin"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("variant", [pytest.param(variant, marks=marks(variant)) for variant in VARIANTS])
def test_weights_that_are_not_finite_are_refused_on_all_ranks(models: Path, tmp_path: Path, variant: str) -> None:
    rank_processes.run(refusing_main, 2, str(models / "not-finite"), variant, str(tmp_path))
    lines = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert all("not-finite: expected finite weights, got NaN or infinity in " in line for line in lines)
    assert any("model.norm.weight" in line for line in lines)
