"""Groups of actors, seen from the driver: they fulfil the Protocols of `maskdpo_ray.stages`.

Each takes Ray handles of started actors and says what goes to which of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from actors import calls, weights
from actors.clock import BusyClock
from actors.host import Stored
from actors.pool import Failure, Pool
from actors.rollout import Sampling, refuse_faults, request_seed
from maskdpo_ray import batching
from maskdpo_ray.batching import TrainingExample
from maskdpo_ray.config import Config
from maskdpo_ray.errors import ClusterError
from maskdpo_ray.policy import Policy
from maskdpo_ray.records import Question
from maskdpo_ray.stages import Answered, Failed, Labelled, ReferenceLogps
from maskdpo_ray.unparsed import UnparsedShare


class RolloutGroup:
    """vLLM engines as one source of answers (`stages.Engines`)."""

    def __init__(self, config: Config, engines: Sequence[Any], render: Callable[[Question], list[int]]) -> None:
        self.pool = Pool(engines, "rollout engine", config.cluster)
        self._config = config
        self._render = render
        self._files: Stored[dict[str, bytes]] | None = None
        """Of the policy that was loaded last, when an engine's node does not see them."""

    def load(self, policy: Policy) -> None:
        """Every engine confirms version and checksum, or ClusterError names the one that didn't."""
        sees = self.pool.each("has", policy)
        self._files = None if all(sees) else _in_object_store(policy)
        for index, answer in enumerate(self.pool.each("load", policy, self._files)):
            if answer != (policy.version, policy.checksum):
                raise ClusterError(
                    f"rollout engine {index}: expected policy {policy.version} {policy.checksum[:12]}, holds {answer}"
                )

    def stream(
        self, questions: Iterable[Question], policy: Policy, num_samples: int, purpose: str
    ) -> Iterator[Answered | Failed]:
        """See `stages.Engines.stream`."""
        config = self._config.rollout
        sampling = Sampling(num_samples, config.temperature, config.top_k, config.top_p, config.max_new_tokens)

        def ask(item: Answered) -> tuple[str, tuple[Any, ...]]:
            name = item.question.id
            seed = request_seed(self._config.run.seed, purpose, policy.version, name)
            return "generate", (name, list(item.prompt_token_ids), sampling, seed, policy, self._files)

        def check(item: Answered, reply: Any) -> None:
            refuse_faults(reply, item.question.id, policy, num_samples)

        asked = (Answered(question, tuple(self._render(question)), ()) for question in questions)
        for item, reply in self.pool.feed(asked, ask, config.max_in_flight, check=check):
            yield _failed(item, reply) or replace(item, rollouts=tuple(reply.rollouts))

    def busy_seconds(self) -> float:
        """Mean over the engines."""
        return fmean(self.pool.each("busy_seconds"))


class AnnotationGroup:
    """Annotation actors as one labeller (`stages.Annotators`)."""

    def __init__(self, config: Config, annotators: Sequence[Any], hosted: Stored[Any]) -> None:
        self.pool = Pool(annotators, "annotation actor", config.cluster)
        self._config = config
        self._annotators = annotators
        self._hosted = hosted
        self._unparsed = UnparsedShare(config.annotation.max_unparsed)

    def ready(self) -> list[Any]:
        """Calls that end when what the actors host has started."""
        return [annotator.ready.remote(self._hosted) for annotator in self._annotators]

    def stream(self, answered: Iterable[Answered | Failed]) -> Iterator[Labelled | Failed]:
        """See `stages.Annotators.stream`."""

        def ask(item: Answered) -> tuple[str, tuple[Any, ...]]:
            return "annotate", (self._hosted, item.question, list(item.rollouts))

        def home(item: Answered) -> int:
            # The actor that knows what it was asked of this question before, in earlier iterations too.
            return zlib.crc32(item.question.id.encode()) % len(self.pool)

        for item, labels in self.pool.feed(answered, ask, self._config.annotation.max_in_flight, home):
            if failed := _failed(item, labels):
                yield failed
                continue
            self._unparsed.count(labels)
            yield Labelled(item.question, item.prompt_token_ids, item.rollouts, tuple(labels))

    def busy_seconds(self) -> float:
        """Mean over the actors."""
        return fmean(self.pool.each("busy_seconds"))


