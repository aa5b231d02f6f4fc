"""Groups of actors, seen from the driver: they fulfil the Protocols of `maskdpo_ray.stages.protocols`.

Each takes Ray handles of started actors and says what goes to which of them.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from statistics import fmean
from typing import Any

from actors import weights
from actors.dispatch import Dispatcher, Failure, call_each
from actors.host import Stored
from actors.pool import Pool
from actors.process import BusyClock
from actors.ranks import Ranks
from actors.rollout import Request, refuse_faults, request_seed
from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import ActorLost, ClusterError, ModelError, NotFiniteError
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.records import Answered, Failed, Labelled, Policy, Question, ResponseLogps, Sampling
from maskdpo_ray.store.checkpoints import Checkpoints
from maskdpo_ray.terminal import note
from maskdpo_ray.training import batches as batching
from maskdpo_ray.training.example_store import ExampleStore
from maskdpo_ray.training.guards import PublishedPolicy
from maskdpo_ray.training.reference import ReferenceLogps

_PUBLISHED_EXAMPLES = 16
"""Examples whose log-probs are compared between the trained and the published policy."""
_BLOCK_TOKENS = 2**16
"""For each rank, of examples whose reference log-probs are computed in one call: about what a training step takes."""


class _PooledGroup:
    """A group of actors that are replaced when they die or hang."""

    def __init__(self, actors: Sequence[Any], what: str, config: Config) -> None:
        self.pool = Pool(actors, what, config.cluster)
        self._config = config

    @property
    def restarts(self) -> int:
        """See `stages.Group.restarts`."""
        return self.pool.restarts

    def stop(self) -> None:
        """See `stages.Group.stop`."""
        self.pool.is_stopped = True

    def rest(self) -> None:
        """See `stages.Group.rest`."""
        call_each(self.pool, "rest")

    def busy_seconds(self) -> float:
        """Mean over the actors that are there."""
        return fmean(call_each(self.pool, "busy_seconds").values())


class RolloutGroup(_PooledGroup):
    """vLLM engines as one source of answers (`protocols.Engines`)."""

    def __init__(self, config: Config, engines: Sequence[Any], chat: Chat) -> None:
        super().__init__(engines, "rollout engine", config)
        self._chat = chat
        self._files: Stored[dict[str, bytes]] | None = None
        """Files of the policy that was loaded last, where an engine's node does not see them."""

    def ready(self) -> list[Any]:
        """Calls that end when the engines have started."""
        return [engine.ready.remote() for engine in self.pool.handles]

    def load(self, policy: Policy) -> None:
        """Every engine that is there confirms version and checksum, or ClusterError names the one that didn't."""
        sees = call_each(self.pool, "has", policy).values()
        self._files = None if all(sees) else _in_object_store(policy)
        for index, answer in call_each(self.pool, "load", policy, self._files).items():
            if answer != (policy.version, policy.checksum):
                raise ClusterError(
                    f"rollout engine {index}: expected policy {policy.version} {policy.checksum[:12]}, holds {answer}"
                )

    def stream(
        self, questions: Iterable[Question], policy: Policy, sampling: Sampling, purpose: str
    ) -> Iterator[Answered | Failed]:
        """See `protocols.Engines.stream`."""
        sampling = replace(sampling, ends=self._chat.ends)

        def ask(item: Answered) -> tuple[str, tuple[Any, ...]]:
            name = item.question.id
            seed = request_seed(self._config.run.seed, purpose, policy.version, name)
            return "generate", (Request(name, item.prompt_token_ids, sampling, seed, policy, self._files),)

        def check(item: Answered, reply: Any) -> None:
            refuse_faults(reply, item.question.id, policy, sampling.n)

        asked = (Answered(question, tuple(self._chat.prompt_ids(question)), ()) for question in questions)
        dispatcher = Dispatcher(self.pool, ask, check=check)
        for item, reply in dispatcher.run(asked, self._config.in_flight(sampling.n)):
            yield _failed(item, reply) or replace(
                item, rollouts=tuple(self._chat.noted(rollout, item.prompt_token_ids) for rollout in reply.rollouts)
            )


