"""The bridge to OpenRLHF: the loss and the gradients of a rank on the same pairs, by OpenRLHF's real DPO trainer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bridged
import pytest
import torch
from bad_input import LABELS, TEXTS, lines, write
from bridged import BETA, WEIGHTS
from transformers import AutoTokenizer

from actors import strategy as strategies
from maskdpo_ray import openrlhf as bridge
from maskdpo_ray.errors import ConfigError, DataError
from maskdpo_ray.openrlhf import MaskDPOMixin, MaskedPairs
from maskdpo_ray.training.forward import response_logps

# OpenRLHF imports flash_attn, which needs a GPU to install, at its top.
with strategies._flash_attn_stand_ins():
    from openrlhf.models.actor import Actor
    from openrlhf.trainer import dpo_trainer
    from openrlhf.trainer.dpo_trainer import DPOTrainer


class PlainStrategy:
    """Steps without DeepSpeed: keeps the gradients and the logged figures of each step."""

    ring_attn_group = None
    accumulated_gradient = 1

    def __init__(self, **model: Any) -> None:
        options = {"label_smoothing": 0.0, "ipo_enable": False, "aux_loss_coef": 0.0, "nll_loss_coef": 0.0, **model}
        self.args = SimpleNamespace(
            model=SimpleNamespace(**options),
            ds=SimpleNamespace(packing_samples=False),
            logger=SimpleNamespace(wandb=SimpleNamespace(key=None), tensorboard_dir=None, logging_steps=1),
            eval=SimpleNamespace(steps=-1),
            ckpt=SimpleNamespace(save_steps=-1),
            train=SimpleNamespace(batch_size=5),
        )
        self.printed: list[str] = []
        self.gradients: dict[str, torch.Tensor] = {}
        self.logged: dict[str, float] = {}

    def is_rank_0(self) -> bool:
        return True

    def print(self, text: str) -> None:
        self.printed.append(text)

    def backward(self, loss: torch.Tensor, model: Any, optimizer: Any) -> None:
        loss.backward()

    def optimizer_step(self, optimizer: Any, model: Any, scheduler: Any) -> None:
        self.gradients = bridged.gradients(model.model)

    def get_grad_norm(self, model: Any) -> float:
        return 0.0

    def all_reduce(self, figures: dict[str, float]) -> dict[str, float]:
        self.logged = dict(figures)
        return figures


def actor(model: Any) -> Any:
    made = Actor(model)
    made.packing_samples = False
    return made


def fitted(folder: Path, rows: Sequence[Any], kind: Any, limit: int = 100, **model: Any) -> PlainStrategy:
    """One step of OpenRLHF's `fit` on all pairs."""
    strategy, tokenizer = PlainStrategy(**model), AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token_id = 0
    data = MaskedPairs(rows, tokenizer, limit, strategy, input_template=None, is_dpo=True)
    loader = torch.utils.data.DataLoader(data, batch_size=5, collate_fn=data.collate_fn)
    policy, reference = actor(bridged.policy(folder)), actor(bridged.reference(folder))
    scheduler = SimpleNamespace(get_last_lr=lambda: [0.0])
    made = kind(policy, reference, strategy, tokenizer, None, loader, loader, scheduler, beta=BETA, max_epochs=1)
    made.fit(strategy.args)
    return strategy


@pytest.fixture(scope="module")
def expected(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bridged.Step]:
    """A rank's step by kind of pairs."""
    return bridged.rank_steps(tmp_path_factory.mktemp("rank"), small_model)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_the_loss_and_the_gradients_are_those_of_a_rank(kind: str, small_model: Path, expected: Any) -> None:
    found = fitted(small_model, bridged.rows(bridged.examples(kind)), bridge.trainer_class())
    bridged.agree((found.logged["eval_loss"], found.gradients), expected[kind])


def test_the_nll_term_is_the_mean_over_the_weighted_tokens_of_chosen_answers(small_model: Path) -> None:
    pairs = bridged.examples("masks", 2)
    with_term, without = (
        fitted(small_model, bridged.rows(pairs), bridge.trainer_class(), nll_loss_coef=weight) for weight in (1.0, 0.0)
    )
    policy = bridged.policy(small_model)
    logps, weights = response_logps(policy, pairs)
    # OpenRLHF divides the sum of all chosen answers' means by their number.
    (-(logps[:2] * weights[:2]).sum(1) / weights[:2].sum(1)).mean().backward()
    expected = {name: without.gradients[name] + each for name, each in bridged.gradients(policy).items()}
    assert bridged.relative_error(with_term.gradients, expected) < 1e-6