class EvaluationGroup:
    """Evaluation actors as one judge (`stages.Evaluators`)."""

    def __init__(self, config: Config, evaluators: Sequence[Any], hosted: Stored[Any]) -> None:
        self.pool = Pool(evaluators, "evaluation actor", config.cluster)
        self._config = config
        self._evaluators = evaluators
        self._hosted = hosted

    def ready(self) -> list[Any]:
        """Calls that end when what the actors host has started."""
        return [evaluator.ready.remote(self._hosted) for evaluator in self._evaluators]

    def stream(self, labelled: Iterable[Labelled | Failed]) -> Iterator[Labelled | Failed]:
        """See `stages.Evaluators.stream`."""

        def ask(item: Labelled) -> tuple[str, tuple[Any, ...]]:
            return "judge", (self._hosted, item.question, list(item.rollouts))

        for item, judgements in self.pool.feed(labelled, ask, self._config.eval.max_in_flight):
            yield _failed(item, judgements) or replace(item, judgements=tuple(judgements))


class TrainingGroup:
    """DeepSpeed ranks as one trainer (`stages.Trainer`)."""

    def __init__(self, config: Config, ranks: Sequence[Any]) -> None:
        self._config = config
        self._ranks = ranks
        self._clock = BusyClock()

    def reference_logps(self, examples: Sequence[TrainingExample], policy: Policy) -> ReferenceLogps:
        """See `stages.Trainer.reference_logps`."""
        micro_batches = list(batching.chunks(examples, self._config.train.micro_batch_size))
        shares = [batching.shard(micro_batches, rank, len(self._ranks)) for rank in range(len(self._ranks))]
        results = [iter(logps) for logps in self._call("reference_logps", [(share, policy.path) for share in shares])]
        # Micro-batch i went to rank i mod n: taking them back in the same turns restores the order.
        return [
            next(results[index % len(self._ranks)])
            for index, micro_batch in enumerate(micro_batches)
            for _ in micro_batch
        ]

    def train(
        self, examples: Sequence[TrainingExample], reference: ReferenceLogps, policy: Policy, seed: int
    ) -> Iterator[dict[str, float]]:
        """See `stages.Trainer.train`."""
        train, num_ranks = self._config.train, len(self._ranks)
        total = batching.num_steps(len(examples), train.batch_size, train.max_epochs)
        self._call("begin", [(policy.path, total)] * num_ranks)
        for batch in batching.epoch_batches(len(examples), train.batch_size, train.max_epochs, seed):
            arguments = []
            for rank in range(num_ranks):
                micro_batches = list(batching.chunks(batching.shard(batch, rank, num_ranks), train.micro_batch_size))
                arguments.append(
                    (
                        [[examples[i] for i in micro_batch] for micro_batch in micro_batches],
                        [[reference[i] for i in micro_batch] for micro_batch in micro_batches],
                        len(batch),
                    )
                )
            yield self._call("train_step", arguments)[0]

    def publish(self, folder: str, version: int) -> Policy:
        """See `stages.Trainer.publish`."""
        self._call("save_policy", [(folder,)] * len(self._ranks))
        # The next iteration's reference model, and engines on the same node, need the memory.
        self._call("release", [()] * len(self._ranks))
        return weights.publish(folder, version)

    def busy_seconds(self) -> float:
        """Seconds in which the ranks, which work together, had a call to answer."""
        return self._clock.seconds()

    def _call(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        with self._clock:
            pending = [getattr(rank, method).remote(*args) for rank, args in zip(self._ranks, arguments, strict=True)]
            return calls.gather(pending, self._config.cluster.step_timeout_s, "training rank", method)


def _failed(item: Answered | Labelled | Failed, reply: Any) -> Failed | None:
    """What stands for a question that was given up, here or by the group before."""
    return Failed(item.question, reply.error) if isinstance(reply, Failure) else None


def _in_object_store(policy: Policy) -> Stored[dict[str, bytes]]:
    """The policy's files, once, for nodes that don't share a file system with us."""
    import ray

    return Stored(ray.put(weights.pack(policy.path)))
