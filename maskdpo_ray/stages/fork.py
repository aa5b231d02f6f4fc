"""A run folder that begins with what a run that agrees with it so far has finished: what arms of an experiment share.

A stage is a function of its inputs, and rollouts are seeded by run seed, purpose, policy version and question. So two
runs come to the same results up to the first stage that reads an option in which they differ, and the second one need
not compute them again: the evaluations of the policies that both have, the trainings that led to these, the answers and
labels of the iteration in which they part (pairs are made anew, under the run's own mask and strategy), and its
reference log-probs where the examples are the same.

An option is taken to decide a stage unless it is known that it doesn't, so that a new option costs work and no truth.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from maskdpo_ray.config import cli
from maskdpo_ray.config.file import flatten
from maskdpo_ray.config.schema import COLLECT, EVALUATE, TRAIN, Config, affects
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.pairing import examples
from maskdpo_ray.records import EVALUATE as EVALUATE_STAGE
from maskdpo_ray.records import CommittedQuestion, Labelled, PairsSummary, Policy, Question, encode_line, to_json
from maskdpo_ray.report import card
from maskdpo_ray.stages import choose
from maskdpo_ray.stages.evaluate import sampled_as
from maskdpo_ray.stages.preflight import Prepared
from maskdpo_ray.store import files, fingerprint, metrics_log, question_log
from maskdpo_ray.store.ledger import Entry, Finished, find_finished, num_trained, read_entries, sealed_logs
from maskdpo_ray.store.question_log import QuestionLog
from maskdpo_ray.store.run_folder import RunFolder, run_path
from maskdpo_ray.training import batches
from maskdpo_ray.training.objectives import protocol as objectives
from maskdpo_ray.training.objectives.protocol import Objective

FORK = "fork"
"""Stage of the ledger: what was taken over, and from which run."""
_NAMES = ("run.name", "model.model_name_or_path")
"""Options that decide no result: a name, and a folder whose content is compared."""
_PAIRING = ("pairs", "atoms", "mask", "objective", "sft")
"""Sections that affect what is made of labelled answers, not answers or labels."""
_OF_ANSWERS = ("answers", "chosen answers")
"""Inputs of `GivenSources.inputs` that take part in the answers to training questions."""
_OF_TRAINING_ANSWERS = ("ahead", "model", "answers", "chosen_answers")
"""Options of `rollout` that evaluation does not read."""
_SAMPLED = ("n_samples_per_prompt", "temperature", "top_k", "top_p", "max_new_tokens")
"""Options of `rollout` and `eval` that evaluation reads as `Config.eval_sampling`."""
_OF_STEPS = ("beta", "max_epochs", "batch_size", "lr_scheduler", "lr_warmup_ratio", "min_lr_ratio", "max_norm")
"""Options of `train` that reference log-probs don't depend on."""


@dataclass(frozen=True)
class Beginning:
    """Config, model and inputs that a run begins with."""

    config: Config
    """All models in it are folders."""
    initial: Policy
    prepared: Prepared

    @property
    def path(self) -> Path:
        """The run folder, which need not be there."""
        return run_path(self.config)


@dataclass(frozen=True)
class Shared:
    """Results of one run that another one can take over."""

    trained: int = 0
    """Iterations with their answers, pairs, training and policy."""
    evaluations: tuple[tuple[int, str], ...] = ()
    """(policy version, name of the evaluation), of policies 0 to `trained`."""
    answers: int = 0
    """Questions of iteration `trained` with their answers and labels."""
    reference: bool = False
    """Reference log-probs of that iteration."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to take over."""
        return not (self.trained or self.evaluations or self.answers)

    def describe(self) -> str:
        """In words."""
        found = [f"policy {self.trained} with all before it"] if self.trained else []
        if self.evaluations:
            versions = sorted({str(version) for version, _ in self.evaluations})
            found.append(f"evaluation of policy {', '.join(versions)}")
        if self.answers:
            found.append(f"answers and labels of {self.answers} questions of iteration {self.trained}")
        return ", ".join([*found, *(["reference log-probs"] if self.reference else [])])


