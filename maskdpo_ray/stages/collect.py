"""Answers, labels and pairs of an iteration's questions: a stage of the loop, or made beside the training before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import DataError
from maskdpo_ray.pairing import examples
from maskdpo_ray.pairing.examples import Lessons
from maskdpo_ray.records import DropReason, Failed, Labelled, PairsSummary, Policy, Question
from maskdpo_ray.stages import watch
from maskdpo_ray.stages.background import Beside
from maskdpo_ray.stages.protocols import Stages
from maskdpo_ray.stages.watch import Failures, UnparsedShare
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker
from maskdpo_ray.terminal import track


@dataclass(frozen=True)
class CollectStage:
    """One for each run; iterations follow each other."""

    config: Config
    questions: Sequence[Question]
    tokenizer: Any
    stages: Stages
    folder: RunFolder
    tracker: Tracker
    failures: Failures

    def run(self, iteration: int, policy: Policy) -> Lessons:
        """Answer, label and pair every question; each is committed as one unit when it is done.

        Raises ClusterError when too many questions fail, DataError when none gives a pair.
        """
        lessons = Lessons(self.folder.iteration_dir(iteration))
        for pair in self.folder.pairs(iteration):
            lessons.add(pair, examples.example_of(pair, self.config, self.tokenizer))
        todo = self.todo(iteration)
        with watch.stage(self.tracker, "collect", iteration, *self.stages.groups):
            labelled = self._labelled(todo, iteration, policy)
            failed: dict[str, str] = {}
            self._commit(iteration, track(labelled, _doing(iteration), len(todo)), failed, lessons)
            self._set_aside(iteration, failed)
        drops = self.folder.drops(iteration)
        example = next(iter(self.folder.errors(iteration).values()), None)
        summary = PairsSummary(len(self.questions), len(lessons), dict(drops), lessons.mixture(), example)
        self.folder.write_json(f"iter_{iteration:03d}/pairs-summary.json", summary)
        counts = {f"pairs/dropped/{reason}": count for reason, count in drops.items()}
        shares = {f"pairs/{name}": share for name, share in summary.mixture.items()}
        self.tracker.log({"pairs/count": len(lessons), **counts, **shares}, iteration)
        if not lessons:
            raise DataError(
                f"iteration {iteration}: none of {len(self.questions)} questions gave a pair: {dict(drops)}"
            )
        return lessons

    @contextmanager
    def ahead(self, iteration: int, policy: Policy) -> Iterator[Callable[[], None]]:
        """The same beside what is done inside, which calls what this yields now and then, to commit what has come.

        All is committed when the block is left; `run` then finds it done. `policy` is the newest that there is, the one
        before the iteration's own.
        """
        todo, most = self.todo(iteration), self.config.in_flight(self.config.rollout.n_samples_per_prompt)
        failed: dict[str, str] = {}
        with (
            watch.stage(self.tracker, "collect", iteration, *self.stages.groups),
            Beside(self._labelled(todo, iteration, policy), self._stop, most) as coming,
        ):

            def commit_what_came() -> None:
                if coming.has_more:
                    self._commit(iteration, coming.ready(), failed)

            yield commit_what_came
            num_done = len(todo) - len(self.todo(iteration))
            self._commit(iteration, track(coming.rest(), _doing(iteration), len(todo), done=num_done), failed)
            self._set_aside(iteration, failed)

    def todo(self, iteration: int) -> list[Question]:
        """Questions that the run folder does not hold yet."""
        done = self.folder.committed_questions(iteration)
        return [question for question in self.questions if question.id not in done]

    def _labelled(self, questions: Sequence[Question], iteration: int, policy: Policy) -> Iterator[Labelled | Failed]:
        # A policy that answers two iterations' questions gives other answers to the second.
        purpose = "train" if policy.version == iteration else "ahead"
        num_samples = self.config.rollout.n_samples_per_prompt
        return self.stages.annotators.stream(self.stages.engines.stream(questions, policy, num_samples, purpose))

    def _stop(self) -> None:
        for group in (self.stages.engines, self.stages.annotators):
            group.stop()

    def _commit(
        self,
        iteration: int,
        labelled: Iterable[Labelled | Failed],
        failed: dict[str, str],
        lessons: Lessons | None = None,
    ) -> None:
        """Commit what comes; pairs go to `lessons`, too. Questions that failed go to `failed`, with their errors."""
        unparsed, num_tokens = UnparsedShare(self.config, self.folder.counts()), 0
        with self.folder.committing(iteration) as committer:
            for item in self.failures.sift(labelled, failed):
                unparsed.take(item.annotations)
                outcome = examples.taught_by(item, self.config, self.tokenizer)
                if not isinstance(outcome, DropReason):
                    if lessons is not None:
                        lessons.add(*outcome)
                    outcome, _ = outcome
                committer.commit(item.question.id, item.rollouts, item.annotations, outcome)
                num_tokens += sum(len(rollout.token_ids) for rollout in item.rollouts)
        self.tracker.log({"tokens/collect": num_tokens}, iteration)

    def _set_aside(self, iteration: int, failed: dict[str, str]) -> None:
        """Report failures at the end: a run that stops earlier retries them all when it resumes."""
        for question_id, error in failed.items():
            self.folder.set_aside_question(iteration, question_id, error)


def _doing(iteration: int) -> str:
    return f"iteration {iteration}: answers, labels, pairs"
