"""Evaluation of one policy: a stage of the loop, and all of `python -m maskdpo_ray.evaluate`.

What an evaluation leaves in the run folder, made of its committed answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import DataError
from maskdpo_ray.evaluation import judged_metrics
from maskdpo_ray.evaluation import metrics as evaluation
from maskdpo_ray.evaluation.intervals import Gain, topics_of
from maskdpo_ray.records import EVALUATE, Failed, Labelled, Policy, Question
from maskdpo_ray.stages import watch
from maskdpo_ray.stages.protocols import Annotators, Engines, Evaluators
from maskdpo_ray.stages.watch import Failures, UnparsedShare
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker
from maskdpo_ray.terminal import track


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
            with watch.stage(self.tracker, stage, policy.version, *groups):
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
            files, metrics = write_evaluation(self.folder, self.config, policy.version, split, of_split)
            self.tracker.log(metrics, policy.version)
            self.folder.finish(stage, policy.version, files)

    def _labelled(self, questions: Sequence[Question], policy: Policy, stage: str) -> Iterator[Labelled | Failed]:
        answered = self.engines.stream(questions, policy, self.config.eval.replications, stage)
        labelled = self.annotators.stream(answered)
        return labelled if self.evaluators is None else self.evaluators.stream(labelled)


def write_evaluation(
    folder: RunFolder, config: Config, version: int, split: str, questions: Sequence[Question]
) -> tuple[list[Path], dict[str, float]]:
    """Statistics of a policy's answers, and the gain over the start: (files, what to track).

    By the annotator ("heldout.json") and, where something else judges them, by that ("heldout-judged.json").
    Topics of which a question failed are left out; of gains over these answers, or of them, too.

    Raises DataError when that leaves none.
    """
    draws = {"seed": config.run.seed, "bootstrap_samples": config.eval.bootstrap_samples}
    errors, topic_of = folder.evaluation_errors(version, split), topics_of(questions)
    left_out = {topic_of[question.id]: errors[question.id] for question in questions if question.id in errors}
    kept = {question.id: question for question in questions if topic_of[question.id] not in left_out}
    if not kept:
        raise DataError(f"{split}, policy {version}: a question of every topic failed: {next(iter(left_out.values()))}")
    options = {"left_out": left_out, **draws}
    answers = (each for each in folder.answers(version, split) if each[0].question_id in kept)
    results: list[tuple[str, Any, Callable[..., Gain]]] = [
        (split, evaluation.evaluate(list(kept.values()), answers, **options), evaluation.compare)
    ]
    if config.eval.is_judged:
        names = config.eval
        judgements = (each for each in folder.judgements(version, split) if each.question_id in kept)
        second = judged_metrics.evaluate(
            names.evaluator, list(kept.values()), judgements, perplexity_model=names.perplexity_model, **options
        )
        results.append((f"{split}-judged", second, judged_metrics.compare))
    files: list[Path] = []
    metrics: dict[str, float | None] = {}
    for name, result, compare in results:
        files.append(folder.write_json(f"eval_{version:03d}/{name}.json", result.to_json()))
        metrics |= {f"eval/{name}/{metric}": value.mean for metric, value in result.metrics.items()}
        if version > 0:
            before = folder.read_json(f"eval_000/{name}.json", type(result))
            if left_out.keys() >= before.topic_sums.keys():
                raise DataError(
                    f"{split}: policies 0 and {version} have no topic in common, as questions of all failed"
                )
            gain = compare(before, result, **draws)
            files.append(folder.write_json(f"eval_{version:03d}/{name}-gain.json", gain.to_json()))
            if "score" in gain.metrics:
                metrics[f"eval/{name}/gain"] = gain.metrics["score"].gain
    return files, {name: value for name, value in metrics.items() if value is not None}
