"""Answers that exist, evaluated as they stand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskdpo_ray.data import answers as answers_file
from maskdpo_ray.data.answers import Given
from maskdpo_ray.data.dropped import Dropped, Reason
from maskdpo_ray.data.jsonl import num_lines, objects
from maskdpo_ray.errors import DataError, RecordError
from maskdpo_ray.models.chat import Chat, Messages
from maskdpo_ray.records import Answered, Policy, Question, Rollout
from maskdpo_ray.terminal import SHORT, track


@dataclass(frozen=True)
class GivenAnswers:
    """The answers of a file in place of engines (`stages.Engines`)."""

    file: Path
    by_question: Mapping[str, tuple[Rollout, ...]]
    """Question id -> its answers, `replications` of them, numbered in the file's order; as of policy 0."""
    replications: int
    restarts: int = 0
    """See `stages.Group`: there is no actor."""

    @classmethod
    def read(
        cls, file: Path, questions: Iterable[Question], chat: Chat, vocab_size: int, dropped: Dropped | None = None
    ) -> GivenAnswers:
        """Read given answers; those without token ids get the chat's, with the end of turn unless they were cut off.

        Raises DataError naming a line that does not answer one of `questions` or has a token id of `vocab_size` or
        more, or a question that has fewer answers than another.
        """
        found: dict[str, list[Rollout]] = {}
        short: set[str] = set()
        """Questions that a dropped line may have belonged to."""
        by_id = {question.id: question for question in questions}
        dropped = dropped or Dropped(file)

        def answer_of(each: tuple[str, dict[str, Any]]) -> Rollout:
            where, item = each
            try:
                return _answer(answers_file.given(item, by_id, "a held-out question", where), chat, vocab_size)
            except RecordError:
                short.add(str(item.get("question_id")))
                raise

        of_file = track(objects(file, dropped), f"read {file}", num_lines(file), delay=SHORT)
        for answer in dropped.sift(of_file, answer_of):
            of_question = found.setdefault(answer.question_id, [])
            of_question.append(replace(answer, sample=len(of_question)))
        most = max(found, key=lambda name: len(found[name]))
        for name, of_question in list(found.items()):
            if len(of_question) < len(found[most]):
                message = (
                    f"{file}: question {name!r}: expected {len(found[most])} answers, as there are to {most!r}, "
                    f"got {len(of_question)}"
                )
                if name not in short and not dropped.counts[Reason.MALFORMED]:
                    raise DataError(message)
                # A dropped line may have answered it; its figures would then rest on fewer answers than the others'.
                dropped.take(RecordError(message, Reason.TOO_FEW_ANSWERS))
                del found[name]
        dropped.check()
        return cls(file, {name: tuple(answers) for name, answers in found.items()}, len(found[most]))

    @property
    def policy(self) -> Policy:
        """Stands for whoever gave them."""
        return Policy(0, str(self.file), "none: answers of a file")

    def load(self, policy: Policy) -> None:
        """Nothing."""

    def stream(
        self, questions: Iterable[Question], policy: Policy, num_samples: int, purpose: str
    ) -> Iterator[Answered]:
        """The answers to `questions`, in order; there are `replications` of them, whatever `num_samples`."""
        for question in questions:
            yield Answered(question, (), self.by_question[question.id])


def _answer(given: Given, chat: Chat, vocab_size: int) -> Rollout:
    where, question, answers = given
    if len(answers) != 1:
        raise RecordError(f"{where}: expected an answer, got a pair of them", Reason.INVALID_FIELD)
    answer = answers[0]
    if unknown := [token for token in answer.token_ids if token >= vocab_size]:
        raise RecordError(
            f"{where}: token_ids: expected ids below the model's vocab_size {vocab_size}, got {unknown[0]}",
            Reason.OUTSIDE_VOCABULARY,
        )
    return replace(with_ids(answer, chat, where, prompt=question.prompt), policy_version=0)


def with_ids(answer: Rollout, chat: Chat, where: str, prompt_ids: Sequence[int] = (), prompt: Messages = ()) -> Rollout:
    """An answer with its thinking blocks and token ids, by default the chat's, the end of turn included unless it was
    cut off; `prompt_ids`, `prompt`: see `Chat.noted`. Raises RecordError as `Chat.answer_ids` does.
    """
    if answer.token_ids:
        return chat.noted(answer, prompt_ids, prompt)
    try:
        ended = chat.noted(answer, prompt_ids, prompt).finish_reason == "stop"
        return chat.noted(replace(answer, token_ids=tuple(chat.answer_ids(answer.text, ended))), prompt_ids, prompt)
    except RecordError as error:
        raise RecordError(f"{where}: {error}", error.reason) from None
