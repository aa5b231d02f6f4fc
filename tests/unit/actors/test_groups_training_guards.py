"""Guards that stop a training whose policy is computed or published wrongly."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CamembertConfig,
    DeepseekV3Config,
    GPT2Config,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    PhimoeConfig,
    RobertaConfig,
    SeedOssConfig,
    StableLmConfig,
    XLMRobertaConfig,
)

from actors import groups
from actors.groups import TrainingGroup
from maskdpo_ray.config.schema import Config, DataConfig, ModelConfig, RunConfig, TrainConfig
from maskdpo_ray.errors import ModelError
from maskdpo_ray.records import Policy, TrainingExample
from maskdpo_ray.store.checkpoints import Checkpoints
from maskdpo_ray.training import lean_layers, noise, publication, tree_attention, tree_check
from maskdpo_ray.training.objectives import dpo
from maskdpo_ray.training.reference import ReferenceLogps

SHAPE = {
    "vocab_size": 98, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 1,
}  # fmt: skip
ENCODER = {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"} | {"is_decoder": True}
TUNED = {
    "head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 2, "layer_types": ["full_attention"] * 2,
    "no_rope_layers": [1, 0], "attn_temperature_tuning": True, "floor_scale": 8, "attn_scale": 0.5,
}  # fmt: skip
MLA = {
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12,
    "num_key_value_heads": 4, "first_k_dense_replace": 2,
}  # fmt: skip


class PlacesLlama(LlamaForCausalLM):
    """A model with custom code that counts indices in the row, whatever `position_ids` says."""

    def forward(self, *arguments: Any, position_ids: Any = None, **options: Any) -> Any:
        return super().forward(*arguments, **options)


def built(config: Any, kind: Any = None, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = (kind(config) if kind else AutoModelForCausalLM.from_config(config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    model = model.to(dtype)
    tree_attention.install(model)
    return model


RIGHT = {
    "llama": LlamaConfig(**SHAPE),
    "gpt2": GPT2Config(vocab_size=98, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    "experts": PhimoeConfig(**SHAPE, num_local_experts=4),
    "latents": DeepseekV3Config(**{**SHAPE, **MLA}),
    "whole mask": StableLmConfig(**SHAPE),
}
WRONG = {
    "roberta": RobertaConfig(**ENCODER),
    "xlm-roberta": XLMRobertaConfig(**ENCODER),
    "camembert": CamembertConfig(**ENCODER),
    "tuned by place": Llama4TextConfig(**SHAPE, **TUNED),
}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_tree_passes(name: str, dtype: str) -> None:
    model = built(RIGHT[name], dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
    way = model.config._attn_implementation
    tree_check.check(model, dtype, "cpu", has_gradient=True)
    tree_check.check(model, dtype, "cpu", has_gradient=False)
    assert model.config._attn_implementation == way
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("vocabulary", "is_zero"), [(98, True), (2, False)])
def test_a_tree_without_a_gradient_and_one_of_two_tokens_pass(vocabulary: int, is_zero: bool) -> None:
    """A head of zeros has no gradient to be a share of."""
    model = built(LlamaConfig(**{**SHAPE, "vocab_size": vocabulary, "pad_token_id": 0}))
    if is_zero:
        torch.nn.init.zeros_(model.get_output_embeddings().weight)
    tree_check.check(model, "fp32", "cpu", has_gradient=True)


@pytest.mark.parametrize("has_gradient", [True, False])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_tree_stops(name: str, has_gradient: bool) -> None:
    with pytest.raises(ModelError, match=r"log-probs by 0\.\d+ on average.*: set savings.prefix_tree to false"):
        tree_check.check(built(WRONG[name]), "fp32", "cpu", has_gradient)


def test_broken_weights_are_not_put_down_to_the_tree() -> None:
    model = built(LlamaConfig(**SHAPE))
    torch.nn.init.constant_(model.model.layers[0].mlp.down_proj.weight, math.nan)
    with pytest.raises(ModelError, match="expected finite log-probs and gradients, got .*: the weights are"):
        tree_check.check(model, "fp32", "cpu", has_gradient=True)


def test_a_model_that_ignores_positions_stops() -> None:
    with pytest.raises(ModelError, match="PlacesLlama: a prefix tree gives other results"):
        tree_check.check(built(LlamaConfig(**SHAPE), PlacesLlama), "fp32", "cpu", True)


def test_a_wrong_gradient_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right log-probs alone are not enough."""
    model = built(LlamaConfig(**SHAPE))
    real = tree_attention.attention

    def half(*arguments: Any, **options: Any) -> Any:
        output, _ = real(*arguments, **options)
        return output.detach() / 2 + output / 2, None

    monkeypatch.setattr(tree_attention, "attention", half)
    tree_attention.install(model)
    with pytest.raises(ModelError, match=r"\(gradients by \d+%"):
        tree_check.check(model, "fp32", "cpu", True)