def test_long_pairs_are_cut_and_those_without_weight_dropped(small_model: Path) -> None:
    pairs = bridged.examples("masks")  # prompts of 3 to 7 tokens
    strategy = PlainStrategy()
    data = MaskedPairs(bridged.rows(pairs), SimpleNamespace(pad_token_id=0), 6, strategy)
    assert strategy.printed == ["3 masked pairs; dropped, with no weight within 6: 2"] and len(data) == 3
    chosen, mask, *_, weights = data.collate_fn([data[0], data[2]])
    first = pairs[0]
    assert chosen[0].tolist() == list(first.prompt_token_ids + first.responses[0].token_ids) and mask[0].all()
    assert weights[0][0].tolist() == [0.0, 0.0, 0.0, *first.responses[0].weights]
    with pytest.raises(DataError, match="--data.max_len: expected pairs with weights within 2 tokens"):
        MaskedPairs(bridged.rows(pairs), SimpleNamespace(pad_token_id=0), 2, strategy)


def test_another_openrlhf_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DPOTrainer, "_get_batch_logps", lambda self, logps: None)
    expected = r"expected openrlhf as 0.11.2 works, with DPOTrainer._get_batch_logps\(self, per_token_logps, .*0.11.2$"
    with pytest.raises(ConfigError, match=expected):
        bridge.trainer_class()


def test_the_command_is_train_dpo_with_our_trainer_and_data(monkeypatch: pytest.MonkeyPatch) -> None:
    import openrlhf.datasets

    monkeypatch.setattr(openrlhf.datasets, "RewardDataset", openrlhf.datasets.RewardDataset)
    monkeypatch.setattr(dpo_trainer, "DPOTrainer", DPOTrainer)
    found: dict[str, Any] = {}

    def run(module: str, run_name: str) -> None:
        found.update(module=module, run_name=run_name, data=openrlhf.datasets.RewardDataset)
        found["trainer"] = dpo_trainer.DPOTrainer

    monkeypatch.setattr(bridge.runpy, "run_module", run)
    bridge.main()
    assert (found["module"], found["run_name"]) == ("openrlhf.cli.train_dpo", "__main__")
    assert found["data"] is MaskedPairs and issubclass(found["trainer"], MaskDPOMixin)


def test_its_engines_load_the_file_and_take_what_it_returns(good_folder: Path) -> None:
    """The executor of OpenRLHF's engines, with an engine that gives a fixed answer, up to what PPO learns from."""
    with strategies._flash_attn_stand_ins():
        from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
        from openrlhf.utils.agent import SingleTurnAgentExecutor

    config = (good_folder / "config.yaml").read_text()
    replayed = "annotator: replay, options: {file: labels.jsonl}"
    write("config.yaml", config.replace('annotator: "python:fakes:Accepting"', replayed))(good_folder)
    labels = {"question_id": "a", "text": TEXTS[1], "sentences": list(LABELS[1])}
    write("labels.jsonl", lines(labels))(good_folder)
    write("reward.py", bridged.block_of_docs("A reward function"))(good_folder)
    tokenizer = AutoTokenizer.from_pretrained("model")
    answer = [*tokenizer.encode(TEXTS[1], add_special_tokens=False), tokenizer.eos_token_id]

    class Engine:
        async def generate(self, prompt_ids: list[int], params: Any, multi_modal_data: Any) -> Any:
            return SimpleNamespace(outputs=[SimpleNamespace(token_ids=answer, finish_reason="stop", logprobs=None)])

    executor, params = SingleTurnAgentExecutor(["reward.py"]), SimpleNamespace(max_tokens=16, logprobs=None)
    response = asyncio.run(executor.execute("[user] What is a?\n", "a", params, 100, tokenizer, Engine()))
    generator = SamplesGenerator.__new__(SamplesGenerator)
    experience = generator._process_response_into_experience(response, max_len=100)
    assert experience.rewards.tolist() == experience.scores.tolist() == [0.5]
    assert experience.info["unscored"].tolist() == [0.0]
