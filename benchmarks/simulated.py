"""Stand-ins for vLLM, annotator and DeepSpeed that take time and no work: for `simulation.py`.

They have the methods of the real actors and stand behind the real groups, on real Ray. Answers are as long as
real ones (five sentences, about 50 tokens, or that several times over), spelled by the real tokenizer's ids, and
labelled sentence by sentence.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors import weights
from actors.process import BusyClock, end_with_raylet
from actors.rollout import Request, Sampled
from maskdpo_ray.records import (
    CONTRADICTORY,
    NO_HALLUCINATION,
    Annotation,
    Policy,
    Question,
    ResponseLogps,
    Rollout,
    Sentence,
)
from maskdpo_ray.training.example_store import ExampleStore

TOPICS = ("Rwanda", "Peru", "Norway", "Laos", "Chad", "Fiji", "Malta", "Togo", "Cuba", "Nepal", "Oman", "Iceland")
_FACTS = (
    ("The capital of {} is ", ("Kigali", "Lima"), ("Paris and its port", "Vienna")),
    (" It lies on the continent of ", ("Africa", "South America"), ("Antarctica, in the north", "Oceania")),
    (" Its official language is ", ("Kinyarwanda", "Spanish and Quechua"), ("Latin", "Old Norse")),
    (" The currency that people pay with there is the ", ("franc", "sol"), ("Roman denarius", "guilder")),
    (" One of the countries at its border is ", ("Uganda", "Bolivia"), ("Australia", "Iceland, by bridge")),
)


@dataclass(frozen=True)
class Phrase:
    """A sentence, and how it is spelled."""

    text: str
    token_ids: tuple[int, ...]
    is_right: bool


@dataclass(frozen=True)
class Phrases:
    """Parts of answers: per topic and place in the answer, right and wrong sentences."""

    by_topic: dict[str, tuple[tuple[Phrase, ...], ...]]
    eos: int
    rounds: int = 1
    """How often an answer goes through the places."""

    @classmethod
    def of(cls, tokenizer: Any, rounds: int = 1) -> Phrases:
        """Spelled by a Hugging Face tokenizer."""

        def phrase(text: str, is_right: bool) -> Phrase:
            return Phrase(text, tuple(tokenizer(text, add_special_tokens=False)["input_ids"]), is_right)

        found = {
            topic: tuple(
                tuple(phrase(f"{start.format(topic)}{end}.", ends is right) for ends in (right, wrong) for end in ends)
                for start, right, wrong in _FACTS
            )
            for topic in TOPICS
        }
        return cls(found, tokenizer.eos_token_id, rounds)

    def answers(self, question_id: str, seed: int, version: int, count: int) -> tuple[Rollout, ...]:
        """`count` answers, which the arguments decide."""
        draw = random.Random(seed)
        topic = self.by_topic[topic_of(question_id)]
        found = []
        for sample in range(count):
            phrases = [draw.choice(place) for place in topic * self.rounds]
            ids = [token for phrase in phrases for token in phrase.token_ids]
            text = "".join(phrase.text for phrase in phrases)
            found.append(Rollout(question_id, sample, (*ids, self.eos), text, "stop", version))
        return tuple(found)


def topic_of(question_id: str) -> str:
    """The country that a question is about."""
    return question_id.split("/")[0]


def questions(count: int, purpose: str) -> list[Question]:
    """Questions, each of a topic of its own."""
    found = []
    for number in range(count):
        country = TOPICS[number % len(TOPICS)]
        text = (
            f"Give five short facts about {country}, version {number}: capital, continent, language, currency, border."
        )
        name = f"{country}/{purpose}-{number:06d}"
        found.append(Question(name, f"topic of {name}", ({"role": "user", "content": text},), document=None))
    return found


class SimulatedEngines:
    """Several rollout engines in one process: engine `index` of it answers `slots` questions at a time.

    Each question takes `seconds`, give or take a fifth. `on` is what the handles of `simulation.py` call.
    """

    def __init__(self, phrases: Phrases, policy: Policy, engines: int, slots: int, seconds: float) -> None:
        end_with_raylet()
        self._phrases, self._seconds = phrases, seconds
        self._policies = [policy] * engines
        self._slots = [asyncio.Semaphore(slots) for _ in range(engines)]
        self._clocks = [BusyClock() for _ in range(engines)]
        self._slot_seconds: list[Counter[int]] = [Counter() for _ in range(engines)]

    async def on(self, call: tuple[int, str, tuple[Any, ...]]) -> Any:
        """Call a method of an engine: (engine, method, arguments)."""
        index, method, arguments = call
        return await getattr(self, method)(index, *arguments)

    async def ready(self, index: int) -> tuple[int, str]:
        return self._policies[index].version, self._policies[index].checksum

    async def has(self, index: int, policy: Policy) -> bool:
        return weights.is_here(policy)

    async def load(self, index: int, policy: Policy, files: Any = None) -> tuple[int, str]:
        self._policies[index] = policy
        return policy.version, policy.checksum

    async def generate(self, index: int, request: Request) -> Sampled:
        async with self._slots[index]:
            begin = time.perf_counter()
            with self._clocks[index]:
                await asyncio.sleep(self._seconds * random.Random(request.seed).uniform(0.8, 1.2))
            self._slot_seconds[index][request.sampling.n] += time.perf_counter() - begin
        policy = request.policy
        rollouts = self._phrases.answers(request.question_id, request.seed, policy.version, request.sampling.n)
        return Sampled((policy.version, policy.checksum), rollouts)

    async def busy_seconds(self, index: int) -> float:
        return self._clocks[index].seconds()

    async def slot_seconds(self, index: int, n: int) -> float:
        """Sum over its slots of the seconds that requests for `n` answers took them."""
        return self._slot_seconds[index][n]

    async def until_gone(self, index: int) -> None:
        await asyncio.Event().wait()

    async def close(self, index: int = 0) -> None:
        pass


class SimulatedAnnotator:
    """Labels each sentence of `Phrases` by what it is; hosted by real annotation actors."""

    def __init__(self, phrases: Phrases) -> None:
        self._labels = {
            phrase.text.strip(): NO_HALLUCINATION if phrase.is_right else CONTRADICTORY
            for topic in phrases.by_topic.values()
            for place in topic
            for phrase in place
        }

    def check(self, question: Question) -> None:
        pass

    def start(self) -> None:
        pass

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        """Sentences end with a full stop."""
        return [Annotation(rollout.question_id, rollout.sample, self._sentences(rollout.text)) for _, rollout in items]

    def _sentences(self, text: str) -> tuple[Sentence, ...]:
        found, start = [], 0
        while start < len(text):
            end = text.index(".", start) + 1
            begin = start + (text[start] == " ")
            label = self._labels[text[begin:end]]
            found.append(Sentence(begin, end, label, None, f"table: {text[begin : begin + 24]}", "fact"))
            start = end
        return tuple(found)


class SimulatedRank:
    """A training rank whose log-probs are zeros and whose steps take no time."""

    def __init__(self, config: Any, rank: int, world_size: int, threads: int, chat_template: str | None) -> None:
        self._rank, self._world_size = rank, world_size

    def address(self) -> tuple[str, int]:
        return "127.0.0.1", 29500

    def setup(self, master_addr: str, master_port: int) -> str | None:
        return None

    def begin(
        self,
        config: Any,
        policy_path: str,
        examples: str,
        total_steps: int,
        seed: int,
        reference_path: str | None,
        reference_logps: str | None,
        starts_at_reference: bool,
    ) -> None:
        pass

    def published_logps(self, examples: str, indices: Sequence[int], path: str) -> dict[int, ResponseLogps]:
        return self.reference_logps(examples, indices, path)

    def reference_logps(
        self, examples: str, indices: Sequence[int], policy_path: str | None = None
    ) -> dict[int, ResponseLogps]:
        store = ExampleStore(Path(examples))
        own = {index: store[index] for index in indices[self._rank :: self._world_size]}
        return {
            index: tuple(np.zeros(len(response.token_ids), np.float32) for response in example.responses)
            for index, example in own.items()
        }

    def train_step(self, batch: Sequence[int]) -> dict[str, float]:
        return {"loss": 0.5, "accuracy": 0.5, "tokens": float(len(batch))}

    def save_policy(self, path: str) -> None:
        write_policy(Path(path), b"trained")

    def release(self) -> None:
        pass

    def close(self) -> None:
        pass


def write_policy(folder: Path, content: bytes) -> None:
    """A folder that has what a policy's folder needs: a file of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(content)
