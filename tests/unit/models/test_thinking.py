"""Thinking blocks: locating them, the text that annotators see, and the parts outside an answer."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from actors.host import AnnotationActor, Stored
from maskdpo_ray.annotation import protocol
from maskdpo_ray.config import cli
from maskdpo_ray.config.schema import ModelConfig
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.evaluation.metrics import evaluate
from maskdpo_ray.models import thinking
from maskdpo_ray.models.thinking import KNOWN, Tags
from maskdpo_ray.pairing.masks import token_weights
from maskdpo_ray.pairing.scoring import precision
from maskdpo_ray.records import NO_HALLUCINATION, Annotation, Block, Question, Rollout, Sentence

DRAFT = "<think>\nThe user asks about Benin. The capital of Benin is Lagos? No, that is wrong.\n</think>\n\n"
ANSWER = "The capital of Benin is Porto-Novo."
FACT = Question("countries/benin", "Benin", ({"role": "user", "content": "Tell me about Benin."},))


def cut(text: str, is_open: bool = False, tags: Tags | None = None) -> tuple[list[str], bool]:
    spans, is_cut = (tags or Tags()).blocks(text, is_open)
    return [text[start:end] for start, end in spans], is_cut


@pytest.mark.parametrize(
    ("text", "is_open", "blocks", "is_cut"),
    [
        (DRAFT + ANSWER, False, [DRAFT], False),
        (f" \n{DRAFT}{ANSWER}", False, [DRAFT], False),
        (DRAFT.removeprefix("<think>\n") + ANSWER, True, [DRAFT.removeprefix("<think>\n")], False),
        ("<think></think>Lima.", False, ["<think></think>"], False),
        ("<think>a</think>\n<think>b</think>\nLima.", False, ["<think>a</think>\n", "<think>b</think>\n"], False),
        ("Lima.\n<think>Or Cusco?</think>\nIt is.", False, ["<think>Or Cusco?</think>\n"], False),
        ("<think>Lima. Or", False, ["<think>Lima. Or"], True),
        ("Lima. Or", True, ["Lima. Or"], True),
        ("<think>a</think><think>b", False, ["<think>a</think>", "<think>b"], True),
        ("", True, [], True),
        # No prompt opened a block.
        (DRAFT.removeprefix("<think>\n") + ANSWER, False, [], False),
        ("The capital of Benin is Lagos. </think>\n", False, [], False),
        ("Lagos.\n</think>\n<think>Hm.</think>\nLima.", False, ["<think>Hm.</think>\n"], False),
        ("</think>Lagos.", False, [], False),
        # Words about tags are words.
        ("Use <think> tags: <think>x</think>\nThe capital of Benin is Lagos.", False, [], False),
        ("The tag <think> opens, </think> closes it.", False, [], False),
        ("It is written so:\n<think> opens a block.", False, [], False),
        ("Lima is the capital.", False, [], False),
    ],
)
def test_where_blocks_stand(text: str, is_open: bool, blocks: list[str], is_cut: bool) -> None:
    assert cut(text, is_open) == (blocks, is_cut)


def test_tags_are_those_of_the_option_and_of_the_models_files(tmp_path: Path) -> None:
    model = ModelConfig(str(tmp_path))
    assert thinking.tags("auto", model).pairs == KNOWN and thinking.tags("keep", model).pairs == ()
    (tmp_path / "chat_template.jinja").write_text("{{ '<my:thoughts>' }} {{ m.content.split('</my:thoughts>') }}")
    added = [{"id": 5, "content": text} for text in ("[REASON]", "[/REASON]", "</thoughts>")]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added, "model": {"vocab": {"</thinks": 7}}}))
    pairs = thinking.tags("auto", model).pairs
    assert set(pairs) - set(KNOWN) == {("<my:thoughts>", "</my:thoughts>"), ("[REASON]", "[/REASON]")}
    assert cut("<thinking>Cusco?</thinking>Lima.") == (["<thinking>Cusco?</thinking>"], False)
    own = thinking.tags({"open": "(hm)", "close": "(so)"}, model)
    assert cut("(hm)Cusco?(so)Lima.", tags=own) == (["(hm)Cusco?(so)"], False)
    assert cut(DRAFT + ANSWER, tags=Tags(())) == ([], False)
    given = ["--model.model_name_or_path", "m", "--rollout.thinking"]
    parsed = cli.parse(["--config", _config(tmp_path), *given, "{open: <t>, close: </t>}"]).config
    assert parsed.rollout.thinking == {"open": "<t>", "close": "</t>"}
    for wrong in ("none", "{open: <t>}", "{open: <t>, close: <t>}", "{open: <t>, close: ' '}"):
        with pytest.raises(ConfigError, match="^--rollout.thinking: expected"):
            cli.parse(["--config", _config(tmp_path), *given, wrong])


def _config(folder: Path) -> str:
    (folder / "config.yaml").write_text("run: {name: r}\n")
    return str(folder / "config.yaml")


def test_tags_that_are_special_tokens_are_left_out_of_the_text(bundled_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundled_model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    ids = tokenizer.encode("[THINK]Cusco? No.[/THINK]Lima is big.<|im_end|>")
    text = tokenizer.decode(ids, skip_special_tokens=True)
    tags = Tags()
    found = tags.noted(Rollout("q", 0, tuple(ids), text, "stop", 0), tokenizer=tokenizer)
    (block,) = found.blocks
    assert (text[: block.end], text[block.end :]) == ("Cusco? No.", "Lima is big.")
    assert tokenizer.decode(thinking.own_ids(found)) == "Lima is big.<|im_end|>"
    weights = token_weights(tokenizer, ids, text, [(10, 22)], [1.0], "keep", [(block.start, block.end)])
    assert weights == [0.0] * block.tokens + [1.0] * (len(ids) - block.tokens)


class Seen:
    """An annotator that labels the whole text it is given."""

    def __init__(self, judges_thinking: bool = False) -> None:
        self.texts: list[str] = []
        self.judges_thinking = judges_thinking

    def start(self) -> None: ...

    def annotate(self, items: list[Any]) -> list[Annotation]:
        self.texts += [rollout.text for _, rollout in items]
        return [
            Annotation(r.question_id, r.sample, (Sentence(0, len(r.text), NO_HALLUCINATION),) if r.text else ())
            for _, r in items
        ]


def labelled(annotator: Any, rollout: Rollout) -> Annotation:
    actor = AnnotationActor.__new__(AnnotationActor)  # without Ray
    actor._hosted, actor._is_up = annotator, True
    actor._clock, actor._starting = nullcontext(), nullcontext()  # type: ignore[assignment]
    return actor.annotate(Stored(None), FACT, [rollout])[0]


def test_an_annotator_is_shown_answers_without_blocks_and_its_spans_are_of_the_whole_text() -> None:
    text = f"{DRAFT}Lima.\n<think>Or?</think>It is."
    rollout = Tags().noted(Rollout(FACT.id, 0, (), text, "stop", 0))
    seen = Seen()
    (sentence,) = labelled(seen, rollout).sentences
    assert seen.texts == ["Lima.\nIt is."]
    assert text[sentence.start : sentence.end] == text[len(DRAFT) :]
    whole = Seen(judges_thinking=True)
    assert labelled(whole, rollout).sentences == (Sentence(0, len(text), NO_HALLUCINATION),) and whole.texts == [text]
    never = Tags().noted(Rollout(FACT.id, 0, (), "<think>Lima.", "stop", 0))
    assert labelled(Seen(), never).sentences == () and never.finish_reason == "length"


def test_facts_judges_the_answer_and_not_its_draft() -> None:
    from maskdpo_ray.data import questions

    asked = next(each for each in questions.load("builtin:countries") if each.id.startswith("countries/benin"))
    rollout = Tags().noted(Rollout(asked.id, 0, (), DRAFT + ANSWER, "stop", 0))
    annotator = protocol.build("facts")
    annotator.start()
    (answer,) = thinking.judged([rollout], annotator)
    annotation = answer.restored(annotator.annotate([(asked, answer.rollout)])[0])
    assert precision(annotation) == 1.0
    assert [rollout.text[s.start : s.end] for s in annotation.sentences] == [ANSWER]


def test_labels_of_others_in_a_block_are_no_sentences() -> None:
    rollout = Tags().noted(Rollout("q", 0, (), DRAFT + ANSWER, "stop", 0))
    inner, own = Sentence(8, 30, "contradictory"), Sentence(len(DRAFT), len(DRAFT + ANSWER), NO_HALLUCINATION)
    assert thinking.outside(rollout, Annotation("q", 0, (inner, own))).sentences == (own,)


def test_thinking_is_no_part_of_an_answers_length() -> None:
    asked = Question("q", "t", ())
    rollout = Rollout("q", 0, (1, 1, 1, 7, 8, 9), "ab", "stop", 0, (Block(0, 1, 0, 3),))
    annotation = Annotation("q", 0, (Sentence(1, 2, NO_HALLUCINATION),))
    found = evaluate([asked], [(rollout, annotation)], seed=0, bootstrap_samples=100).metrics
    assert [found[name].mean for name in ("tokens", "thinking", "distinct_1")] == [3, 3, 1]
    plain = evaluate([asked], [(replace(rollout, blocks=()), annotation)], seed=0, bootstrap_samples=100).metrics
    assert [plain[name].mean for name in ("tokens", "thinking")] == [6, 0]


def test_an_answer_whose_ids_spell_another_text_has_its_blocks_and_stops_nothing(bundled_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundled_model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    tags = Tags()
    garbled = Rollout("q", 0, tuple(tokenizer.encode("[THINK]Hm.[/THINK]Lima.")), "Cusco.", "stop", 0)
    assert tags.noted(garbled, tokenizer=tokenizer) == garbled
    drafted = tags.noted(replace(garbled, text=DRAFT + ANSWER), tokenizer=tokenizer)
    assert drafted.blocks == (Block(0, len(DRAFT), 0, 0),)
