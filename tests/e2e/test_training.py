"""Training ranks against a plain torch implementation that pads, runs on one process and in float32."""

from __future__ import annotations

import gc
import json
import math
import random
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.strategy import OptimizerSettings
from actors.training import TrainingRank, TrainingSettings
from maskdpo_ray.errors import ModelError, NotFiniteError
from maskdpo_ray.records import PairLogps, TrainingExample
from maskdpo_ray.training import batches as batching

# The groups of ranks run inside the first test's setup: two minutes on two idle cores, more on busy ones.
pytestmark = pytest.mark.timeout(1200)

BETA = 0.5
# A large eps: AdamW forgives gradients that are wrong by a factor otherwise, and the tests would too.
OPTIMIZER = OptimizerSettings(
    lr=2e-3,
    betas=(0.9, 0.95),
    eps=1e-2,
    weight_decay=0.1,
    max_norm=1.0,
    lr_scheduler="cosine",
    lr_warmup_ratio=0.2,
    min_lr_ratio=0.1,
)
# Five pairs over two ranks: shares of three and two, micro-batches of two: two passes and one.
# The batch of one pair leaves the second rank empty-handed.
BATCHES = [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [2], [4, 3, 2, 1, 0], [0, 1, 2, 3, 4]]
LR = [0.0, 1.0, 0.5 * (1 + math.cos(math.pi / 4)), 0.5, 0.5 * (1 + math.cos(3 * math.pi / 4))]
MICRO_BATCH_SIZE = 2
WORLDS = (1, 2)
VARIANTS = [(stage, dtype) for dtype in ("fp32", "bf16") for stage in (2, 3)]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def examples() -> list[TrainingExample]:
    """Five pairs with shared prompts, answers that share beginnings, and weights 0, 1 and between."""
    rng = random.Random(7)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(10, 2000) for _ in range(count))

    def weights(count: int) -> tuple[float, ...]:
        return (1.0, *(rng.choice((0.0, 0.5, 1.0)) for _ in range(count - 1)))

    few_shots, result = ids(12), []
    for index in range(5):
        prompt, beginning = few_shots + ids(3 + index), ids(index)
        chosen, rejected = beginning + ids(6 + index), beginning + ids(9 - index)
        result.append(
            TrainingExample(f"q{index}", prompt, chosen, rejected, weights(len(chosen)), weights(len(rejected)))
        )
    return result


def padded_logps(model: Any, pairs: list[TrainingExample]) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probs, weights) [2B, T], chosen rows first: one right-padded row per answer, all logits, no tricks."""
    sides = [(e.prompt_token_ids, e.chosen_token_ids, e.chosen_weights) for e in pairs]
    sides += [(e.prompt_token_ids, e.rejected_token_ids, e.rejected_weights) for e in pairs]
    width = max(len(prompt) + len(answer) for prompt, answer, _ in sides)
    longest = max(len(answer) for _, answer, _ in sides)
    ids, mask = torch.zeros(len(sides), width, dtype=torch.long), torch.zeros(len(sides), width, dtype=torch.long)
    for row, (prompt, answer, _) in enumerate(sides):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        mask[row, : len(prompt) + len(answer)] = 1
    all_logps = model(input_ids=ids, attention_mask=mask).logits.float().log_softmax(-1)
    logps, weights = [], torch.zeros(len(sides), longest)
    for row, (prompt, answer, weight) in enumerate(sides):
        values = all_logps[row, torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1), torch.tensor(answer)]
        logps.append(F.pad(values, (0, longest - len(answer))))
        weights[row, : len(answer)] = torch.tensor(weight)
    return torch.stack(logps), weights


def train_plainly(folder: Path) -> dict[str, Any]:
    """The same steps in float32: Mask-DPO eq. 6 written out, torch's AdamW, gradients of the whole batch at once."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    pairs = examples()
    with torch.no_grad():
        reference, _ = padded_logps(model, pairs)
    decayed = [p for name, p in model.named_parameters() if "norm" not in name]
    others = [p for name, p in model.named_parameters() if "norm" in name]
    adam = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": OPTIMIZER.weight_decay}, {"params": others, "weight_decay": 0.0}],
        betas=OPTIMIZER.betas,
        eps=OPTIMIZER.eps,
    )
    steps = []
    for batch, lr in zip(BATCHES, LR, strict=True):
        logps, weights = padded_logps(model, [pairs[i] for i in batch])
        rows = [*batch, *(len(pairs) + i for i in batch)]
        rewards = BETA * (weights * (logps - reference[rows, : weights.shape[1]])).sum(-1)
        chosen, rejected = rewards[: len(batch)], rewards[len(batch) :]
        loss = -F.logsigmoid(chosen - rejected).mean()
        model.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.max_norm)
        for group in adam.param_groups:
            group["lr"] = lr * OPTIMIZER.lr
        adam.step()
        steps.append(
            {
                "loss": loss.item(),
                "accuracy": (chosen > rejected).float().mean().item(),
                "chosen_reward": chosen.mean().item(),
                "rejected_reward": rejected.mean().item(),
                "tokens": float((weights > 0).sum()),
                "grad_norm": norm.item(),
                "lr": lr * OPTIMIZER.lr,
            }
        )
    return {"steps": steps, "weights": dict(model.named_parameters()), "reference": reference}


