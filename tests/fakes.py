"""Stand-ins for engines, annotators and trainer: seeded, instant, and they note what was asked of them.

`FakeEngines`, `FakeAnnotators` and `FakeTrainer` stand behind the Protocols of `stages/protocols.py`, in process.
`fake_engine.FakeEngine` and `fake_rank.FakeRank` have the methods of the real actors and stand behind real Ray.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from actors import weights
from maskdpo_ray.config.schema import Config, ModelConfig
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.models.thinking import Tags
from maskdpo_ray.records import (
    CONTRADICTORY,
    NO_HALLUCINATION,
    SUPPORTED,
    UNSUPPORTED,
    Annotation,
    Answered,
    CommittedQuestion,
    Failed,
    JudgedFact,
    Judgement,
    Labelled,
    Policy,
    PreferencePair,
    Question,
    ResponseLogps,
    Rollout,
    Sampling,
    Sentence,
    Surprisal,
    TrainingExample,
)
from maskdpo_ray.stages.protocols import ActorGroups
from maskdpo_ray.store import files
from maskdpo_ray.store.checkpoints import Checkpoints
from maskdpo_ray.store.files import Proof
from maskdpo_ray.training import batches as batching
from maskdpo_ray.training.example_store import ExampleStore
from maskdpo_ray.training.reference import ReferenceLogps

EOS = 0
CONFIG = Config(model=ModelConfig(model_name_or_path="m"))
RIGHT, WRONG = "This is right.", "This is wrong."


class Stopped(BaseException):
    """Error of `Events` where a test wants the run to end; no code of ours catches it."""


class Events(list):
    """Events in order; stops the run at event number `stop_at` (from 0), before its effect."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.stop_at = stop_at

    def note(self, *event: Any) -> None:
        if len(self) == self.stop_at:
            raise Stopped(f"at {event}")
        self.append(event)

    def of(self, kind: str) -> list[tuple]:
        return [event for event in self if event[0] == kind]


class CharTokenizer:
    """One token a character; id 0 is EOS."""

    special_ids = frozenset({EOS})

    def id_to_token(self, token: int) -> str:
        return "</s>" if token == EOS else chr(token)


def question(name: str) -> Question:
    """A question of its own topic; what stands before a "/" in its name decides what `answers` gives."""
    return Question(name, f"topic of {name}", ({"role": "user", "content": f"What of {name}?"},))


def committed(
    name: str,
    rollouts: Iterable[Rollout] = (),
    annotations: Iterable[Annotation] = (),
    outcome: PreferencePair | str | None = None,
    **others: Any,
) -> CommittedQuestion:
    """A question with its one pair, or why it has none."""
    pairs = [outcome] if isinstance(outcome, PreferencePair) else []
    drops = [outcome] if isinstance(outcome, str) else []
    return CommittedQuestion.of(name, rollouts, annotations, pairs, drops, **others)


def sampling(count: int) -> Sampling:
    """How `count` answers are sampled, where nobody cares."""
    return Sampling(count, 0.8, 40, 1.0, 96)


def render(asked: Question) -> list[int]:
    """Prompt ids: one a character."""
    return [ord(character) for character in asked.prompt[-1]["content"]]


