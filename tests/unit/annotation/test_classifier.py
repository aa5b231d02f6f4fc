"""The `classifier` annotator with a tiny model of random weights: labels, passages, padding, bad options."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakes
import pytest

from maskdpo_ray import check_annotator
from maskdpo_ray.annotation import passages, sentences
from maskdpo_ray.annotation.checker import strongest
from maskdpo_ray.annotation.classifier import ClassifierAnnotator
from maskdpo_ray.annotation.protocol import build
from maskdpo_ray.errors import ConfigError, DataError, ModelError, UserError
from maskdpo_ray.records import (
    CONTRADICTORY,
    NO_FACT,
    NO_HALLUCINATION,
    UNPARSED,
    UNVERIFIABLE,
    Annotation,
    Question,
    Rollout,
    Sentence,
)

NAMES = ("entailment", "neutral", "contradiction")
LABELS = dict(zip(NAMES, (NO_HALLUCINATION, UNVERIFIABLE, CONTRADICTORY), strict=True))
MAX_LENGTH = 64
DOCUMENT = " ".join(
    f"{name} lies in {place}. The capital of {name} is {capital}, a city of {number} people! Its coast is long."
    for name, place, capital, number in (
        ("Rwanda", "Africa", "Kigali", "a million"),
        ("Peru", "America", "Lima", "ten million"),
        ("Laos", "Asia", "Vientiane", "few"),
        ("Fiji", "the sea", "Suva", "many"),
    )
)
ANSWERS = (
    "Rwanda lies in Africa. Its capital is Lima! Is it? It has a long coast, and a million people live there.",
    "Its capital is Lima! Peru is a city. ten Lima few",
    "",
    "word " * 80,
    "---",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer BERT with wide random weights, so that its labels differ, and a tokenizer of letters and words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("nli")
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?-"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{c}" for c in letters)]
    words = sorted({word.strip(".,!") for word in DOCUMENT.split()} - set(letters))
    vocabulary = {piece: number for number, piece in enumerate([*pieces, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **special).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.4,
        id2label=dict(enumerate(NAMES)),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def annotator(folder: Path) -> ClassifierAnnotator:
    return started(folder)


def started(folder: Path, **options: Any) -> ClassifierAnnotator:
    built: Any = build("classifier", {"model": str(folder), "labels": LABELS, **options})
    built.start()
    return built


def asked(document: str | None = DOCUMENT, name: str = "q") -> Question:
    return Question(name, "t", ({"role": "user", "content": "?"},), document)


def items(question: Question) -> list[tuple[Question, Rollout]]:
    return [(question, Rollout(question.id, k, (), text, "stop", 0)) for k, text in enumerate(ANSWERS)]


def one_at_a_time(folder: Path, sentence: str) -> Iterator[tuple[str, list[float]]]:
    """(passage, probabilities) of each passage of DOCUMENT, ids put together by hand, no padding."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def ids(text: str) -> list[int]:
        return tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))

    hypothesis = ids(sentence)
    room = MAX_LENGTH - 3 - next(size for size in range(0, MAX_LENGTH, MAX_LENGTH // 8) if size >= len(hypothesis))
    for start, end in passages.cut(DOCUMENT, "en", lambda text: len(ids(text)) <= room):
        premise = ids(DOCUMENT[start:end])
        row = [2, *premise, 3, *hypothesis, 3]
        assert len(row) <= MAX_LENGTH
        kinds = [0] * (len(premise) + 2) + [1] * (len(hypothesis) + 1)
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([row]), token_type_ids=torch.tensor([kinds])).logits[0]
        yield DOCUMENT[start:end], logits.softmax(-1).tolist()


def test_labels_are_those_of_one_pair_at_a_time(folder: Path, annotator: ClassifierAnnotator) -> None:
    seen, counts = set(), set()
    for (_, rollout), annotation in zip(items(asked()), annotator.annotate(items(asked())), strict=True):
        assert [(s.start, s.end) for s in annotation.sentences] == sentences.split(rollout.text)
        for sentence in annotation.sentences:
            text = rollout.text[sentence.start : sentence.end]
            if sentence.label in (NO_FACT, UNPARSED):
                continue
            read = list(one_at_a_time(folder, text))
            deciding = [item for item in read if item[1][1] < max(item[1])]
            passage, row = max(deciding or read, key=lambda item: max(item[1][0], item[1][2]))
            assert sentence.label == LABELS[NAMES[row.index(max(row))]]
            assert sentence.confidence == pytest.approx(max(row), abs=1e-4)
            assert sentence.evidence == passage
            seen.add(sentence.label)
            counts.add(len(read))
    assert len(seen) >= 2 and max(counts) >= 3, "several labels, several passages"


def test_what_is_not_read(annotator: ClassifierAnnotator) -> None:
    *_, empty, long, wordless = annotator.annotate(items(asked()))
    assert empty.sentences == ()
    assert [(s.label, s.confidence, s.evidence) for s in long.sentences] == [(UNPARSED, None, "more than 32 tokens")]
    assert [(s.label, s.confidence, s.evidence) for s in wordless.sentences] == [
        (NO_FACT, None, "fewer words than min_words, 1")
    ]


def test_min_words(folder: Path) -> None:
    rollout = Rollout("q", 0, (), "Of Lima. Its coast is long. 利马是首都。", "stop", 0)
    (annotation,) = started(folder, min_words=3).annotate([(asked(), rollout)])
    assert [s.label == NO_FACT for s in annotation.sentences] == [True, False, False]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_neither_batch_nor_company_changes_a_label(folder: Path, batch_size: int) -> None:
    annotator = started(folder, batch_size=batch_size)
    others = asked("Lima is long. " * 30, "other")
    together = annotator.annotate([*items(others), *items(asked())])
    alone = [annotator.annotate([item])[0] for item in [*items(others), *items(asked())]]
    assert rounded(together) == rounded(alone)


def rounded(annotations: list[Annotation]) -> list[tuple[int, int, str, Any, str | None]]:
    return [
        (s.start, s.end, s.label, pytest.approx(s.confidence, abs=2e-4), s.evidence)
        for annotation in annotations
        for s in annotation.sentences
    ]


def test_it_keeps_the_protocol(folder: Path) -> None:
    annotator = build("classifier", {"model": str(folder), "labels": LABELS})
    assert [finding for finding in check_annotator.check(annotator, [asked()], fakes.CONFIG) if finding.fault] == []


def shares(right: float, wrong: float) -> dict[str, float]:
    return {NO_HALLUCINATION: right, CONTRADICTORY: wrong, UNVERIFIABLE: 1 - right - wrong}


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        ([shares(0.1, 0.2)], 0),
        ([shares(0.1, 0.2), shares(0.6, 0.1), shares(0.1, 0.3)], 1),  # one passage says it, the others are silent
        ([shares(0.6, 0.1), shares(0.05, 0.9)], 1),  # the clearer of two
        ([shares(0.9, 0.05), shares(0.1, 0.6)], 0),
        ([shares(0.48, 0.02), shares(0.45, 0.35)], 1),  # the first is more silent than not
        ([shares(0.1, 0.2), shares(0.1, 0.3), shares(0.25, 0.1)], 1),  # none decides: the one that nearly does
        ([shares(0.7, 0.2), shares(0.7, 0.1)], 0),
        ([{NO_HALLUCINATION: 0.2, NO_FACT: 0.8}, {NO_HALLUCINATION: 0.3, NO_FACT: 0.7}], 1),
    ],
)
def test_the_passage_that_decides(read: list[dict[str, float]], expected: int) -> None:
    passage, _ = strongest([(str(number), row) for number, row in enumerate(read)])
    assert int(passage) == expected


