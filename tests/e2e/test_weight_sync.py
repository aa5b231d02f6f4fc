"""New weights reach the engine: its log-probs of a fixed text are the trainer's, before and after an update."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rank_processes
import torch
from fakes import Held
from plain_training import Member
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors import weights
from actors.rollout import Request, RolloutEngine, Sampling, request_seed
from maskdpo_ray.config.schema import (
    AdamConfig,
    ClusterConfig,
    Config,
    ModelConfig,
    RolloutConfig,
    TrainConfig,
    VllmConfig,
)
from maskdpo_ray.records import Policy, Rollout, TrainingExample

pytestmark = pytest.mark.timeout(900)
STEPS = 6
CONFIG = Config(
    model=ModelConfig("model"),
    vllm=VllmConfig(cpu_kv_cache_gib=1, max_model_len=1024, enforce_eager=True, max_num_seqs=64),
    rollout=RolloutConfig(max_new_tokens=24),
    train=TrainConfig(lr_scheduler="constant", lr_warmup_ratio=0.0),
    adam=AdamConfig(lr=2e-2),  # moves every log-prob of the text by far more than any rounding
    cluster=ClusterConfig(step_timeout_s=300),
)
SIDES = ("The capital of Kenya is Nairobi. Kenya is in Africa.", "The capital of Kenya is Lima. Kenya lies in Asia.")
# Longer than several blocks of the engine's cache, so that a stale prefix would be used if it were kept.
PROMPT = "Give five short facts about Kenya: capital, continent, official language, currency and one neighbour. " * 8
SAMPLING = Sampling(n=2, temperature=0.8, top_k=40, top_p=1.0, max_tokens=24)
GREEDY = Sampling(n=1, temperature=0.0, top_k=-1, top_p=1.0, max_tokens=8)
NUM_REQUESTS = 16


def example(folder: Path) -> TrainingExample:
    """One pair; every token has weight 1, so that the trainer gives the log-prob of each."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt, chosen, rejected = (tuple(tokenizer(text)["input_ids"]) for text in (PROMPT, *SIDES))
    return TrainingExample.of_pair("kenya", prompt, chosen, rejected, (1.0,) * len(chosen), (1.0,) * len(rejected))


def train(rank: int, world: int, port: int, model: str, folder: str) -> None:
    """In a process of its own: a few steps with a large learning rate; the policy, and log-probs before and after."""
    member = Member(CONFIG, rank, world, port, folder, [example(Path(model))])
    reference = member.logps(model)
    member.begin(model, STEPS, logps=reference)
    member.steps([[0]] * STEPS)
    member.trainer.save_policy(f"{folder}/policy")
    after = member.logps()
    np.savez(f"{folder}/logps.npz", before=np.concatenate(reference[0]), after=np.concatenate(after[0]))
    member.trainer.close()


@dataclass
class Observed:
    """Answers of the engine. Log-probs are [chosen tokens + rejected tokens]."""

    initial: Policy
    trained: Policy
    ready: tuple[int, str] = (-1, "")
    loaded: tuple[int, str] = (-1, "")
    loaded_bytes: tuple[int, str] = (-1, "")
    refused: str = ""
    after_refusal: tuple[int, str] = (-1, "")
    logps: dict[str, np.ndarray] = field(default_factory=dict)
    greedy: dict[str, tuple[int, ...]] = field(default_factory=dict)
    forward: list[Rollout] = field(default_factory=list)
    backward: list[Rollout] = field(default_factory=list)
    returned: list[Rollout] = field(default_factory=list)


async def engine_logps(engine: RolloutEngine, pair: TrainingExample) -> np.ndarray:
    sides = []
    for answer in (pair.responses[0].token_ids, pair.responses[1].token_ids):
        logps = await engine.prompt_logps([*pair.prompt_token_ids, *answer])
        sides.append(logps[-len(answer) :])
    return np.concatenate(sides)


async def answers(engine: RolloutEngine, policy: Policy, model: Path, backwards: bool) -> list[Rollout]:
    """Sixteen prompts at once, in order of the requests' numbers whichever came first."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    numbers = range(NUM_REQUESTS)[:: -1 if backwards else 1]
    tasks = {}
    for number in numbers:
        prompt = tuple(tokenizer(f"Country number {number}: " + PROMPT)["input_ids"])
        seed = request_seed(1, "train", policy.version, f"q{number}")
        request = Request(f"q{number}", prompt, SAMPLING, seed, policy)
        tasks[number] = asyncio.create_task(engine.generate(request))
        await asyncio.sleep(0)  # the engine sees them in this order
    return [rollout for number in sorted(tasks) for rollout in (await tasks[number]).rollouts]


async def observe(initial: Policy, trained: Policy, model: Path) -> Observed:
    """One engine through every way of loading."""
    seen, pair = Observed(initial, trained), example(model)
    engine = RolloutEngine(CONFIG, initial, threads=1)

    async def greedy(policy: Policy) -> tuple[int, ...]:
        request = Request("greedy", pair.prompt_token_ids, GREEDY, 0, policy)
        return (await engine.generate(request)).rollouts[0].token_ids

    try:
        seen.ready = await engine.ready()
        seen.logps["initial"] = await engine_logps(engine, pair)
        seen.greedy["initial"] = await greedy(initial)
        seen.forward = await answers(engine, initial, model, backwards=False)
        seen.backward = await answers(engine, initial, model, backwards=True)
        seen.loaded = await engine.load(trained)
        seen.greedy["trained"] = await greedy(trained)
        seen.logps["trained"] = await engine_logps(engine, pair)
        # A request that names another policy than the one held, as after a restart: it is loaded first.
        seen.returned = await answers(engine, initial, model, backwards=False)
        seen.logps["returned"] = await engine_logps(engine, pair)
        # As on a node that doesn't see the trainer's file system.
        elsewhere = Policy(trained.version, "/not/on/this/node", trained.checksum)
        seen.loaded_bytes = await engine.load(elsewhere, Held(weights.pack(trained.path)))
        seen.logps["by bytes"] = await engine_logps(engine, pair)
        try:
            await engine.load(Policy(2, trained.path, "0" * 64))
        except RuntimeError as error:
            seen.refused = str(error)
        seen.after_refusal = await engine.ready()
        seen.logps["after refusal"] = await engine_logps(engine, pair)
    finally:
        await engine.close()
    return seen


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the trained policy and the trainer's log-probs."""
    folder = tmp_path_factory.mktemp("sync")
    rank_processes.run(train, 1, str(tiny_model), str(folder))
    return folder


