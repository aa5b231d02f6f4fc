"""What the loop needs of the outside world, as Protocols.

`actors.groups` fulfil them with Ray actors around vLLM, annotators and DeepSpeed; tests fulfil them
with fakes. No heavy import here or in `loop.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from maskdpo_ray.records import Answered, Failed, Labelled, PairLogps, Policy, Question, TrainingExample
from maskdpo_ray.store.checkpoints import Checkpoints


class Group(Protocol):
    """Actors that are replaced when they die or hang."""

    @property
    def restarts(self) -> int:
        """How often one had to be replaced since the start."""
        ...

    def stop(self) -> None:
        """End, within seconds, a stream that another thread draws from; the group is asked nothing after that."""


class Engines(Group, Protocol):
    """A pool of engines."""

    def load(self, policy: Policy) -> None:
        """Put `policy` on every engine; returns when each has confirmed version and checksum."""

    def stream(
        self, questions: Iterable[Question], policy: Policy, num_samples: int, purpose: str
    ) -> Iterator[Answered | Failed]:
        """Answer every question `num_samples` times under `policy`, in any order, few in flight.

        Sampling options are those of `rollout`; for a purpose starting with `EVALUATE`, `eval` overrides them.

        Run seed, `purpose`, policy version and question seed the sampling, not engine or order. In bfloat16 an
        answer still depends a little on those decoded beside it.
        """


class Annotators(Group, Protocol):
    """A pool of annotation actors."""

    def stream(self, answered: Iterable[Answered | Failed]) -> Iterator[Labelled | Failed]:
        """Label what comes in while more is being generated, in any order, few in flight."""


class Evaluators(Group, Protocol):
    """A pool of evaluation actors, which host what judges beside the annotator."""

    def stream(self, labelled: Iterable[Labelled | Failed]) -> Iterator[Labelled | Failed]:
        """Add judgements to what comes in while more is being labelled, in any order, few in flight."""


class Trainer(Protocol):
    """A group of DeepSpeed ranks."""

    def reference_logps(self, examples: Sequence[TrainingExample], policy: Policy) -> Iterator[PairLogps]:
        """Log-probs of every example under `policy`, in order."""

    def train(
        self,
        examples: Sequence[TrainingExample],
        reference: Sequence[PairLogps] | Policy,
        policy: Policy,
        seed: int,
        checkpoints: Checkpoints,
    ) -> Iterator[dict[str, float]]:
        """Train `policy` with a fresh optimizer, or resume from the newest of `checkpoints`, and save new ones there.

        `reference`: log-probs of each example, or the policy under which they are computed in every step.
        Yields the metrics of each optimizer step after that, once, whatever has to be done again meanwhile.
        Raises NotFiniteError naming the step and its pairs.
        """

    def publish(self, folder: str, version: int) -> tuple[Policy, dict[str, float]]:
        """Write the trained policy as a Hugging Face folder, load it back, and describe it.

        Returns it with metrics of its difference from the trained policy (`publication.compare`). Raises ModelError
        when they differ too much.
        """


class BusySeconds(Protocol):
    """What the groups tell about their load."""

    def __call__(self) -> dict[str, float]:
        """Per group of actors: seconds that its actors were busy since the start, on average."""


@dataclass(frozen=True)
class Stages:
    """The groups of actors that one run uses, and how busy they were."""

    engines: Engines
    annotators: Annotators
    trainer: Trainer
    busy_seconds: BusySeconds
    """Of these groups."""
    evaluators: Evaluators | None = None
    """None where nothing but the annotator judges."""

    @property
    def groups(self) -> tuple[Engines, Annotators, Evaluators | None]:
        """Those that answer and judge."""
        return self.engines, self.annotators, self.evaluators