def test_labels_that_mean_the_same_are_added(folder: Path) -> None:
    merged = dict(LABELS, contradiction=UNVERIFIABLE)
    own, both = (a.annotate(items(asked())[:1])[0] for a in (started(folder), started(folder, labels=merged)))
    for first, second in zip(own.sentences, both.sentences, strict=True):
        assert second.label != CONTRADICTORY and isinstance(second, Sentence)
        assert second.label == UNVERIFIABLE or second.confidence == first.confidence


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"model": "no/where"}, "annotation.options.model: expected the folder of a model, with config.json, got 'no"),
        ({"model": None}, "annotation.options.model: expected the folder of a model, with config.json, got None"),
        (
            {"labels": {"entailment": NO_HALLUCINATION}},
            "labels: expected one of our labels for each of the model's: en",
        ),
        ({"labels": None}, "labels: expected one of our labels for each of the model's: entailment, neutral, contradi"),
        ({"labels": dict(LABELS, neutral="open")}, "labels.neutral: expected one of no_fact, no_hallucination, "),
        ({"labels": dict(LABELS, neutral=UNPARSED)}, "labels.neutral: expected one of no_fact, no_hallucination, "),
        ({"labels": dict.fromkeys(NAMES, UNVERIFIABLE)}, "labels: expected one no_hallucination, got {'entailment'"),
        ({"device": "tpu"}, "device: expected cpu or cuda, got 'tpu'"),
        ({"max_length": 65}, "max_length: expected 32 to 64 tokens, got 65"),
        ({"max_length": 31}, "max_length: expected 32 to 64 tokens, got 31"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
        ({"min_words": True}, "min_words: expected a whole number of at least 0, got True"),
        ({"trust_remote_code": True}, "ClassifierAnnotator: got an unexpected keyword argument 'trust_remote_code'"),
    ],
)
def test_bad_options_are_one_line(folder: Path, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("classifier", {"model": str(folder), "labels": LABELS, **options})
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"architectures": ["BertModel"]},
            "architectures: expected one for sequence classification or conditional generation or token "
            "classification, got ['BertModel']",
        ),
        ({"id2label": None}, "id2label: expected the names of labels by number, got None"),
        ({"id2label": {}}, "id2label: expected the names of labels by number, got {}"),
        (
            {"id2label": {"0": "a", "1": "b", "2": "a"}},
            "id2label: expected a name of its own for every label, got ['a', ",
        ),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label: expected the names of labels by number, got "),
        ({"problem_type": "regression"}, "problem_type: expected single_label_classification, got 'regression'"),
        ({"max_position_embeddings": "64"}, "max_position_embeddings: expected a number of 32 or more, got '64'"),
    ],
)
def test_a_model_of_another_kind(folder: Path, tmp_path: Path, changed: dict[str, Any], expected: str) -> None:
    described = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**described, **changed}))
    with pytest.raises(ModelError) as caught:
        build("classifier", {"model": str(tmp_path), "labels": LABELS})
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: {expected}")


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def headless(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(file).items() if not name.startswith("classifier")}
    save_file(tensors, file, {"format": "pt"})


def deeper(folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_hidden_layers": 3}))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (without_weights, "annotation.options.model: expected safetensors in "),
        (truncated, "model.safetensors: expected a whole safetensors file (no Git LFS pointer), got: "),
        (without_tokenizer, "copy: expected a tokenizer, got none of "),
        (headless, ": expected a weight for every parameter of config.json, got none for 2: classifier.bias"),
        (deeper, "parameter of config.json, got none for 16: bert.encoder.layer.2."),
    ],
)
def test_damaged_weights(folder: Path, tmp_path: Path, damage: Any, expected: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy)
    with pytest.raises(ModelError) as caught:
        build("classifier", {"model": str(copy), "labels": LABELS})
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_gpu_that_is_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="device: expected a GPU for the annotator .*, got none$"):
        started(folder, device="cuda")


@pytest.mark.parametrize("document", [None, " \n"])
def test_a_question_without_a_document(annotator: ClassifierAnnotator, document: str | None) -> None:
    annotator.check(asked())
    with pytest.raises(
        UserError, match="^question 'q': document: expected a text for the classifier annotator, got "
    ) as caught:
        annotator.check(asked(document))
    assert isinstance(caught.value, DataError)
