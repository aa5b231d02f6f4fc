"""Evaluation of one policy: a stage of the loop, and all of `python -m maskdpo_ray.evaluate`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from maskdpo_ray import evaluation_files, restarts
from maskdpo_ray.config.schema import Config
from maskdpo_ray.failures import Failures
from maskdpo_ray.policy import Policy
from maskdpo_ray.records import Question
from maskdpo_ray.report.progress import track
from maskdpo_ray.stages.protocols import EVALUATE, Annotators, Engines, Evaluators, Failed, Labelled
from maskdpo_ray.stages.watch import UnparsedShare
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker


def is_finished(folder: RunFolder, splits: Iterable[str], version: int) -> bool:
    """Whether the run folder holds the evaluation of policy `version` on all `splits`."""
    return all(folder.finished(f"evaluate-{split}", version) is not None for split in splits)


@dataclass(frozen=True)
class EvaluateStage:
    """One for each run; policies follow each other."""

    config: Config
    engines: Engines
    annotators: Annotators
    evaluators: Evaluators | None
    """None without a second evaluator."""
    folder: RunFolder
    tracker: Tracker
    failures: Failures

    def run(self, policy: Policy, questions: Mapping[str, Sequence[Question]]) -> None:
        """Answer and label the questions of each split R times, once if greedy; return statistics, gain over policy 0.

        Raises ClusterError when too many questions fail, DataError when a question of every topic does.
        """
        groups = (self.engines, self.annotators, self.evaluators)
        for split, of_split in questions.items():
            if is_finished(self.folder, [split], policy.version):
                continue
            done = self.folder.committed_answers(policy.version, split)
            todo = [question for question in of_split if question.id not in done]
            stage, num_tokens = f"{EVALUATE}{split}", 0
            unparsed = UnparsedShare(self.config, self.folder.counts())
            with restarts.stage(self.tracker, stage, policy.version, *groups):
                failed: dict[str, str] = {}
                labelled = self.failures.sift(self._labelled(todo, policy, stage), failed)
                for item in track(labelled, f"evaluate {split} (policy {policy.version})", len(todo)):
                    unparsed.take(item.annotations, item.judgements)
                    self.folder.commit_answers(
                        policy.version, split, item.question.id, item.rollouts, item.annotations, item.judgements
                    )
                    num_tokens += sum(len(rollout.token_ids) for rollout in item.rollouts)
                for question_id, error in failed.items():
                    self.folder.set_aside_answers(policy.version, split, question_id, error)
            self.tracker.log({f"tokens/{stage}": num_tokens}, policy.version)
            files, metrics = evaluation_files.write(self.folder, self.config, policy.version, split, of_split)
            self.tracker.log(metrics, policy.version)
            self.folder.finish(stage, policy.version, files)

    def _labelled(self, questions: Sequence[Question], policy: Policy, stage: str) -> Iterator[Labelled | Failed]:
        answered = self.engines.stream(questions, policy, self.config.eval.replications, stage)
        labelled = self.annotators.stream(answered)
        return labelled if self.evaluators is None else self.evaluators.stream(labelled)
