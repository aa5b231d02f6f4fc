"""Evaluation of one policy: a stage of the loop, and all of `python -m maskdpo_ray.evaluate`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import DataError
from maskdpo_ray.evaluation import judged_metrics, metrics
from maskdpo_ray.evaluation.intervals import compare, topics_of
from maskdpo_ray.evaluation.judged_metrics import JudgedEvaluation
from maskdpo_ray.evaluation.metrics import Evaluation
from maskdpo_ray.records import EVALUATE, CommittedQuestion, Failed, Labelled, Policy, Question, Sampling
from maskdpo_ray.report import card, media
from maskdpo_ray.stages.protocols import AnsweringGroups
from maskdpo_ray.stages.watch import Watch
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker
from maskdpo_ray.terminal import track


def _as_asked(question: Question) -> Question:
    """A question as a reader of its answers needs it, without what they are checked against."""
    return Question(question.id, question.topic, question.prompt, language=question.language)


DEV = "dev"
"""The split of development topics."""


def sampled_as(config: Config, splits: Iterable[str]) -> dict[str, tuple[str, Sampling]]:
    """Name of each evaluation ("heldout", "heldout-greedy") -> (its split, how answers are sampled)."""
    splits, sampling = list(splits), config.eval_sampling
    found = {split: (split, sampling) for split in splits}
    if config.eval.greedy:
        greedy = replace(sampling, n=1, temperature=0.0)
        found |= {f"{split}-greedy": (split, greedy) for split in splits if split != DEV}
    return found


def is_finished(config: Config, folder: RunFolder, splits: Iterable[str], version: int) -> bool:
    """Whether the run folder holds the evaluation of policy `version` on all `splits`."""
    return all(folder.finished(f"{EVALUATE}{name}", version) is not None for name in sampled_as(config, splits))


@dataclass(frozen=True)
class EvaluateStage:
    """The evaluate stage of a run, policy by policy."""

    config: Config
    groups: AnsweringGroups
    folder: RunFolder
    tracker: Tracker
    watch: Watch

    def run(self, policy: Policy, questions: Mapping[str, Sequence[Question]]) -> None:
        """Answer and judge the questions of each split R times, once if greedy or both; write statistics, gains and
        the policy's card.

        Raises ClusterError when too many questions fail, DataError when a question of every topic does.
        """
        for name, (split, sampling) in sampled_as(self.config, questions).items():
            if self.folder.finished(f"{EVALUATE}{name}", policy.version) is None:
                self._run(policy, name, questions[split], sampling)
        card.write(self.folder.path, policy.version)

    def _run(self, policy: Policy, name: str, questions: Sequence[Question], sampling: Sampling) -> None:
        version, stage = policy.version, f"{EVALUATE}{name}"
        log = self.folder.evaluated(version, name)
        done = log.question_ids
        todo = [question for question in questions if question.id not in done]
        num_tokens, failed = 0, dict[str, str]()
        with self.groups.measured(self.tracker, stage, version, len(questions), len(done)):
            judged = self.watch.sift(self._judged(todo, policy, sampling, stage), failed)
            for item in track(judged, f"evaluate {name} (policy {version})", len(todo)):
                log.commit(
                    CommittedQuestion.of(item.question.id, item.rollouts, item.annotations, judgements=item.judgements)
                )
                num_tokens += sum(len(rollout.token_ids) for rollout in item.rollouts)
            for question_id, error in failed.items():
                log.set_aside(question_id, error)
        self.tracker.log({f"tokens/{stage}": num_tokens}, version)
        self.folder.finish(stage, version, self._write_results(version, name, questions))
        samples = self.config.logger.num_samples
        self.tracker.show(partial(media.of_evaluation, self.folder.path, name, version, samples), version)

    def _judged(
        self, questions: Sequence[Question], policy: Policy, sampling: Sampling, stage: str
    ) -> Iterator[Labelled | Failed]:
        answered = self.groups.engines.stream(questions, policy, sampling, stage)
        labelled = self.groups.annotators.stream(answered)
        return labelled if self.groups.evaluators is None else self.groups.evaluators.stream(labelled)

    def _write_results(self, version: int, evaluation: str, questions: Sequence[Question]) -> list[Path]:
        """Write, and log, statistics of a policy's committed answers and the gain over policy 0; returns the files.

        By the annotator ("heldout.json") and, with an evaluator or a perplexity model, by these
        ("heldout-judged.json"). Topics with a failed question are left out here, and on both sides of a gain.
        Raises DataError when none is left.
        """
        folder, log = self.folder, self.folder.evaluated(version, evaluation)
        draws = {"seed": self.config.run.seed, "bootstrap_samples": self.config.eval.bootstrap_samples}
        errors, topic_of = log.errors(), topics_of(questions)
        left_out = {topic_of[question.id]: errors[question.id] for question in questions if question.id in errors}
        kept = {question.id: question for question in questions if topic_of[question.id] not in left_out}
        if not kept:
            error = next(iter(left_out.values()))
            raise DataError(f"{evaluation}, policy {version}: a question of every topic failed: {error}")
        answers = (each for each in log.answers() if each[0].question_id in kept)
        results: dict[str, Evaluation | JudgedEvaluation] = {
            evaluation: metrics.evaluate(
                list(kept.values()), answers, f1_k=self.config.eval.f1_k, left_out=left_out, **draws
            )
        }
        if self.config.eval.is_judged:
            by = self.config.eval
            judgements = (each for each in log.judgements() if each.question_id in kept)
            results[f"{evaluation}-judged"] = judged_metrics.evaluate(
                by.evaluator, list(kept.values()), judgements, by.perplexity_model, left_out=left_out, **draws
            )
        files: list[Path] = []
        if version == 0:  # the same ones for every policy; logs hold ids alone
            files.append(folder.write_lines(f"eval_000/{evaluation}-asked.jsonl", map(_as_asked, questions)))
        logged: dict[str, float | None] = {}
        for name, result in results.items():
            files.append(folder.write_json(f"eval_{version:03d}/{name}.json", result))
            logged |= {f"eval/{name}/{metric}": value.mean for metric, value in result.metrics.items()}
            if version > 0:
                before = folder.read_json(f"eval_000/{name}.json", type(result))
                if left_out.keys() >= before.topic_sums.keys():
                    raise DataError(
                        f"{evaluation}: policies 0 and {version} have no topic in common, as questions of all failed"
                    )
                gain = compare(before, result, **draws)
                files.append(folder.write_json(f"eval_{version:03d}/{name}-gain.json", gain))
                if "score" in gain.metrics:
                    logged[f"eval/{name}/gain"] = gain.metrics["score"].gain
        self.tracker.log({name: value for name, value in logged.items() if value is not None}, version)
        return files
