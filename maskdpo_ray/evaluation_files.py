"""What an evaluation leaves in the run folder, made of its committed answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import DataError
from maskdpo_ray.evaluation import judged_metrics
from maskdpo_ray.evaluation import metrics as evaluation
from maskdpo_ray.evaluation.intervals import Gain, topics_of
from maskdpo_ray.records import Question
from maskdpo_ray.store.run_folder import RunFolder


def write(
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
