"""Sources of training answers: what is asked, who answers, who labels, and how the answers become pairs.

An iteration collects from each source in turn, into a question log of its own. `GeneralSource` asks the training
questions; `AtomSource` asks about statements in their answers, or the questions of a file.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Protocol

from msgspec.structs import replace as replace_record

from maskdpo_ray.annotation.matching import compare
from maskdpo_ray.config.schema import Config
from maskdpo_ray.data.dropped import Reason
from maskdpo_ray.errors import RecordError
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.pairing import atoms, examples
from maskdpo_ray.records import (
    CHOSEN,
    CONTRADICTORY,
    NO_HALLUCINATION,
    REJECTED,
    Annotation,
    Answered,
    CommittedQuestion,
    DropReason,
    Failed,
    Labelled,
    Policy,
    PreferencePair,
    Question,
    Rollout,
    ScoredAnswer,
    Sentence,
)
from maskdpo_ray.stages.given_answers import with_ids
from maskdpo_ray.stages.protocols import AnsweringGroups
from maskdpo_ray.store.question_log import QuestionLog
from maskdpo_ray.store.run_folder import RunFolder

Answers = Callable[[Question], Sequence[Rollout]]
"""Answers to a question that nobody samples, numbered from 0."""


class Source(Protocol):
    """One source; it collects iteration by iteration."""

    @property
    def name(self) -> str | None:
        """Name of its question logs and of its examples; None for the training questions."""
        ...

    @property
    def chat(self) -> Chat:
        """The policy's."""
        ...

    def questions(self, iteration: int) -> Sequence[Question]:
        """The questions of an iteration, once the sources before it have been collected."""
        ...

    def labelled(self, questions: Sequence[Question], iteration: int, policy: Policy) -> Iterator[Labelled | Failed]:
        """Answer and label questions, in any order."""
        ...

    def paired(self, item: Labelled, config: Config) -> tuple[list[PreferencePair], list[DropReason]]:
        """The pairs of a question that can be learned from, under an iteration's config, and why there are no more."""
        ...


@dataclass(frozen=True)
class GeneralSource:
    """The training questions, answered as `rollout` says and labelled by the annotator."""

    config: Config
    asked: Sequence[Question]
    chat: Chat
    groups: AnsweringGroups
    given: Answers | None = None
    """Answers in place of sampled ones (`rollout.answers`)."""
    chosen: Answers | None = None
    """Answers for the chosen side alone (`rollout.chosen_answers`), if they are not sampled."""
    name = None

    def questions(self, iteration: int) -> Sequence[Question]:
        """See `Source.questions`."""
        return self.asked

    def labelled(self, questions: Sequence[Question], iteration: int, policy: Policy) -> Iterator[Labelled | Failed]:
        """See `Source.labelled`."""
        # A policy that answers the same questions in two iterations is to give other answers in the second.
        purpose = "train" if policy.version == iteration else "ahead"
        return self.groups.annotators.stream(self._answered(questions, iteration, policy, purpose))

    def paired(self, item: Labelled, config: Config) -> tuple[list[PreferencePair], list[DropReason]]:
        """See `Source.paired`."""
        return examples.usable_pairs(item, config, self.chat.tokenizer)

    def _answered(
        self, questions: Sequence[Question], iteration: int, policy: Policy, purpose: str
    ) -> Iterator[Answered | Failed]:
        sampling, engines = self.config.rollout.sampling, self.groups.engines
        if self.groups.other is not None:
            # It stays the same model, which is to give other answers in each iteration.
            engines, policy, purpose = self.groups.other.engines, self.groups.other.policy, f"{purpose}-{iteration}"
        if self.given is not None:
            answered: Iterable[Answered | Failed] = (self._with_answers(each, self.given) for each in questions)
        elif self.config.rollout.chosen_answers == "document":
            both = chain.from_iterable((each, with_document(each)) for each in questions)
            answered = _joined(self._own(engines.stream(both, policy, sampling, purpose)))
        else:
            answered = self._own(engines.stream(questions, policy, sampling, purpose))
        if self.chosen is None:
            return iter(answered)
        return (self._with_chosen(item, self.chosen) for item in answered)

    def _own(self, items: Iterable[Answered | Failed]) -> Iterator[Answered | Failed]:
        """Answers as the policy would have spelled and ended them, if another model gave them."""
        return iter(items) if self.groups.other is None else map(self._respelled, items)

    def _respelled(self, item: Answered | Failed) -> Answered | Failed:
        if isinstance(item, Failed):
            return item
        prompt_ids = self.chat.prompt_ids(item.question)
        bare = (replace_record(rollout, token_ids=(), blocks=()) for rollout in item.rollouts)
        try:
            own = tuple(with_ids(each, self.chat, f"question {item.question.id!r}", prompt_ids) for each in bare)
        except RecordError as error:
            return Failed(item.question, str(error))
        return Answered(item.question, tuple(prompt_ids), own)

    def _with_answers(self, question: Question, given: Answers) -> Answered:
        return Answered(question, tuple(self.chat.prompt_ids(question)), tuple(given(question)))

    @staticmethod
    def _with_chosen(item: Answered | Failed, chosen: Answers) -> Answered | Failed:
        return item if isinstance(item, Failed) else _with_roles(item, chosen(item.question))