@pytest.fixture(scope="module")
def seen(tiny_model: Path, trained: Path) -> Observed:
    policies = weights.publish(tiny_model, 0), weights.publish(trained / "policy", 1)
    return asyncio.run(observe(*policies, tiny_model))


@pytest.fixture(scope="module")
def trainer_logps(trained: Path) -> dict[str, np.ndarray]:
    return dict(np.load(trained / "logps.npz"))


@pytest.fixture(scope="module")
def tolerance(seen: Observed, trainer_logps: dict[str, np.ndarray], trained: Path) -> float:
    """Largest difference of log-probs, nats, that bf16 explains: measured where nothing was synced yet.

    Engine and trainer both read the same initial folder, and differ by the order of their sums only. A trained
    policy is more certain, so its logits are larger and so is their rounding, which is in proportion to them.
    """
    before = np.abs(seen.logps["initial"] - trainer_logps["before"]).max()
    growth = max(1.0, np.abs(trainer_logps["after"]).max() / np.abs(trainer_logps["before"]).max())
    return float(3 * growth * before)


def forward_logps(folder: Path, pair: TrainingExample) -> np.ndarray:
    """transformers on a published folder, float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    sides = []
    for answer in (pair.responses[0].token_ids, pair.responses[1].token_ids):
        ids = torch.tensor([[*pair.prompt_token_ids, *answer]])
        with torch.no_grad():
            logps = model(input_ids=ids).logits[0, -len(answer) - 1 : -1].log_softmax(-1)
        sides.append(logps[torch.arange(len(answer)), torch.tensor(answer)].numpy())
    return np.concatenate(sides)


def test_versions_and_checksums_are_answered(seen: Observed) -> None:
    assert seen.ready == (0, seen.initial.checksum)
    assert seen.loaded == seen.loaded_bytes == (1, seen.trained.checksum)
    assert seen.initial.checksum != seen.trained.checksum


def test_engine_and_trainer_agree(
    seen: Observed, trainer_logps: dict[str, np.ndarray], tolerance: float, trained: Path, tiny_model: Path
) -> None:
    moved = np.abs(trainer_logps["after"] - trainer_logps["before"])
    assert np.abs(seen.logps["trained"] - trainer_logps["after"]).max() < tolerance
    assert np.abs(seen.logps["trained"] - forward_logps(trained / "policy", example(tiny_model))).max() < 2 * tolerance
    # Rounding can't be taken for the update: that is an order of magnitude larger.
    assert moved.max() > 10 * tolerance
    assert np.abs(seen.logps["trained"] - seen.logps["initial"]).max() > 10 * tolerance


def test_going_back_is_exact(seen: Observed) -> None:
    """A request that names the initial policy gets its answers, with nothing left of the trained one."""
    assert np.array_equal(seen.logps["returned"], seen.logps["initial"])
    assert seen.returned == seen.forward


def test_by_bytes_is_the_same(seen: Observed) -> None:
    assert np.array_equal(seen.logps["by bytes"], seen.logps["trained"])


def test_other_bytes_are_refused(seen: Observed) -> None:
    assert "version 2" in seen.refused and "published bytes" in seen.refused
    assert seen.after_refusal == (1, seen.trained.checksum)
    assert np.array_equal(seen.logps["after refusal"], seen.logps["trained"])


def test_no_prefix_of_the_old_policy_is_kept(seen: Observed, trained: Path, tiny_model: Path) -> None:
    """The prompt was in the cache under the initial policy; the answer is that of transformers, which has no cache."""
    pair = example(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(trained / "policy", dtype=torch.float32)
    ids = list(pair.prompt_token_ids)
    for token in seen.greedy["trained"]:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        assert logits.max() - logits[token] < 0.05 * logits.std(), "not the most probable token, nor near it"
        ids.append(token)
    assert seen.greedy["trained"] != seen.greedy["initial"]


def test_answers_depend_on_the_seed_and_nothing_else(seen: Observed) -> None:
    assert len(seen.forward) == NUM_REQUESTS * SAMPLING.n
    assert seen.forward == seen.backward  # the same requests in reversed order
    assert {rollout.policy_version for rollout in seen.forward} == {0}
    assert len({rollout.token_ids for rollout in seen.forward}) > NUM_REQUESTS  # samples differ from each other


def test_seeds(seen: Observed) -> None:
    arguments: list[tuple[Any, ...]] = [
        (1, "train", 0, "q"),
        (2, "train", 0, "q"),
        (1, "evaluate-heldout", 0, "q"),
        (1, "train", 1, "q"),
        (1, "train", 0, "r"),
    ]
    assert len({request_seed(*values) for values in arguments}) == len(arguments)
    assert all(0 <= request_seed(*values) < 2**31 for values in arguments)
