"""Evaluate a model on held-out questions, or answers that exist, as the loop evaluates its policies.

python -m maskdpo_ray.evaluate --config configs/quickstart.yaml --run.name eval
python -m maskdpo_ray.evaluate answers.jsonl --config configs/quickstart.yaml --run.name eval --against runs/quickstart
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from maskdpo_ray import terminal
from maskdpo_ray.config import cli, resources
from maskdpo_ray.config.cli import Parser
from maskdpo_ray.config.file import located
from maskdpo_ray.config.schema import Config
from maskdpo_ray.data.dropped import Dropped
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.evaluation.baseline import Baseline
from maskdpo_ray.models import adapters, chat
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.records import Policy
from maskdpo_ray.report import summary as report_summary
from maskdpo_ray.report.summary import Evaluated
from maskdpo_ray.stages import evaluate, hub_models, preflight
from maskdpo_ray.stages.evaluate import EvaluateStage
from maskdpo_ray.stages.given_answers import GivenAnswers
from maskdpo_ray.stages.preflight import Prepared
from maskdpo_ray.stages.protocols import AnsweringGroups
from maskdpo_ray.stages.watch import Watch
from maskdpo_ray.store import files, run_folder
from maskdpo_ray.store.fingerprint import Questions
from maskdpo_ray.store.ledger import Entry
from maskdpo_ray.store.run_folder import RunFolder
from maskdpo_ray.store.tracking import Tracker


def main(argv: list[str]) -> None:
    """Evaluate, or with --dry_run say what would be evaluated. Raises UserError."""
    job = prepare(argv)
    print(job.describe(), flush=True)
    if job.dry_run:
        return
    resources.prefer_loopback(job.config.cluster)
    from actors import weights
    from maskdpo_ray.cluster import Cluster
    from maskdpo_ray.report import tables

    with run_folder.open_run(job.config) as (folder, tracker):
        if job.is_finished(folder):
            print(f"{folder.path} is finished: nothing is left to do", flush=True)
        else:
            with terminal.error_log(folder.path):
                given, prepared = job.answers, job.prepared
                policy = given.policy if given else weights.publish(job.config.model.model_name_or_path, 0)
                folder.begin(policy, job.inputs(), job.prepared.chat.now)
                with Cluster(job.config) as cluster:
                    with tracker.stage("start", 0):
                        groups = cluster.start_evaluation(
                            policy, prepared.chat, prepared.annotator, prepared.evaluator, given
                        )
                    job.run(policy, groups, folder, tracker)
        summary = job.summary(folder)
        folder.write_json("summary.json", summary)
    tables.show(summary)


def _parser() -> Parser:
    parser = Parser("evaluate", __doc__, "[ANSWERS [--questions SOURCE]] [--against FOLDER[:VERSION]]")
    parser.add_argument(
        "answers", metavar="ANSWERS", nargs="?", help="our rollouts, or {question_id, text}; default: engines answer"
    )
    parser.add_argument(
        "--questions", metavar="SOURCE", help="questions, as data.eval takes them; default: the config's held-out ones"
    )
    parser.add_argument(
        "--against",
        metavar="FOLDER[:VERSION]",
        help="run folder whose evaluation of policy VERSION (default: the last one) this one is compared with",
    )
    return parser.add_config()


def prepare(argv: list[str]) -> Job:
    """Read the command line and all that it names; nothing is written.

    Raises UserError for everything that the evaluation would fail on later.
    """
    command = hub_models.local(_parser().parse(argv), resumes=True)
    arguments = command.own
    config = _of_one_policy(command.config, is_given=arguments.answers is not None)
    if arguments.answers is None and arguments.questions is not None:
        raise ConfigError("--questions: expected ANSWERS to them, got none; data.eval is what engines answer")
    files.refuse_in_run_folder(run_folder.run_path(config))
    answers = against = None
    with located(command.given, command.config_path):
        config = adapters.merged(config, command.dry_run)
        if arguments.answers is None:
            prepared = preflight.check(config)
        else:
            answers, prepared = _given(Path(arguments.answers), arguments.questions, config)
        if arguments.against is not None:
            against = Baseline.find(arguments.against, config, prepared.evaluation)
        resources.check_ray_address(config.cluster)
    resources.Plan(config).check_here(*resources.evaluating(with_engines=answers is None), dry_run=command.dry_run)
    job = Job(config, command.dry_run, prepared, answers, against)
    return replace(job, entries=run_folder.check_run(config, job.inputs()))


def _of_one_policy(config: Config, is_given: bool) -> Config:
    """The config of a run as that of a single evaluation, which chooses no policy and needs no topics to do so.

    `is_given`: of answers that exist, beside which there are no greedy ones.
    """
    return replace(
        config,
        run=replace(config.run, keep="last", patience=None),
        data=replace(config.data, num_dev_topics=0),
        eval=replace(config.eval, greedy=config.eval.greedy and not is_given),
    )


def _given(file: Path, source: str | None, config: Config) -> tuple[GivenAnswers, Prepared]:
    """The answers, and what evaluating them needs: only the questions that have some."""
    annotator, evaluator = preflight.judges(config)
    highest = config.data.max_dropped
    if source is None:
        loaded = preflight.load_questions(config.data)
        splits, dropped = loaded.evaluation, loaded.sources
    else:
        dropped = [Dropped(source, highest)]
        splits = {"heldout": preflight.questions_of(config.data, source, dropped[0])}
    model = model_folder.load(config.model)
    own, asked_of = chat.of(config, model.tokenizer), [question for split in splits.values() for question in split]
    dropped.append(Dropped(file, highest))
    answers = GivenAnswers.read(file, asked_of, own, model.config.vocab_size, dropped[-1])
    found = {split: [each for each in asked if each.id in answers.by_question] for split, asked in splits.items()}
    evaluation = {split: asked for split, asked in found.items() if asked}
    for asked in evaluation.values():
        for question in asked:
            preflight.judgeable(annotator, evaluator, question)
    return answers, Prepared([], evaluation, annotator, own, evaluator, dropped)


@dataclass(frozen=True)
class Job:
    """Work of one call: the only evaluation of a run without iterations."""

    config: Config
    dry_run: bool
    prepared: Prepared
    answers: GivenAnswers | None
    """None when engines are to answer."""
    against: Baseline | None
    entries: Sequence[Entry] = ()
    """Entries of the run folder's ledger."""

    def inputs(self) -> Questions:
        """Questions, and given answers, that the run begins with."""
        given = {} if self.answers is None else {"answers": [*chain(*self.answers.by_question.values())]}
        return {**given, **self.prepared.evaluation}

    def is_finished(self, folder: RunFolder) -> bool:
        """Whether the run folder holds the evaluation."""
        return evaluate.is_finished(self.config, folder, self.prepared.evaluation, 0)

    def run(self, policy: Policy, groups: AnsweringGroups, folder: RunFolder, tracker: Tracker) -> None:
        """Evaluate; each question is in the run folder before the next one is waited for.

        Raises UserError as `EvaluateStage.run` does.
        """
        groups.engines.load(policy)
        stage = EvaluateStage(self.config, groups, folder, tracker, Watch(self.config, folder.counts()))
        stage.run(policy, self.prepared.evaluation)

    def describe(self) -> str:
        """The plan in words."""
        folder, given = run_folder.run_path(self.config), self.answers
        replications = self.config.eval.replications if given is None else given.replications
        splits = [
            f"{split} {len(asked)} questions x {replications}" for split, asked in self.prepared.evaluation.items()
        ]
        groups = resources.evaluating(with_engines=given is None)
        is_greedy = given is None and self.config.eval.is_greedy
        return "\n".join(
            [
                *resources.Plan(self.config).actors(f"evaluate {self._subject} in {folder}", *groups),
                f"  evaluated: {', '.join(splits)} {'greedy ' * is_greedy}answers"
                + ", and a greedy one each" * self.config.eval.greedy,
                *([] if self.against is None else [f"  compared with {_of(self.against)}"]),
                *self.prepared.dropped_lines(),
                *preflight.resumed(folder, self.entries),
            ]
        )

    @property
    def _subject(self) -> str:
        return self.config.model.model_name_or_path if self.answers is None else f"the answers of {self.answers.file}"

    def summary(self, folder: RunFolder) -> dict[str, Any]:
        """Contents of summary.json: those of a run, what was evaluated, and what it is compared with."""
        own, against = folder.evaluation_dir(0), self.against
        evaluated, subjects, notes = [Evaluated("this", 0, own)], {"this": self._subject}, []
        if against is not None:
            evaluated = [Evaluated("before", against.version, against.folder), Evaluated("after", 0, own)]
            subjects = {"before": _of(against), "after": self._subject}
            notes = [f"the two were judged with different {options}" for options in against.other_options]
            if self.answers is None:
                notes += [f"the two were sampled with different {option}" for option in against.other_sampling]
        found = report_summary.build(folder.path, evaluated, tuple(self.prepared.evaluation))
        return {**found, **self.prepared.dropped_json(), "subjects": subjects, "remarks": found["remarks"] + notes}


def _of(against: Baseline) -> str:
    return f"policy {against.version} of {against.run}"


if __name__ == "__main__":
    cli.start(main)