# The first step's loss.


def test_the_loss_at_the_reference() -> None:
    assert dpo.loss_at_reference(0.1) == dpo.loss_at_reference(3.0) == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_first_loss_within_rounding_passes(dtype: str) -> None:
    """Log-probs that differ within the tolerance, in batches of all sizes."""
    rng = torch.Generator().manual_seed(0)
    for num_pairs, length in ((1, 5), (1, 400), (64, 150)):
        for _ in range(30):
            error = noise._ERRORS[dtype] * torch.randn(2 * num_pairs, length, generator=rng)
            loss, _, _ = dpo.masked_dpo_loss(error, torch.zeros_like(error), torch.ones_like(error), 0.1)
            dpo.check_first_loss(loss.item(), 0.1, dtype, error.numel(), num_pairs)


@pytest.mark.parametrize(("loss", "dtype"), [(0.62, "fp32"), (0.62, "bf16"), (3.09, "bf16"), (math.nan, "fp32")])
def test_another_first_loss_stops(loss: float, dtype: str) -> None:
    with pytest.raises(ModelError, match=r"^the first step's loss: expected 0.69315 within .*, off by "):
        dpo.check_first_loss(loss, 0.1, dtype, 64 * 300, 64)


# Layers that are computed again, without training mode.


@pytest.mark.parametrize(
    "config",
    [
        SeedOssConfig(**SHAPE, head_dim=8, attention_dropout=0.1, residual_dropout=0.1),
        MixtralConfig(**SHAPE, num_local_experts=4, router_jitter_noise=0.3, sliding_window=None),
        GPT2Config(vocab_size=98, n_embd=32, n_layer=2, n_head=4, n_positions=128),  # dropout .1 by default
    ],
    ids=lambda config: config.model_type,
)
def test_layers_are_computed_again_as_they_were(config: Any) -> None:
    model, plain = built(config), built(config)
    lean_layers.recompute(model)
    layer = next(
        module for module in model.modules() if "Layer" in type(module).__name__ or "Block" in type(module).__name__
    )
    calls: list[Any] = []
    next(layer.children()).register_forward_hook(lambda *_: calls.append(None))
    tokens = torch.arange(3, 23).view(2, 10)
    gradients = []
    for each in (model, plain):
        loss = each(input_ids=tokens, use_cache=False, **rows(each)).logits.float().log_softmax(-1)[..., 5].sum()
        gradients.append(torch.autograd.grad(loss, list(each.parameters()), allow_unused=True))
    assert len(calls) == 2
    for got, expected in zip(*gradients, strict=True):
        assert (got is None) == (expected is None)
        if got is not None:
            torch.testing.assert_close(got, expected)
    calls.clear()
    with torch.no_grad():
        model(input_ids=tokens, use_cache=False, **rows(model))
    assert len(calls) == 1


def rows(model: Any) -> dict[str, Any]:
    """Two rows need transformers' own attention."""
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    return {}


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="^Linear: .*: set model.gradient_checkpointing_enable to false"):
        lean_layers.recompute(torch.nn.Linear(2, 2))


# A published policy.


def example(name: str) -> TrainingExample:
    return TrainingExample(name, (1,), (2, 3), (4, 5, 6), (1.0, 0.5), (0.0, 1.0, 1.0))


def logps(chosen: list[float], rejected: list[float]) -> tuple[np.ndarray, np.ndarray]:
    return np.float32(chosen), np.float32(rejected)


BEFORE = logps([-2, -2], [0, -2, -2])
TRAINED = logps([-1, -1], [0, -3, -3])  # margin: 1 + .5 + 2 = 3.5


def test_what_is_published_of_a_margin() -> None:
    published = logps([-1, -2], [0, -3, -2])  # 1 + 1 = 2; of four tokens two are off by one
    found = publication.compare([example("a")] * 2, [TRAINED] * 2, [published, TRAINED], [BEFORE] * 2)
    assert found == {"published_logp_error": 2 / 8, "published_margin": (2 + 3.5) / 7}
    same = publication.compare([example("a")], [BEFORE], [BEFORE], [BEFORE])
    assert same == {"published_logp_error": 0.0}  # no trained margin, so no share


