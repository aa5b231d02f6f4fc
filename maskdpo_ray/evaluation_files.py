"""What an evaluation leaves in the run folder, made of its committed answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maskdpo_ray import evaluation, judged
from maskdpo_ray.bootstrap import Gain
from maskdpo_ray.config import Config
from maskdpo_ray.evaluation import Evaluation
from maskdpo_ray.judged import JudgedEvaluation
from maskdpo_ray.records import Question
from maskdpo_ray.run_folder import RunFolder


def write(
    folder: RunFolder, config: Config, version: int, split: str, questions: Sequence[Question]
) -> tuple[list[Path], dict[str, float]]:
    """Statistics of a policy's answers, and the gain over the start: (files, what to track).

    By the annotator ("heldout.json") and, where there is one, by the second evaluator ("heldout-judged.json").
    """
    options = {"seed": config.run.seed, "bootstrap_samples": config.eval.bootstrap_samples}
    results: dict[str, Evaluation | JudgedEvaluation] = {
        split: evaluation.evaluate(questions, folder.answers(version, split), **options)
    }
    if config.eval.evaluator is not None:
        judgements = folder.judgements(version, split)
        results[f"{split}-judged"] = judged.evaluate(config.eval.evaluator, questions, judgements, **options)
    files: list[Path] = []
    metrics: dict[str, float | None] = {}
    for name, result in results.items():
        files.append(folder.write_json(f"eval_{version:03d}/{name}.json", result.to_json()))
        metrics |= {f"eval/{name}/{metric}": value.mean for metric, value in result.metrics.items()}
        if version > 0:
            gain = _gain(folder.read_json(f"eval_000/{name}.json", type(result)), result, options)
            files.append(folder.write_json(f"eval_{version:03d}/{name}-gain.json", gain.to_json()))
            metrics[f"eval/{name}/gain"] = gain.metrics["score"].gain
    return files, {name: value for name, value in metrics.items() if value is not None}


def _gain(first: Evaluation | JudgedEvaluation, last: Evaluation | JudgedEvaluation, options: dict[str, int]) -> Gain:
    if isinstance(first, JudgedEvaluation):
        return judged.RATIOS.compare(first, last, **options)
    return evaluation.RATIOS.compare(first, last, **options)