class AnnotationGroup(_PooledGroup):
    """Annotation actors as one labeller (`protocols.Annotators`)."""

    def __init__(self, config: Config, annotators: Sequence[Any], hosted: Stored[Any]) -> None:
        super().__init__(annotators, "annotation actor", config)
        self._hosted = hosted

    def ready(self) -> list[Any]:
        """Calls that end when what the actors host has started."""
        return [annotator.ready.remote(self._hosted) for annotator in self.pool.handles]

    def stream(self, answered: Iterable[Answered | Failed]) -> Iterator[Labelled | Failed]:
        """See `protocols.Annotators.stream`."""

        def ask(item: Answered) -> tuple[str, tuple[Any, ...]]:
            return "annotate", (self._hosted, item.question, list(item.rollouts))

        def home(item: Answered) -> int:
            # The actor that knows what it was asked of this question before, in earlier iterations too.
            return zlib.crc32(item.question.id.encode()) % len(self.pool)

        for item, labels in Dispatcher(self.pool, ask, home).run(answered, self._config.annotation.in_flight):
            yield _failed(item, labels) or Labelled(item.question, item.prompt_token_ids, item.rollouts, tuple(labels))


class EvaluationGroup(_PooledGroup):
    """Evaluation actors as one judge (`protocols.Evaluators`)."""

    def __init__(self, config: Config, evaluators: Sequence[Any], hosted: Stored[Any]) -> None:
        super().__init__(evaluators, "evaluation actor", config)
        self._hosted = hosted

    def ready(self) -> list[Any]:
        """Calls that end when what the actors host has started."""
        return [evaluator.ready.remote(self._hosted) for evaluator in self.pool.handles]

    def stream(self, labelled: Iterable[Labelled | Failed]) -> Iterator[Labelled | Failed]:
        """See `protocols.Evaluators.stream`."""

        def ask(item: Labelled) -> tuple[str, tuple[Any, ...]]:
            return "judge", (self._hosted, item.question, list(item.rollouts))

        for item, judgements in Dispatcher(self.pool, ask).run(labelled, self._config.eval.in_flight):
            yield _failed(item, judgements) or replace(item, judgements=tuple(judgements))


@dataclass(frozen=True)
class _Training:
    """State of the current training: all that a new group of ranks needs to resume it."""

    examples: ExampleStore
    reference: ReferenceLogps | Policy | None
    policy: Policy
    seed: int
    checkpoints: Checkpoints
    config: Config
    """The iteration's own."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps in all."""
        train = self.config.train
        return batching.num_steps(len(self.examples), train.batch_size, train.max_epochs)

    def batches(self) -> Iterator[list[int]]:
        """Indices of the examples of each step."""
        train = self.config.train
        return batching.epoch_batches(len(self.examples), train.batch_size, train.max_epochs, self.seed)

    def last_examples(self) -> list[int]:
        """The last `_PUBLISHED_EXAMPLES`, or all: a last step may have one example, which says little."""
        indices = chain.from_iterable(self.batches())
        return list(deque(indices, maxlen=min(_PUBLISHED_EXAMPLES, len(self.examples))))

    def kept(self) -> str:
        """Words for the checkpoint that a stop keeps."""
        step = self.checkpoints.step
        return f"the checkpoint of step {step} is kept" if step else "no checkpoint yet"


