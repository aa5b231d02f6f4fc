"""Answers, labels and pairs of an iteration's questions: a stage of the loop, or the background of a training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from maskdpo_ray.config.schema import Config
from maskdpo_ray.data.dropped import counted, no_pair
from maskdpo_ray.pairing.examples import CollectedExamples, balance, needs_mismatched, usable_example
from maskdpo_ray.records import (
    INCORRECT,
    NO_FACT,
    NO_HALLUCINATION,
    UNPARSED,
    CommittedQuestion,
    DropReason,
    Failed,
    Labelled,
    PairsSummary,
    Policy,
    PreferencePair,
    Question,
)
from maskdpo_ray.report import media
from maskdpo_ray.stages.background import BackgroundStream
from maskdpo_ray.stages.protocols import AnsweringGroups
from maskdpo_ray.stages.sources import AtomSource, Source, knowledge
from maskdpo_ray.stages.watch import Watch
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker
from maskdpo_ray.terminal import note, track
from maskdpo_ray.training.example_store import ExampleStore

FILE = "file"
"""Source of the pairs of `pairs.file`."""


@dataclass(frozen=True)
class CollectStage:
    """The collect stage of a run, iteration by iteration."""

    config: Config
    sources: Sequence[Source]
    """The training questions first."""
    given: Sequence[PreferencePair]
    """Pairs of `pairs.file`."""
    groups: AnsweringGroups
    folder: RunFolder
    tracker: Tracker
    watch: Watch

    def run(self, iteration: int, policy: Policy) -> ExampleStore:
        """Answer, label and pair every question of every source; each is committed as one unit when it is done.

        Raises ClusterError when too many questions fail, DataError when none gives a pair.
        """
        config = self.config.at(iteration)
        for source in self._sources(iteration):
            self._collect(source, iteration, policy)
        examples = CollectedExamples(self.folder.checkpoint_dir(iteration))  # removed with the checkpoints
        kinds = balance((pair for _, _, pair in self._pairs(iteration)), config)
        unusable, tokenizer = Counter[str](), self.sources[0].chat.tokenizer
        for name, number, pair in self._pairs(iteration):
            example = usable_example(pair, number, config, tokenizer, kinds)
            if isinstance(example, DropReason):
                unusable[example.value] += 1
            else:
                examples.add(pair, example, name)
        seed, has_mismatched = f"{self.config.run.seed}/{iteration}", needs_mismatched(config)
        samples = self.config.logger.num_samples
        self.tracker.show(partial(media.of_collection, self.folder.path, iteration, samples), iteration)
        store, kept = examples.finish(config.pairs.shares, seed, has_mismatched)
        drops = self._summarize(iteration, examples, kept, kinds, unusable)
        if not len(store):
            raise no_pair(len(self.sources[0].questions(iteration)), drops, f"iteration {iteration}: ")
        return store

    def collect_questions(self, iteration: int, policy: Policy) -> None:
        """Answer, label and pair what is left of the training questions; `run` collects the other sources."""
        self._collect(self.sources[0], iteration, policy)

    def _sources(self, iteration: int) -> Sequence[Source]:
        return self.sources if self.config.at(iteration).atoms.n_samples_per_prompt else self.sources[:1]

    def _pairs(self, iteration: int) -> Iterator[tuple[str | None, int, PreferencePair]]:
        """(source, number among its question's, pair) of all that is committed, and of the given pairs."""
        for source in self._sources(iteration):
            for number, pair in self.folder.questions(iteration, source.name).pairs():
                yield source.name, number, pair
        for number, pair in enumerate(self.given):
            yield FILE, number, pair

    def _collect(self, source: Source, iteration: int, policy: Policy) -> None:
        """All of one source."""
        todo, failed = self._todo(source, iteration), dict[str, str]()
        done = len(self.folder.questions(iteration, source.name).question_ids)
        stage = f"collect-{source.name}" if source.name else "collect"
        with self.groups.measured(self.tracker, stage, iteration, done + len(todo), done):
            labelled = track(source.labelled(todo, iteration, policy), _doing(iteration, source), len(todo))
            self._commit(source, iteration, labelled, failed)
            self._set_aside(source, iteration, failed)

    def _summarize(
        self,
        iteration: int,
        examples: CollectedExamples,
        kept: Mapping[str, int],
        kinds: dict[str, float],
        unusable: Counter[str],
    ) -> dict[str, int]:
        """Write, log and print what was collected; returns why there are no more examples."""
        log = self.folder.questions(iteration)
        drops, failed_example = dict(log.drops() + unusable), next(iter(log.errors().values()), None)
        labels, logged = Counter[str](), 0
        for question in log.questions():
            labels.update(sentence.label for each in question.annotations for sentence in each.sentences)
            logged += len(question.pairs)
        has_atoms = bool(self.config.at(iteration).atoms.n_samples_per_prompt)
        knows = knowledge(self.folder.questions(iteration, AtomSource.name)) if has_atoms else {}
        num_pairs, sources = sum(kept.values()), dict(kept) if len(kept) > 1 else {}
        counts = (num_pairs, drops, examples.mixture(), failed_example)
        num_asked = len(self.sources[0].questions(iteration))
        summary = PairsSummary(
            num_asked, *counts, logged=logged, labels=dict(labels), sources=sources, atoms=knows, balance=kinds
        )
        self.folder.write_json(f"iter_{iteration:03d}/pairs-summary.json", summary)
        mixture: Mapping[str, float] = summary.mixture
        parts = {"dropped/": drops, "": mixture, "of/": sources, "atoms/": knows, "balance/": kinds}
        named = {f"pairs/{part}{name}": value for part, of_part in parts.items() for name, value in of_part.items()}
        self.tracker.log({"pairs/count": num_pairs, **named}, iteration)
        verdicts = {
            "correct": {NO_HALLUCINATION},
            "incorrect": INCORRECT,
            "without a fact": {NO_FACT},
            "unsure": {UNPARSED},
        }
        sentences = {kind: sum(labels[label] for label in of_kind) for kind, of_kind in verdicts.items()}
        if lighter := {kind: f"{weight:.2f}" for kind, weight in kinds.items() if weight < 1}:
            said = ", ".join(f"{kind} x {weight}" for kind, weight in lighter.items())
            note(f"iteration {iteration}: weights in rejected answers: {said}")
        note(f"iteration {iteration}: sentences: {', '.join(f'{n} {kind}' for kind, n in sentences.items())}")
        if has_atoms:
            note(f"iteration {iteration}: atomic questions: {counted(knows)}")
        if sources:
            note(f"iteration {iteration}: pairs to train on: {counted(sources)}")
        return drops

    @contextmanager
    def in_background(self, iteration: int, policy: Policy) -> Iterator[Callable[[], None]]:
        """Collect the training questions in the background of the block, which calls what this yields to commit what
        has arrived.

        They are all committed when the block is left; `run` then has nothing left to ask of them. `policy` is the
        newest that there is, the one before the iteration's own.
        """
        source = self.sources[0]
        todo, failed = self._todo(source, iteration), dict[str, str]()
        most = self.config.in_flight(self.config.rollout.n_samples_per_prompt)
        before = len(self.folder.questions(iteration).question_ids)
        with (
            self.groups.measured(self.tracker, "collect", iteration, before + len(todo), before),
            BackgroundStream(source.labelled(todo, iteration, policy), self._stop, most) as stream,
        ):

            def commit_arrived() -> None:
                if stream.has_more:
                    self._commit(source, iteration, stream.ready(), failed)

            yield commit_arrived
            num_done = len(todo) - len(self._todo(source, iteration))
            rest = track(stream.rest(), _doing(iteration, source), len(todo), done=num_done)
            self._commit(source, iteration, rest, failed)
            self._set_aside(source, iteration, failed)

    def todo(self, iteration: int) -> list[Question]:
        """Training questions that the run folder does not hold yet."""
        return self._todo(self.sources[0], iteration)

    def _todo(self, source: Source, iteration: int) -> list[Question]:
        done = self.folder.questions(iteration, source.name).question_ids
        return [question for question in source.questions(iteration) if question.id not in done]

    def _stop(self) -> None:
        self.groups.answering.stop()
        self.groups.annotators.stop()

    def _commit(
        self, source: Source, iteration: int, labelled: Iterable[Labelled | Failed], failed: dict[str, str]
    ) -> None:
        """Commit questions as they come; the errors of failed ones go to `failed`."""
        num_tokens, config = 0, self.config.at(iteration)
        with self.folder.questions(iteration, source.name).committing() as committer:
            for item in self.watch.sift(labelled, failed):
                pairs, drops = source.paired(item, config)
                committer.commit(CommittedQuestion.of(item.question.id, item.rollouts, item.annotations, pairs, drops))
                num_tokens += sum(len(rollout.token_ids) for rollout in item.rollouts)
        self.tracker.log({f"tokens/collect{f'-{source.name}' if source.name else ''}": num_tokens}, iteration)

    def _set_aside(self, source: Source, iteration: int, failed: dict[str, str]) -> None:
        """Write failures down at the end: a run that stops earlier retries them all when it resumes."""
        for question_id, error in failed.items():
            self.folder.questions(iteration, source.name).set_aside(question_id, error)


def _doing(iteration: int, source: Source) -> str:
    what = f"{source.name}, replies, pairs" if source.name else "answers, labels, pairs"
    return f"iteration {iteration}: {what}"
