"""The `classifier` annotator: a model of natural language inference judges each sentence by the document.

The model reads (passage of the document, sentence); see `checker` for the passage that counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from maskdpo_ray.annotation import published, sentences
from maskdpo_ray.annotation.checker import (
    TEXT_HEADS,
    Checker,
    Shares,
    asked,
    evidence,
    gpus_of,
    label_of,
    share,
    strongest,
    whole,
)
from maskdpo_ray.config.schema import ModelName
from maskdpo_ray.records import NO_FACT, UNPARSED, Annotation, Question, Rollout, Sentence

_WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")  # a Chinese character counts as one


class ClassifierAnnotator:
    """Labels sentences with a transformers model that gives a label to a text."""

    def __init__(
        self,
        model: ModelName,
        labels: Mapping[str | int, str] | None = None,
        preset: str | None = None,
        input: str | Sequence[str] | None = None,
        threshold: float | None = None,
        max_length: int | None = None,
        batch_size: int = 32,
        device: str = "cpu",
        min_words: int = 1,
    ) -> None:
        """Check the options; only the tokenizer and the shapes of the weights are loaded.

        Args:
            model: folder of the model, as transformers saves it, or its name on the Hub; weights in safetensors, no
                code of its own.
            labels: label of ours for each label in the model's config, by name or number, as in {"entailment":
                "no_hallucination", "neutral": "unverifiable", "contradiction": "contradictory"}; of a
                sequence-to-sequence model, for each text that it writes.
            preset: one of `published.CLASSIFIERS`: defaults of labels, input and max_length.
            input: how document and sentence become the model's input: a text with {document} and {text}, {question}
                and {eos} if needed, or a list of two such texts, which the tokenizer joins; by default the pair.
            threshold: least probability of `no_hallucination`; by default the most probable label counts.
            max_length: tokens that the model reads at once; by default what it can, at most 512.
            batch_size: (passage, sentence) pairs per forward.
            device: "cpu" or "cuda".
            min_words: a sentence of fewer words is `no_fact` without being read.

        Raises ConfigError, and ModelError when the folder holds no such model.
        """
        found = published.find(preset, published.CLASSIFIERS)
        self._checker = Checker(TEXT_HEADS, found, model, labels, input, max_length, batch_size, device)
        self._threshold = share("threshold", threshold)
        self._min_words = whole("min_words", min_words, 0)
        self.num_gpus = self._checker.num_gpus

    gpus_of = staticmethod(gpus_of)

    def check(self, question: Question) -> None:
        """Refuse a question without a document. Raises DataError."""
        self._checker.check(question, "classifier")

    def start(self) -> None:
        """Load tokenizer and model. Raises as `Checker.start` does."""
        self._checker.start()

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        """One annotation for each (question, answer), in the same order.

        All (passage, sentence) pairs are read together, each once. A sentence of more than half of `max_length`
        tokens, too long to be read with what would decide about it, is `unparsed`.
        """
        answers = [
            [(question, span, rollout.text[slice(*span)]) for span in sentences.split(rollout.text, question.language)]
            for question, rollout in items
        ]
        passages = {
            (question.id, text): self._passages(question, text) for answer in answers for question, _, text in answer
        }
        shares = self._shares(
            {
                (passage, text, asked(question))
                for answer in answers
                for question, _, text in answer
                for passage in passages[question.id, text]
            }
        )

        def labelled(question: Question, span: tuple[int, int], text: str) -> Sentence:
            read = [(passage, shares[passage, text, asked(question)]) for passage in passages[question.id, text]]
            return Sentence(*span, *self._verdict(text, read))

        return [
            Annotation(rollout.question_id, rollout.sample, tuple(labelled(*each) for each in answer))
            for (_, rollout), answer in zip(items, answers, strict=True)
        ]

    def _passages(self, question: Question, sentence: str) -> list[str]:
        """Passages of the document that are read with a sentence; none when the sentence itself isn't read."""
        too_little = self._says_too_little(sentence)
        return [] if too_little else self._checker.passages(question, self._checker.size(sentence))

    def _says_too_little(self, sentence: str) -> bool:
        return len(_WORD.findall(sentence)) < self._min_words

    def _shares(self, texts: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str, str], dict[str, float]]:
        """(passage, sentence, question) -> {label of ours: probability}."""
        items = list(texts)
        return {items[index]: self._checker.shares(outputs) for index, outputs in self._checker.read(items)}

    def _verdict(self, sentence: str, read: list[tuple[str, Shares]]) -> tuple[str, float | None, str]:
        """(label, confidence, evidence) of a sentence, from what its passages say."""
        if self._says_too_little(sentence):
            return NO_FACT, None, f"fewer words than min_words, {self._min_words}"
        if not read:
            return UNPARSED, None, self._checker.unread(self._checker.size(sentence))
        passage, shares = strongest(read, self._threshold)
        label = label_of(shares, self._threshold)
        return label, round(min(shares[label], 1.0), 4), evidence(passage)
