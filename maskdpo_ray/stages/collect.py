"""Answers, labels and pairs of an iteration's questions: a stage of the loop, or the background of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import DataError
from maskdpo_ray.pairing import examples as pairing_examples
from maskdpo_ray.pairing.examples import CollectedExamples
from maskdpo_ray.records import CommittedQuestion, Failed, Labelled, PairsSummary, Policy, Question
from maskdpo_ray.stages.background import BackgroundStream
from maskdpo_ray.stages.protocols import AnsweringGroups
from maskdpo_ray.stages.watch import Watch
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker
from maskdpo_ray.terminal import track
from maskdpo_ray.training.example_store import ExampleStore
from maskdpo_ray.training.objectives import protocol as objectives


@dataclass(frozen=True)
class CollectStage:
    """The collect stage of a run, iteration by iteration."""

    config: Config
    questions: Sequence[Question]
    tokenizer: Any
    groups: AnsweringGroups
    folder: RunFolder
    tracker: Tracker
    watch: Watch

    def run(self, iteration: int, policy: Policy) -> ExampleStore:
        """Answer, label and pair every question; each is committed as one unit when it is done.

        Raises ClusterError when too many questions fail, DataError when none gives a pair.
        """
        config = self.config.at(iteration)
        examples = CollectedExamples(self.folder.checkpoint_dir(iteration))  # removed with the checkpoints
        for number, pair in self.folder.questions(iteration).pairs():
            examples.add(pair, pairing_examples.example_of(pair, number, config, self.tokenizer))
        todo, failed = self.todo(iteration), dict[str, str]()
        with self.groups.measured(self.tracker, "collect", iteration):
            labelled = track(self._labelled(todo, iteration, policy), _doing(iteration), len(todo))
            self._commit(iteration, labelled, failed, examples)
            self._set_aside(iteration, failed)
        log = self.folder.questions(iteration)
        drops, failed_example = log.drops(), next(iter(log.errors().values()), None)
        summary = PairsSummary(len(self.questions), len(examples), dict(drops), examples.mixture(), failed_example)
        self.folder.write_json(f"iter_{iteration:03d}/pairs-summary.json", summary)
        counts = {f"pairs/dropped/{reason}": count for reason, count in drops.items()}
        shares = {f"pairs/{name}": share for name, share in summary.mixture.items()}
        self.tracker.log({"pairs/count": len(examples), **counts, **shares}, iteration)
        if not len(examples):
            raise DataError(
                f"iteration {iteration}: none of {len(self.questions)} questions gave a pair: {dict(drops)}"
            )
        return examples.finish(objectives.load(config.objective.name, config.objective.options).needs_mismatched)

    @contextmanager
    def in_background(self, iteration: int, policy: Policy) -> Iterator[Callable[[], None]]:
        """Do the same in the background of the block, which calls what this yields to commit what has arrived.

        Everything is committed when the block is left; `run` then has nothing left to ask for. `policy` is the newest
        that there is, the one before the iteration's own.
        """
        todo, failed = self.todo(iteration), dict[str, str]()
        most = self.config.in_flight(self.config.rollout.n_samples_per_prompt)
        with (
            self.groups.measured(self.tracker, "collect", iteration),
            BackgroundStream(self._labelled(todo, iteration, policy), self._stop, most) as stream,
        ):

            def commit_arrived() -> None:
                if stream.has_more:
                    self._commit(iteration, stream.ready(), failed)

            yield commit_arrived
            num_done = len(todo) - len(self.todo(iteration))
            self._commit(iteration, track(stream.rest(), _doing(iteration), len(todo), done=num_done), failed)
            self._set_aside(iteration, failed)

    def todo(self, iteration: int) -> list[Question]:
        """Questions that the run folder does not hold yet."""
        done = self.folder.questions(iteration).question_ids
        return [question for question in self.questions if question.id not in done]

    def _labelled(self, questions: Sequence[Question], iteration: int, policy: Policy) -> Iterator[Labelled | Failed]:
        # A policy that answers the same questions in two iterations is to give other answers in the second.
        purpose = "train" if policy.version == iteration else "ahead"
        sampling = self.config.rollout.sampling
        return self.groups.annotators.stream(self.groups.engines.stream(questions, policy, sampling, purpose))

    def _stop(self) -> None:
        self.groups.engines.stop()
        self.groups.annotators.stop()

    def _commit(
        self,
        iteration: int,
        labelled: Iterable[Labelled | Failed],
        failed: dict[str, str],
        examples: CollectedExamples | None = None,
    ) -> None:
        """Commit questions as they come; their examples go to `examples`, the errors of failed ones to `failed`."""
        num_tokens, config = 0, self.config.at(iteration)
        with self.folder.questions(iteration).committing() as committer:
            for item in self.watch.sift(labelled, failed):
                made, drops = pairing_examples.pairs_and_examples(item, config, self.tokenizer)
                pairs = [pair for pair, _ in made]
                if examples is not None:
                    for pair, example in made:
                        examples.add(pair, example)
                committer.commit(CommittedQuestion.of(item.question.id, item.rollouts, item.annotations, pairs, drops))
                num_tokens += sum(len(rollout.token_ids) for rollout in item.rollouts)
        self.tracker.log({"tokens/collect": num_tokens}, iteration)

    def _set_aside(self, iteration: int, failed: dict[str, str]) -> None:
        """Write failures down at the end: a run that stops earlier retries them all when it resumes."""
        for question_id, error in failed.items():
            self.folder.questions(iteration).set_aside(question_id, error)


def _doing(iteration: int) -> str:
    return f"iteration {iteration}: answers, labels, pairs"
