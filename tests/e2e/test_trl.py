"""The bridge to TRL: the loss and the gradients of a rank on the same pairs, by TRL's real trainer."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bridged
import datasets
import pytest
import torch
from bad_input import lines
from bridged import BETA, WEIGHTS
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer

from maskdpo_ray.errors import ConfigError, DataError
from maskdpo_ray.trl import MaskCollator, MaskDPOMixin, MaskDPOTrainer


def config(folder: Path, **options: Any) -> DPOConfig:
    given = {"beta": BETA, "per_device_train_batch_size": 5, "report_to": "none", "use_cpu": True, "bf16": False}
    return DPOConfig(str(folder / "out"), **{**given, "gradient_checkpointing": False, "max_steps": 1, **options})


def trainer(
    kind: type, model: Path, args: DPOConfig, pairs: str | list[dict[str, Any]], policy: Any = None, **options: Any
) -> Any:
    rows = bridged.rows(bridged.examples(pairs)) if isinstance(pairs, str) else pairs
    tokenizer = AutoTokenizer.from_pretrained(model)
    if "peft_config" not in options:
        options.setdefault("ref_model", bridged.reference(model))
    policy = bridged.policy(model) if policy is None else policy
    return kind(
        policy, args=args, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer, **options
    )


def step(of: Any) -> bridged.Step:
    """(loss, gradients) of TRL's step on the whole data set."""
    (batch,) = of.get_train_dataloader()
    loss = of.compute_loss(of.model, batch)
    loss.backward()
    return loss.item(), bridged.gradients(of.model)


@pytest.fixture(scope="module")
def expected(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bridged.Step]:
    """A rank's step by kind of pairs."""
    return bridged.rank_steps(tmp_path_factory.mktemp("rank"), small_model)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_the_loss_and_the_gradients_are_those_of_a_rank(
    kind: str, small_model: Path, tmp_path: Path, expected: Any
) -> None:
    bridged.agree(step(trainer(MaskDPOTrainer, small_model, config(tmp_path), kind)), expected[kind])


def test_trls_own_trainer_takes_the_collator(small_model: Path, tmp_path: Path, expected: Any) -> None:
    args = config(tmp_path, remove_unused_columns=False)
    bridged.agree(
        step(trainer(DPOTrainer, small_model, args, "masks", data_collator=MaskCollator())), expected["masks"]
    )


def test_masks_make_a_difference(expected: Any) -> None:
    assert len({round(expected[kind][0], 3) for kind in WEIGHTS}) == len(WEIGHTS)


@pytest.mark.parametrize("kind", ["masks", "fractions"])
def test_adapters_with_the_base_as_reference(kind: str, small_model: Path, tmp_path: Path) -> None:
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    of_trl = trainer(MaskDPOTrainer, small_model, config(tmp_path), kind, peft_config=lora)
    ours = get_peft_model(bridged.policy(small_model), lora)
    ours.load_state_dict(of_trl.model.state_dict())
    bridged.agree(step(of_trl), bridged.step_in_trees(ours, bridged.policy(small_model), bridged.examples(kind)))


