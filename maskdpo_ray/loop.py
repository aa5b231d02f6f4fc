"""The training loop.

    questions ──► engines ───► annotators ──► pairs ──► examples ──► trainer ──► new policy ─┐
                  K answers    labelled       best /    token        masked                  │
                  each         sentences      worst     weights      DPO                     │
        ▲                                                                                    │
        └───────────── next iteration ◄── evaluate held-out topics ◄── engines.load ◄────────┘

An iteration has three stages, each in a file of `stages/`: `collect` (answers, labels, pairs and examples), `train` and
`evaluate`, after which `choose` says which policy the run keeps so far and whether it has ended. Within `collect`
engines and annotators work at the same time, with a bounded number of questions between them; `train` starts when the
iteration's examples are complete. Policy 0 is the initial one; iteration i answers with policy i and trains policy
i + 1. What the run folder holds already is not done again, so that the same command resumes an interrupted run.

The actors are behind the Protocols of `stages/protocols.py`; docs/architecture.md follows an answer through all files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

from maskdpo_ray.config.schema import Config
from maskdpo_ray.evaluation.choice import Choice
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.records import PairsSummary, Policy, Question
from maskdpo_ray.stages import choose
from maskdpo_ray.stages.collect import CollectStage
from maskdpo_ray.stages.evaluate import EvaluateStage
from maskdpo_ray.stages.given_sources import GivenSources, as_answers
from maskdpo_ray.stages.protocols import ActorGroups
from maskdpo_ray.stages.sources import AtomSource, GeneralSource, Source
from maskdpo_ray.stages.train import TrainStage
from maskdpo_ray.stages.watch import Watch
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker
from maskdpo_ray.training import batches
from maskdpo_ray.training.example_store import ExampleStore


@dataclass(frozen=True)
class Loop:
    """One run: `Loop(...).run()`."""

    config: Config
    train_questions: Sequence[Question]
    eval_questions: Mapping[str, Sequence[Question]]
    """Evaluated questions by split: `heldout`, `transfer` when there is a second domain, `dev` when there are
    development topics, by which the best policy is chosen."""
    chat: Chat
    initial: Policy
    groups: ActorGroups
    folder: RunFolder
    tracker: Tracker
    given: GivenSources = GivenSources()
    """Answers, pairs and questions beside the training questions and their sampled answers."""

    def run(self) -> None:
        """Do every iteration and evaluation that the run folder does not hold yet."""
        inputs = {"train": self.train_questions, **self.eval_questions, **self.given.inputs()}
        self.folder.begin(self.initial, inputs, self.chat.now)
        policy = self._newest_policy()
        self._finish_collecting_ahead(policy)
        self.groups.engines.load(policy)
        choice = self.evaluate(policy)
        while not choose.has_ended(self.config, choice, policy.version):
            iteration = policy.version
            # `idle` and `stage` measure: the share of time without work of each group, the seconds of the iteration.
            with self.tracker.idle(iteration, self.groups.busy_seconds, self.groups.restarts):
                with self.tracker.stage("iteration", iteration):
                    examples = self.collect(iteration, policy)
                    if self.config.cluster.colocate:
                        self.groups.rest()  # the ranks' turn; engines wake below with the new policy, judges when asked
                    with self.collecting_ahead(iteration + 1, policy) as commit_arrived:
                        policy = self.train(iteration, examples, policy, commit_arrived)
                    with self.groups.measured(self.tracker, "sync", iteration):
                        self.groups.engines.load(policy)
                choice = self.evaluate(policy)

    def collect(self, iteration: int, policy: Policy) -> ExampleStore:
        """Answer, label and pair every question; returns the iteration's training examples."""
        return self._collect_stage.run(iteration, policy)

    def train(
        self, iteration: int, examples: ExampleStore, policy: Policy, between_steps: Callable[[], None]
    ) -> Policy:
        """Train on the examples with the objective; returns the new policy, published in the run folder."""
        # "initial" is where preference training starts: after SFT, if there is any.
        first = self.config.sft.iterations
        is_initial = self.config.train.reference == "initial" and iteration > first
        reference = self._policy(first) if is_initial else policy
        # Metrics are logged by optimizer step, counted over all iterations.
        first_step = sum(self._num_steps(earlier) for earlier in range(iteration))
        stage = TrainStage(self.config, self.groups.trainer, self.folder, self.tracker, between_steps)
        return stage.run(iteration, examples, policy, reference, first_step)

    def evaluate(self, policy: Policy) -> Choice:
        """Answer and judge the held-out and development questions; write statistics and gains over the initial policy.

        Returns the choice among all policies so far, which is written down too.
        """
        stage = EvaluateStage(self.config, self.groups, self.folder, self.tracker, self._watch)
        stage.run(policy, self.eval_questions)
        return choose.commit(self.config, self.folder, policy.version)

    # Collecting ahead (`rollout.ahead`): while ranks train the next policy, engines answer the next iteration's
    # questions with the present one.

    def collecting_ahead(self, iteration: int, policy: Policy) -> AbstractContextManager[Callable[[], None]]:
        """Collect in the background of the block, which calls what this yields to commit what has arrived."""
        if not self.config.rollout.ahead or iteration == self.config.run.iterations:
            return nullcontext(lambda: None)
        return self._collect_stage.in_background(iteration, policy)

    def _finish_collecting_ahead(self, newest: Policy) -> None:
        """Let the policy before the newest answer the questions that it had left when the run was interrupted."""
        iteration = newest.version
        if not self.config.rollout.ahead or not 0 < iteration < self.config.run.iterations:
            return
        if self._collect_stage.todo(iteration):
            before = self._policy(iteration - 1)
            self.groups.engines.load(before)
            self._collect_stage.collect_questions(iteration, before)

    # What the run folder holds

    def _newest_policy(self) -> Policy:
        return self._policy(self.folder.num_trained)

    def _policy(self, version: int) -> Policy:
        """The initial policy or a trained one. Raises RunFolderError when its files have changed since."""
        finished = self.folder.finished("train", version - 1)
        if finished is None:
            return self.initial
        self.folder.check_files("train", version - 1)
        return Policy(version, str(self.folder.policy_dir(version - 1).resolve()), finished["checksum"])

    def _num_steps(self, iteration: int) -> int:
        num_pairs = self.folder.read_json(f"iter_{iteration:03d}/pairs-summary.json", PairsSummary).pairs
        train = self.config.at(iteration).train
        return batches.num_steps(num_pairs, train.batch_size, train.max_epochs)

    @cached_property
    def _collect_stage(self) -> CollectStage:
        config, groups, given = self.config, self.groups, self.given
        own = (as_answers(given.answers), as_answers(given.chosen))
        general = GeneralSource(config, self.train_questions, self.chat, groups, *own)
        asked = {question.id: question for question in self.train_questions}
        atoms = AtomSource(config, asked, self.chat, groups, self.folder, given.atoms)
        sources: list[Source] = [general, atoms] if config.atoms.n_samples_per_prompt else [general]
        return CollectStage(config, sources, given.pairs, groups, self.folder, self.tracker, self._watch)

    @cached_property
    def _watch(self) -> Watch:
        """The watch over failures and unparsed labels, shared by all stages."""
        return Watch(self.config, self.folder.counts())
