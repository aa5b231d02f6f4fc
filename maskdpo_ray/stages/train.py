"""Training on one iteration's examples: the second stage of the loop, and all of `python -m maskdpo_ray.train`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from maskdpo_ray.config.schema import Config
from maskdpo_ray.records import Policy, to_json
from maskdpo_ray.stages.protocols import Trainer
from maskdpo_ray.store.checkpoints import Checkpoints
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker
from maskdpo_ray.terminal import note, track
from maskdpo_ray.training import batches
from maskdpo_ray.training import reference as reference_file
from maskdpo_ray.training.example_store import ExampleStore
from maskdpo_ray.training.objectives import protocol as objectives
from maskdpo_ray.training.reference import ReferenceLogps

Item = TypeVar("Item")


@dataclass(frozen=True)
class TrainStage:
    """One for each run; iterations follow each other."""

    config: Config
    trainer: Trainer
    folder: RunFolder
    tracker: Tracker
    meanwhile: Callable[[], None] = lambda: None
    """Called between optimizer steps, to serve work that runs concurrently."""

    def run(
        self, iteration: int, examples: ExampleStore, policy: Policy, against: Policy, first_step: int = 0
    ) -> Policy:
        """Train `policy`, against the reference `against` where the objective has one; returns the new policy.

        It is published in the run folder.

        Args:
            examples: each with an id of its own.
            first_step: number of the first optimizer step, for the metrics. A step that is done again after a stop is
                logged again; its last line counts.
        """
        config = self.config.at(iteration)
        objective = objectives.load(config.objective.name, config.objective.options)
        reference: ReferenceLogps | Policy | None = against if objective.needs_reference else None
        if objective.needs_reference and not objective.needs_kl and config.savings.reference_once:
            with self.tracker.stage("reference", iteration):
                reference = self._reference_logps(iteration, examples, against)
        train, target = config.train, self.folder.policy_dir(iteration)
        num_steps = batches.num_steps(len(examples), train.batch_size, train.max_epochs)
        seed, description = self.config.run.seed + iteration, f"iteration {iteration}: training steps"
        with self.tracker.stage("train", iteration):
            checkpoints = self._checkpoints(iteration, policy, seed, num_steps)
            done = checkpoints.step
            steps = self.trainer.train(examples, reference, policy, seed, checkpoints, config)
            steps = self._between(track(steps, description, num_steps, done))
            for number, metrics in enumerate(steps, start=first_step + done):
                self.tracker.log({f"train/{name}": value for name, value in metrics.items()}, number)
            published, found = self.trainer.publish(str(target), iteration + 1)
        # Of all steps, those of an earlier process too.
        num_tokens = train.max_epochs * examples.num_weighted
        published_metrics = {f"train/{name}": value for name, value in found.items()}
        self.tracker.log({"tokens/train": float(num_tokens), **published_metrics}, iteration)
        self.folder.finish("train", iteration, [target], checksum=published.checksum)
        self.folder.drop_checkpoints()
        return published

    def _checkpoints(self, iteration: int, policy: Policy, seed: int, num_steps: int) -> Checkpoints:
        config = self.config
        training = {
            "policy": policy.checksum,
            "seed": seed,
            "steps": num_steps,
            "ranks": config.train.num_ranks,
            "device": config.cluster.device,
        }
        found = Checkpoints(self.folder.checkpoint_dir(iteration), config.train.save_steps, training)
        for line in found.notes:
            note(line)
        if found.step:
            note(f"iteration {iteration}: training resumes after step {found.step} of {num_steps}")
        return found

    def _reference_logps(self, iteration: int, examples: ExampleStore, against: Policy) -> ReferenceLogps:
        """Once per example and iteration, kept on disk, reused by every epoch and after a stop."""
        file = self.folder.iteration_dir(iteration) / "reference-logps.safetensors"
        if self.folder.finished("reference", iteration) is not None:
            self.folder.check_files("reference", iteration)
            return reference_file.load(file, examples, against.checksum)
        computed = self.trainer.reference_logps(examples, against)
        description = f"iteration {iteration}: reference log-probs"
        tracked = self._between(track(computed, description, len(examples)))
        logps = reference_file.save(file, examples, tracked, against.checksum)
        self.folder.finish("reference", iteration, [file], policy=to_json(against))
        return logps

    def _between(self, items: Iterable[Item]) -> Iterator[Item]:
        """`items`; when one has been used, `meanwhile` is called before the next is waited for."""
        for item in items:
            yield item
            self.meanwhile()
