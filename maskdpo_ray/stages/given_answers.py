"""Answers of a file, evaluated in place of an engine's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from maskdpo_ray.data import answers as answers_file
from maskdpo_ray.data.dropped import Dropped, Reason
from maskdpo_ray.data.jsonl import num_lines, objects
from maskdpo_ray.errors import DataError, RecordError
from maskdpo_ray.models.chat import Chat, Messages
from maskdpo_ray.records import Answered, Policy, Question, Rollout, Sampling
from maskdpo_ray.terminal import SHORT, track


@dataclass(frozen=True)
class GivenAnswers:
    """Implements `protocols.Engines` with the answers of a file."""

    file: Path
    by_question: Mapping[str, tuple[Rollout, ...]]
    """Question id -> its answers, `replications` of them, numbered in the file's order; stamped as policy 0's."""
    replications: int
    restarts: int = 0
    """No actor is there to be replaced."""

    @classmethod
    def read(
        cls,
        file: Path,
        questions: Iterable[Question],
        chat: Chat,
        vocab_size: int,
        dropped: Dropped | None = None,
        kind: str = "a held-out question (--questions)",
    ) -> GivenAnswers:
        """Read a file; answers without token ids get the chat's, with the end of turn unless they were cut off.

        `kind` says in errors what `questions` are. Raises DataError naming a line that does not answer one of them or
        has a token id of `vocab_size` or more, or a question that has fewer answers than another.
        """
        found: dict[str, list[Rollout]] = {}
        short: set[str] = set()
        """Questions that a dropped line may have belonged to."""
        by_id = {question.id: question for question in questions}
        dropped = dropped or Dropped(file)

        def answers_of(line: tuple[str, dict[str, Any]]) -> list[Rollout]:
            where, item = line
            try:
                _, question, answers = answers_file.given(item, by_id, kind, where)
                if len(answers) != 1 and "rollouts" not in item:
                    raise RecordError(f"{where}: expected an answer, got a pair of them", Reason.INVALID_FIELD)
                return [_as_sampled(answer, question, chat, vocab_size, where) for answer in answers]
            except RecordError:
                short.add(str(item.get("question_id")))
                raise

        lines = track(objects(file, dropped), f"read {file}", num_lines(file), delay=SHORT)
        for of_line in dropped.sift(lines, answers_of):
            for answer in of_line:
                answers = found.setdefault(answer.question_id, [])
                answers.append(replace(answer, sample=len(answers)))
        if not found:
            raise DataError(dropped.none_left("answers"))
        most = max(found, key=lambda name: len(found[name]))
        replications = len(found[most])
        for name, answers in list(found.items()):
            if len(answers) < replications:
                expected = f"expected {replications} answers, as there are to {most!r}"
                message = f"{file}: question {name!r}: {expected}, got {len(answers)}"
                if name not in short and not dropped.counts[Reason.MALFORMED]:
                    raise DataError(message)
                # A dropped line may have answered it; its figures would then rest on fewer answers than the others'.
                dropped.take(RecordError(message, Reason.TOO_FEW_ANSWERS))
                del found[name]
        dropped.check()
        return cls(file, {name: tuple(answers) for name, answers in found.items()}, replications)

    @property
    def policy(self) -> Policy:
        """A policy that stands for the file's author."""
        return Policy(0, str(self.file), "none: answers of a file")

    def load(self, policy: Policy) -> None:
        """Do nothing: no model is behind the answers."""

    def stream(
        self, questions: Iterable[Question], policy: Policy, sampling: Sampling, purpose: str
    ) -> Iterator[Answered]:
        """Yield the `replications` answers to each question, in order, whatever `sampling`."""
        for question in questions:
            yield Answered(question, (), self.by_question[question.id])


def _as_sampled(answer: Rollout, question: Question, chat: Chat, vocab_size: int, where: str) -> Rollout:
    if unknown := [token for token in answer.token_ids if token >= vocab_size]:
        raise RecordError(
            f"{where}: token_ids: expected ids below the model's vocab_size {vocab_size}, got {unknown[0]}",
            Reason.OUTSIDE_VOCABULARY,
        )
    return replace(with_ids(answer, chat, where, prompt=question.prompt), policy_version=0)


def with_ids(answer: Rollout, chat: Chat, where: str, prompt_ids: Sequence[int] = (), prompt: Messages = ()) -> Rollout:
    """An answer with its thinking blocks and token ids; without ids it gets the chat's, with the end of turn unless it
    was cut off. `prompt_ids`, `prompt`: see `Chat.noted`. Raises RecordError as `Chat.answer_ids` does.
    """
    if answer.token_ids:
        return chat.noted(answer, prompt_ids, prompt)
    try:
        ended = chat.noted(answer, prompt_ids, prompt).finish_reason == "stop"
        return chat.noted(replace(answer, token_ids=tuple(chat.answer_ids(answer.text, ended))), prompt_ids, prompt)
    except RecordError as error:
        raise RecordError(f"{where}: {error}", error.reason) from None
