"""The `classifier` annotator: a model of natural language inference judges each sentence by the document.

The model reads (passage of the document, sentence). Of several passages the one that decides most clearly counts:
SummaC (Laban et al. 2022, https://aclanthology.org/2022.tacl-1.10) takes a sentence's highest score over the parts of
the document, as what one part says is not undone by the others' saying nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from maskdpo_ray.annotation import passages, sentences
from maskdpo_ray.errors import ConfigError, DataError, ModelError, shown
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.records import (
    CONTRADICTORY,
    LABELS,
    NO_FACT,
    NO_HALLUCINATION,
    UNPARSED,
    Annotation,
    Question,
    Rollout,
    Sentence,
)

_OURS = tuple(label for label in LABELS if label != UNPARSED)
_DECISIVE = (NO_HALLUCINATION, CONTRADICTORY)
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")  # a Chinese character counts as one
_MODEL = "annotation.options.model"
_EXPECTED = "a model for sequence classification"
_SHORTEST = 32
"""Least `max_length`, tokens."""
_USUAL = 512
"""`max_length` of a model that could read more: such models are trained on pairs shorter than that."""
_DOCUMENTS = 64
"""Documents whose passages are kept."""
_EVIDENCE = 240
"""Characters of the passage that are kept as evidence."""
Read = tuple[str, Mapping[str, float]]
"""A passage, and the probability of each label of ours as the model gives it for the sentence read with it."""


class ClassifierAnnotator:
    """Labels sentences with a transformers model for sequence classification."""

    def __init__(
        self,
        model: str,
        labels: Mapping[str, str],
        max_length: int | None = None,
        batch_size: int = 32,
        device: str = "cpu",
        min_words: int = 1,
    ) -> None:
        """Check the options; only the tokenizer and the shapes of the weights are loaded.

        Args:
            model: folder of the model, as transformers saves it; weights in safetensors, no code of its own.
            labels: label of ours for each label in the model's config, as in {"entailment": "no_hallucination",
                "neutral": "unverifiable", "contradiction": "contradictory"}.
            max_length: tokens that the model reads at once; by default what it can, at most 512.
            batch_size: (passage, sentence) pairs per forward.
            device: "cpu" or "cuda".
            min_words: a sentence of fewer words is `no_fact` without being read.

        Raises ConfigError, and ModelError when the folder holds no such model.
        """
        from transformers import AutoModelForSequenceClassification

        names, limit = _described(model)
        if not isinstance(labels, Mapping) or set(labels) != set(names):
            expected = f"one of our labels for each of the model's: {', '.join(names)}"
            raise ConfigError(f"annotation.options.labels: expected {expected}; got {shown(labels)}")
        for name, label in labels.items():
            if label not in _OURS:
                expected = f"expected one of {', '.join(_OURS)}; got {shown(label)}"
                raise ConfigError(f"annotation.options.labels.{name}: {expected}")
        if NO_HALLUCINATION not in labels.values():
            raise ConfigError(f"annotation.options.labels: expected one {NO_HALLUCINATION}, got {shown(dict(labels))}")
        if device not in ("cpu", "cuda"):
            raise ConfigError(f"annotation.options.device: expected cpu or cuda, got {shown(device)}")
        self._model, self._device = model, device
        self._labels = [labels[name] for name in names]
        usual = min(limit, _USUAL) if max_length is None else max_length
        self._max_length = _whole("max_length", usual, _SHORTEST, limit)
        self._batch_size = _whole("batch_size", batch_size, 1)
        self._min_words = _whole("min_words", min_words, 0)
        self.num_gpus = int(device == "cuda")
        self._load_tokenizer()  # for its errors; the actors load their own
        folder = Path(model)
        model_folder.check_weights(
            AutoModelForSequenceClassification, model_folder.load_config(folder), folder, _EXPECTED
        )

    def check(self, question: Question) -> None:
        """Refuse a question without a document. Raises DataError."""
        if not (question.document or "").strip():
            expected = "expected a text for the classifier annotator"
            raise DataError(f"question {question.id!r}: document: {expected}, got {shown(question.document)}")

    def start(self) -> None:
        """Load tokenizer and model, in float32.

        Raises ConfigError when there is no GPU to load it to, ModelError when the folder can't be loaded.
        """
        import torch
        from transformers import AutoModelForSequenceClassification

        if self._device == "cuda" and not torch.cuda.is_available():
            expected = "expected a GPU for the annotator (cluster.gpus_per_annotator)"
            raise ConfigError(f"annotation.options.device: {expected}, got none")
        self._tokenizer = self._load_tokenizer()
        network = model_folder.load_network(AutoModelForSequenceClassification, Path(self._model), _EXPECTED)
        self._network = network.to(self._device)
        self._cut = lru_cache(maxsize=_DOCUMENTS)(self._cut_document)

    def _load_tokenizer(self) -> Any:
        tokenizer = model_folder.read_tokenizer(Path(self._model))
        if tokenizer.pad_token_id is None:
            raise ModelError(f"{self._model}: expected a padding token, found none")
        return tokenizer

    def annotate(self, items: Sequence[tuple[Question, Rollout]]) -> list[Annotation]:
        """One annotation for each (question, answer), in the same order.

        All (passage, sentence) pairs are read together, each once. A sentence of more than half of `max_length`
        tokens, too long to be read with what would decide about it, is `unparsed`.
        """
        answers = [
            [(question, span, rollout.text[slice(*span)]) for span in sentences.split(rollout.text, question.language)]
            for question, rollout in items
        ]
        read = {
            (question.id, text): self._passages(question, text) for answer in answers for question, _, text in answer
        }
        shares = self._shares({(passage, text) for (_, text), found in read.items() for passage in found})
        annotations = []
        for (_, rollout), answer in zip(items, answers, strict=True):
            labelled = [
                Sentence(*span, *self._verdict(text, [(p, shares[p, text]) for p in read[question.id, text]]))
                for question, span, text in answer
            ]
            annotations.append(Annotation(rollout.question_id, rollout.sample, tuple(labelled)))
        return annotations

    def _passages(self, question: Question, sentence: str) -> list[str]:
        """Passages of the document that are read with a sentence; none when the sentence itself isn't read."""
        size = self._size(sentence)
        if self._says_too_little(sentence) or size > self._max_length // 2:
            return []
        # Sentences of about the same length get the same passages, so that a document is cut a few times only.
        step = self._max_length // 8
        room = self._max_length - self._tokenizer.num_special_tokens_to_add(pair=True) - -(-size // step) * step
        return self._cut(question.document, question.language, room)

    def _cut_document(self, document: str, language: str, room: int) -> list[str]:
        return [document[a:b] for a, b in passages.cut(document, language, lambda text: self._size(text) <= room)]

    def _size(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _says_too_little(self, sentence: str) -> bool:
        return len(_WORD.findall(sentence)) < self._min_words

    def _shares(self, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], dict[str, float]]:
        """(passage, sentence) -> {label of ours: probability}."""
        import torch

        ordered = sorted(pairs, key=lambda pair: (-len(pair[0]) - len(pair[1]), pair))  # the like are padded least
        shares = {}
        for at in range(0, len(ordered), self._batch_size):
            batch = ordered[at : at + self._batch_size]
            inputs = self._tokenizer(*map(list, zip(*batch, strict=True)), padding=True, return_tensors="pt")
            with torch.inference_mode():
                logits = self._network(**inputs.to(self._device)).logits
            for pair, row in zip(batch, logits.double().softmax(-1).tolist(), strict=True):
                sums = dict.fromkeys(self._labels, 0.0)
                for label, probability in zip(self._labels, row, strict=True):
                    sums[label] += probability
                shares[pair] = sums
        return shares

    def _verdict(self, sentence: str, read: list[Read]) -> tuple[str, float | None, str]:
        """(label, confidence, evidence) of a sentence, from what its passages say."""
        if self._says_too_little(sentence):
            return NO_FACT, None, f"fewer words than min_words, {self._min_words}"
        if not read:
            return UNPARSED, None, f"more than {self._max_length // 2} tokens"
        passage, shares = strongest(read)
        label = max(shares, key=lambda name: shares[name])
        evidence = " ".join(passage.split())
        if len(evidence) > _EVIDENCE:
            evidence = f"{evidence[:_EVIDENCE]}..."
        return label, round(min(shares[label], 1.0), 4), evidence


def strongest(read: Sequence[Read]) -> Read:
    """The passage that decides about a sentence, its most probable label being the sentence's.

    A passage decides when that label is `no_hallucination` or `contradictory`. Of the passages that decide, or of all
    if none does, the one where such a label is most probable; the first of equals.
    """

    def strength(item: Read) -> tuple[bool, float]:
        decisive = max(item[1].get(label, 0.0) for label in _DECISIVE)
        return decisive == max(item[1].values()), decisive

    return max(read, key=strength)


def _described(model: str) -> tuple[list[str], int]:
    """(names of a model's labels in the order of its outputs, the most tokens that it reads).

    Raises ConfigError when there is no such folder, ModelError when it holds another kind of model.
    """
    described = model_folder.describe_model(model, _MODEL)
    file = Path(model) / "config.json"
    kinds = described.get("architectures")
    if "ForSequenceClassification" not in str(kinds):
        raise ModelError(f"{file}: architectures: expected one for sequence classification, got {shown(kinds)}")
    if described.get("problem_type") not in (None, "single_label_classification"):
        got = shown(described["problem_type"])
        raise ModelError(f"{file}: problem_type: expected single_label_classification, got {got}")
    names = described.get("id2label")
    names = [names.get(str(number)) for number in range(len(names))] if isinstance(names, dict) else []
    if len(names) < 2 or not all(isinstance(name, str) for name in names):
        got = shown(described.get("id2label"))
        raise ModelError(f"{file}: id2label: expected the names of two or more labels by number, got {got}")
    if len(set(names)) < len(names):
        raise ModelError(f"{file}: id2label: expected a name of its own for every label, got {shown(names)}")
    limit = described.get("max_position_embeddings", 2**31)
    if type(limit) is not int or limit < _SHORTEST:
        raise ModelError(
            f"{file}: max_position_embeddings: expected a number of {_SHORTEST} or more, got {shown(limit)}"
        )
    model_folder.refuse_no_weights(file.parent, _MODEL)
    return names, limit


def _whole(name: str, value: object, least: int, most: int = 2**31) -> int:
    if type(value) is not int or not least <= value <= most:
        expected = f"a whole number of at least {least}" if most == 2**31 else f"{least} to {most} tokens"
        raise ConfigError(f"annotation.options.{name}: expected {expected}, got {shown(value)}")
    return value
