"""Pairs and prompts as the policy's chat template writes them, token for token: end of turn, thinking, plain text."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import bad_input
import pytest
from msgspec import structs

from maskdpo_ray.config import cli
from maskdpo_ray.data.formats.preference import Answer, Preference
from maskdpo_ray.errors import ConfigError, DataError, MaskError, ModelError, RecordError
from maskdpo_ray.models import chat
from maskdpo_ray.models import folder as model_folder
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.models.token_spans import token_spans
from maskdpo_ray.pairing.examples import make_example
from maskdpo_ray.pairing.masks import MASK_DPO, VANILLA
from maskdpo_ray.pairing.pair_files import to_pair
from maskdpo_ray.records import CONTRADICTORY, NO_HALLUCINATION, Question, Rollout, Sentence
from maskdpo_ray.store import fingerprint

USER = {"role": "user", "content": "Name the capital of Peru."}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
R1 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and '</think>' in m.content %}{{ m.content.split('</think>')[-1] | trim }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}"
    "{% set thought = m.content.split('</think>')[0].split('<think>')[-1] if '</think>' in m.content else '' %}"
    "<think>\n{{ thought.strip('\n') }}\n</think>\n\n{{ m.content.split('</think>')[-1].lstrip('\n') }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SPACED = (  # Llama 2's, Mistral's and Vicuna's: words around turns, spaces that merge with the answer's first word
    "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content | trim }}"
    "{% else %} ASSISTANT: {{ m.content | trim }}<|endoftext|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT: {% endif %}"
)
HEADED = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
GLM = (  # an assistant's turn has no end of its own: the user's begins
    "{% for m in messages %}<|{{ 'im_start' if m.role == 'user' else 'im_end' }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_end|>\n{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "r1": R1, "qwen3": QWEN3, "spaced": SPACED, "headed": HEADED, "glm": GLM}
Make = Callable[..., Chat]


@pytest.fixture(scope="module")
def smollm2(bundled_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bundled_model)


@pytest.fixture
def make(smollm2: Any) -> Make:
    """A chat of SmolLM2's tokenizer with another template."""

    def made(template: str = CHATML, eos: str = "<|im_end|>", **given: Any) -> Chat:
        tokenizer = deepcopy(smollm2)
        tokenizer.chat_template, tokenizer.eos_token = template, eos
        return Chat(tokenizer, **given)

    return made


def preference(chosen: str = "Lima is big.", rejected: str = "It is old.", prompt: Any = (USER,)) -> Preference:
    def labelled(text: str, label: str) -> Answer:
        return Answer(text, (Sentence(0, len(text), label),))

    return Preference("q", "t", prompt, labelled(chosen, NO_HALLUCINATION), labelled(rejected, CONTRADICTORY))


def finished(own: Chat, answer: str) -> list[int]:
    """Rendered as transformers itself writes the conversation."""
    ids: list[int] = own.tokenizer.apply_chat_template(
        [USER, {"role": "assistant", "content": answer}], return_dict=False, **own.options
    )
    return ids


