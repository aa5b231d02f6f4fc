"""The loop.

    questions ──► engines ───► annotators ──► pairs ──► examples ──► trainer ──► new policy ─┐
                  K answers    labelled       best /    token        masked                  │
                  each         sentences      worst     weights      DPO                     │
        ▲                                                                                    │
        └───────────── next iteration ◄── evaluate held-out topics ◄── engines.load ◄────────┘

`collect` waits for the annotators, they for the engines; all three work at the same time, with a
bounded number of questions between them. `train` starts when the iteration's pairs are complete.
Whatever the run folder holds already is not done again. What happens within a stage is in
collect_stage.py, train_stage.py and evaluate_stage.py; stages.py has what is handed on, `Answered`
and `Labelled`, and the groups that do the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

from maskdpo_ray.config.schema import Config
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.pairing.examples import Lessons
from maskdpo_ray.records import PairsSummary, Policy, Question
from maskdpo_ray.stages import evaluate, watch
from maskdpo_ray.stages.collect import CollectStage
from maskdpo_ray.stages.evaluate import EvaluateStage
from maskdpo_ray.stages.protocols import Stages
from maskdpo_ray.stages.train import TrainStage
from maskdpo_ray.stages.watch import Failures
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker
from maskdpo_ray.training import batches


def is_finished(config: Config, splits: Iterable[str], folder: RunFolder) -> bool:
    """Whether the run folder holds the evaluation of the last iteration's policy."""
    return evaluate.is_finished(folder, splits, config.run.iterations)


@dataclass(frozen=True)
class Loop:
    """One run: `Loop(...).run()`."""

    config: Config
    train_questions: Sequence[Question]
    eval_questions: dict[str, Sequence[Question]]
    """Held-out questions by split: `heldout`, and `transfer` when there is a second domain."""
    chat: Chat
    initial: Policy
    stages: Stages
    folder: RunFolder
    tracker: Tracker

    def run(self) -> None:
        """Every iteration and evaluation that the run folder does not hold yet."""
        self.folder.begin(self.initial, {"train": self.train_questions, **self.eval_questions}, self.chat.now)
        policy = self._newest_policy()
        self._finish_ahead(policy)
        self.stages.engines.load(policy)
        self.evaluate(policy)
        for iteration in range(policy.version, self.config.run.iterations):
            with self.tracker.idle(iteration, self.stages.busy_seconds, lambda: watch.counts(*self.stages.groups)):
                with self.tracker.stage("iteration", iteration):
                    lessons = self.collect(iteration, policy)
                    with self.ahead(iteration + 1, policy) as meanwhile:
                        policy = self.train(iteration, lessons, policy, meanwhile)
                    with watch.stage(self.tracker, "sync", iteration, *self.stages.groups):
                        self.stages.engines.load(policy)
                self.evaluate(policy)

    def _newest_policy(self) -> Policy:
        """The last one that the run folder holds, where a stopped run goes on; the initial one when it holds none."""
        trained = [version for version in range(1, self.config.run.iterations + 1) if self._is_trained(version)]
        return self._policy(max(trained, default=0))

    def _is_trained(self, version: int) -> bool:
        return self.folder.finished("train", version - 1) is not None

    def _policy(self, version: int) -> Policy:
        """The initial one, or one that the run folder holds. Raises RunFolderError when its files have changed."""
        finished = self.folder.finished("train", version - 1)
        if finished is None:
            return self.initial
        self.folder.check_files("train", version - 1)
        return Policy(version, str(self.folder.policy_dir(version - 1).resolve()), finished["checksum"])

    def collect(self, iteration: int, policy: Policy) -> Lessons:
        """Answer, label and pair every question; what each teaches is committed as one unit when it is done."""
        return self._collect_stage.run(iteration, policy)

    def ahead(self, iteration: int, policy: Policy) -> AbstractContextManager[Callable[[], None]]:
        """With `rollout.ahead`, collect for this iteration beside the training inside, which calls what this yields."""
        if not self.config.rollout.ahead or iteration == self.config.run.iterations:
            return nullcontext(lambda: None)
        return self._collect_stage.ahead(iteration, policy)

    def _finish_ahead(self, policy: Policy) -> None:
        """Where a run was stopped, the policy before its newest may have questions left to answer."""
        iteration = policy.version
        if not self.config.rollout.ahead or not 0 < iteration < self.config.run.iterations:
            return
        if self._collect_stage.todo(iteration):
            before = self._policy(iteration - 1)
            self.stages.engines.load(before)
            self.collect(iteration, before)

    def train(self, iteration: int, lessons: Lessons, policy: Policy, meanwhile: Callable[[], None]) -> Policy:
        """Masked DPO on the iteration's pairs; returns the new policy, published in the run folder."""
        against = self.initial if self.config.train.reference == "initial" else policy
        # Metrics are logged by optimizer step, counted over all iterations.
        first_step = sum(self._num_steps(earlier) for earlier in range(iteration))
        stage = TrainStage(self.config, self.stages.trainer, self.folder, self.tracker, meanwhile)
        return stage.run(iteration, lessons, policy, against, first_step)

    def evaluate(self, policy: Policy) -> None:
        """Answer and label the held-out questions R times; statistics, and the gain over the start."""
        stage = EvaluateStage(self.config, *self.stages.groups, self.folder, self.tracker, self._failures)
        stage.run(policy, self.eval_questions)

    @cached_property
    def _collect_stage(self) -> CollectStage:
        rest = (self.stages, self.folder, self.tracker, self._failures)
        return CollectStage(self.config, self.train_questions, self.chat.tokenizer, *rest)

    @cached_property
    def _failures(self) -> Failures:
        return Failures(self.config.run.max_failed)

    def _num_steps(self, iteration: int) -> int:
        num_pairs = self.folder.read_json(f"iter_{iteration:03d}/pairs-summary.json", PairsSummary).pairs
        return batches.num_steps(num_pairs, self.config.train.batch_size, self.config.train.max_epochs)