class CharChat(Chat):
    """Prompts of `render`, answers of `answers`."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{"tokenizer": CharTokenizer(), "tags": Tags(()), "now": datetime(2025, 1, 1), **given})

    ends = (EOS,)

    def prompt_ids(self, question: Question) -> list[int]:
        return render(question)


def answers(name: str, version: int, seed: object, count: int) -> tuple[Rollout, ...]:
    """`count` answers, a function of the arguments only.

    Names that start with "same/" get equal answers, with "cut/" answers cut off at the limit, with
    "garbled/" answers whose ids don't spell their text.
    """
    generator = random.Random(f"{seed}/{version}/{name}")
    rollouts = []
    for sample in range(count):
        # The first answer is all right and the second all wrong, so that an ordinary question gives a pair.
        share = (1.0, 0.0)[sample] if sample < 2 else generator.random()
        share = 1.0 if name.startswith("same/") else share
        size = 2 if name.startswith("same/") else generator.randint(1, 4)
        text = " ".join(RIGHT if generator.random() < share else WRONG for _ in range(size))
        is_cut = name.startswith("cut/")
        ids = [ord(character) for character in text] + [EOS] * (not is_cut)
        if name.startswith("garbled/"):
            ids[0] += 1
        rollouts.append(Rollout(name, sample, tuple(ids), text, "length" if is_cut else "stop", version))
    return tuple(rollouts)


def label(rollout: Rollout) -> Annotation:
    """Every sentence of `answers` by its own word."""
    sentences, start = [], 0
    for sentence in rollout.text.replace(". ", ".\n").split("\n"):
        kind = NO_HALLUCINATION if sentence == RIGHT else CONTRADICTORY
        sentences.append(Sentence(start, start + len(sentence), kind, kind="claim"))
        start += len(sentence) + 1
    return Annotation(rollout.question_id, rollout.sample, tuple(sentences))


class FakeGroup:
    """Actors that are never replaced, and never busy."""

    restarts = 0
    _events: Events

    def rest(self) -> None:
        self._events.note("rest", type(self).__name__)

    def busy_seconds(self) -> float:
        return 0.0

    def stop(self) -> None:
        """It waits for nothing but the engines."""


class FakeEngines(FakeGroup):
    """Answers under the policy that was loaded last and no other; `shuffle` seeds the order of completion.

    Questions whose names start with "failed/" fail.
    """

    is_stopped = False

    def __init__(self, seed: int, events: Events, shuffle: int | None = None) -> None:
        self._seed, self._events, self._shuffle = seed, events, shuffle
        self._loaded: Policy | None = None

    def load(self, policy: Policy) -> None:
        self._events.note("load", policy.version)
        assert weights.is_here(policy)
        self._loaded = policy

    def stop(self) -> None:
        self.is_stopped = True

    def stream(
        self, questions: Iterable[Question], policy: Policy, sampling: Sampling, purpose: str
    ) -> Iterator[Answered | Failed]:
        waiting = list(questions)
        if self._shuffle is not None:
            random.Random(f"{self._shuffle}/{purpose}/{policy.version}").shuffle(waiting)
        for asked in waiting:
            if self.is_stopped:
                return
            assert policy == self._loaded, f"asked for {policy}, loaded {self._loaded}"
            self._events.note("answer", purpose, policy.version, asked.id)
            if asked.id.startswith("failed/"):
                yield Failed(asked, f"rollout engine 0: no answer to {asked.id}")
                continue
            rollouts = answers(asked.id, policy.version, f"{self._seed}/{purpose}", sampling.n)
            yield Answered(asked, tuple(render(asked)), rollouts)


class FakeAnnotators(FakeGroup):
    """Labels by `label`; lets what failed pass."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def stream(self, answered: Iterable[Answered | Failed]) -> Iterator[Labelled | Failed]:
        for item in answered:
            if isinstance(item, Failed):
                yield item
                continue
            self._events.note("label", item.question.id)
            annotations = tuple(label(rollout) for rollout in item.rollouts)
            yield Labelled(item.question, item.prompt_token_ids, item.rollouts, annotations)