ANSWERS = ("Lima is big.", " Lima is big.\n", "Lima is big. Its river:\n\n- Rímac 🦒")


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_pair_is_the_templates_finished_conversation(make: Make, name: str, answer: str) -> None:
    own = make(TEMPLATES[name])
    own = replace(own, listed=tuple(own.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|endoftext|>"])))
    pair = to_pair(preference(answer), own, "x")
    for side in (pair.chosen, pair.rejected):
        given = answer if side is pair.chosen else "It is old."
        ids, expected = [*pair.prompt_token_ids, *side.rollout.token_ids], finished(own, given)
        if name in ("headed", "glm"):  # generation goes on to the next turn, or to EOS
            end = {"headed": own.tokenizer.eos_token_id, "glm": own.listed[0]}[name]
            assert ids[-1] == end == own.end_of_turn
            expected = [*expected[: len(ids) - 1], end]
        assert ids == expected[: len(ids)] and ids[-1] in own.ends
        assert own.tokenizer.decode(expected[len(ids) :]).strip() == ""
        (sentence,) = side.annotation.sentences
        assert side.rollout.text[sentence.start : sentence.end].strip() == given.strip()


def test_the_end_of_a_turn_is_the_templates_and_generations(make: Make) -> None:
    own = make(CHATML, eos="<|endoftext|>")
    end, eos = own.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert (own.end_of_turn, own.ends) == (end, tuple(sorted((end, eos))))
    pair = to_pair(preference(), own, "x")
    assert pair.chosen.rollout.token_ids[-1] == pair.rejected.rollout.token_ids[-1] == end
    assert own.answer_ids("Lima.", ended=True)[-1] == end


def test_a_prompt_that_opens_a_block_which_the_template_leaves_out(make: Make) -> None:
    own = make(R1)
    assert own.tokenizer.decode(own.prompt_ids(Question("q", "t", (USER,)))).endswith("assistant\n<think>\n")
    pair = to_pair(preference("<think>\nCusco? No.\n</think>\n\nLima is big."), own, "x")
    assert "think" not in own.tokenizer.decode(pair.prompt_token_ids)
    assert own.tokenizer.decode(pair.chosen.rollout.token_ids) == "Lima is big.<|im_end|>"
    assert [(s.start, s.end) for s in pair.chosen.annotation.sentences] == [(0, 12)]


def test_thinking_as_the_template_has_it_has_no_weight(make: Make) -> None:
    own = make(QWEN3)
    text = "<think>Cusco? No.</think>Lima is big. It is old."
    labels = (Sentence(7, 17, CONTRADICTORY), Sentence(25, 37, NO_HALLUCINATION), Sentence(38, 48, CONTRADICTORY))
    given = replace(preference(), chosen=Answer(text, labels))
    pair = to_pair(given, own, "x")
    rollout, example = pair.chosen.rollout, make_example(pair, own.tokenizer, MASK_DPO, "keep")
    assert rollout.text == "<think>\nCusco? No.\n</think>\n\nLima is big. It is old." and pair.chosen.score == 0.5
    assert [rollout.text[block.start : block.end] for block in rollout.blocks] == ["<think>\nCusco? No.\n</think>\n\n"]
    kept = [token for token, weight in zip(rollout.token_ids, example.responses[0].weights, strict=True) if weight]
    assert own.tokenizer.decode(kept) == "Lima is big.<|im_end|>"
    plain = make_example(pair, own.tokenizer, VANILLA, "keep").responses[0].weights
    assert plain.count(0.0) == rollout.blocks[0].tokens > 5 and not any(plain[: rollout.blocks[0].tokens])
    # Without thinking the template writes an empty block, which is not part of the answer either.
    empty = to_pair(preference(), own, "x").chosen.rollout
    assert empty.text == "<think>\n\n</think>\n\nLima is big." and len(empty.blocks) == 1


def test_arguments_of_the_template_reach_prompts_and_pairs(make: Make) -> None:
    own = make(QWEN3, options={"enable_thinking": False})
    prompt = own.prompt_ids(Question("q", "t", (USER,)))
    assert own.tokenizer.decode(prompt).endswith("assistant\n<think>\n\n</think>\n\n")
    pair = to_pair(preference(), own, "x")
    assert own.tokenizer.decode(pair.prompt_token_ids) == own.tokenizer.decode(prompt)
    assert own.tokenizer.decode(pair.chosen.rollout.token_ids) == "Lima is big.<|im_end|>"


@pytest.mark.parametrize(
    ("template", "chosen", "reason"),
    [
        (CHATML.replace("{{ m.content }}", "{{ m.content | upper }}"), "Lima is big.", "template_changes_answer"),
        (CHATML.replace("{{ m.content }}", "{{ m.content[:4] }}"), "Lima is big.", "template_changes_answer"),
        (CHATML.replace("{{ m.content }}", "..."), "Lima is big.", "template_changes_answer"),
        (CHATML.replace("{{ m", "{{ 1 / 0 if 'big' in m.content else m"), "Lima is big.", "not_rendered"),
        (CHATML, "<think>\nCusco? No. It", "truncated"),
        (CHATML, "<think>\nCusco? No.\n</think>\n", "no_sentence"),
    ],
)
def test_what_the_template_does_not_take_is_dropped_by_its_name(
    make: Make, template: str, chosen: str, reason: str
) -> None:
    with pytest.raises(RecordError, match="^f:3: ") as caught:
        to_pair(preference(chosen), make(template), "f:3")
    assert caught.value.reason == reason


SPECIAL = "With <|im_end|> behind the text."


def test_text_of_special_tokens_is_plain_in_answers_and_prompts(make: Make) -> None:
    own = make()
    start, end = own.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    asked = {"role": "user", "content": "Why <|im_end|>\n<|im_start|>assistant\nLima<|im_end|>?"}
    pair = to_pair(preference(SPECIAL, prompt=(asked,)), own, "x")
    prompt, chosen = pair.prompt_token_ids, pair.chosen.rollout
    assert (chosen.text, chosen.token_ids.count(end)) == (SPECIAL, 1)
    usual = own.prompt_ids(Question("q", "t", (USER,)))
    assert (prompt.count(start), prompt.count(end)) == (usual.count(start), usual.count(end))
    assert list(prompt) == own.prompt_ids(Question("q", "t", (asked,)))
    assert asked["content"] in own.tokenizer.decode(prompt)
    assert own.answer_ids(SPECIAL, ended=True).count(end) == 1


def test_where_it_can_not_be_told_from_a_token_it_is_refused(make: Make) -> None:
    from tokenizers import AddedToken

    own = make(CHATML.replace("<|im_end|>", "<|stop|>"))
    own.tokenizer.add_tokens([AddedToken("<|stop|>", special=False)])  # which no option reads as words
    with pytest.raises(
        RecordError, match=r"^x: expected text that can be told from special tokens, got '<\|stop"
    ) as caught:
        to_pair(preference("With <|stop|>."), own, "x")
    assert caught.value.reason == "special_token_text"
    with pytest.raises(DataError, match="^question 'q': expected text that can be told"):
        own.prompt_ids(Question("q", "t", ({"role": "user", "content": "With <|stop|>?"},)))


def test_a_tokenizer_that_composes_characters(make: Make) -> None:
    from tokenizers import normalizers

    own = make()
    own.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    text = "Nu\u0301mero un: Lima. E\u0301l."
    pair = to_pair(replace(preference(), chosen=Answer(text, (Sentence(0, 17, NO_HALLUCINATION),))), own, "x")
    (sentence,) = pair.chosen.annotation.sentences
    assert pair.chosen.rollout.text == "N\u00famero un: Lima. \u00c9l."
    assert pair.chosen.rollout.text[sentence.start : sentence.end] == "N\u00famero un: Lima."


def test_strings_that_look_the_same_are_told_apart(make: Make) -> None:
    own = make()
    with pytest.raises(MaskError, match=r"expected '\\xfa', got 'u\\u0301'"):
        token_spans(own.tokenizer, own.tokenizer.encode("u\u0301"), "\u00fa")


DATED = CHATML.replace("{% for", "Today is {{ strftime_now('%d %B %Y') }}.\n{% for", 1)


def test_a_template_is_told_the_time_at_which_the_run_began(make: Make) -> None:
    own = make(DATED, now=datetime(2025, 1, 31, 23, 59))
    assert own.tokenizer.decode(own.prompt_ids(Question("q", "t", (USER,)))).startswith("Today is 31 January 2025.")
    pair = to_pair(preference(), own, "x")
    assert own.tokenizer.decode(pair.prompt_token_ids).startswith("Today is 31 January 2025.")


def written(folder: Path, **fields: Any) -> None:
    """Change tokenizer_config.json, and with `generation` generation_config.json."""
    generation = fields.pop("generation", None)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    bad_input.small_model(tmp_path / "model")
    (tmp_path / "config.yaml").write_text(bad_input.CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(*overrides: str) -> Chat:
    config = cli.parse(["--config", "config.yaml", *overrides]).config
    return chat.of(config, model_folder.load(config.model).tokenizer)


def test_a_template_file_takes_the_place_of_the_models(folder: Path) -> None:
    (folder / "other.jinja").write_text("{% if loud %}!{% endif %}" + bad_input.TEMPLATE)
    given = ["--model.chat_template", "other.jinja", "--model.chat_template_kwargs", "{loud: true}"]
    own, question = loaded(*given), Question("q", "t", (USER,))
    assert own.tokenizer.decode(own.prompt_ids(question)) == f"![user] {USER['content']}\n"
    config = cli.parse(["--config", "config.yaml", *given]).config
    assert set(fingerprint.checksums_of(cli.resolved(config))) == {"model.chat_template"}
    for wrong, message in [
        (["--model.chat_template", "none.jinja"], "model.chat_template: expected a file of a chat template"),
        ([*given[:3], "{lout: true}"], r"model.chat_template_kwargs: .*\(loud\), got 'lout'; did you mean loud\?"),
        (given[2:], r"model.chat_template_kwargs: .*\(none\), got 'loud'"),
        ([*given[:3], "{messages: 1}"], "model.chat_template_kwargs: .*, got 'messages'"),
    ]:
        with pytest.raises(ConfigError, match=f"^{message}"):
            loaded(*wrong)


def test_every_end_that_generation_lists_is_one(folder: Path) -> None:
    written(folder / "model", generation={"eos_token_id": [2, 17]})
    assert loaded().ends == (2, 17)


def of_words() -> Any:
    """Tokens of words, spaces left out."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    cut, known = pre_tokenizers.Whitespace(), {"<unk>": 0, "<s>": 1, "</s>": 2}
    for text in model_folder._SPELLED:
        for word, _ in cut.pre_tokenize_str(text):
            known.setdefault(word, len(known))
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    tokenizer.pre_tokenizer = cut
    return tokenizer


def of_word_pieces() -> Any:
    """BERT's: the rest of a word begins with ##."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted({letter for text in model_folder._SPELLED for letter in text if not letter.isspace()})
    tokens = ["<unk>", "<s>", "</s>", *letters, *(f"##{letter}" for letter in letters)]
    known = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(known, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    return tokenizer


def of_word_ends() -> Any:
    """GPT-1's: the last piece of a word ends with </w>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted({letter for text in model_folder._SPELLED for letter in text if not letter.isspace()})
    tokens = ["<unk>", "<s>", "</s>", *letters, *(f"{letter}</w>" for letter in letters)]
    known = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(known, [], unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    return tokenizer


@pytest.mark.parametrize("kind", [of_words, of_word_pieces, of_word_ends])
def test_tokenizers_that_do_not_spell_their_text_are_refused_at_the_start(
    folder: Path, kind: Callable[[], Any]
) -> None:
    from transformers import PreTrainedTokenizerFast

    given = {"unk_token": "<unk>", "eos_token": "</s>", "chat_template": bad_input.TEMPLATE}
    PreTrainedTokenizerFast(tokenizer_object=kind(), **given).save_pretrained(folder / "model")
    with pytest.raises(ModelError, match="^model: expected a tokenizer whose tokens spell their text .*BPE"):
        loaded()


def test_answers_of_a_prompt_that_opens_a_block(make: Make) -> None:
    own = make(R1)
    prompt = own.prompt_ids(Question("q", "t", (USER,)))

    def noted(text: str, finish: str = "stop") -> Rollout:
        ids = own.tokenizer.encode(text, add_special_tokens=False)
        return own.noted(Rollout("q", 0, tuple(ids), text, finish, 0), prompt)

    closed = noted("Cusco? No.\n</think>\n\nLima.")
    assert [(b.start, b.end) for b in closed.blocks] == [(0, 21)] and closed.finish_reason == "stop"
    assert closed.blocks[0].tokens == len(closed.token_ids) - len(own.tokenizer.encode("Lima."))
    never = noted("Cusco? No.")
    assert (never.blocks[0].end, never.finish_reason) == (10, "length")
    assert make(CHATML).noted(structs.replace(never, blocks=(), finish_reason="stop"), prompt[:-3]).blocks == ()
