"""The `spans` annotator: a token classifier marks the words of an answer that its document does not bear out.

The model reads (passage of the document, answer) and gives every token of the answer a label. Words of one label are
a span; a sentence is hallucinated if a word of it is. Each sentence has the labels of the passage that decides about
it (see `checker`), where LettuceDetect's own code takes every token's worst over the passages: that a passage does not
mention a word would then count against it, though another one bears it out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from maskdpo_ray.annotation import published, sentences
from maskdpo_ray.annotation.checker import (
    TOKEN_HEADS,
    Checker,
    Shares,
    asked,
    evidence,
    gpus_of,
    label_of,
    share,
    strongest,
)
from maskdpo_ray.config.schema import ModelName
from maskdpo_ray.errors import ModelError, require
from maskdpo_ray.records import NO_FACT, NO_HALLUCINATION, UNPARSED, Annotation, Question, Rollout, Sentence

_WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")  # a Chinese character counts as one
_UNITS = ("sentence", "span")


class Word(NamedTuple):
    """A word of an answer, with the probability of each label of ours: that of its token that is most in doubt."""

    start: int
    end: int
    shares: Shares


class Part(NamedTuple):
    """Sentences of an answer that are read together."""

    answer: int
    begin: int
    """Offset of `text` in the answer."""
    text: str
    question: str
    sentences: list[tuple[int, int]]
    """Offsets in `text`."""
    passages: list[str]
    """Passages of the document that it is read with; none when it is too long."""


class SpansAnnotator:
    """Labels sentences, or spans of words, with a transformers model for token classification."""

    def __init__(
        self,
        model: ModelName,
        labels: Mapping[str | int, str] | None = None,
        preset: str | None = None,
        input: str | Sequence[str] | None = None,
        unit: str = "sentence",
        threshold: float | None = None,
        max_length: int | None = None,
        batch_size: int = 16,
        device: str = "cpu",
    ) -> None:
        """Check the options; only the tokenizer and the shapes of the weights are loaded.

        Args:
            model: folder of the model, as transformers saves it, or its name on the Hub; weights in safetensors, no
                code of its own.
            labels: label of ours for labels in the model's config, by name or number, as in {"LABEL_1":
                "contradictory"}; those that are not named are `no_hallucination`.
            preset: one of `published.SPANS`: defaults of labels, input and max_length.
            input: how document and answer become the model's input: see `ClassifierAnnotator`.
            unit: `sentence`, or `span`: the words of one label within a sentence.
            threshold: probability of the other labels together above which a word is not `no_hallucination`; by
                default the most probable label counts.
            max_length: tokens that the model reads at once; by default what it can, at most 512.
            batch_size: (passage, answer) pairs per forward.
            device: "cpu" or "cuda".

        Raises ConfigError, and ModelError when the folder holds no such model.
        """
        found = published.find(preset, published.SPANS)
        self._checker = Checker(
            TOKEN_HEADS, found, model, labels, input, max_length, batch_size, device, rest=NO_HALLUCINATION
        )
        if not self._checker.tokenizer.is_fast:
            raise ModelError(f"{model}: expected a tokenizer that knows the places of its tokens, with tokenizer.json")
        require(unit in _UNITS, "annotation.options.unit", f"one of {', '.join(_UNITS)}", unit)
        self._unit = unit
        least = share("threshold", threshold)
        self._threshold = None if least is None else 1 - least
        self.num_gpus = self._checker.num_gpus

    gpus_of = staticmethod(gpus_of)

    def check(self, question: Question) -> None:
        """Refuse a question without a document. Raises DataError."""
        self._checker.check(question, "spans")

    def start(self) -> None:
        """Load tokenizer and model. Raises as `Checker.start` does."""
        self._checker.start()

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        """One annotation for each (question, answer), in the same order.

        An answer of more than half of `max_length` tokens is read in parts of whole sentences; a sentence of more than
        that is `unparsed`.
        """
        parts = [part for number, item in enumerate(items) for part in self._parts(number, *item)]
        keys = list(dict.fromkeys((passage, part.text, part.question) for part in parts for passage in part.passages))
        words = {
            keys[index]: _words(keys[index][1], [(a, b, self._checker.shares(logits)) for a, b, logits in tokens])
            for index, tokens in self._checker.read(keys, offsets=True)
        }
        found: list[list[Sentence]] = [[] for _ in items]
        for part in parts:
            read = [(passage, words[passage, part.text, part.question]) for passage in part.passages]
            for start, end in part.sentences:
                found[part.answer] += self._labelled(part, start, end, read)
        return [
            Annotation(rollout.question_id, rollout.sample, tuple(each))
            for (_, rollout), each in zip(items, found, strict=True)
        ]

    def _parts(self, number: int, question: Question, rollout: Rollout) -> Iterator[Part]:
        """Parts of an answer, each of as many whole sentences as fit in half of `max_length`, and at least one."""
        text, most = rollout.text, self._checker.max_length // 2
        spans = sentences.split(text, question.language)
        while spans:
            begin, taken = spans[0][0], 1
            while taken < len(spans) and self._checker.size(text[begin : spans[taken][1]]) <= most:
                taken += 1
            own, spans = spans[:taken], spans[taken:]
            piece = text[begin : own[-1][1]]
            passages = self._checker.passages(question, self._checker.size(piece))
            yield Part(number, begin, piece, asked(question), [(a - begin, b - begin) for a, b in own], passages)

    def _labelled(self, part: Part, start: int, end: int, read: Sequence[tuple[str, list[Word]]]) -> Iterator[Sentence]:
        """The spans of a sentence of a part, by the passage that decides about it."""
        if not read:
            yield _sentence(part, start, end, UNPARSED, None, self._checker.unread(self._checker.size(part.text)))
            return
        of_sentence = [(passage, [word for word in words if start <= word.start < end]) for passage, words in read]
        if not of_sentence[0][1]:
            yield _sentence(part, start, end, NO_FACT, None, "no words")
            return
        passage, _ = strongest([(passage, _worst(words)) for passage, words in of_sentence], self._threshold)
        words = dict(of_sentence)[passage]
        labels = [label_of(word.shares, self._threshold) for word in words]
        whole = self._unit == "sentence"
        runs = [list(run) for _, run in groupby(range(len(words)), lambda place: whole or labels[place])]
        ends = [_boundary(part.text, words[run[-1]].end, words[run[-1] + 1].start) for run in runs[:-1]]
        for run, first, last in zip(runs, [start, *ends], [*ends, end], strict=True):
            wrong = [place for place in run if labels[place] != NO_HALLUCINATION]
            # The word that is most certainly wrong gives label and confidence, or the one least certainly right.
            decides = min(wrong or run, key=lambda place: words[place].shares[NO_HALLUCINATION])
            piece = part.text[first:last]
            last = first + len(piece.rstrip())
            confidence = round(min(words[decides].shares[labels[decides]], 1.0), 4)
            yield _sentence(part, first, last, labels[decides], confidence, evidence(passage))


def _sentence(part: Part, start: int, end: int, label: str, confidence: float | None, why: str) -> Sentence:
    return Sentence(part.begin + start, part.begin + end, label, confidence, why)


def _words(text: str, tokens: Sequence[tuple[int, int, Shares]]) -> list[Word]:
    """The words of a text: each has the shares of that of its tokens which is least probably right."""
    found = []
    for match in _WORD.finditer(text):
        own = [shares for start, end, shares in tokens if start < match.end() and end > match.start()]
        if own:
            found.append(Word(*match.span(), min(own, key=lambda shares: shares[NO_HALLUCINATION])))
    return found


def _worst(words: Sequence[Word]) -> dict[str, float]:
    """Shares of a sentence: the least of `no_hallucination` and the greatest of each other label in its words."""
    return {
        label: (min if label == NO_HALLUCINATION else max)(word.shares[label] for word in words)
        for label in words[0].shares
    }


def _boundary(text: str, end: int, start: int) -> int:
    """Begin of a run of words, its first one at `start` and the word before it ending at `end`.

    Marks between them belong to the word that they touch, to the one before if both: "(its", "Kigali,".
    """
    spaces = [place + 1 for place in range(end, start) if text[place].isspace()]
    return spaces[-1] if spaces else start