_DOCUMENT = " (with its document)"
"""End of the id of a question whose prompt holds its document."""


def with_document(question: Question) -> Question:
    """The question with its document in the prompt, before the last message's text (Mask-DPO table 3, SMA table 5).

    Raises RecordError when it has none, or the message is no text.
    """
    *before, last = question.prompt
    if not question.document or not isinstance(last.get("content"), str):
        raise RecordError(
            f"question {question.id!r}: document: expected one to put into its prompt, got none", Reason.INVALID_FIELD
        )
    content = f"{question.document}\n\n{last['content']}"
    return replace_record(question, id=question.id + _DOCUMENT, prompt=(*before, {**last, "content": content}))


def _joined(items: Iterable[Answered | Failed]) -> Iterator[Answered | Failed]:
    """Answers to each question together: those without the document can be rejected, those with it chosen."""
    waiting: dict[str, Answered | Failed] = {}
    for item in items:
        name = item.question.id.removesuffix(_DOCUMENT)
        if (other := waiting.pop(name, None)) is None:
            waiting[name] = item
            continue
        plain, informed = (other, item) if item.question.id.endswith(_DOCUMENT) else (item, other)
        if isinstance(plain, Failed):
            yield plain
        elif isinstance(informed, Failed):
            yield Failed(plain.question, informed.error)
        else:
            yield _with_roles(plain, informed.rollouts)


def _with_roles(item: Answered, chosen: Sequence[Rollout]) -> Answered:
    """An item with further answers, which can be chosen alone; its own can be rejected alone."""
    own = [replace_record(rollout, role=REJECTED) for rollout in item.rollouts]
    # They count as the policy's, whoever gave them.
    same = {"question_id": item.question.id, "role": CHOSEN}
    version = {"policy_version": own[0].policy_version} if own else {}
    others = [
        replace_record(rollout, sample=len(own) + number, **same, **version) for number, rollout in enumerate(chosen)
    ]
    return replace(item, rollouts=(*own, *others))