class FakeEvaluators(FakeGroup):
    """Finds one fact in each answer: true when the first sentence is right; lets what failed pass."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def stream(self, labelled: Iterable[Labelled | Failed]) -> Iterator[Labelled | Failed]:
        for item in labelled:
            if isinstance(item, Failed):
                yield item
                continue
            self._events.note("judge", item.question.id)
            yield replace(item, judgements=tuple(map(judge, item.rollouts)))


def judge(rollout: Rollout) -> Judgement:
    """One fact, true when the first sentence of `answers` is; a character has 2 nats in right ones, else 3."""
    is_right = rollout.text.startswith(RIGHT)
    fact = JudgedFact(rollout.text, SUPPORTED if is_right else UNSUPPORTED)
    size = len(rollout.text)
    surprisal = Surprisal(size * (2.0 if is_right else 3.0), size)
    return Judgement(rollout.question_id, rollout.sample, (fact,), surprisal=surprisal)


class FakeTrainer(FakeGroup):
    """Trainer whose "weights" are a digest of all that it was trained on, in order: another order, another policy."""

    def __init__(self, config: Config, events: Events) -> None:
        self._events = events
        self._state = b""

    def reference_logps(self, examples: ExampleStore, policy: Policy) -> Iterator[ResponseLogps]:
        self._events.note("reference", policy.version, tuple(example.id for example in examples))
        return (fake_logps(example, policy.checksum) for example in examples)

    def train(
        self,
        examples: ExampleStore,
        reference: ReferenceLogps | Policy | None,
        policy: Policy,
        seed: int,
        checkpoints: Checkpoints,
        config: Config,
    ) -> Iterator[dict[str, float]]:
        self._events.note("begin", policy.version, tuple(example.id for example in examples))
        assert weights.is_here(policy)
        given: Any = [()] * len(examples) if reference is None else reference
        if isinstance(reference, Policy):
            given = [fake_logps(example, reference.checksum) for example in examples]
        train, done = config.train, checkpoints.step
        self._state = (checkpoints.path(done) / "state").read_bytes() if done else policy.checksum.encode()
        batches = batching.epoch_batches(len(examples), train.batch_size, train.max_epochs, seed)
        for step, batch in islice(enumerate(batches, start=1), done, None):
            self._events.note("step", policy.version, tuple(examples[i].id for i in batch))
            for i in batch:
                values = b"".join(side.tobytes() for side in given[i])
                self._state = hashlib.sha256(self._state + repr(examples[i]).encode() + values).digest()
            tokens = sum(sum(w > 0 for w in examples[i].responses[0].weights) for i in batch)
            yield {"loss": int.from_bytes(self._state[:2]) / 2**16, "accuracy": 0.5, "tokens": float(tokens)}
            if checkpoints.is_due(step):
                checkpoints.commit(step, write_checkpoint(checkpoints.clear(step), "state", self._state))

    def publish(self, folder: str, version: int) -> tuple[Policy, dict[str, float]]:
        self._events.note("publish", version)
        return write_policy(folder, version, self._state), {"published_logp_error": 0.0, "published_margin": 1.0}


def write_checkpoint(folder: Path, name: str, content: bytes) -> dict[str, Proof]:
    """One file of a checkpoint; returns its proof."""
    write_file(folder, name, content)
    return {name: files.proof(folder / name)}


def write_file(folder: Path, name: str, content: bytes) -> None:
    """In a folder that is made when missing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def fake_logps(example: TrainingExample, salt: str) -> tuple[np.ndarray, np.ndarray]:
    """Log-probs of each response that tell the example and `salt` apart, float32 of the answers' lengths."""
    seed = int.from_bytes(hashlib.sha256(f"{salt}/{example.id}".encode()).digest()[:8])
    generator = np.random.default_rng(seed)
    lengths = [len(response.token_ids) for response in example.responses]
    return tuple(-generator.random(length, dtype=np.float32) for length in lengths)


def write_policy(folder: str | Path, version: int, content: bytes) -> Policy:
    """A folder that has what a policy's folder needs: a file of weights."""
    write_file(Path(folder), "model.safetensors", content)
    return weights.publish(folder, version)


def groups(config: Config, events: Events, shuffle: int | None = None) -> ActorGroups:
    """All groups that the config asks for, noting into `events`."""
    return ActorGroups(
        FakeEngines(config.run.seed, events, shuffle),
        FakeAnnotators(events),
        FakeEvaluators(events) if config.eval.is_judged else None,
        trainer=FakeTrainer(config, events),
    )


class Held:
    """`actors.host.Stored` without Ray."""

    def __init__(self, hosted: Any) -> None:
        self._hosted = hosted

    def fetch(self) -> Any:
        return self._hosted


class Accepting:
    """An annotator that takes every question and labels by `label`."""

    def check(self, asked: Question) -> None:
        pass

    def start(self) -> None:
        pass

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        return [label(rollout) for _, rollout in items]
