"""Finished runs of two arms, as far as an experiment's table reads them."""

from __future__ import annotations

import random
from pathlib import Path

import fakes

from maskdpo_ray.config import experiment as experiment_file
from maskdpo_ray.config.experiment import Experiment
from maskdpo_ray.evaluation import metrics
from maskdpo_ray.evaluation.intervals import Change
from maskdpo_ray.records import encode_line
from maskdpo_ray.report.comparison import FinishedRun
from maskdpo_ray.report.experiments.table import METRICS

FILE = """\
base: base.yaml
options: {eval.bootstrap_samples: 200}
seeds: [1, 2]
arms: {masked: {}, unmasked: {mask.policy: vanilla}}
baseline: unmasked
paper:
  masked: {table: table 2, score: 0.7753}
  unmasked: {table: table 2, score: 0.6844}
direction: {above: masked, below: unmasked, metric: score}
"""
TOPICS = [f"topic {number}" for number in range(8)]


def experiment_in(folder: Path, text: str = FILE) -> Experiment:
    (folder / "base.yaml").write_text("model: {model_name_or_path: m}\n")
    (folder / "mask.yaml").write_text(text)
    return experiment_file.read(folder / "mask.yaml", folder, tuple(METRICS))


def evaluation(name: str, share: float) -> metrics.Evaluation:
    """Statistics of two answers to a question a topic, of four sentences each, right by chance."""
    questions = [fakes.question(topic) for topic in TOPICS]
    answers = []
    for each in questions:
        for sample in range(2):
            rng = random.Random(f"{name}/{each.id}/{sample}")
            text = " ".join(fakes.RIGHT if rng.random() < share else fakes.WRONG for _ in range(4))
            rollout = fakes.Rollout(each.id, sample, (1,), text, "stop", 0)
            answers.append((rollout, fakes.label(rollout)))
    return metrics.evaluate(questions, answers, seed=1, bootstrap_samples=200)


def finished(folder: Path, name: str, share: float) -> FinishedRun:
    """A run that keeps policy 1."""
    before, after = evaluation(f"{name.partition('-')[2]}/before", 0.5), evaluation(name, share)
    for version, each in enumerate((before, after)):
        (folder / name / f"eval_{version:03d}").mkdir(parents=True)
        (folder / name / f"eval_{version:03d}" / "heldout.json").write_bytes(encode_line(each))
    return FinishedRun({}, 1, {}, Change(0.0, 0.0, 0.0, 0.0, 0.0), "", folder / name, 1)


def runs_of(folder: Path, masked: float = 0.9, unmasked: float = 0.5) -> dict[str, FinishedRun]:
    shares = {"masked": masked, "unmasked": unmasked}
    names = [(arm, f"{arm}-seed{seed}") for seed in (1, 2) for arm in shares]
    return {name: finished(folder, name, shares[arm]) for arm, name in names}