class Ranks:
    """Two ranks whose published model is `published` and whose trained one is `TRAINED`."""

    deaths = 0

    def __init__(self, published: Any) -> None:
        self.published, self.calls = published, []

    def __len__(self) -> int:
        return 2

    def call(self, method: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
        self.calls.append((method, arguments[0][-1] if arguments[0] else None))
        if method == "save_policy":
            Path(arguments[0][0]).mkdir(parents=True)
            (Path(arguments[0][0]) / "model.safetensors").write_bytes(b"weights")
        of = {"published_logps": self.published, "reference_logps": TRAINED if arguments[0][-1:] == (None,) else BEFORE}
        if method in of:
            return [[of[method] for batch in share for _ in batch] for share, _ in arguments]
        return [{"loss": 0.5}, {"loss": 0.5}]


def group(tmp_path: Path, published: Any, reference: Any, save_steps: int = 0) -> tuple[TrainingGroup, Ranks]:
    """A group that has trained on three pairs."""
    config = Config(run=RunConfig(name="r", dir="runs"), model=ModelConfig("model"), data=DataConfig("questions.jsonl"))
    ranks, examples = Ranks(published), [example(name) for name in "abc"]
    trainer = TrainingGroup(config, ranks)  # type: ignore[arg-type]
    policy = Policy(0, "before", "5f")
    checkpoints = Checkpoints(tmp_path / "checkpoints", save_steps, {})
    if isinstance(reference, list):
        reference = ReferenceLogps.of(examples, reference, "5f")
    assert len(list(trainer.train(examples, reference, policy, 1, checkpoints))) == 3  # epochs
    return trainer, ranks


@pytest.mark.parametrize("reference", [[BEFORE] * 3, Policy(0, "before", "5f")], ids=["once", "each step"])
def test_a_policy_that_was_published_as_trained(tmp_path: Path, reference: Any) -> None:
    trainer, ranks = group(tmp_path, TRAINED, reference)
    policy, found = trainer.publish(str(tmp_path / "policy"), 1)
    assert policy.version == 1 and found == {"published_logp_error": 0.0, "published_margin": 1.0}
    methods = [method for method, _ in ranks.calls if method != "train_step"]
    # The engine is released before the published model is loaded: memory has room for one of them.
    assert methods[:5] == ["begin", "reference_logps", "save_policy", "release", "published_logps"]
    assert methods[-1] == "release"
    assert ranks.calls[0] == ("begin", True)  # policy and reference are the same


def test_a_policy_that_is_another_than_the_trained_one(tmp_path: Path) -> None:
    trainer, _ = group(tmp_path, logps([-1, -1], [0, -3, -5]), [BEFORE] * 3)
    line = "expected log-probs of the policy that was trained, within 0.3 nats a token, loaded back they differ by 0.5"
    with pytest.raises(ModelError) as stopped:
        trainer.publish(str(tmp_path / "policy"), 1)
    assert str(stopped.value) == f"{tmp_path / 'policy'}: {line}; no checkpoint yet"


def test_one_that_is_nan_stops(tmp_path: Path) -> None:
    trainer, _ = group(tmp_path, logps([math.nan, -1], [0, -3, -3]), [BEFORE] * 3)
    with pytest.raises(ModelError, match="they differ by nan"):
        trainer.publish(str(tmp_path / "policy"), 1)


def test_another_reference_is_no_known_loss(tmp_path: Path) -> None:
    _, ranks = group(tmp_path, TRAINED, Policy(0, "another", "60"))
    assert ranks.calls[0] == ("begin", False)


def test_rounding_in_float32_is_less() -> None:
    config = SimpleNamespace(ds=SimpleNamespace(param_dtype="fp32"), engine_dtype="float32")
    publication.check({"published_logp_error": 9e-4}, "policy", config)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="within 0.001 nats"):
        publication.check({"published_logp_error": 2e-3}, "policy", config)  # type: ignore[arg-type]


