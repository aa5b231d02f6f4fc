"""Records of a file that can't be used: dropped and counted by reason, up to a share at which a command stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from maskdpo_ray.errors import DataError, RecordError

Item = TypeVar("Item")
Made = TypeVar("Made")

FEWEST = 20
"""Records; of fewer of them as many are borne as of so many, which is one at the default share."""
FIRST = 100
"""Records; when not one of the first ones can be used, the file is not what was expected, and nobody waits for more."""


class Reason(StrEnum):
    """Why a record is dropped. The values are the names in counts and summaries; docs/formats.md says more of each."""

    MALFORMED = "malformed"
    """Its text is no JSON object, or no row."""
    INVALID_FIELD = "invalid_field"
    """A field is missing, unknown, or of another type or value than its format asks for."""
    INVALID_MESSAGES = "invalid_messages"
    """Chat messages with an unknown role, in an order that makes no prompt and answer, or other ones than beside it."""
    JSON_TEXT = "json_text"
    """A text begins as the JSON of a conversation does, and is none."""
    NOT_TEXT = "not_text"
    """A message holds an image or another thing that is no text."""
    NOT_RENDERED = "not_rendered"
    """The chat template refuses the messages, or leaves out a tool call or a turn."""
    TEMPLATE_CHANGES_ANSWER = "template_changes_answer"
    """The chat template writes another answer than the given one."""
    SPECIAL_TOKEN_TEXT = "special_token_text"
    """A text mentions a special token, and the tokenizer can't read it as words."""
    NOT_SPELLED = "not_spelled"
    """The tokenizer reads an answer as tokens that spell another text."""
    TRUNCATED = "truncated"
    """An answer never ends its thinking block."""
    NO_SENTENCE = "no_sentence"
    """An answer's labelled sentences are all in its thinking."""
    EMPTY_PROMPT = "empty_prompt"
    EMPTY_ANSWER = "empty_answer"
    UNLABELLED = "unlabelled"
    """An answer has no labels, and the mask needs them."""
    UNKNOWN_LABEL = "unknown_label"
    INVALID_SENTENCES = "invalid_sentences"
    """Sentences that are not found in their answer, or labels that are not those of the answer."""
    INVALID_PAIR = "invalid_pair"
    """A pair of ours that pairs.py could not have made."""
    UNKNOWN_QUESTION = "unknown_question"
    OUTSIDE_VOCABULARY = "outside_vocabulary"
    """A token id that the model does not have."""
    TOO_LONG = "too_long"
    """Prompt and answer do not fit into the context."""
    DUPLICATE = "duplicate"
    """It stands in the file before, or its id does."""
    TOO_FEW_ANSWERS = "too_few_answers"
    """Another answer to its question was dropped, and each question is to have as many as the others."""
    NOT_JUDGEABLE = "not_judgeable"
    """The annotator or the evaluator can't judge answers to this question."""


class Dropped:
    """Counts the records of one source, and those of them that are dropped."""

    def __init__(self, source: str | Path, highest: float = 0.0, option: str = "data.max_dropped") -> None:
        """`highest` share that is borne, 0 to 1, given by `option`; with 0 the first bad record's error is raised."""
        self.source = source
        self.records = 0
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        """Reason -> the first record's error: where it stands, what was expected, what came."""
        self.highest = highest
        """Share that is borne."""
        self._option = option

    def met(self) -> None:
        """Count a record, whatever becomes of it."""
        self.records += 1

    def take(self, error: RecordError) -> None:
        """Drop the record that `error` is of. Raises it where none is borne, DataError when all so far were dropped."""
        if not self.highest:
            raise error
        self.counts[str(error.reason)] += 1
        self.examples.setdefault(str(error.reason), str(error))
        if self.records >= FIRST:
            self._refuse_all()

    def sift(self, items: Iterable[Item], make: Callable[[Item], Made]) -> Iterator[Made]:
        """What `make` makes of each item; those for which it raises RecordError are dropped."""
        for item in items:
            try:
                made = make(item)
            except RecordError as error:
                self.take(error)
            else:
                yield made

    def check(self) -> None:
        """Raise DataError, one line, when all records, or a larger share of them than is borne, were dropped.

        To be called when all were met: where in a file the bad ones stand then makes no difference.
        """
        self._refuse_all()
        if (dropped := self.counts.total()) > self.highest * max(self.records, FEWEST) + 1e-9:
            raise DataError(
                f"{self.source}: expected at most {self.highest:.3g} of the records dropped ({self._option}; fewer "
                f"than {FEWEST} count as so many), got {dropped} of {self.records}: {counted(self.counts)}; "
                f"{self._example}"
            )

    def lines(self) -> list[str]:
        """What was dropped, a line for each reason, with its example."""
        return [f"  dropped {count} {reason}: {self.examples[reason]}" for reason, count in self.counts.most_common()]

    def to_json(self) -> dict[str, Any]:
        """What summaries hold."""
        return {"records": self.records, "drops": dict(self.counts), "examples": self.examples}

    def _refuse_all(self) -> None:
        if self.counts and self.counts.total() >= self.records:
            if self.records <= 1:
                raise DataError(*self.examples.values())
            raise DataError(self.none_left("records"))

    def none_left(self, what: str) -> str:
        """An error's line: of `what` none can be used."""
        why = f" in {self.records}: {counted(self.counts)}; {self._example}" if self.counts else ""
        return f"{self.source}: expected {what} that can be used, got none{why}"

    @property
    def _example(self) -> str:
        """The first record of the commonest reason."""
        [(reason, _)] = self.counts.most_common(1)
        return f"such as {self.examples[reason]}"


def counted(counts: dict[str, int]) -> str:
    """Counts by reason in words, the commonest first."""
    return ", ".join(f"{count} {reason}" for reason, count in Counter(counts).most_common())
