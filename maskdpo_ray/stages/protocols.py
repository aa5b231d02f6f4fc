"""Protocols of the actor groups that the loop uses.

`actors.groups` implements them with Ray actors around vLLM, annotators and DeepSpeed; tests implement them with fakes.
No heavy import here or in `loop.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from maskdpo_ray.config.schema import Config
from maskdpo_ray.records import Answered, Failed, Labelled, Policy, Question, ResponseLogps, Sampling
from maskdpo_ray.store.checkpoints import Checkpoints
from maskdpo_ray.store.tracking import Tracker
from maskdpo_ray.training.example_store import ExampleStore
from maskdpo_ray.training.reference import ReferenceLogps


class Group(Protocol):
    """Actors that are replaced when they die or hang."""

    @property
    def restarts(self) -> int:
        """Number of replacements since the start."""
        ...

    def busy_seconds(self) -> float:
        """Seconds with work since the start, mean over the actors."""
        ...

    def stop(self) -> None:
        """End, within seconds, a stream that another thread draws from; the group is not called after that."""

    def rest(self) -> None:
        """Give GPUs back, and a CPU's memory, until the next question or policy; returns when they are free."""


class Engines(Group, Protocol):
    """A pool of engines."""

    def load(self, policy: Policy) -> None:
        """Put `policy` on every engine, resting ones too; returns when each has confirmed version and checksum."""

    def stream(
        self, questions: Iterable[Question], policy: Policy, sampling: Sampling, purpose: str
    ) -> Iterator[Answered | Failed]:
        """Answer every question `sampling.n` times under `policy`, in any order, with bounded work in flight.

        Run seed, `purpose`, policy version and question seed the sampling, not engine or order. In bfloat16 an
        answer still depends a little on those decoded beside it.
        """


class Annotators(Group, Protocol):
    """A pool of annotation actors."""

    def stream(self, answered: Iterable[Answered | Failed]) -> Iterator[Labelled | Failed]:
        """Label answers as they come in, in any order, with bounded work in flight; pass a `Failed` on."""


class Evaluators(Group, Protocol):
    """A pool of evaluation actors, which host an evaluator, a perplexity model or both."""

    def stream(self, labelled: Iterable[Labelled | Failed]) -> Iterator[Labelled | Failed]:
        """Add judgements to answers as they come in, in any order, with bounded work in flight; pass a `Failed` on."""


class Trainer(Protocol):
    """A group of DeepSpeed ranks."""

    def busy_seconds(self) -> float:
        """See `Group.busy_seconds`."""
        ...

    def reference_logps(self, examples: ExampleStore, policy: Policy) -> Iterator[ResponseLogps]:
        """Log-probs of every example under `policy`, in order."""

    def train(
        self,
        examples: ExampleStore,
        reference: ReferenceLogps | Policy | None,
        policy: Policy,
        seed: int,
        checkpoints: Checkpoints,
        config: Config,
    ) -> Iterator[dict[str, float]]:
        """Train `policy` with a fresh optimizer, or resume from the newest of `checkpoints`, and save new ones there.

        `reference`: log-probs of each example, the policy under which they are computed in every step, or None for an
        objective without. `config` is the iteration's own.
        Yields the metrics of each optimizer step after that, once, however many steps a dead rank costs.
        Raises NotFiniteError naming the step and its pairs.
        """

    def publish(self, folder: str, version: int) -> tuple[Policy, dict[str, float]]:
        """Write the trained policy as a Hugging Face folder, load it back, and describe it.

        Returns it with metrics of its difference from the trained policy (`guards.PublishedPolicy`). Raises ModelError
        when they differ too much.
        """


@dataclass(frozen=True)
class OtherModel:
    """A model that is not trained, and engines that hold it (`rollout.model`)."""

    engines: Engines
    policy: Policy


@dataclass(frozen=True)
class AnsweringGroups:
    """The actor groups that answer questions and judge the answers."""

    engines: Engines
    annotators: Annotators
    evaluators: Evaluators | None = None
    """None where nothing but the annotator judges."""
    other: OtherModel | None = None
    """A model that answers the training questions in the policy's place."""

    @property
    def answering(self) -> Engines:
        """The engines that answer the training questions."""
        return self.other.engines if self.other else self.engines

    def named(self) -> dict[str, Group]:
        """The groups by name."""
        other = self.other.engines if self.other else None
        groups = {
            "rollout": self.engines,
            "other_rollout": other,
            "annotation": self.annotators,
            "evaluation": self.evaluators,
        }
        return {name: group for name, group in groups.items() if group is not None}

    def rest(self) -> None:
        """Let all rest: see `Group.rest`."""
        for group in self.named().values():
            group.rest()

    def restarts(self) -> dict[str, int]:
        """Number of replaced actors since the start, by group."""
        return {name: group.restarts for name, group in self.named().items()}

    @contextmanager
    def measured(
        self, tracker: Tracker, stage: str, step: int, total: int | None = None, done: int = 0
    ) -> Iterator[None]:
        """Measure a stage as `Tracker.stage` does; log how many actors of each group were replaced in it, if any."""
        before = self.restarts()
        try:
            with tracker.stage(stage, step, total, done):
                yield
        finally:
            replaced = {f"restarts/{name}": count - before[name] for name, count in self.restarts().items()}
            if any(replaced.values()):
                tracker.log(replaced, step)


@dataclass(frozen=True, kw_only=True)
class ActorGroups(AnsweringGroups):
    """The actor groups of a run."""

    trainer: Trainer

    def busy_seconds(self) -> dict[str, float]:
        """Seconds with work since the start, by group, mean over its actors."""
        busy = {name: group.busy_seconds() for name, group in self.named().items()}
        return {**busy, "training": self.trainer.busy_seconds()}
