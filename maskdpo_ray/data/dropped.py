"""Unusable records of a file: dropped and counted by reason, up to a share above which a command stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from maskdpo_ray.errors import DataError, RecordError

Item = TypeVar("Item")
Made = TypeVar("Made")
FEWEST = 20
"""Records; smaller files tolerate as many bad records as a file of this size, one at the default share."""
FIRST = 100
"""Records; if none of the first ones is usable, the file is of another kind and reading stops."""


class Reason(StrEnum):
    """Reasons to drop a record. Values are the names in counts and summaries; docs/formats.md describes each."""

    MALFORMED = "malformed"
    """The text is not a JSON object or a row."""
    INVALID_FIELD = "invalid_field"
    """A field is missing, unknown, or of a type or value that the format doesn't allow."""
    INVALID_MESSAGES = "invalid_messages"
    """Chat messages have an unknown role, don't form prompt and answer, or contradict the record's prompt."""
    JSON_TEXT = "json_text"
    """A text begins like the JSON of a conversation but is not one."""
    NOT_TEXT = "not_text"
    """A message holds an image or other content that is not text."""
    NOT_RENDERED = "not_rendered"
    """The chat template refuses the messages, or leaves out a tool call or a turn."""
    TEMPLATE_CHANGES_ANSWER = "template_changes_answer"
    """The chat template changes the given answer."""
    SPECIAL_TOKEN_TEXT = "special_token_text"
    """A text contains that of a special token, and the tokenizer can't encode it as words."""
    NOT_SPELLED = "not_spelled"
    """The tokenizer encodes an answer as tokens that spell another text."""
    TRUNCATED = "truncated"
    """An answer never ends its thinking block."""
    NO_SENTENCE = "no_sentence"
    """All labelled sentences of an answer are in its thinking."""
    EMPTY_PROMPT = "empty_prompt"
    EMPTY_ANSWER = "empty_answer"
    UNLABELLED = "unlabelled"
    """An answer has no labels, and the mask needs them."""
    UNKNOWN_LABEL = "unknown_label"
    INVALID_SENTENCES = "invalid_sentences"
    """Sentences are not found in their answer, or labels belong to another answer."""
    INVALID_PAIR = "invalid_pair"
    """A pair in our format is not one that pairs.py can make."""
    UNKNOWN_QUESTION = "unknown_question"
    OUTSIDE_VOCABULARY = "outside_vocabulary"
    """A token id that the model does not have."""
    TOO_LONG = "too_long"
    """Prompt and answer do not fit into the context."""
    DUPLICATE = "duplicate"
    """The record, or its id, occurs earlier in the file."""
    TOO_FEW_ANSWERS = "too_few_answers"
    """Another answer to the question was dropped, and all questions need the same number of answers."""
    NOT_JUDGEABLE = "not_judgeable"
    """The annotator or the evaluator can't judge answers to this question."""


class Dropped:
    """Counter of one source's records and of those that are dropped."""

    def __init__(self, source: str | Path, highest: float = 0.0, option: str = "data.max_dropped") -> None:
        """`highest`: tolerated share, 0 to 1, set by `option`; with 0 the first bad record's error is raised."""
        self.source = source
        self.records = 0
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        """Reason -> the first record's error: where, expected, got."""
        self.highest = highest
        """Tolerated share, 0 to 1."""
        self.unmet: Mapping[str, str] | None = None
        """Field of `data.columns` -> error line, where no row has its column; None where no rows were read by them."""
        self._option = option

    def met(self) -> None:
        """Count a record, dropped or not."""
        self.records += 1

    def take(self, error: RecordError) -> None:
        """Drop the record of `error`. Raises it if none is tolerated, DataError when all so far were dropped."""
        if not self.highest:
            raise error
        self.counts[str(error.reason)] += 1
        self.examples.setdefault(str(error.reason), str(error))
        if self.records >= FIRST:
            self._refuse_all()

    def sift(self, items: Iterable[Item], make: Callable[[Item], Made]) -> Iterator[Made]:
        """Map `make` over the items; those for which it raises RecordError are dropped."""
        for item in items:
            try:
                made = make(item)
            except RecordError as error:
                self.take(error)
            else:
                yield made

    def check(self) -> None:
        """Raise DataError, one line, when all records, or more than the tolerated share, were dropped.

        Call it at the end of the source, so that the position of bad records makes no difference.
        """
        self._refuse_all()
        if (dropped := self.counts.total()) > self.highest * max(self.records, FEWEST) + 1e-9:
            raise DataError(
                f"{self.source}: expected at most {self.highest:.3g} of the records dropped ({self._option}; fewer "
                f"than {FEWEST} count as {FEWEST}), got {dropped} of {self.records}: {counted(self.counts)}; "
                f"{self._example}"
            )

    def lines(self) -> list[str]:
        """Lines about dropped records, one per reason with an example."""
        return [f"  dropped {count} {reason}: {self.examples[reason]}" for reason, count in self.counts.most_common()]

    def restore(self, counts: Mapping[str, Any]) -> None:
        """Take over what `to_json` gave of the same records, read before."""
        self.records, self.counts, self.examples = counts["records"], Counter(counts["drops"]), dict(counts["examples"])

    def to_json(self) -> dict[str, Any]:
        """The counts for a summary, as JSON values."""
        return {"records": self.records, "drops": dict(self.counts), "examples": self.examples}

    def _refuse_all(self) -> None:
        if self.counts and self.counts.total() >= self.records:
            if self.records <= 1:
                raise DataError(*self.examples.values())
            raise DataError(self.none_left("records"))

    def none_left(self, what: str) -> str:
        """Error line: none of `what` is usable."""
        why = f" in {self.records}: {counted(self.counts)}; {self._example}" if self.counts else ""
        return f"{self.source}: expected {what} that can be used, got none{why}"

    @property
    def _example(self) -> str:
        """The first record of the commonest reason."""
        [(reason, _)] = self.counts.most_common(1)
        return f"such as {self.examples[reason]}"


def no_pair(num_questions: int, drops: Mapping[str, int], where: str = "") -> DataError:
    """The error of questions none of which gave a pair, `drops` being the reasons."""
    advice = "more answers each (rollout.n_samples_per_prompt) or more questions help; docs/formats.md has the reasons"
    return DataError(f"{where}none of {num_questions} questions gave a pair: {counted(drops)}; {advice}")


def counted(counts: Mapping[str, int]) -> str:
    """Counts by reason in words, the commonest first."""
    return ", ".join(f"{count} {reason}" for reason, count in Counter(counts).most_common())
