"""The `spans` annotator with a token classifier of weights set by hand: a word is right if the passage holds it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import fakes
import pytest

from maskdpo_ray import check_annotator
from maskdpo_ray.annotation import sentences
from maskdpo_ray.annotation.protocol import build
from maskdpo_ray.annotation.published import SPANS
from maskdpo_ray.errors import ConfigError, DataError, ModelError
from maskdpo_ray.records import (
    CONTRADICTORY,
    NO_FACT,
    NO_HALLUCINATION,
    UNPARSED,
    UNVERIFIABLE,
    Question,
    Rollout,
    Sentence,
)

WORDS = "rwanda is in africa asia its capital kigali lima the river small long and not . , ( ) of a city".split()
LONGEST = 64
DOCUMENT = "Rwanda is in Africa. Its capital is Kigali, a city."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one layer: each token attends to its copies; their mean share in the first text gives its label.

    Dimensions: one for each word, TYPE (1 in the first text), its opposite, and RIGHT, to which attention writes TYPE.
    """
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("spans")
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **special).save_pretrained(folder)
    size = len(vocabulary)
    kind, right, width = size, size + 2, size + 3
    config = BertConfig(
        vocab_size=size,
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=2,
        max_position_embeddings=LONGEST,
        num_labels=2,
    )
    model = BertForTokenClassification(config)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.fill_(1.0 if name.endswith("LayerNorm.weight") else 0.0)
        model.bert.embeddings.word_embeddings.weight[:, :size] = torch.eye(size)
        model.bert.embeddings.token_type_embeddings.weight[0, kind] = 1.0
        model.bert.embeddings.token_type_embeddings.weight[1, kind + 1] = 1.0
        attention = model.bert.encoder.layer[0].attention
        for projection in (attention.self.query, attention.self.key):
            projection.weight[:size, :size] = 10 * torch.eye(size)
        attention.self.value.weight[right, kind] = 50.0
        attention.output.dense.weight.copy_(torch.eye(width))
        model.classifier.weight[0, right], model.classifier.weight[1, right] = 0.5, -0.5
    model.save_pretrained(folder)
    return folder


def started(folder: Path, **options: Any) -> Any:
    built: Any = build("spans", {"model": str(folder), "labels": {"LABEL_1": CONTRADICTORY}, **options})
    built.start()
    return built


def asked(document: str | None = DOCUMENT) -> Question:
    return Question("q", "t", ({"role": "user", "content": "Its capital?"},), document)


def labelled(annotator: Any, text: str, document: str = DOCUMENT) -> list[tuple[str, str]]:
    (annotation,) = annotator.annotate([(asked(document), Rollout("q", 0, (), text, "stop", 0))])
    assert all(isinstance(each, Sentence) for each in annotation.sentences)
    return [(text[each.start : each.end], each.label) for each in annotation.sentences]


def held(text: str, *passages: str) -> bool:
    """The independent rule: whether one of the passages holds all words of a text."""
    words = set(re.findall(r"\w+", text.lower()))
    return any(words <= set(re.findall(r"\w+", passage.lower())) for passage in passages)


def test_a_sentence_is_wrong_if_one_of_its_words_is(folder: Path) -> None:
    text = "Rwanda is in Asia. Its capital is Kigali. Lima is a city, and Rwanda is not."
    expected = [
        (text[a:b], NO_HALLUCINATION if held(text[a:b], DOCUMENT) else CONTRADICTORY) for a, b in sentences.split(text)
    ]
    assert labelled(started(folder), text) == expected
    assert [label for _, label in expected] == [CONTRADICTORY, NO_HALLUCINATION, CONTRADICTORY]


def test_spans_of_one_label(folder: Path) -> None:
    annotator = started(folder, unit="span")
    assert labelled(annotator, "Its capital (Lima) is a long, small city. In Africa.") == [
        ("Its capital", NO_HALLUCINATION),
        ("(Lima)", CONTRADICTORY),
        ("is a", NO_HALLUCINATION),
        ("long, small", CONTRADICTORY),
        ("city.", NO_HALLUCINATION),
        ("In Africa.", NO_HALLUCINATION),
    ]
    assert labelled(annotator, "( ).") == [("( ).", NO_FACT)]


def test_the_confidence_is_that_of_the_model(folder: Path) -> None:
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(folder)(DOCUMENT, "Rwanda is Lima.", return_tensors="pt")
    with torch.no_grad():
        rows = AutoModelForTokenClassification.from_pretrained(folder)(**inputs).logits[0].double().softmax(-1)
    (annotation,) = started(folder).annotate([(asked(), Rollout("q", 0, (), "Rwanda is Lima.", "stop", 0))])
    (sentence,) = annotation.sentences
    assert sentence.confidence == pytest.approx(float(rows[-3, 1]), abs=1e-4) and sentence.confidence > 0.99
    assert sentence.evidence == DOCUMENT


DOCUMENTS = ("The river is long and small. " * 3, "Asia is not in Africa. " * 6, "Its capital is Kigali. " * 5)