def moved(shift: float, noise_of: float, seed: int, length: int = 50) -> list[tuple[np.ndarray, np.ndarray]]:
    """Log-probs of eight pairs that training moved by `shift` nats a token, but for errors of `noise_of`."""
    rng = np.random.default_rng(seed)
    sides = [rng.normal(sign * shift, noise_of, (8, length)) - 2 for sign in (1, -1)]
    return [(chosen, rejected) for chosen, rejected in zip(*np.float32(sides), strict=True)]


LONG = [TrainingExample(str(i), (1,), (2,) * 50, (3,) * 50, (1.0,) * 50, (1.0,) * 50) for i in range(8)]


def policy_config(param_dtype: str, engine_dtype: str, rank: int = 0) -> Any:
    ds, lora = SimpleNamespace(param_dtype=param_dtype), SimpleNamespace(rank=rank)
    return SimpleNamespace(ds=ds, engine_dtype=engine_dtype, lora=lora)


@pytest.mark.parametrize("share", [0.0, 0.3, -1.0])
def test_a_policy_without_what_was_learned_stops(share: float) -> None:
    """As without its adapters: log-probs are off by less than bfloat16's rounding."""
    reference, trained, published = moved(0, 0, 0), moved(0.05, 0.02, 1), moved(0.05 * share, 0.02, 2)
    found, config = publication.compare(LONG, trained, published, reference), policy_config("bf16", "bfloat16")
    publication.check(found, "policy", config)
    with pytest.raises(ModelError, match=r"^policy: expected what training added .*, loaded back it is -?\d"):
        publication.check_margin(LONG, trained, published, reference, "policy", config)


def test_a_policy_without_most_that_was_learned_is_told_where_engines_round(capsys: pytest.CaptureFixture[str]) -> None:
    reference, trained, config = moved(0, 0, 0), moved(0.05, 0.02, 1), policy_config("fp32", "bfloat16")
    publication.check_margin(LONG, trained, reference, reference, "policy", config)
    assert "set vllm.dtype to float32, or ds.param_dtype to bf16" in "".join(capsys.readouterr())
    with pytest.raises(ModelError):  # adapters are merged for what engines hold
        publication.check_margin(LONG, trained, reference, reference, "policy", policy_config("fp32", "bfloat16", 8))


@pytest.mark.parametrize("shift", [0.0, 0.001, 0.05])
def test_rounding_stops_no_policy(shift: float) -> None:
    """However little was learned; and a share of what is nearly nothing is not logged."""
    reference, config = moved(0, 0, 0), policy_config("bf16", "bfloat16")
    for seed in range(50):
        trained, published = moved(shift, 0.1, seed), moved(shift, 0.1, seed + 100)
        publication.check_margin(LONG, trained, published, reference, "policy", config)
        share = publication.compare(LONG, trained, published, reference).get("published_margin", 1.0)
        assert abs(share - 1) < 4


def test_first_logps_that_make_up_for_each_other_stop() -> None:
    """A loss of log 2 says nothing of a policy that is off in all tokens, up in half of them."""
    off = torch.tensor([1.0, -1.0]).repeat(2, 100)
    loss, _, _ = dpo.masked_dpo_loss(off, torch.zeros_like(off), torch.ones_like(off), 0.1)
    dpo.check_first_loss(loss.item(), 0.1, "bf16", off.numel(), 1)
    for dtype in ("bf16", "fp32"):
        with pytest.raises(ModelError, match=r"^the first step's log-probs: .*, off by 1: "):
            dpo.check_first_logps(off.abs().sum().item(), dtype, off.numel())
        dpo.check_first_logps(noise.LOGPS[dtype] * 400, dtype, 400)
        dpo.check_first_logps(2 * noise.LOGPS[dtype], dtype, 1)  # a token by itself may be off by more
    with pytest.raises(ModelError, match="off by nan"):
        dpo.check_first_logps(math.nan, "bf16", 5)


def test_published_pairs_are_as_many_as_there_are(tmp_path: Path) -> None:
    """A last step of one pair says little."""
    examples = [example(str(i)) for i in range(21)]
    training = groups._Training(examples, [BEFORE] * 21, Policy(0, "p", "5f"), 1, Checkpoints(tmp_path, 0, {}))
    places = training.last_pairs(TrainConfig(batch_size=20, max_epochs=2))
    assert len(set(places)) == len(places) == 16
    few = groups._Training(examples[:3], [BEFORE] * 3, Policy(0, "p", "5f"), 1, Checkpoints(tmp_path, 0, {}))
    assert sorted(few.last_pairs(TrainConfig(batch_size=2, max_epochs=2))) == [0, 1, 2]
