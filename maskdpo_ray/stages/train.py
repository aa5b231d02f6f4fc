"""Training on one iteration's examples: the second stage of the loop, and all of `python -m maskdpo_ray.train`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from maskdpo_ray.config.schema import Config
from maskdpo_ray.pairing import token_selection
from maskdpo_ray.records import Policy, to_json
from maskdpo_ray.report import media
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
        if config.mask.oracle is not None:
            examples = self._with_key_tokens(iteration, examples, config)
        reference: ReferenceLogps | Policy | None = against if objective.needs_reference else None
        if objective.needs_reference and not objective.needs_kl and config.savings.reference_once:
            with self.tracker.stage("reference", iteration, len(examples)):
                reference = self._logps("reference", iteration, examples, against)
        train, target = config.train, self.folder.policy_dir(iteration)
        num_steps = batches.num_steps(len(examples), train.batch_size, train.max_epochs)
        seed, description = self.config.run.seed + iteration, f"iteration {iteration}: training steps"
        checkpoints = self._checkpoints(iteration, policy, seed, num_steps)
        done = checkpoints.step
        with self.tracker.stage("train", iteration, num_steps, done):
            steps = self.trainer.train(examples, reference, policy, seed, checkpoints, config)
            steps = self._between(track(steps, description, num_steps, done))
            for number, metrics in enumerate(steps, start=first_step + done):
                self.tracker.log({f"train/{name}": value for name, value in metrics.items()}, number)
            published, found = self.trainer.publish(str(target), iteration + 1)
        # Of all steps, those of an earlier process too.
        num_tokens = train.max_epochs * examples.num_weighted
        published_metrics = {f"train/{name}": value for name, value in found.items()}
        self.tracker.log({"tokens/train": float(num_tokens), **published_metrics}, iteration)
        self.tracker.show(partial(media.of_training, self.folder.path), iteration)
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

    def _with_key_tokens(self, iteration: int, examples: ExampleStore, config: Config) -> ExampleStore:
        """The examples with weight at the tokens that an oracle picks (SePO)."""
        paths = (str(config.mask.oracle), config.mask.oracle_reference or config.model.model_name_or_path)
        # Their checksums tell them apart; `fingerprint` watches over files that options name.
        oracle, reference = (
            self._logps(name, iteration, examples, Policy(0, path, f"{name} {path}"))
            for name, path in zip(("oracle", "oracle-reference"), paths, strict=True)
        )
        chosen = token_selection.with_key_tokens(examples, oracle, reference, config.mask.oracle_share)
        return ExampleStore.write(examples.path.parent, chosen)

    def _logps(self, stage: str, iteration: int, examples: ExampleStore, against: Policy) -> ReferenceLogps:
        """Log-probs once per example and iteration, kept on disk, reused by every epoch and after a stop."""
        file = self.folder.iteration_dir(iteration) / f"{stage}-logps.safetensors"
        if self.folder.finished(stage, iteration) is not None:
            self.folder.check_files(stage, iteration)
            return reference_file.load(file, examples, against.checksum)
        computed = self.trainer.reference_logps(examples, against)
        description = f"iteration {iteration}: {stage} log-probs"
        tracked = self._between(track(computed, description, len(examples)))
        logps = reference_file.save(file, examples, tracked, against.checksum)
        self.folder.finish(stage, iteration, [file], policy=to_json(against))
        return logps

    def _between(self, items: Iterable[Item]) -> Iterator[Item]:
        """`items`; when one has been used, `meanwhile` is called before the next is waited for."""
        for item in items:
            yield item
            self.meanwhile()