@dataclass(frozen=True)
class AtomSource:
    """Atomic questions (APEFT section 5.1): what the policy knows now and then gives pairs of a right and wrong reply.

    Statements of the iteration's pairs are asked as true-or-false questions; with `given`, the `rand` control of
    section 5.3, the questions of a file are asked instead.
    """

    config: Config
    asked: Mapping[str, Question]
    """The training questions by id."""
    chat: Chat
    groups: AnsweringGroups
    folder: RunFolder
    given: Sequence[Question] = ()
    name = "atoms"

    def questions(self, iteration: int) -> Sequence[Question]:
        """See `Source.questions`: those of the statements in the iteration's pairs, in the order of their ids."""
        found = list(self.given)
        if not found:
            log = sorted(self.folder.questions(iteration).questions(), key=lambda question: question.question_id)
            of_each = (self._statements(question) for question in log)
            few_shot = self.config.atoms.few_shot
            found = [atoms.detection_question(statement, few_shot) for each in of_each for statement in each]
        most = self.config.atoms.max_questions
        if most is not None and len(found) > most:
            rng = random.Random(f"{self.config.run.seed}/atoms/{iteration}")
            found = [found[place] for place in sorted(rng.sample(range(len(found)), most))]
        return found

    def _statements(self, question: CommittedQuestion) -> list[atoms.Statement]:
        used = {sample for pair in question.pairs for sample in (pair.chosen, pair.rejected)}
        answers = [
            (rollout, annotation)
            for rollout, annotation in zip(question.rollouts, question.annotations, strict=True)
            if rollout.sample in used
        ]
        return atoms.statements(self.asked[question.question_id], answers)

    def labelled(self, questions: Sequence[Question], iteration: int, policy: Policy) -> Iterator[Labelled | Failed]:
        """See `Source.labelled`."""
        answered = self.groups.engines.stream(questions, policy, self.config.atoms_sampling, "atoms")
        for item in answered:
            if isinstance(item, Failed):
                yield item
            else:
                labels = tuple(self._label(item.question, rollout) for rollout in item.rollouts)
                yield Labelled(item.question, item.prompt_token_ids, item.rollouts, labels)

    def _label(self, question: Question, rollout: Rollout) -> Annotation:
        label = compare(question, rollout.text) if self.given else atoms.label(question, rollout.text)
        is_empty = not rollout.text.strip()
        sentence = Sentence(0, len(rollout.text), label, evidence=question.answer)
        return Annotation(rollout.question_id, rollout.sample, () if is_empty else (sentence,))

    def paired(self, item: Labelled, config: Config) -> tuple[list[PreferencePair], list[DropReason]]:
        """See `Source.paired`: one pair of a question that is potentially known, drawn by the run's seed."""
        replies: dict[str, list[ScoredAnswer]] = {NO_HALLUCINATION: [], CONTRADICTORY: []}
        for rollout, annotation in zip(item.rollouts, item.annotations, strict=True):
            for sentence in annotation.sentences:
                if sentence.label in replies:
                    score = float(sentence.label == NO_HALLUCINATION)
                    replies[sentence.label].append(ScoredAnswer(rollout, annotation, score))
        verdicts = [label == NO_HALLUCINATION for label, labelled in replies.items() for _ in labelled]
        known = atoms.knowledge(verdicts, is_true=True)
        if known != atoms.POTENTIALLY_KNOWN:
            return [], [DropReason(known)]
        # A reply that is cut off can show what the policy knows, and nothing is learned from it.
        right, wrong = (
            [reply for reply in labelled if reply.rollout.finish_reason != "length" or config.pairs.cut_off == "keep"]
            for labelled in replies.values()
        )
        if not (right and wrong):
            return [], [DropReason.TRUNCATED]
        question, rng = item.question, random.Random(f"{config.run.seed}/{item.question.id}")
        chosen, rejected = rng.choice(right), rng.choice(wrong)
        version = chosen.rollout.policy_version
        pair = PreferencePair(question.id, question.topic, item.prompt_token_ids, chosen, rejected, version)
        example = examples.usable_example(pair, 0, config, self.chat.tokenizer)
        return ([], [example]) if isinstance(example, DropReason) else ([pair], [])


def knowledge(log: QuestionLog) -> dict[str, int]:
    """Atomic questions of a log by how well the policy knows them (APEFT 5.1), and those without a readable reply."""
    drops = log.drops()
    others = (DropReason.KNOWN, DropReason.UNKNOWN, DropReason.UNPARSED, DropReason.FAILED)
    potentially = len(log.question_ids) - sum(drops[reason] for reason in others)
    return {
        atoms.KNOWN: drops[DropReason.KNOWN],
        atoms.POTENTIALLY_KNOWN: potentially,
        atoms.UNKNOWN: drops[DropReason.UNKNOWN],
        "unparsed": drops[DropReason.UNPARSED],
    }