@pytest.mark.parametrize("kind", ["masks", "fractions"])
def test_reference_log_probs_in_advance(
    kind: str, small_model: Path, tmp_path: Path, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also behind TRL's own trainer, whose cached ones of the same data set are those of whole answers."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    args = config(tmp_path, precompute_ref_log_probs=True)
    file = tmp_path / "pairs.json"
    datasets.Dataset.from_list(bridged.rows(bridged.examples(kind))).to_json(file)
    for make in (DPOTrainer, MaskDPOTrainer):
        data = datasets.Dataset.from_json(str(file), cache_dir=str(tmp_path))
        model, reference = bridged.policy(small_model), bridged.reference(small_model)
        tokenizer = AutoTokenizer.from_pretrained(small_model)
        made = make(model, ref_model=reference, args=args, train_dataset=data, processing_class=tokenizer)
    bridged.agree(step(made), expected[kind])


def test_a_whole_training_moves_the_policy_and_takes_evaluation_data(small_model: Path, tmp_path: Path) -> None:
    held_out = datasets.Dataset.from_list(bridged.rows(bridged.examples("fractions", 2)))
    args = config(tmp_path, save_strategy="no", learning_rate=1e-3)
    of_trl = trainer(MaskDPOTrainer, small_model, args, "fractions", eval_dataset=held_out)
    before = copy.deepcopy(of_trl.model.state_dict())
    earlier = of_trl.evaluate()["eval_loss"]
    of_trl.train()
    assert any(not torch.equal(value, before[name]) for name, value in of_trl.model.state_dict().items())
    expected, _ = bridged.step_in_trees(
        bridged.policy(small_model), bridged.reference(small_model), bridged.examples("fractions", 2)
    )
    assert earlier == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
def test_long_pairs_are_cut_with_their_weights(mode: str) -> None:
    pairs = bridged.examples("fractions")
    whole = MaskCollator(weighs=True)(bridged.rows(pairs))
    cut = MaskCollator(weighs=True, max_length=9, truncation_mode=mode)(bridged.rows(pairs))
    for row, size in enumerate(whole["attention_mask"].sum(1).tolist()):
        kept = slice(max(0, size - 9), size) if mode == "keep_end" else slice(0, min(9, size))
        for name in ("input_ids", "completion_mask", "token_weights"):
            part = whole[name][row, kept]
            assert torch.equal(cut[name][row, : len(part)], part) and not cut[name][row, len(part) :].any()


def test_a_subclass_of_your_own_gets_masks(small_model: Path, tmp_path: Path, expected: Any) -> None:
    class Doubled(DPOTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return 2 * super().compute_loss(*args, **kwargs)

    class Mine(MaskDPOMixin, Doubled):
        pass

    loss, _ = step(trainer(Mine, small_model, config(tmp_path), "fractions"))
    assert loss == pytest.approx(2 * expected["fractions"][0], rel=1e-6)


def test_losses_that_count_tokens_are_refused_with_fractions(small_model: Path, tmp_path: Path) -> None:
    for options, name in (({"loss_type": "ipo"}, "ipo"), ({"use_weighting": True}, "use_weighting")):
        of_trl = trainer(MaskDPOTrainer, small_model, config(tmp_path, **options), "fractions")
        with pytest.raises(ConfigError, match=f"^loss_type: expected with weights between 0 and 1, .*, got {name}$"):
            step(of_trl)
    step(trainer(MaskDPOTrainer, small_model, config(tmp_path, loss_type="ipo"), "masks"))


def test_what_needs_the_trainer_is_refused_without_it() -> None:
    with pytest.raises(ConfigError, match="expected MaskDPOTrainer"):
        MaskCollator()(bridged.rows(bridged.examples("fractions")))
    with_reference = [{**row, "ref_chosen_logps": 0.0} for row in bridged.rows(bridged.examples("masks"))]
    with pytest.raises(ConfigError, match="precompute_ref_log_probs: expected MaskDPOTrainer"):
        MaskCollator()(with_reference)


def test_rows_without_masks_are_refused() -> None:
    row = bridged.rows(bridged.examples("masks"))[0]
    plain = {name: row[name] for name in ("prompt", "chosen", "rejected")}
    with pytest.raises(DataError, match="export --to masked.*found no prompt_tokens, chosen_tokens"):
        MaskCollator()([plain])
    with pytest.raises(DataError, match="'q0': rejected_weights: expected one for each of 10 tokens, got 9"):
        MaskCollator()([{**row, "rejected_weights": row["rejected_weights"][1:]}])


def test_another_collator_is_refused(small_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data_collator: expected a MaskCollator, got function"):
        trainer(MaskDPOTrainer, small_model, config(tmp_path), "masks", data_collator=lambda rows: {})


def test_a_trl_that_does_not_leave_masked_tokens_out_is_refused(small_model: Path, tmp_path: Path) -> None:
    """The first step checks what the bridge relies on, whatever the version."""
    of_trl = trainer(MaskDPOTrainer, small_model, config(tmp_path), "masks")
    inner = of_trl.model.forward

    def all_positions(*args: Any, labels: torch.Tensor, **kwargs: Any) -> Any:
        return inner(*args, labels=torch.zeros_like(labels), **kwargs)

    of_trl.model.forward = all_positions
    with pytest.raises(ImportError, match=r"expected trl as 1.16 works, with log_probs that are 0 where"):
        step(of_trl)
    of_trl.model.forward = lambda *args, **kwargs: SimpleNamespace(logits=torch.zeros(()))
    with pytest.raises((ImportError, AttributeError)):
        step(of_trl)


def test_the_example_of_the_docs_runs(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    Path("model").symlink_to(small_model)
    Path("pairs.jsonl").write_text(lines(*bridged.rows(bridged.examples("masks"))))
    names: dict[str, Any] = {}
    # Its defaults want a GPU that computes in bfloat16.
    example = bridged.block_of_docs("TRL").replace('"out"', '"out", use_cpu=True, bf16=False, report_to="none"')
    exec(compile(example, "docs/bridges.md", "exec"), names)
    assert names["trainer"].state.global_step == 3 and names["trainer"]._is_checked
