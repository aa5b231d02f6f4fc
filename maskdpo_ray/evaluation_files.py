"""What an evaluation leaves in the run folder, made of its committed answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from maskdpo_ray import evaluation, judged
from maskdpo_ray.bootstrap import Gain
from maskdpo_ray.config import Config
from maskdpo_ray.records import Question
from maskdpo_ray.run_folder import RunFolder


def write(
    folder: RunFolder, config: Config, version: int, split: str, questions: Sequence[Question]
) -> tuple[list[Path], dict[str, float]]:
    """Statistics of a policy's answers, and the gain over the start: (files, what to track).

    By the annotator ("heldout.json") and, where something else judges them, by that ("heldout-judged.json").
    """
    options = {"seed": config.run.seed, "bootstrap_samples": config.eval.bootstrap_samples}
    answers = folder.answers(version, split)
    results: list[tuple[str, Any, Callable[..., Gain]]] = [
        (split, evaluation.evaluate(questions, answers, **options), evaluation.compare)
    ]
    if config.eval.is_judged:
        names, judgements = config.eval, folder.judgements(version, split)
        second = judged.evaluate(
            names.evaluator, questions, judgements, perplexity_model=names.perplexity_model, **options
        )
        results.append((f"{split}-judged", second, judged.compare))
    files: list[Path] = []
    metrics: dict[str, float | None] = {}
    for name, result, compare in results:
        files.append(folder.write_json(f"eval_{version:03d}/{name}.json", result.to_json()))
        metrics |= {f"eval/{name}/{metric}": value.mean for metric, value in result.metrics.items()}
        if version > 0:
            gain = compare(folder.read_json(f"eval_000/{name}.json", type(result)), result, **options)
            files.append(folder.write_json(f"eval_{version:03d}/{name}-gain.json", gain.to_json()))
            if "score" in gain.metrics:
                metrics[f"eval/{name}/gain"] = gain.metrics["score"].gain
    return files, {name: value for name, value in metrics.items() if value is not None}
