"""Checkers: models of transformers that read a passage of a document together with a text and say if one bears out the
other. `classifier` and `spans` ask one.

Of several passages the one that decides most clearly counts: SummaC (Laban et al. 2022,
https://aclanthology.org/2022.tacl-1.10) takes a sentence's highest score over the parts of the document, as what one
part says is not undone by the others' saying nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from maskdpo_ray.annotation import passages
from maskdpo_ray.annotation.published import Preset
from maskdpo_ray.errors import ConfigError, DataError, ModelError, shown
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.records import CONTRADICTORY, LABELS, NO_HALLUCINATION, UNPARSED, Question

OURS = tuple(label for label in LABELS if label != UNPARSED)
_DECISIVE = (NO_HALLUCINATION, CONTRADICTORY)
_MODEL = "annotation.options.model"
_FIELDS = ("document", "text", "question", "eos")
_FIELD = re.compile(r"\{(\w+)\}")
_SHORTEST = 32
"""Least `max_length`, tokens."""
_USUAL = 512
"""`max_length` of a model that could read more: such models are trained on pairs shorter than that."""
_DOCUMENTS = 64
"""Documents whose passages are kept."""
_EVIDENCE = 240
"""Characters of the passage that are kept as evidence."""
_SEAMS = 4
"""Tokens that joining document, text and template may add to those of the parts."""
Shares = Mapping[str, float]
"""The probability of each label of ours."""
Outputs = Sequence[float]
"""Logits of the model's labels."""


@dataclass(frozen=True)
class Head:
    """A kind of model and where its logits are."""

    auto: str
    """Auto class of transformers that loads it."""
    task: str
    """Task that it was trained for."""
    logits: Callable[[Any, Mapping[str, Any], Sequence[int]], Any]
    """(network, inputs, token ids of the labels) -> logits of each text, [texts, labels] or [texts, tokens, labels]."""
    writes: bool = False
    """Whether its labels are texts that it writes, and not outputs of its own."""

    @property
    def expected(self) -> str:
        """Words of an error about a folder that holds another kind."""
        return f"a model for {self.task}"


def _all(network: Any, inputs: Mapping[str, Any], ids: Sequence[int]) -> Any:
    return network(**inputs).logits


def _first(network: Any, inputs: Mapping[str, Any], ids: Sequence[int]) -> Any:
    return network(**inputs).logits[:, 0]


def _first_written(network: Any, inputs: Mapping[str, Any], ids: Sequence[int]) -> Any:
    """Logits of the labels' tokens as the first token that a sequence-to-sequence model writes."""
    import torch

    start = torch.full_like(inputs["input_ids"][:, :1], network.config.decoder_start_token_id)
    return network(**inputs, decoder_input_ids=start).logits[:, 0, list(ids)]


TEXT_HEADS = {
    "ForSequenceClassification": Head("AutoModelForSequenceClassification", "sequence classification", _all),
    "ForConditionalGeneration": Head("AutoModelForSeq2SeqLM", "conditional generation", _first_written, writes=True),
    "ForTokenClassification": Head("AutoModelForTokenClassification", "token classification", _first),
}
"""End of the architecture's name -> its head, for one label a text; the first token's where every token has one."""
TOKEN_HEADS = {"ForTokenClassification": Head("AutoModelForTokenClassification", "token classification", _all)}
"""The same for a label for every token of a text."""


def gpus_of(options: Mapping[str, Any]) -> int:
    """GPUs that a checker of these options runs on."""
    return int(options.get("device") == "cuda")