@dataclass(frozen=True)
class Fork:
    """A run that has not begun, and one that it can take results over from."""

    new: Beginning
    old: Beginning
    _entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read the ledger of the old run. Raises RunFolderError when it is damaged."""
        self._entries.extend(read_entries(self.old.path / "ledger.jsonl"))

    def shared(self) -> Shared:
        """Find what can be taken over. Raises RunFolderError when the old run's folder is damaged."""
        begun = find_finished(self._entries, "begin", 0)
        if begun is None or not self._has_same_model(begun):
            return Shared()
        trained, most = 0, min(self.new.config.run.iterations, num_trained(self._entries))
        evaluations = self._evaluations(0)
        while trained < most and self._is_evaluated(trained) and self._agree(_training, trained):
            trained += 1
            evaluations += self._evaluations(trained)
        if trained == self.new.config.run.iterations:
            return Shared(trained, tuple(evaluations))
        count = sum(1 for _ in self._answered(trained))
        return Shared(trained, tuple(evaluations), count, bool(count) and self._has_reference(trained))

    def make(self) -> Shared:
        """Make the new run's folder with all that is shared, unless that is nothing: whole, or not at all.

        Raises RunFolderError when the old run's folder is damaged or the new one can't be written.
        """
        shared, final = self.shared(), self.new.path
        if shared.is_empty:
            return shared
        unfinished = final.with_name(f".{final.name}.partial")
        try:
            if unfinished.exists():  # of a process that was stopped
                shutil.rmtree(unfinished)
            with RunFolder.open(unfinished, cli.resolved(self.new.config)) as folder:
                self._fill(folder, shared)
            os.rename(unfinished, final)
            files.sync_folder(final.parent)
        except OSError as error:
            raise RunFolderError(f"{error.filename or final}: can't be written: {error.strerror}") from error
        return shared

    def _fill(self, folder: RunFolder, shared: Shared) -> None:
        # The old run's date, which its prompts were rendered with.
        folder.begin(self.new.initial, self._inputs(self.new), fingerprint.rendered_at(self.old.path))
        folder.finish(FORK, 0, of=os.path.relpath(self.old.path, self.new.path.parent), shared=shared.describe())
        for version in range(shared.trained + 1):
            for _, name in (each for each in shared.evaluations if each[0] == version):
                self._copy_log(folder.evaluated(version, name), question_log.log_path(version, name))
                self._take_over(folder, f"{EVALUATE_STAGE}{name}", version)
            if self._is_evaluated(version):
                card.write(folder.path, version)
                choose.commit(self.new.config, folder, version)
            if version < shared.trained:
                self._take_iteration(folder, version)
        if shared.answers:
            with folder.questions(shared.trained).committing() as committer:
                for question, item in self._answered(shared.trained):
                    committer.commit(self._paired(question, item, shared.trained))
        if shared.reference:
            self._take_over(folder, "reference", shared.trained)
        files.write_whole(folder.path / "metrics.jsonl", b"".join(map(encode_line, self._metrics(shared))))

    # What agrees

    def _has_same_model(self, begun: Finished) -> bool:
        """Whether the old run began with the new one's model, and read the same in files that both name."""
        now = fingerprint.facts(self.new.initial, {}, cli.resolved(self.new.config), None)
        named, before = now["named_files"], begun.facts.get("named_files", {})
        is_same = all(begun.facts.get(name) == now[name] for name in ("checksum", "model_files"))
        return is_same and all(before[name] == named[name] for name in named.keys() & before.keys())

    def _agree(self, deciding: Any, iteration: int) -> bool:
        """Whether what decides an iteration's stage, options and inputs by name, is the same in both runs."""
        sides = (self.new, self.old)
        options = [deciding(side.config, iteration) for side in sides]
        inputs = [_checksums(self._inputs(side), _not_evaluated(side)) for side in sides]
        return bool(options[0] == options[1] and inputs[0] == inputs[1])

    def _evaluations(self, version: int) -> list[tuple[int, str]]:
        """Finished evaluations of a policy that both runs have, on the same questions in the same way."""
        if _evaluating(self.new.config) != _evaluating(self.old.config):
            return []
        held, others = (side.prepared.evaluation for side in (self.new, self.old))
        return [
            (version, name)
            for name, (split, _) in sampled_as(self.new.config, held).items()
            if list(held[split]) == list(others.get(split, ()))
            and find_finished(self._entries, f"{EVALUATE_STAGE}{name}", version) is not None
        ]

    def _is_evaluated(self, version: int) -> bool:
        """Whether all evaluations of a policy can be taken over."""
        return len(self._evaluations(version)) == len(sampled_as(self.new.config, self.new.prepared.evaluation))

    def _answered(self, iteration: int) -> Iterator[tuple[Question, CommittedQuestion]]:
        """Training questions that the old run has answered and labelled as the new one would.

        Raises RunFolderError when a finished stage was built on others.
        """
        configs, given = (self.new.config, self.old.config), [side.prepared.inputs() for side in (self.new, self.old)]
        options = [_answering(config) for config in configs]
        answers = [_checksums(inputs, _OF_ANSWERS) for inputs in given]
        if options[0] != options[1] or answers[0] != answers[1]:
            return
        asked = {question.id: question for question in self.new.prepared.train}
        before = {question.id: question for question in self.old.prepared.train}
        for item in self._read_log(question_log.log_path(iteration)):
            question = asked.get(item.question_id)
            # What failed is tried again.
            if question is not None and question == before.get(item.question_id) and item.error is None:
                yield question, item

    def _has_reference(self, iteration: int) -> bool:
        """Whether the reference log-probs of an iteration are of the same examples under the same policy."""
        configs = [side.config.at(iteration) for side in (self.new, self.old)]
        new, old = (objectives.load(config.objective.name, config.objective.options) for config in configs)
        if not (new.needs_reference and self.new.config.savings.reference_once) or new.needs_kl:
            return False
        finished = find_finished(self._entries, "reference", iteration)
        log = question_log.log_path(iteration)
        return (
            finished is not None
            and _reading(new) == _reading(old)
            and self._agree(_referring, iteration)
            and all(item.error is None for item in self._read_log(log))
            and not configs[0].atoms.n_samples_per_prompt  # whose replies are not taken over
        )

    # What is taken over

    @staticmethod
    def _inputs(side: Beginning) -> Mapping[str, Sequence[Any]]:
        return side.prepared.inputs()

    def _read_log(self, name: str) -> Iterator[CommittedQuestion]:
        """The questions of a log of the old run. Raises RunFolderError when what a stage was built on has changed."""
        file, seal = self.old.path / name, sealed_logs(self._entries).get(name)
        if seal is not None and _digest(file, seal.bytes) != seal.sha256:
            expected = "expected those whose SHA-256 is in ledger.jsonl; restore them"
            raise RunFolderError(
                f"{file}: its first {seal.bytes} bytes changed after a stage was built on them: {expected}"
            )
        yield from question_log.read_questions(file)

    def _copy_log(self, log: QuestionLog, name: str) -> None:
        with log.committing() as committer:
            for question in self._read_log(name):
                committer.commit(question)

    def _paired(self, question: Question, item: CommittedQuestion, iteration: int) -> CommittedQuestion:
        """The answers and labels of a question with the pairs that the new run makes of them."""
        chat = replace(self.new.prepared.chat, now=fingerprint.rendered_at(self.old.path) or self.new.prepared.chat.now)
        labelled = Labelled(question, tuple(chat.prompt_ids(question)), item.rollouts, item.annotations)
        pairs, drops = examples.usable_pairs(labelled, self.new.config.at(iteration), chat.tokenizer)
        return CommittedQuestion.of(question.id, item.rollouts, item.annotations, pairs, drops)

    def _take_iteration(self, folder: RunFolder, iteration: int) -> None:
        """A whole iteration: logs, summary of its pairs, and what its finished stages left, the policy last."""
        place = f"iter_{iteration:03d}"
        for log in sorted((self.old.path / place).glob("*questions.jsonl")):
            source = log.name.removesuffix("questions.jsonl").rstrip("-") or None
            self._copy_log(folder.questions(iteration, source), f"{place}/{log.name}")
        summary = f"{place}/pairs-summary.json"
        folder.write_json(summary, files.read_json(self.old.path / summary, PairsSummary))
        for entry in self._entries:
            if isinstance(entry, Finished) and entry.iteration == iteration and entry.stage in _STAGES:
                self._take_over(folder, entry.stage, iteration)

    def _metrics(self, shared: Shared) -> Iterator[dict[str, Any]]:
        """Metrics of what is shared, but for times and counts of work, which the new run doesn't do."""
        steps = sum(self._num_steps(iteration) for iteration in range(shared.trained))
        evaluated = {version: tuple[str, ...]() for version in range(shared.trained + 1)}
        for version, name in shared.evaluations:
            evaluated[version] += (f"eval/{name}/", f"eval/{name}-judged/")

        def is_shared(name: str, step: int) -> bool:
            group, _, rest = name.partition("/")
            if group == "eval":
                return name.startswith(evaluated.get(step, ()))
            is_step = group == "train" and not rest.startswith("published_")
            return group in ("train", "pairs") and step < (steps if is_step else shared.trained)

        for record in metrics_log.read(self.old.path / "metrics.jsonl"):
            values = {name: value for name, value in record.items() if is_shared(name, record["step"])}
            if values:
                yield {"time": record["time"], "step": record["step"], **values}

    def _num_steps(self, iteration: int) -> int:
        pairs = files.read_json(self.old.path / f"iter_{iteration:03d}/pairs-summary.json", PairsSummary).pairs
        train = self.new.config.at(iteration).train
        return batches.num_steps(pairs, train.batch_size, train.max_epochs)

    def _take_over(self, folder: RunFolder, stage: str, iteration: int) -> None:
        """Files of a finished stage, as its ledger has them, under the new run's names."""
        entry = find_finished(self._entries, stage, iteration)
        assert entry is not None
        files.check_proof(self.old.path, entry.files, f"stage {stage!r}")
        for name in entry.files:
            _link(self.old.path / name, folder.path / name)
        facts = dict(entry.facts)
        if "policy" in facts:  # that of reference log-probs, which lies in this run
            facts["policy"] = to_json(self._policy(facts["policy"]))
        folder.finish(stage, iteration, list(entry.files), **facts)

    def _policy(self, of: Mapping[str, Any]) -> Policy:
        version = of["version"]
        if not version:
            return Policy(0, self.new.initial.path, of["checksum"])
        place = self.new.path / f"iter_{version - 1:03d}" / "policy"
        return Policy(version, str(place.resolve()), of["checksum"])


