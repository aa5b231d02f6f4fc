"""Checkers of published kinds, tiny and with random weights: each against a plain forward of the same model."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from maskdpo_ray.annotation.checker import label_of, strongest
from maskdpo_ray.annotation.protocol import build
from maskdpo_ray.annotation.published import CLASSIFIERS
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.records import CONTRADICTORY, NO_FACT, NO_HALLUCINATION, UNVERIFIABLE, Question, Rollout

DOCUMENT = "Rwanda lies in Africa. Its capital is Kigali."
SENTENCES = ("Rwanda lies in Asia.", "Its capital is Kigali.", "Kigali lies in Rwanda.", "Is Africa its capital?")
WORDS = "Rwanda lies in Africa Its capital is Kigali Asia Is its . ? predict : 0 1 Premise Hypothesis".split()


def tokenizer(folder: Path, kinds: bool = True) -> Any:
    """A tokenizer of words whose pairs are `a </s> b </s>`, as T5's, DeBERTa's and others'."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["<pad>", "<unk>", "</s>", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B:1 </s>:1", special_tokens=[("</s>", 2)]
    )
    found = PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )
    found.save_pretrained(folder)
    return found


def saved(folder: Path, kind: str, **options: Any) -> tuple[Any, Any]:
    """(tokenizer, model) of a kind of tiny random weights, in a folder."""
    import torch
    import transformers

    words = tokenizer(folder)
    sizes: dict[str, Any] = {"vocab_size": len(words), "pad_token_id": 0, "initializer_range": 0.5}
    if kind.startswith("T5"):
        sizes |= {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
        config = transformers.T5Config(**sizes, **options)
    else:
        sizes |= {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = transformers.BertConfig(**sizes, max_position_embeddings=64, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = getattr(transformers, kind)(config).eval()
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return words, model


def labelled(folder: Path, **options: Any) -> list[tuple[str, float]]:
    annotator: Any = build("classifier", {"model": str(folder), **options})
    annotator = pickle.loads(pickle.dumps(annotator))  # as on its way to an actor
    annotator.start()
    question = Question("q", "t", ({"role": "user", "content": "?"},), DOCUMENT)
    items = [(question, Rollout("q", number, (), text, "stop", 0)) for number, text in enumerate(SENTENCES)]
    return [(each.sentences[0].label, each.sentences[0].confidence) for each in annotator.annotate(items)]


def expected(logits: Any, labels: list[str]) -> list[tuple[str, Any]]:
    """(label, confidence) of each row of logits [texts, labels]."""
    rows = logits.double().softmax(-1)
    return [(labels[int(row.argmax())], pytest.approx(float(row.max()), abs=2e-4)) for row in rows]


SUPPORT = [UNVERIFIABLE, NO_HALLUCINATION]


def test_minicheck_joins_document_and_claim_with_eos_in_one_text(tmp_path: Path) -> None:
    import torch

    words, model = saved(tmp_path, "BertForSequenceClassification", num_labels=2)
    texts = [f"{DOCUMENT}</s>{sentence}" for sentence in SENTENCES]
    with torch.no_grad():
        logits = torch.cat([model(**words([text], return_tensors="pt")).logits for text in texts])
        pairs = torch.cat([model(**words(DOCUMENT, text, return_tensors="pt")).logits for text in SENTENCES])
    assert labelled(tmp_path, preset="minicheck-roberta-large") == expected(logits, SUPPORT)
    assert labelled(tmp_path, labels={"LABEL_0": UNVERIFIABLE, "label_1": NO_HALLUCINATION}) == expected(pairs, SUPPORT)
    turned = {"input": ["{text}", "{document}"], "labels": {0: UNVERIFIABLE, 1: NO_HALLUCINATION}}
    with torch.no_grad():
        other = torch.cat([model(**words(text, DOCUMENT, return_tensors="pt")).logits for text in SENTENCES])
    assert labelled(tmp_path, **turned) == expected(other, SUPPORT)


def test_minicheck_t5_is_asked_for_0_or_1(tmp_path: Path) -> None:
    import torch

    words, model = saved(tmp_path, "T5ForConditionalGeneration")
    zero, one = words.convert_tokens_to_ids(["0", "1"])
    rows = []
    for sentence in SENTENCES:
        inputs = words([f"predict: {DOCUMENT}</s>{sentence}"], return_tensors="pt")
        with torch.no_grad():
            rows.append(model(**inputs, decoder_input_ids=torch.tensor([[0]])).logits[0, 0, [zero, one]])
    assert labelled(tmp_path, preset="minicheck-flan-t5-large") == expected(torch.stack(rows), SUPPORT)
    with pytest.raises(ConfigError, match="labels: expected texts that begin with different tokens; got 0 is, 0 lies"):
        build("classifier", {"model": str(tmp_path), "labels": {"0 is": UNVERIFIABLE, "0 lies": NO_HALLUCINATION}})
    with pytest.raises(ConfigError, match="labels: expected one of our labels for each text that it writes; got None"):
        build("classifier", {"model": str(tmp_path), "labels": None})


def test_hhem_1_has_one_output_whose_sigmoid_is_support(tmp_path: Path) -> None:
    import torch

    words, model = saved(tmp_path, "BertForSequenceClassification", num_labels=1)
    with torch.no_grad():
        logits = [model(**words(DOCUMENT, sentence, return_tensors="pt")).logits[0, 0] for sentence in SENTENCES]
    support = [float(torch.sigmoid(logit.double())) for logit in logits]
    assert labelled(tmp_path, preset="hhem-1.0-open") == [
        (SUPPORT[share >= 0.5], pytest.approx(max(share, 1 - share), abs=2e-4)) for share in support
    ]
    bound = sorted(support)[2]
    found = labelled(tmp_path, preset="hhem-1.0-open", threshold=bound - 1e-6)
    assert [label for label, _ in found] == [SUPPORT[share >= bound] for share in support]


def test_hhem_2_reads_the_first_token_of_its_prompt(tmp_path: Path) -> None:
    import torch

    words, model = saved(tmp_path, "T5ForTokenClassification", num_labels=2)
    prompt = "<pad> Determine if the hypothesis is true given the premise?\n\nPremise: {}\n\nHypothesis: {}"
    with torch.no_grad():
        texts = [words([prompt.format(DOCUMENT, sentence)], return_tensors="pt") for sentence in SENTENCES]
        logits = torch.stack([model(**text).logits[0, 0] for text in texts])
    assert labelled(tmp_path, preset="hhem-2.1-open") == expected(logits, SUPPORT)


def test_labels_of_nli_models_in_any_order_and_case(tmp_path: Path) -> None:
    import torch

    names = ["CONTRADICTION", "Entailment", "neutral"]
    words, model = saved(tmp_path, "BertForSequenceClassification", id2label=dict(enumerate(names)))
    with torch.no_grad():
        logits = torch.cat([model(**words(DOCUMENT, text, return_tensors="pt")).logits for text in SENTENCES])
    labels = [CONTRADICTORY, NO_HALLUCINATION, UNVERIFIABLE]
    assert labelled(tmp_path, preset="nli") == expected(logits, labels)
    assert labelled(tmp_path, labels=dict(enumerate(labels))) == expected(logits, labels)
    with pytest.raises(ConfigError, match="labels: expected one of our labels for each of the model's: CONTRAD"):
        build("classifier", {"model": str(tmp_path), "preset": "minicheck-roberta-large"})
    with pytest.raises(ConfigError, match=r"preset: expected one of nli, .*; got 'minicheck-roberta'; did you mean"):
        build("classifier", {"model": str(tmp_path), "preset": "minicheck-roberta"})


def test_alignscores_heads_are_those_of_roberta_for_sequence_classification(tmp_path: Path) -> None:
    """Pooler and three-way layer, as docs/annotators.md renames them, give AlignScore's own scores (model.py)."""
    import torch
    from transformers import RobertaConfig, RobertaForSequenceClassification, RobertaModel

    config = RobertaConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        base, layer = RobertaModel(config, add_pooling_layer=True).eval(), torch.nn.Linear(16, 3)
    weights = {f"base_model.{name}": tensor for name, tensor in base.state_dict().items()}
    weights |= {f"tri_layer.{name}": tensor for name, tensor in layer.state_dict().items()}
    names = {"base_model.pooler.": "classifier.", "tri_layer.": "classifier.out_proj.", "base_model.": "roberta."}
    renamed = {}
    for name, tensor in weights.items():
        before = next((each for each in names if name.startswith(each)), None)
        if before:
            renamed[names[before] + name.removeprefix(before)] = tensor
    model = RobertaForSequenceClassification(config).eval()
    model.load_state_dict(renamed)
    ids = torch.tensor([[0, 5, 6, 2, 2, 7, 2]])
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, layer(base(ids).pooler_output), atol=1e-6)
    assert list(CLASSIFIERS["alignscore"].labels.values()) == [NO_HALLUCINATION, UNVERIFIABLE, CONTRADICTORY]


def test_a_model_of_two_labels_can_not_tell_denial_from_silence() -> None:
    """A passage about something else "denies" all that it does not say: it must not outvote the one that says it."""
    silent, says = {NO_HALLUCINATION: 0.01, CONTRADICTORY: 0.99}, {NO_HALLUCINATION: 0.8, CONTRADICTORY: 0.2}
    assert strongest([("silent", silent), ("says", says)])[0] == "says"


@pytest.mark.parametrize(
    ("threshold", "expected"), [(None, UNVERIFIABLE), (0.3, NO_HALLUCINATION), (0.31, UNVERIFIABLE)]
)
def test_the_threshold_of_support(threshold: float | None, expected: str) -> None:
    shares = {NO_HALLUCINATION: 0.3, UNVERIFIABLE: 0.45, CONTRADICTORY: 0.25}
    assert label_of(shares, threshold) == expected
    assert label_of({NO_HALLUCINATION: 0.9, NO_FACT: 0.1}, 0.95) == NO_FACT
