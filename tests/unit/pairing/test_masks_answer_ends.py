"""Locating an answer in its tokens: the token at which it stopped, and the thinking before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maskdpo_ray.errors import MaskError
from maskdpo_ray.pairing.masks import token_spans, token_weights


@pytest.fixture(scope="module")
def smollm2(bundled_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bundled_model)


@pytest.mark.parametrize("is_shown", [False, True])
def test_an_end_that_is_not_flagged_special_is_an_end(bundled_model: Path, is_shown: bool) -> None:
    """generation_config.json lists it: an engine stops at it, keeps its id and leaves its text out."""
    from tokenizers import AddedToken
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundled_model)
    tokenizer.add_tokens([AddedToken("<|end|>", special=False)])
    text = "Its capital is Kigali. It lies in Asia."
    ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.convert_tokens_to_ids("<|end|>")]
    shown, spans = text + "<|end|>" * is_shown, [(0, 22), (23, 39)]
    for rule, expected in {"keep": 1.0, "drop": 0.0, "last_sentence": 0.5}.items():
        weights = token_weights(tokenizer, ids, shown, spans, [1.0, 0.5], rule)
        assert weights[-2:] == [0.5, expected]
    # Inside a sentence it is a word of that sentence.
    assert token_weights(tokenizer, ids, text + "<|end|>", [(0, 22), (23, 46)], [1.0, 0.5], "keep")[-1] == 0.5


def test_tokens_of_a_block_have_no_weight(smollm2: Any) -> None:
    text = "Hm, Cusco?\n\nIt is Lima."
    ids, span = smollm2.encode(text, add_special_tokens=False), (12, 23)
    weights = token_weights(smollm2, ids, text, [span], [1.0], "keep", [(0, 12)])
    spans = token_spans(smollm2, ids, text)
    assert weights == [float(start >= 12) for start, _ in spans] and 0.0 in weights


@pytest.mark.parametrize(("lead", "gap"), [(" ", "\n\n"), ("", "\n\n"), ("", " "), (" ", " "), ("\n", "")])
def test_a_token_that_holds_a_part_of_a_block_has_no_weight(smollm2: Any, lead: str, gap: str) -> None:
    """Tokens such as " <" and ">\\n\\n", where tags are text; " It" holds nothing of the block but its white space."""
    block, sentence = "<thought>\nHm, Cusco?\n</thought>", "It is Lima."
    text = lead + block + gap + sentence
    ids, start = smollm2.encode(text, add_special_tokens=False), len(text) - len(sentence)
    for begin, end in ((len(lead), start), (len(lead), len(lead + block)), (0, start)):
        weights = token_weights(smollm2, ids, text, [(start, len(text))], [1.0], "keep", [(begin, end)])
        for token, weight, (first, last) in zip(ids, weights, token_spans(smollm2, ids, text), strict=True):
            if text[first:last].strip():
                assert weight == float(first < last and last > start), smollm2.decode([token])


def test_an_answer_that_stopped_ends_in_whatever_it_stopped_at(smollm2: Any) -> None:
    """An ordinary word of the vocabulary, if generation_config.json lists it."""
    text, ids = "It is Lima.", smollm2.encode("It is Lima. Stop", add_special_tokens=False)
    with pytest.raises(MaskError, match="do not spell"):
        token_weights(smollm2, ids, text, [(0, 11)], [0.5], "keep")
    weights = token_weights(smollm2, ids, text, [(0, 11)], [0.5], "keep", stopped=True)
    assert weights == [0.5] * (len(ids) - 1) + [1.0]
    # A text that includes its last word has no such end.
    shown = token_weights(smollm2, ids, text + " Stop", [(0, 16)], [0.5], "keep", stopped=True)
    assert shown == [0.5] * len(ids)
