"""Label answers with the config's annotator.

python -m maskdpo_ray.annotate rollouts.jsonl -o annotations.jsonl --config configs/quickstart.yaml
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path

from maskdpo_ray.annotation import protocol
from maskdpo_ray.annotation.labels_file import LabelsFile, key
from maskdpo_ray.annotation.protocol import Annotator
from maskdpo_ray.config import cli, resources
from maskdpo_ray.config.cli import Parser
from maskdpo_ray.config.file import located
from maskdpo_ray.config.resources import Plan
from maskdpo_ray.config.schema import Config, DataConfig
from maskdpo_ray.data import answers as answers_file
from maskdpo_ray.data.answers import Given
from maskdpo_ray.data.dropped import Dropped
from maskdpo_ray.data.rows import refuse_unmet
from maskdpo_ray.errors import ModelError
from maskdpo_ray.models import chat, folder, hub, thinking
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.models.thinking import Tags
from maskdpo_ray.records import Answered, Question, Rollout
from maskdpo_ray.stages import hub_models, preflight
from maskdpo_ray.stages.protocols import Annotators
from maskdpo_ray.stages.watch import Watch
from maskdpo_ray.terminal import track


def main(argv: list[str]) -> None:
    """Label answers. Raises UserError, and SystemExit(1) when questions failed, whose labels would be missing next."""
    job = prepare(argv)
    print(job.describe(), flush=True)
    if job.dry_run:
        return
    if job.num_answers:
        resources.prefer_loopback(job.config.cluster)
        from maskdpo_ray.cluster import Cluster

        with job.labels, Cluster(job.config) as cluster:
            job.run(cluster.start_annotators(job.annotator))
    print(job.summary())
    if job.failed:
        raise SystemExit(1)


def _parser() -> Parser:
    parser = Parser("annotate", __doc__, "ANSWERS -o FILE [--questions SOURCE] [--force]")
    parser.add_argument("answers", metavar="ANSWERS", help="our rollouts or pairs, or other trainers' preference data")
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="labels to write; an existing file is resumed"
    )
    parser.add_argument(
        "--questions", metavar="SOURCE", help="questions, as data.train takes them; default: all of the config's"
    )
    parser.add_argument("--force", action="store_true", help="overwrite an existing FILE")
    return parser.add_config()


def prepare(argv: list[str]) -> Job:
    """Read the command line and, once, all that it names; nothing is written.

    Raises UserError for everything that labelling would fail on later.
    """
    command = hub_models.local(_parser().parse(argv), sections=["annotation"])
    arguments = command.own
    config = command.config
    with located(command.given, command.config_path):
        annotator = protocol.build(config.annotation.annotator, config.annotation.options)
        sources = _sources(config.data) if arguments.questions is None else [arguments.questions]
        inputs = [arguments.answers, *sources, *command.files_read()]
        labels = LabelsFile(Path(arguments.output), config.annotation, arguments.force, inputs)
        loaded = [(source, Dropped(source, config.data.max_dropped)) for source in sources]
        by_id = {question.id: question for each in loaded for question in preflight.questions_of(config.data, *each)}
        resources.check_ray_address(config.cluster)
    Plan(config).check_here("annotation actors", dry_run=command.dry_run)
    answers = Path(arguments.answers)
    documents = [] if config.data.documents is None else [preflight.corpus(config.data).dropped]
    dropped = [*documents, *(each for _, each in loaded), Dropped(answers, config.data.max_dropped)]
    tags = thinking.tags(config.rollout.thinking, config.model)
    job = Job(config, command.dry_run, answers, by_id, annotator, labels, dropped, tags)
    for item in job.todo(job.dropped[-1]):
        job.num_groups += 1
        job.num_answers += len(item.rollouts)
    with located(command.given, command.config_path):
        refuse_unmet(dropped)
    return job


@dataclass
class Job:
    """Work of one call: the answers to label, and the file that labels go to."""

    config: Config
    dry_run: bool
    answers: Path
    by_id: Mapping[str, Question]
    annotator: Annotator
    labels: LabelsFile
    dropped: Sequence[Dropped]
    """Records dropped from documents, from each file of questions, and last from the answers."""
    tags: Tags = field(default_factory=Tags)
    num_groups: int = 0
    num_answers: int = 0
    """To be labelled; equal answers to one question count once."""
    counts: Counter[str] = field(default_factory=Counter)
    """Sentences by their labels."""
    failed: dict[str, str] = field(default_factory=dict)
    """Question without labels -> why."""

    def todo(self, dropped: Dropped | None = None) -> Iterator[Answered]:
        """The answers without labels; those to one question that follow each other come together."""
        seen: set[bytes] = set()
        dropped = dropped or Dropped(self.answers, self.config.data.max_dropped)
        given = dropped.sift(
            answers_file.read(self.answers, self.by_id, dropped=dropped, columns=self.config.data.columns),
            self._judgeable,
        )
        for question, group in groupby(given, key=lambda item: item[1]):
            rollouts = []
            for rollout in (rollout for _, _, given in group for rollout in given):
                name = key(rollout.question_id, rollout.text)
                if name not in seen and not self.labels.holds(rollout):
                    rollouts.append(self.tags.noted(rollout, may_be_open=self._may_be_open(question, rollout)))
                seen.add(name)
            if rollouts:
                yield Answered(question, (), tuple(rollouts))

    def _may_be_open(self, question: Question, rollout: Rollout) -> bool:
        """Whether the policy's generation prompt opens the block that the answer closes; without a policy: no."""
        if rollout.blocks or not self.tags.closed_in(rollout.text) or self._chat is None:
            return False
        return self._chat.opens_block(question.prompt)

    @cached_property
    def _chat(self) -> Chat | None:
        """The policy's chat; None if its model isn't here or doesn't chat, which labelling doesn't need."""
        try:
            model = hub.without_weights(self.config.model)
            if not os.path.isdir(model.model_name_or_path):
                return None
            return chat.of(replace(self.config, model=model), folder.load_tokenizer(model))
        except ModelError:
            return None

    def _judgeable(self, given: Given) -> Given:
        where, question, rollouts = given
        question = preflight.with_documents(self.config.data, question)
        preflight.judgeable(self.annotator, None, question)
        return where, question, rollouts

    def run(self, group: Annotators) -> None:
        """Label what is to be labelled; each question's answers are on the disk before the next one's.

        Raises ClusterError when too many questions fail.
        """
        labelled = Watch(self.config, self.labels.counts).sift(group.stream(self.todo()), self.failed)
        for item in track(labelled, "annotate", self.num_groups):
            self.labels.append(item)
            self.counts.update(sentence.label for given in item.annotations for sentence in given.sentences)

    def describe(self) -> str:
        """The plan in words."""
        work = f"annotate {self.num_answers} answers of {self.answers} with {self.config.annotation.annotator}"
        lines = Plan(self.config).actors(work, "annotation actors")
        if self.labels.num_answers:
            lines.append(f"  resumed: {self.labels.path} holds labels of {self.labels.num_answers} answers")
        lines += [line for each in self.dropped for line in each.lines()]
        return "\n".join(lines)

    def summary(self) -> str:
        """Summary of what was done, in words."""
        if not self.num_answers:
            return f"{self.labels.path} is finished: nothing is left to do"
        labels = ", ".join(f"{count} {label}" for label, count in self.counts.most_common())
        failed = ""
        if self.failed:
            question, error = next(iter(self.failed.items()))
            failed = (
                f"; failed, and tried again with the next call: {len(self.failed)} questions, "
                f"such as {question!r}: {error}"
            )
        return f"{self.num_answers} answers -> {self.labels.path}: {labels or 'no sentence'}{failed}"


def _sources(data: DataConfig) -> list[str]:
    return [source for source in (data.train, data.eval, data.transfer) if source is not None]


if __name__ == "__main__":
    cli.start(main)
