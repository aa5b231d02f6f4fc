"""Mask-DPO on the pairs of a file, as the loop trains on its own.

python -m maskdpo_ray.train pairs.jsonl --config configs/quickstart.yaml --run.name offline
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from maskdpo_ray import terminal
from maskdpo_ray.config import cli, resources
from maskdpo_ray.config.cli import Parser
from maskdpo_ray.config.file import located
from maskdpo_ray.config.resources import Plan
from maskdpo_ray.config.schema import Config
from maskdpo_ray.data.dropped import Dropped, counted
from maskdpo_ray.data.jsonl import num_lines, objects
from maskdpo_ray.errors import DataError, RunFolderError
from maskdpo_ray.models import adapters, chat, hub_upload, lora_targets, quantized
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.pairing import scoring
from maskdpo_ray.pairing.examples import balance, check_mask, usable_example
from maskdpo_ray.pairing.masks import VANILLA
from maskdpo_ray.pairing.pair_files import PairsReader
from maskdpo_ray.pairing.scoring import mixture
from maskdpo_ray.records import DropReason, PairsSummary, Policy, TrainingExample, to_json
from maskdpo_ray.report import schema
from maskdpo_ray.report.schema import TrainingSummary
from maskdpo_ray.stages import hub_models, preflight
from maskdpo_ray.stages.protocols import Trainer
from maskdpo_ray.stages.train import TrainStage
from maskdpo_ray.store import files, run_folder
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker
from maskdpo_ray.terminal import SHORT, track
from maskdpo_ray.training import batches
from maskdpo_ray.training.example_store import ExampleStore

SHOWN = ("loss", "accuracy")
"""Metrics that the summary compares."""


def main(argv: list[str]) -> None:
    """Train, or with --dry_run say on what. Raises UserError."""
    job = prepare(argv)
    print(job.describe(), flush=True)
    if job.dry_run:
        return
    resources.prefer_loopback(job.config.cluster)
    from actors import weights
    from maskdpo_ray.cluster import Cluster
    from maskdpo_ray.report import card

    with run_folder.open_run(job.config) as (folder, tracker):
        if is_finished(folder):
            print(f"{folder.path} is finished: nothing is left to do", flush=True)
        else:
            with terminal.error_log(folder.path):
                initial = weights.publish(job.config.model.model_name_or_path, 0)
                job.begin(initial, folder)
                with Cluster(job.config) as cluster:
                    with tracker.stage("start", 0):
                        trainer = cluster.start_trainer()
                    job.run(initial, trainer, folder, tracker)
        summary = job.summary(folder)
        folder.write_json("summary.json", summary)
        card.write(folder.path, 1, job.pairs)
    print(shown(summary))
    hub_upload.push(job.config.hub, folder.policy_dir(0), ["python", "-m", "maskdpo_ray.train", *argv])


def _parser() -> Parser:
    parser = Parser("train", __doc__, "PAIRS [--annotations FILE]")
    parser.add_argument("pairs", metavar="PAIRS", help="our pairs, or other trainers' preference data with labels")
    parser.add_argument(
        "--annotations", metavar="FILE", help="labels, as annotate writes them, of answers that have none in PAIRS"
    )
    return parser.add_config()


def prepare(argv: list[str]) -> Job:
    """Read the command line and all that it names; nothing is written.

    Raises UserError for everything that training would fail on later.
    """
    command = hub_models.local(_parser().parse(argv), resumes=True)
    arguments = command.own
    path = Path(arguments.pairs)
    annotations = None if arguments.annotations is None else Path(arguments.annotations)
    if annotations is not None and not os.path.isfile(annotations):
        raise DataError(f"--annotations: expected a file, got {str(annotations)!r}")
    files.refuse_in_run_folder(run_folder.run_path(command.config))
    with located(command.given, command.config_path):
        config = adapters.merged(command.config, command.dry_run)
        mask = check_mask(config)
        score = scoring.build(config.pairs)
        model = model_folder.load(config.model)
        lora_targets.check(config.lora, config.model, model.config)
        quantized.check(config.ds)
        max_len = model_folder.max_len(model, config.vllm)
        way = model.way(max_len, config.model.trust_remote_code).describe(config.savings)
        resources.check_ray_address(config.cluster)
    Plan(config).check_here("training ranks", dry_run=command.dry_run)
    own = chat.of(config, model.tokenizer)
    needs_labels = mask != VANILLA
    reader = PairsReader(own, max_len, model.config.vocab_size, annotations, needs_labels, score, config.data.columns)
    kept, examples, drops = [], [], reader.drops
    dropped = Dropped(path, config.data.max_dropped)
    pairs = list(track(reader.read(path, dropped), f"read {path}", num_lines(path), delay=SHORT))
    kinds = balance(pairs, config)
    for number, pair in enumerate(pairs):
        example = usable_example(pair, number, config, model.tokenizer, kinds)
        if isinstance(example, DropReason):
            drops[example.value] += 1
            continue
        kept.append(pair)
        examples.append(example)
    if not examples:
        raise DataError(f"{path}: expected pairs that something can be learned from, got none: {dict(drops)}")
    drops += dropped.counts
    summary = PairsSummary(
        dropped.records, len(kept), dict(drops), mixture(kept), balance=kinds, examples=dropped.examples
    )
    job = Job(config, command.dry_run, path, examples, summary, own.now, way)
    run_folder.check_run(config, {"pairs": examples})
    with located(command.given, command.config_path):
        hub_upload.check(config.hub, command.dry_run)
    return job


def is_finished(folder: RunFolder) -> bool:
    """Whether the run folder holds the trained policy."""
    return folder.finished("train", 0) is not None


@dataclass(frozen=True)
class Job:
    """Work of one call: iteration 0, the only one of its run, on given pairs."""

    config: Config
    dry_run: bool
    pairs: Path
    examples: list[TrainingExample]
    read: PairsSummary
    """Counts of `pairs`; its questions are the pairs before any is dropped."""
    rendered_at: datetime
    """`Chat.now` of the run."""
    way: str
    """How training takes the model's micro-batches, in words."""

    def begin(self, initial: Policy, folder: RunFolder) -> None:
        """Note what the run begins with. Raises RunFolderError when it began with other weights or pairs."""
        folder.begin(initial, {"pairs": self.examples}, self.rendered_at)
        folder.write_json("iter_000/pairs-summary.json", self.read)

    def run(self, initial: Policy, trainer: Trainer, folder: RunFolder, tracker: Tracker) -> Policy:
        """Train; the new policy is in the run folder."""
        examples = ExampleStore.write(folder.checkpoint_dir(0), self.examples)
        return TrainStage(self.config, trainer, folder, tracker).run(0, examples, initial, against=initial)

    def describe(self) -> str:
        """The plan in words."""
        train = self.config.train
        steps = batches.num_steps(len(self.examples), train.batch_size, train.max_epochs)
        dropped = f" (dropped: {counted(self.read.drops)})" if self.read.drops else ""
        of_read = f"{len(self.examples)} of {self.read.questions} pairs of {self.pairs}{dropped}"
        work = f"train on {of_read} in {run_folder.run_path(self.config)}"
        epochs = f"  epochs: {train.max_epochs}, in batches of {train.batch_size}: {steps} steps"
        reasons = [f"  {reason}: {example}" for reason, example in self.read.examples.items()]
        objective = f"  {preflight.objective_line(self.config)}"
        aside = {"pairs.file": self.config.pairs.file, "sft.iterations": self.config.sft.iterations}
        unused = [f"  not used, as all pairs come from {self.pairs}: {name}" for name, value in aside.items() if value]
        method = [epochs, objective, f"  {self.way}", *unused]
        return "\n".join([*Plan(self.config).actors(work, "training ranks"), *method, *reasons])

    def summary(self, folder: RunFolder) -> dict[str, Any]:
        """Contents of summary.json: what was read, and the first and the last step."""
        steps = _steps(folder.path / "metrics.jsonl")
        return to_json(
            TrainingSummary(
                schema_version=schema.VERSION,
                run=self.config.run.name,
                file=str(self.pairs),
                pairs=self.read,
                steps=len(steps),
                tokens=sum(step["tokens"] for step in steps.values()),
                first=steps[min(steps)],
                last=steps[max(steps)],
                policy=str(folder.policy_dir(0)),
            )
        )


def shown(summary: dict[str, Any]) -> str:
    """A summary in words."""
    pairs, first, last = summary["pairs"], summary["first"], summary["last"]
    dropped = f"; dropped: {counted(pairs['drops'])}" if pairs["drops"] else ""
    return "\n".join(
        [
            f"learned from {pairs['pairs']} of {pairs['questions']} pairs{dropped}",
            f"  steps: {summary['steps']}, tokens with weight: {summary['tokens']:.0f}",
            *(f"  {name}: {_number(first[name])} at first, {_number(last[name])} at last" for name in SHOWN),
            f"  policy: {summary['policy']}",
        ]
    )


def _steps(file: Path) -> dict[int, dict[str, Any]]:
    """Step -> its metrics. Raises RunFolderError when there are none."""
    steps: dict[int, dict[str, Any]] = {}  # a resumed run counts from 0 again
    for _, metrics in objects(file):
        if "train/loss" in metrics:
            steps[metrics["step"]] = {name.removeprefix("train/"): value for name, value in metrics.items()}
    if not steps:
        raise RunFolderError(f"{file}: expected the metrics of training steps, got none")
    return steps


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    cli.start(main)
