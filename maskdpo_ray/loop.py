"""The loop.

    questions ──► engines ───► annotators ──► pairs ──► examples ──► trainer ──► new policy ─┐
                  K answers    labelled       best /    token        masked                  │
                  each         sentences      worst     weights      DPO                     │
        ▲                                                                                    │
        └───────────── next iteration ◄── evaluate held-out topics ◄── engines.load ◄────────┘

`collect` waits for the annotators, they for the engines; all three work at the same time, with a
bounded number of questions between them. `train` starts when the iteration's pairs are complete.
Whatever the run folder holds already is not done again. stages.py has what is handed on, `Answered` and
`Labelled`, and the groups that do the work.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from maskdpo_ray import batching, evaluate_stage, pairing, restarts
from maskdpo_ray.config import Config
from maskdpo_ray.errors import DataError
from maskdpo_ray.evaluate_stage import EvaluateStage
from maskdpo_ray.failures import Failures
from maskdpo_ray.lessons import Lessons
from maskdpo_ray.pairs import DropReason, PairsSummary
from maskdpo_ray.policy import Policy
from maskdpo_ray.records import Question
from maskdpo_ray.report.progress import track
from maskdpo_ray.run_folder import RunFolder
from maskdpo_ray.stages import Stages
from maskdpo_ray.tracking import Tracker
from maskdpo_ray.train_stage import TrainStage
from maskdpo_ray.unparsed import UnparsedShare


def is_finished(config: Config, splits: Iterable[str], folder: RunFolder) -> bool:
    """Whether the run folder holds the evaluation of the last iteration's policy."""
    return evaluate_stage.is_finished(folder, splits, config.run.iterations)


@dataclass(frozen=True)
class Loop:
    """One run: `Loop(...).run()`."""

    config: Config
    train_questions: Sequence[Question]
    eval_questions: dict[str, Sequence[Question]]
    """Held-out questions by split: `heldout`, and `transfer` when there is a second domain."""
    tokenizer: Any
    initial: Policy
    stages: Stages
    folder: RunFolder
    tracker: Tracker

    def run(self) -> None:
        """Every iteration and evaluation that the run folder does not hold yet."""
        self.folder.begin(self.initial, {"train": self.train_questions, **self.eval_questions})
        policy = self._newest_policy()
        self.stages.engines.load(policy)
        self.evaluate(policy)
        for iteration in range(policy.version, self.config.run.iterations):
            with self.tracker.idle(iteration, self.stages.busy_seconds):
                with self.tracker.stage("iteration", iteration):
                    lessons = self.collect(iteration, policy)
                    policy = self.train(iteration, lessons, policy)
                    with restarts.stage(self.tracker, "sync", iteration, *self.stages.groups):
                        self.stages.engines.load(policy)
                self.evaluate(policy)

    def _newest_policy(self) -> Policy:
        """The last one that the run folder holds, where a stopped run goes on; the initial one when it holds none."""
        for iteration in reversed(range(self.config.run.iterations)):
            if (finished := self.folder.finished("train", iteration)) is not None:
                self.folder.check_files("train", iteration)
                path = str(self.folder.policy_dir(iteration).resolve())
                return Policy(iteration + 1, path, finished["checksum"])
        return self.initial

    def collect(self, iteration: int, policy: Policy) -> Lessons:
        """Answer, label and pair every question; each is committed as one unit when it is done."""
        lessons = Lessons(self.folder.iteration_dir(iteration))
        for pair in self.folder.pairs(iteration):
            lessons.add(pair, pairing.example_of(pair, self.config, self.tokenizer))
        done = self.folder.committed_questions(iteration)
        todo = [question for question in self.train_questions if question.id not in done]
        num_samples, num_tokens = self.config.rollout.n_samples_per_prompt, 0
        unparsed = UnparsedShare(self.config, self.folder.counts())
        with (
            restarts.stage(self.tracker, "collect", iteration, *self.stages.groups),
            self.folder.committing(iteration) as committer,
        ):
            answered = self.stages.engines.stream(todo, policy, num_samples, "train")
            labelled = self._failures.sift(self.stages.annotators.stream(answered), committer.set_aside)
            for item in track(labelled, f"iteration {iteration}: answers, labels, pairs", len(todo)):
                unparsed.take(item.annotations)
                outcome = pairing.taught_by(item, self.config, self.tokenizer)
                if not isinstance(outcome, DropReason):
                    lessons.add(*outcome)
                    outcome, _ = outcome
                committer.commit(item.question.id, item.rollouts, item.annotations, outcome)
                num_tokens += sum(len(rollout.token_ids) for rollout in item.rollouts)
        drops = self.folder.drops(iteration)
        example = next(iter(self.folder.errors(iteration).values()), None)
        summary = PairsSummary(len(self.train_questions), len(lessons), dict(drops), lessons.mixture(), example)
        self.folder.write_json(f"iter_{iteration:03d}/pairs-summary.json", summary)
        counts = {f"pairs/dropped/{reason}": count for reason, count in drops.items()}
        shares = {f"pairs/{name}": share for name, share in summary.mixture.items()}
        self.tracker.log({"pairs/count": len(lessons), "tokens/collect": num_tokens, **counts, **shares}, iteration)
        if not lessons:
            raise DataError(
                f"iteration {iteration}: none of {len(self.train_questions)} questions gave a pair: {dict(drops)}"
            )
        return lessons

    def train(self, iteration: int, lessons: Lessons, policy: Policy) -> Policy:
        """Masked DPO on the iteration's pairs; returns the new policy, published in the run folder."""
        against = self.initial if self.config.train.reference == "initial" else policy
        # Metrics are logged by optimizer step, counted over all iterations.
        first_step = sum(self._num_steps(earlier) for earlier in range(iteration))
        stage = TrainStage(self.config, self.stages.trainer, self.folder, self.tracker)
        return stage.run(iteration, lessons, policy, against, first_step)

    def evaluate(self, policy: Policy) -> None:
        """Answer and label the held-out questions R times; statistics, and the gain over the start."""
        stage = EvaluateStage(self.config, *self.stages.groups, self.folder, self.tracker, self._failures)
        stage.run(policy, self.eval_questions)

    @cached_property
    def _failures(self) -> Failures:
        return Failures(self.config.run.max_failed)

    def _num_steps(self, iteration: int) -> int:
        num_pairs = self.folder.read_json(f"iter_{iteration:03d}/pairs-summary.json", PairsSummary).pairs
        return batching.num_steps(num_pairs, self.config.train.batch_size, self.config.train.max_epochs)