class TrainingGroup:
    """DeepSpeed ranks as one trainer (`protocols.Trainer`); after a death new ones resume from the last checkpoint."""

    def __init__(self, config: Config, ranks: Ranks) -> None:
        self._config = config
        self._ranks = ranks
        self._training: _Training | None = None
        self._told: set[str] = set()
        """Lines of ranks that the user has read."""
        self._clock = BusyClock()

    def reference_logps(self, examples: ExampleStore, policy: Policy) -> Iterator[ResponseLogps]:
        """See `protocols.Trainer.reference_logps`."""
        for block in _blocks(examples, _BLOCK_TOKENS * len(self._ranks)):
            yield from self._reference_block(examples, block, policy)

    def _reference_block(self, examples: ExampleStore, indices: Sequence[int], policy: Policy) -> list[ResponseLogps]:
        while True:
            try:
                return self._logps("reference_logps", examples, indices, policy.path)
            except ActorLost as died:
                self._ranks.start_again(died, "with the reference log-probs")

    def _logps(
        self, method: str, examples: ExampleStore, indices: Sequence[int], path: str | None
    ) -> list[ResponseLogps]:
        """Results of a method of the ranks for examples, in the order of `indices`."""
        logps: dict[int, ResponseLogps] = {}
        for share in self._call(method, str(examples.path), list(indices), path):
            logps |= share
        return [logps[index] for index in indices]

    def train(
        self,
        examples: ExampleStore,
        reference: ReferenceLogps | Policy | None,
        policy: Policy,
        seed: int,
        checkpoints: Checkpoints,
        config: Config,
    ) -> Iterator[dict[str, float]]:
        """See `protocols.Trainer.train`."""
        self._training = _Training(examples, reference, policy, seed, checkpoints, config)
        return self._steps(self._training)

    def publish(self, folder: str, version: int) -> tuple[Policy, dict[str, float]]:
        """See `protocols.Trainer.publish`."""
        assert self._training is not None
        while True:
            try:
                metrics = self._publish(self._training, folder)
                break
            except ActorLost as died:
                self._start_again(died, self._training)
                for _ in self._steps(self._training):
                    pass
        self._ranks.deaths, self._training = 0, None
        return weights.publish(folder, version), metrics

    def _publish(self, training: _Training, folder: str) -> dict[str, float]:
        """Save the policy and load it back: a folder that differs from the trained policy must not replace it."""
        examples, indices = training.examples, training.last_examples()
        trained = self._logps("reference_logps", examples, indices, None)
        self._call("save_policy", folder)
        # Free engine and optimizer first: there is no memory for the published model beside them.
        self._call("release")
        published = self._logps("published_logps", examples, indices, folder)
        if isinstance(training.reference, ReferenceLogps):
            reference = [training.reference[index] for index in indices]
        else:
            before = training.reference or training.policy
            reference = self._logps("reference_logps", examples, indices, before.path)
        # The next iteration's reference model, and engines on the same node, need the memory.
        self._call("release")
        found = PublishedPolicy.compare([examples[index] for index in indices], trained, published, reference)
        try:
            found.check(folder, self._config)
        except ModelError as error:
            raise ModelError(f"{error}; {training.kept()}") from error
        return found.metrics()

    def busy_seconds(self) -> float:
        """Seconds in which the ranks, which work together, had a call to answer."""
        return self._clock.seconds()

    def _steps(self, training: _Training) -> Iterator[dict[str, float]]:
        """Metrics of the steps after the newest checkpoint, each once, however often ranks die."""
        given = training.checkpoints.step
        while True:
            try:
                for step, metrics in self._steps_of_a_life(training):
                    if step > given:
                        given = step
                        yield metrics
                return
            except ActorLost as died:
                self._start_again(died, training)

    def _steps_of_a_life(self, training: _Training) -> Iterator[tuple[int, dict[str, float]]]:
        """(number from 1, metrics) of the steps after the newest checkpoint, up to the end or a death."""
        checkpoints, done, total = training.checkpoints, training.checkpoints.step, training.num_steps
        self._begin(training)
        if done:
            self._call("load_checkpoint", str(checkpoints.path(done)))
        for step, batch in islice(enumerate(training.batches(), start=1), done, None):
            try:
                metrics = self._call("train_step", batch)[0]
            except NotFiniteError as error:
                examples = ", ".join(training.examples[index].id for index in batch)
                line = f"step {step} of {total}: {error}; its examples: {examples}; {training.kept()}"
                raise NotFiniteError(line) from error
            yield step, metrics
            if checkpoints.is_due(step):
                written = self._call("save_checkpoint", str(checkpoints.clear(step)))
                checkpoints.commit(step, {name: proof for files in written for name, proof in files.items()})

    def _begin(self, training: _Training) -> None:
        reference = training.reference
        told = self._call(
            "begin",
            training.config,
            training.policy.path,
            str(training.examples.path),
            training.num_steps,
            training.seed,
            reference.path if isinstance(reference, Policy) else None,
            str(reference.path) if isinstance(reference, ReferenceLogps) else None,
            reference is not None and reference.checksum == training.policy.checksum,  # the same weights
        )
        for line in sorted({line for line in told if line} - self._told):
            note(line)
            self._told.add(line)

    def _start_again(self, died: ActorLost, training: _Training) -> None:
        self._ranks.start_again(died, f"after step {training.checkpoints.step}")

    def _call(self, method: str, *arguments: Any) -> list[Any]:
        """Results of a method of all ranks, in their order."""
        with self._clock:
            return self._ranks.call(method, *arguments)


def _blocks(examples: ExampleStore, num_tokens: int) -> Iterator[range]:
    """Indices in runs of examples of about `num_tokens`: a call that takes about as long as a training step."""
    start, size = 0, 0
    for index, count in enumerate(examples.num_tokens.tolist()):
        size += count
        if size >= num_tokens:
            yield range(start, index + 1)
            start, size = index + 1, 0
    if start < len(examples):
        yield range(start, len(examples))


def _failed(item: Answered | Labelled | Failed, reply: Any) -> Failed | None:
    """Failure of a question in this group or the one before, None if it has an answer."""
    return Failed(item.question, reply.error) if isinstance(reply, Failure) else None


def _in_object_store(policy: Policy) -> Stored[dict[str, bytes]]:
    """The policy's files, once, for nodes that don't share a file system with us."""
    import ray

    return Stored(ray.put(weights.pack(policy.path)))