class Checker:
    """A model with its labels and its way of reading, not loaded before `start`."""

    def __init__(
        self,
        heads: Mapping[str, Head],
        preset: Preset,
        model: str,
        labels: Mapping[Any, str] | None,
        input: str | Sequence[str] | None,
        max_length: int | None,
        batch_size: int,
        device: str,
        rest: str | None = None,
    ) -> None:
        """Check the options; only the tokenizer and the shapes of the weights are loaded.

        Args:
            heads: kinds of models that may be given, `TEXT_HEADS` or `TOKEN_HEADS`.
            preset: defaults of the options that are None.
            rest: label of ours for the labels of the model that aren't named; None: all must be.

        Raises ConfigError, and ModelError when the folder holds no such model.
        """
        import transformers

        self._head, names, limit = _described(model, heads)
        self._model, self._device = model, device
        self.tokenizer = self._load_tokenizer()
        limit = min(limit, self.tokenizer.model_max_length)  # RoBERTa's positions begin at 2
        given = labels if labels is not None else preset.labels
        if self._head.writes:
            names = [str(name) for name in given] if isinstance(given, Mapping) else []
        self.labels, self.tokens = _labels(given, names, rest, self._head.writes), self._tokens(names)
        if device not in ("cpu", "cuda"):
            raise ConfigError(f"annotation.options.device: expected cpu or cuda, got {shown(device)}")
        wanted = max_length if max_length is not None else preset.max_length and min(preset.max_length, limit)
        self.max_length = whole("max_length", wanted or min(limit, _USUAL), _SHORTEST, limit)
        self._batch_size = whole("batch_size", batch_size, 1)
        self._parts = _parts(preset.input if input is None else input)
        self._place = next(number for number, part in enumerate(self._parts) if "{text}" in part)
        self.num_gpus = gpus_of({"device": device})
        folder = Path(model)
        model_folder.check_weights(
            getattr(transformers, self._head.auto), model_folder.load_config(folder), folder, self._head.expected
        )

    def check(self, question: Question, who: str) -> None:
        """Refuse a question without a document. Raises DataError."""
        if not (question.document or "").strip():
            expected = f"expected a text for the {who} annotator"
            raise DataError(f"question {question.id!r}: document: {expected}, got {shown(question.document)}")

    def start(self) -> None:
        """Load tokenizer and model, in float32.

        Raises ConfigError when there is no GPU to load it to, ModelError when the folder can't be loaded.
        """
        import torch
        import transformers

        if self._device == "cuda" and not torch.cuda.is_available():
            expected = "expected a GPU for the annotator (cluster.gpus_per_annotator)"
            raise ConfigError(f"annotation.options.device: {expected}, got none")
        self.tokenizer = self._load_tokenizer()
        auto = getattr(transformers, self._head.auto)
        network = model_folder.load_network(auto, Path(self._model), self._head.expected)
        self._network = network.to(self._device)
        self._cut = lru_cache(maxsize=_DOCUMENTS)(self._cut_document)

    def __getstate__(self) -> dict[str, Any]:
        """Without the tokenizer, which each actor loads from the folder."""
        return {name: value for name, value in self.__dict__.items() if name not in ("tokenizer", "_network", "_cut")}

    def _load_tokenizer(self) -> Any:
        tokenizer = model_folder.read_tokenizer(Path(self._model))
        if tokenizer.pad_token_id is None:
            raise ModelError(f"{self._model}: expected a padding token, found none")
        tokenizer.padding_side = "right"  # a head may read the first token
        return tokenizer

    def _tokens(self, names: Sequence[str]) -> list[int]:
        """First tokens of the texts that the labels are, for a model that writes. Raises ConfigError for equal ones."""
        if not self._head.writes:
            return []
        ids = [self.tokenizer(name, add_special_tokens=False)["input_ids"] for name in names]
        first = [each[0] for each in ids if each]
        if len(set(first)) < len(names):
            raise ConfigError(
                f"annotation.options.labels: expected texts that begin with different tokens; got {', '.join(names)}"
            )
        return first

    def size(self, text: str) -> int:
        """Length of a text in tokens, special ones left out."""
        return len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def passages(self, question: Question, size: int) -> list[str]:
        """Passages of the document that are read with a text of `size` tokens; none where that leaves no room."""
        if size > self.max_length // 2:
            return []
        # Texts of about the same length get the same passages, so that a document is cut a few times only.
        step = self.max_length // 8
        empty = self._filled({"document": "", "text": "", "question": asked(question)})
        around = sum(map(self.size, empty)) + self.tokenizer.num_special_tokens_to_add(pair=len(empty) == 2)
        room = self.max_length - around - -(-size // step) * step - (_SEAMS if self._joins else 0)
        if room < 1:
            return []
        return self._cut(question.document, question.language, room)

    def unread(self, size: int) -> str:
        """Reason why a text of `size` tokens has no passages, as evidence."""
        most = self.max_length // 2
        return f"more than {most} tokens" if size > most else f"no room for a passage in {self.max_length} tokens"

    @property
    def _joins(self) -> bool:
        """Whether words of a template touch the document or the text."""
        return any(part not in ("{document}", "{text}") for part in self._parts)

    def _cut_document(self, document: str, language: str, room: int) -> list[str]:
        return [document[a:b] for a, b in passages.cut(document, language, lambda text: self.size(text) <= room)]

    def read(self, items: Sequence[tuple[str, str, str]], offsets: bool = False) -> Iterator[tuple[int, Any]]:
        """(index, logits) of each (passage, text, question), those of about the same length together.

        Logits are [labels]; with `offsets` they are a list of (start, end, [labels]), one for each token of the text,
        with its place there in characters.
        """
        import torch

        # The longest first: those of about the same length are padded together.
        ordered = sorted(range(len(items)), key=lambda index: (-sum(map(len, items[index])), items[index]))
        for at in range(0, len(ordered), self._batch_size):
            batch = ordered[at : at + self._batch_size]
            fields = [dict(zip(("document", "text", "question"), items[index], strict=True)) for index in batch]
            texts = map(list, zip(*map(self._filled, fields), strict=True))
            inputs = self.tokenizer(*texts, padding=True, return_tensors="pt", return_offsets_mapping=offsets)
            places = inputs.pop("offset_mapping").tolist() if offsets else None
            with torch.inference_mode():
                logits = self._head.logits(self._network, inputs.to(self._device), self.tokens)
            for row, index in enumerate(batch):
                values = logits[row].double().tolist()
                if places is None:
                    yield index, values
                else:
                    tokens = zip(inputs.sequence_ids(row), places[row], values, strict=True)
                    yield index, list(self._of_text(fields[row], tokens))

    def _of_text(
        self, fields: Mapping[str, str], tokens: Iterable[tuple[int | None, Sequence[int], Outputs]]
    ) -> Iterator[tuple[int, int, Outputs]]:
        """(start, end, logits) of the tokens of the text, out of (part, place there, logits) of all."""
        before, _, _ = self._parts[self._place].partition("{text}")
        begin = len(self._fill(before, fields))
        for part, (start, end), logits in tokens:
            first, last = max(start - begin, 0), min(end - begin, len(fields["text"]))
            if part == self._place and first < last:
                yield first, last, logits

    def _filled(self, fields: Mapping[str, str]) -> list[str]:
        return [self._fill(part, fields) for part in self._parts]

    def _fill(self, template: str, fields: Mapping[str, str]) -> str:
        known = {**fields, "eos": self.tokenizer.eos_token or ""}
        return _FIELD.sub(lambda match: known.get(match.group(1), match.group()), template)

    def shares(self, outputs: Outputs) -> dict[str, float]:
        """Probability of each label of ours: those of the model's labels that stand for it, added.

        A model with one output gives the logit of its second label (Preset `hhem-1.0-open`): softmax over (0, z) is the
        sigmoid of z.
        """
        import torch

        logits = torch.tensor([0.0, *outputs] if len(outputs) == 1 else list(outputs), dtype=torch.float64)
        sums = dict.fromkeys(self.labels, 0.0)
        for label, probability in zip(self.labels, logits.softmax(-1).tolist(), strict=True):
            sums[label] += probability
        return sums


def strongest(read: Sequence[tuple[str, Shares]], threshold: float | None = None) -> tuple[str, Shares]:
    """The (passage, shares) that decides about a text, its label being the text's.

    A passage decides when its label is `no_hallucination` or `contradictory`. Of the passages that decide, or of all
    if none does, the one where such a label is most probable; the first of equals. A model of two labels calls what the
    passage does not mention by the same name as what it denies: there `no_hallucination` alone decides.
    """
    decisive = [label for label in _DECISIVE if label in read[0][1]] if len(read[0][1]) > 2 else [NO_HALLUCINATION]

    def strength(item: tuple[str, Shares]) -> tuple[bool, float]:
        return label_of(item[1], threshold) in decisive, max(item[1].get(label, 0.0) for label in decisive)

    return max(read, key=strength)


def label_of(shares: Shares, threshold: float | None) -> str:
    """The most probable label; with a threshold `no_hallucination` from that probability on, and else never."""
    if threshold is not None:
        if shares[NO_HALLUCINATION] >= threshold:
            return NO_HALLUCINATION
        shares = {name: share for name, share in shares.items() if name != NO_HALLUCINATION}
    return max(shares, key=lambda name: shares[name])


def evidence(passage: str) -> str:
    """A passage as evidence, on one line."""
    line = " ".join(passage.split())
    return f"{line[:_EVIDENCE]}..." if len(line) > _EVIDENCE else line


def whole(name: str, value: object, least: int, most: int = 2**31) -> int:
    """A whole number of an option. Raises ConfigError."""
    if type(value) is not int or not least <= value <= most:
        expected = f"a whole number of at least {least}" if most == 2**31 else f"{least} to {most} tokens"
        raise ConfigError(f"annotation.options.{name}: expected {expected}, got {shown(value)}")
    return value


def share(name: str, value: object) -> float | None:
    """A probability of an option, or None. Raises ConfigError."""
    if value is not None and (type(value) not in (int, float) or not 0 < value <= 1):  # type: ignore[operator]
        raise ConfigError(f"annotation.options.{name}: expected a number above 0, at most 1; got {shown(value)}")
    return value  # type: ignore[return-value]


def asked(question: Question) -> str:
    """The words of the question itself: its last message."""
    return str(question.prompt[-1]["content"])


def _labels(given: Any, names: Sequence[str], rest: str | None, is_written: bool) -> list[str]:
    """Label of ours for each of the model's, by name whatever its case, or by number. Raises ConfigError."""
    at = "annotation.options.labels"
    kinds = "each text that it writes" if is_written else f"each of the model's: {', '.join(names)}"
    expected = f"one of our labels for {kinds}"
    if not isinstance(given, Mapping) or (is_written and len(given) < 2):
        raise ConfigError(f"{at}: expected {expected}; got {shown(given)}")
    ours: dict[int, str] = {}
    for key, label in given.items():
        number = _number(str(key), names)
        if number is None or number in ours:
            raise ConfigError(f"{at}: expected {expected}; got {shown(dict(given))}")
        if label not in OURS:
            raise ConfigError(f"{at}.{key}: expected one of {', '.join(OURS)}; got {shown(label)}")
        ours[number] = label
    if rest is None and len(ours) < len(names):
        raise ConfigError(f"{at}: expected {expected}; got {shown(dict(given))}")
    found = [ours.get(number, str(rest)) for number in range(len(names))]
    if NO_HALLUCINATION not in found:
        raise ConfigError(f"{at}: expected one {NO_HALLUCINATION}, got {shown(dict(given))}")
    return found


def _number(key: str, names: Sequence[str]) -> int | None:
    """Number of the label that a key names: exactly, but for case, or by number; None for no label."""
    folded = [name.casefold() for name in names]
    if key in names or folded.count(key.casefold()) == 1:
        return names.index(key) if key in names else folded.index(key.casefold())
    return int(key) if key.isascii() and key.isdecimal() and int(key) < len(names) else None


def _parts(given: Any) -> list[str]:
    """Templates of the one or two texts that the tokenizer gets. Raises ConfigError."""
    parts = [given] if isinstance(given, str) else given
    expected = "a text, or a list of two, with {document} and {text} once each, and else {question} and {eos}"
    is_texts = (
        isinstance(parts, (list, tuple)) and len(parts) in (1, 2) and all(isinstance(part, str) for part in parts)
    )
    found = [name for part in parts for name in _FIELD.findall(part)] if is_texts else []
    if not is_texts or not set(found) <= set(_FIELDS) or found.count("document") != 1 or found.count("text") != 1:
        raise ConfigError(f"annotation.options.input: expected {expected}; got {shown(given)}")
    return list(parts)


def _described(model: str, heads: Mapping[str, Head]) -> tuple[Head, list[str], int]:
    """(head, names of a model's labels in the order of its outputs, the most tokens that it reads).

    Raises ConfigError when there is no such folder, ModelError when it holds another kind of model.
    """
    described = model_folder.describe_model(model, _MODEL)
    file = Path(model) / "config.json"
    kinds = described.get("architectures")
    head = next((head for end, head in heads.items() if end in str(kinds)), None)
    if head is None:
        tasks = " or ".join(each.task for each in heads.values())
        raise ModelError(f"{file}: architectures: expected one for {tasks}, got {shown(kinds)}")
    if described.get("problem_type") not in (None, "single_label_classification"):
        got = shown(described["problem_type"])
        raise ModelError(f"{file}: problem_type: expected single_label_classification, got {got}")
    # Transformers leaves its own names of two labels out of the file.
    names = [] if head.writes else _names(described.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"}), file)
    limit = described.get("max_position_embeddings", 2**31)
    if type(limit) is not int or limit < _SHORTEST:
        raise ModelError(
            f"{file}: max_position_embeddings: expected a number of {_SHORTEST} or more, got {shown(limit)}"
        )
    model_folder.refuse_no_weights(file.parent, _MODEL)
    return head, names, limit


def _names(given: Any, file: Path) -> list[str]:
    names: list[Any] = [given.get(str(number)) for number in range(len(given))] if isinstance(given, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{file}: id2label: expected the names of labels by number, got {shown(given)}")
    if len(set(names)) < len(names):
        raise ModelError(f"{file}: id2label: expected a name of its own for every label, got {shown(names)}")
    return names if len(names) > 1 else [f"not {names[0]}", names[0]]