def test_of_several_passages_one_must_bear_out_all_of_a_sentence(folder: Path) -> None:
    text = "Its capital is Kigali. The river is long. Its capital is long. Asia is in Africa."
    (annotation,) = started(folder, max_length=32).annotate(
        [(asked("".join(DOCUMENTS)), Rollout("q", 0, (), text, "stop", 0))]
    )
    found = {text[each.start : each.end]: each for each in annotation.sentences}
    assert len(found) == 4
    for sentence, each in found.items():
        assert (each.label == NO_HALLUCINATION) is held(sentence, *DOCUMENTS)
        assert each.label == CONTRADICTORY or held(sentence, each.evidence)
    assert [each.label for each in found.values()].count(CONTRADICTORY) == 1
    assert len({each.evidence for each in found.values()}) >= 3, "sentences are borne out by different passages"


def test_a_long_answer_is_read_in_parts(folder: Path) -> None:
    text = "Its capital is Kigali. Rwanda is in Asia. " * 12
    assert (
        labelled(started(folder), text)
        == [("Its capital is Kigali.", NO_HALLUCINATION), ("Rwanda is in Asia.", CONTRADICTORY)] * 12
    )
    assert labelled(started(folder), "Rwanda is " * 40) == [(("Rwanda is " * 40).strip(), UNPARSED)]
    assert labelled(started(folder), " \n") == []


def test_neither_batch_nor_company_changes_a_label(folder: Path) -> None:
    texts = ["Rwanda is in Asia. Its capital is Kigali.", "Lima.", "The river is long. " * 9, "", "In Africa."]
    items = [(asked(), Rollout("q", number, (), text, "stop", 0)) for number, text in enumerate(texts)]
    for batch_size in (1, 3):
        annotator = started(folder, batch_size=batch_size)
        alone = [annotator.annotate([item])[0] for item in items]
        assert alone == annotator.annotate(items) == annotator.annotate(items[::-1])[::-1]


def test_the_threshold(folder: Path) -> None:
    text = "Rwanda is in Asia."
    assert labelled(started(folder, threshold=0.5), text) == [(text, CONTRADICTORY)]
    assert labelled(started(folder, threshold=1), text) == [(text, NO_HALLUCINATION)]


def test_lettucedetect_reads_question_and_passage_in_ragtruths_prompt(folder: Path) -> None:
    """The template's words lie outside the vocabulary, but the document's are where the answer's are looked up."""
    options = {"labels": None, "preset": "lettucedetect", "max_length": 64}
    first, second = SPANS["lettucedetect"].input
    assert first.index("{question}") < first.index("{document}") and second == "{text}"
    short = ["{question} passage 1: {document} output:", "{text}"]
    found = labelled(started(folder, **options, input=short), "Rwanda is in Asia. In Africa.")
    assert found == [("Rwanda is in Asia.", UNVERIFIABLE), ("In Africa.", NO_HALLUCINATION)]
    # In the prompt as published no token is left for a passage of this model of 64.
    item = (asked(), Rollout("q", 0, (), "In Africa.", "stop", 0))
    (annotation,) = started(folder, **options).annotate([item])
    assert annotation.sentences == (Sentence(0, 10, UNPARSED, None, "no room for a passage in 64 tokens"),)


def test_the_text_may_stand_in_the_template(folder: Path) -> None:
    """In one text the answer's words are their own witness, but labels still lie where the answer is."""
    found = labelled(started(folder, input="{document} of {text}", unit="span"), "Its capital is Kigali.")
    assert found == [("Its capital is Kigali.", NO_HALLUCINATION)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"labels": {"LABEL_2": CONTRADICTORY}}, "labels: expected one of our labels for each of the model's: LABEL_0"),
        ({"labels": {"1": "wrong"}}, "labels.1: expected one of no_fact, no_hallucination, contradictory, "),
        ({"labels": {0: UNVERIFIABLE, 1: UNVERIFIABLE}}, "labels: expected one no_hallucination, got {0: 'unv"),
        ({"unit": "word"}, "unit: expected one of sentence, span, got 'word'"),
        ({"preset": "lettuce"}, "preset: expected one of lettucedetect; got 'lettuce'"),
        ({"threshold": 0}, "threshold: expected a number above 0, at most 1; got 0"),
        ({"input": "{document}"}, "input: expected a text, or a list of two, with {document} and {text} once each"),
        ({"input": ["{document}", "{answer}"]}, "input: expected a text, or a list of two, with {docu"),
    ],
)  # fmt: skip
def test_bad_options_are_one_line(folder: Path, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("spans", {"model": str(folder), "labels": {"LABEL_1": CONTRADICTORY}, **options})
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_another_kind_of_model_and_a_question_without_document(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["BertForSequenceClassification"]}')
    with pytest.raises(ModelError, match="architectures: expected one for token classification, got "):
        build("spans", {"model": str(tmp_path)})
    with pytest.raises(DataError, match="document: expected a text for the spans annotator, got None"):
        started(folder).check(asked(None))


def test_it_keeps_the_protocol(folder: Path) -> None:
    annotator = build("spans", {"model": str(folder), "labels": {1: UNVERIFIABLE}, "unit": "span"})
    assert [finding for finding in check_annotator.check(annotator, [asked()], fakes.CONFIG) if finding.fault] == []