_STAGES = ("oracle", "oracle-reference", "reference", "train")
"""Stages of an iteration that leave files."""


def best(new: Beginning, others: Sequence[Beginning]) -> tuple[Fork, Shared] | None:
    """The run among `others` from which the most can be taken over, None where it is nothing.

    Raises RunFolderError as `Fork.shared` does.
    """
    forks = [Fork(new, old) for old in others if (old.path / "ledger.jsonl").exists()]
    found = [(fork, fork.shared()) for fork in forks]
    found = [each for each in found if not each[1].is_empty]
    return max(found, key=lambda each: _amount(each[1]), default=None)


def _amount(shared: Shared) -> tuple[int, ...]:
    return shared.trained, shared.reference, shared.answers, len(shared.evaluations)


def _digest(file: Path, size: int) -> str:
    """SHA-256 of the first `size` bytes of a file. Raises RunFolderError when it can't be read."""
    digest, chunk = hashlib.sha256(), 1 << 20
    try:
        with file.open("rb") as opened:
            while size and (block := opened.read(min(size, chunk))):
                digest.update(block)
                size -= len(block)
    except OSError as error:
        raise RunFolderError(f"{file}: can't be read: {error.strerror}") from error
    return digest.hexdigest()


def _link(source: Path, target: Path) -> None:
    """Give a finished file, which is replaced and never changed, a second name; copy it where there are no such."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


# What decides a stage, given the policy


def _deciding(config: Config, *stages: str) -> dict[str, Any]:
    """Dotted option -> value, of those that affect one of the stages, without `data`: questions are compared."""
    given = flatten(cli.resolved(config))
    return {
        name: value
        for name, value in given.items()
        if set(affects(name)) & set(stages) and name not in _NAMES and not name.startswith("data.")
    }


def _without(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """Options without those of the sections and of the names within them, as in "pairs" and "train.beta"."""
    return {name: value for name, value in options.items() if not {name, name.partition(".")[0]} & set(names)}


def _evaluating(config: Config) -> dict[str, Any]:
    own = [f"{section}.{name}" for section in ("rollout", "eval") for name in _SAMPLED]
    options = _without(_deciding(config, EVALUATE), *own, *(f"rollout.{name}" for name in _OF_TRAINING_ANSWERS))
    return {**options, **asdict(config.eval_sampling)}


def _answering(config: Config) -> dict[str, Any]:
    return _without(_deciding(config, COLLECT), *_PAIRING)


def _training(config: Config, iteration: int) -> dict[str, Any]:
    options = _without(_deciding(config.at(iteration), COLLECT, TRAIN), "sft")  # `Config.at` has read it
    if iteration < config.sft.iterations:
        return _without(options, "train.beta", "train.reference")  # which the objective `sft` does not read
    return {**options, "reference": _reference(config)}


def _referring(config: Config, iteration: int) -> dict[str, Any]:
    options = _training(config, iteration)
    return _without(options, "objective", "adam", *(f"train.{name}" for name in _OF_STEPS))


def _reference(config: Config) -> int | None:
    """The policy that all iterations are compared with, None: each with the one before it."""
    return config.sft.iterations if config.train.reference == "initial" else None


def _reading(objective: Objective) -> tuple[Any, ...]:
    """Traits of an objective that decide the examples."""
    return objective.unit, tuple(objective.roles), objective.needs_mismatched, objective.needs_reference


def _checksums(inputs: Mapping[str, Sequence[Any]], names: Sequence[str]) -> dict[str, str]:
    """Name -> checksum of the inputs, of those that are there."""
    return {name: fingerprint.checksum(inputs[name]) for name in names if inputs.get(name)}


def _not_evaluated(side: Beginning) -> list[str]:
    return sorted(side.prepared.inputs().keys() - side.prepared.evaluation.keys())