def settings(stage: int, dtype: str) -> TrainingSettings:
    return TrainingSettings(
        optimizer=OPTIMIZER,
        beta=BETA,
        zero_stage=stage,
        param_dtype=dtype,
        seed=1,
        device="cpu",
        num_threads=1,
        timeout_s=120,
        gradient_checkpointing=stage == 3,
    )


def shares(items: list[Any], rank: int, world: int) -> list[list[Any]]:
    return list(batching.chunks(batching.shard(items, rank, world), MICRO_BATCH_SIZE))


def train_steps(
    trainer: TrainingRank, rank: int, world: int, reference: list[PairLogps], batches: list[list[int]]
) -> list[dict[str, float]]:
    """Train on batches of indices into `examples()` and `reference`; returns each step's metrics."""
    pairs = examples()
    return [
        trainer.train_step(
            shares([pairs[i] for i in batch], rank, world),
            shares([reference[i] for i in batch], rank, world),
            len(batch),
        )
        for batch in batches
    ]


def allocated() -> int:
    """Bytes of all live tensors of this process."""
    gc.collect()
    tensors = [item for item in gc.get_objects() if isinstance(item, torch.Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def rank_main(rank: int, world: int, port: int, model: str, lacking: str, folder: str) -> None:
    """Everything one rank does, for every variant in turn; what the tests check goes to `folder`."""
    torch.set_num_threads(1)
    pairs = examples()
    for stage, dtype in VARIANTS:
        report: dict[str, Any] = {}
        out = Path(folder) / f"{world}-{stage}-{dtype}"
        trainer = TrainingRank(settings(stage, dtype), rank, world)
        trainer.setup("127.0.0.1", port)

        # Every rank needs the reference of all pairs here, so each computes all of them.
        everything = list(batching.chunks(pairs, MICRO_BATCH_SIZE))
        reference = trainer.reference_logps(everything, model)
        trainer.begin(model, len(BATCHES))
        own = trainer.reference_logps(everything)
        report["same_reference"] = all(
            np.array_equal(a, b) for x, y in zip(reference, own, strict=True) for a, b in zip(x, y, strict=True)
        )
        report["reference"] = [[side.tolist() for side in pair] for pair in reference]
        report["steps"] = train_steps(trainer, rank, world, reference, BATCHES[:3])
        trainer.save_checkpoint(f"{out}-checkpoint")
        report["steps"] += train_steps(trainer, rank, world, reference, BATCHES[3:])
        trainer.save_policy(str(out))
        trainer.save_policy(str(out))  # over an earlier one, as after a crash
        report["trained"] = [[side.tolist() for side in pair] for pair in trainer.reference_logps(everything)]
        report["initial_again"] = [
            [side.tolist() for side in pair] for pair in trainer.reference_logps(everything, model)
        ]

        trainer.begin(model, len(BATCHES))
        report["allocated"] = [allocated()]
        trainer.load_checkpoint(f"{out}-checkpoint")
        report["resumed_steps"] = train_steps(trainer, rank, world, reference, BATCHES[3:])
        trainer.save_policy(f"{out}-resumed")
        trainer.begin(model, len(BATCHES))
        report["allocated"].append(allocated())
        try:
            trainer.train_step(shares(pairs, rank, world), shares(reference, rank, world), 4)
        except ValueError as error:
            report["wrong_size"] = str(error)
        reference = [(chosen * np.nan, rejected) for chosen, rejected in reference]
        try:
            train_steps(trainer, rank, world, reference, [[0, 1, 2, 3, 4]])
        except NotFiniteError as error:
            report["not_finite"] = str(error)
        try:
            trainer.begin(lacking, 1)
        except ModelError as error:
            report["lacking"] = str(error)
        trainer.release()
        if rank == 0:
            Path(f"{out}.json").write_text(json.dumps(report))
    trainer.close()


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> dict[str, Any]:
    return train_plainly(tiny_model)


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the reports and policies of groups of one and of two ranks, all ZeRO stages and dtypes."""
    folder = tmp_path_factory.mktemp("training")
    lacking = without_a_weight(tiny_model, folder / "lacking")
    for world in WORLDS:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        mp.spawn(rank_main, args=(world, port, str(tiny_model), str(lacking), str(folder)), nprocs=world, daemon=True)
    return folder


def without_a_weight(model: Path, folder: Path) -> Path:
    """A copy of a model's folder that lacks one tensor."""
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def report_of(runs: Path, world: int, stage: int, dtype: str) -> dict[str, Any]:
    return json.loads((runs / f"{world}-{stage}-{dtype}.json").read_text())


groups = pytest.mark.parametrize(("world", "stage", "dtype"), [(w, s, d) for w in WORLDS for s, d in VARIANTS])


@groups
def test_steps_equal_the_plain_ones(runs: Path, plain: dict[str, Any], world: int, stage: int, dtype: str) -> None:
    steps = report_of(runs, world, stage, dtype)["steps"]
    tolerance = {"rel": 1e-4, "abs": 1e-5} if dtype == "fp32" else {"rel": 0.1, "abs": 0.1}
    for step, expected in zip(steps, plain["steps"], strict=True):
        for name in ("loss", "chosen_reward", "rejected_reward", "grad_norm"):
            assert step[name] == pytest.approx(expected[name], **tolerance), name
        assert step["tokens"] == expected["tokens"]
        assert step["lr"] == pytest.approx(expected["lr"], abs=1e-12)
        # In the first two steps policy and reference are equal: which reward is higher is rounding.
        if expected["chosen_reward"] != pytest.approx(0, abs=1e-4):
            assert step["accuracy"] == pytest.approx(expected["accuracy"])


@groups
def test_weights_equal_the_plain_ones(
    runs: Path, plain: dict[str, Any], tiny_model: Path, world: int, stage: int, dtype: str
) -> None:
    saved = AutoModelForCausalLM.from_pretrained(runs / f"{world}-{stage}-{dtype}", dtype=torch.float32)
    initial = dict(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).named_parameters())
    # bf16 rounds weights when they are loaded and when they are saved, each time by 2^-9 of their size at most.
    rounding, bound = (0.0, 1e-3) if dtype == "fp32" else (2**-8, 0.1)
    wrong = moved = 0.0
    for name, parameter in saved.named_parameters():
        expected = plain["weights"][name]
        wrong += ((parameter - expected).abs() - rounding * expected.abs()).clamp(min=0).square().sum().item()
        moved += (expected - initial[name]).square().sum().item()
    assert math.sqrt(wrong / moved) < bound


def test_steps_are_clipped_and_learn(plain: dict[str, Any]) -> None:
    """The comparison says something only where clipping acts and the policy moves."""
    norms, losses = ([step[name] for step in plain["steps"]] for name in ("grad_norm", "loss"))
    assert max(norms) > 2 * OPTIMIZER.max_norm
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[4] < losses[3] < losses[1] - 0.1


@groups
def test_reference_logps(runs: Path, plain: dict[str, Any], world: int, stage: int, dtype: str) -> None:
    report, pairs = report_of(runs, world, stage, dtype), examples()
    assert report["same_reference"]  # of the loaded policy, and of the same folder loaded for a moment
    assert report["initial_again"] == report["reference"]  # not touched by training
    tolerance = 1e-4 if dtype == "fp32" else 0.2
    for index, (example, pair) in enumerate(zip(pairs, report["reference"], strict=True)):
        sides = (example.chosen_weights, example.rejected_weights)
        for offset, weights, values in zip((0, 5), sides, pair, strict=True):
            expected = plain["reference"][offset + index, : len(weights)] * (torch.tensor(weights) > 0)
            torch.testing.assert_close(torch.tensor(values), expected, atol=tolerance, rtol=0)


@groups
def test_saved_policy_reloads(runs: Path, tiny_model: Path, world: int, stage: int, dtype: str) -> None:
    folder, report = runs / f"{world}-{stage}-{dtype}", report_of(runs, world, stage, dtype)
    assert {"model.safetensors", "config.json", "generation_config.json", "chat_template.jinja"} <= {
        file.name for file in folder.iterdir()
    }
    assert not list(runs.glob("*.partial"))
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype], output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(DTYPES[dtype]).split(".")[1]
    with torch.no_grad():
        logps, weights = padded_logps(model, examples())
    values = [pair[0] for pair in report["trained"]] + [pair[1] for pair in report["trained"]]
    for row, expected in enumerate(values):
        actual = (logps[row] * (weights[row] > 0))[: len(expected)]
        torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-4 if dtype == "fp32" else 0.2, rtol=0)
    chat = [{"role": "user", "content": "Five facts about Côte d'Ivoire."}]
    old, new = (AutoTokenizer.from_pretrained(path) for path in (tiny_model, folder))
    assert new.apply_chat_template(chat)["input_ids"] == old.apply_chat_template(chat)["input_ids"]


@groups
def test_checkpoint_goes_on_as_if_never_stopped(runs: Path, world: int, stage: int, dtype: str) -> None:
    report = report_of(runs, world, stage, dtype)
    assert report["resumed_steps"] == report["steps"][3:]
    straight, resumed = (
        AutoModelForCausalLM.from_pretrained(runs / f"{world}-{stage}-{dtype}{suffix}").state_dict()
        for suffix in ("", "-resumed")
    )
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


@groups
def test_memory_does_not_grow_and_errors_stop_the_step(runs: Path, world: int, stage: int, dtype: str) -> None:
    report = report_of(runs, world, stage, dtype)
    before, after = report["allocated"]
    assert after <= before * 1.01
    assert "5 pairs" in report["wrong_size"] and "4" in report["wrong_size"]
    assert "nan" in report["not_finite"]


@groups
def test_a_folder_that_lacks_weights_is_refused(runs: Path, world: int, stage: int, dtype: str) -> None:
    """transformers would fill them in at random."""
    assert "model.norm.weight" in report_of(runs, world, stage, dtype)["lacking"]
