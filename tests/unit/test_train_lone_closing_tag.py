"""A closing thinking tag without an opening one: it ends a block only where the generation prompt opens one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_annotate import folder, prepare, write
from test_chat import CHATML, R1, USER, Make, make, preference, smollm2

from maskdpo_ray.pairing.pair_files import to_pair
from maskdpo_ray.records import Question, Rollout
from maskdpo_ray.stages.given_answers import GivenAnswers

__all__ = ["folder", "make", "smollm2"]  # fixtures

HIDDEN = "The capital of Rwanda is Kampala. </think>\n"
DRAFT = "Kampala? No.\n</think>\n\n"
QUESTION = Question("q0", "t", (USER,))


@pytest.mark.parametrize(
    ("template", "text", "blocks"),
    [
        (CHATML, HIDDEN, []),
        (CHATML, f"{DRAFT}Kigali.", []),
        (R1, f"{DRAFT}Kigali.", [(0, len(DRAFT))]),
        (R1, "Kigali.", []),  # a given answer need not think
        (R1, "It is written </think> in text.", []),
    ],
)
def test_given_answers_are_read_behind_the_questions_prompt(
    make: Make, tmp_path: Path, template: str, text: str, blocks: list[tuple[int, int]]
) -> None:
    chat = make(template)
    write(tmp_path / "answers.jsonl", [Rollout("q0", 0, (), text, "stop", 0)])
    found = GivenAnswers.read(tmp_path / "answers.jsonl", [QUESTION], chat, 10**6)
    (answer,) = found.by_question["q0"]
    assert [(block.start, block.end) for block in answer.blocks] == blocks
    assert (answer.finish_reason, answer.token_ids[-1]) == ("stop", chat.end_of_turn)


def test_a_tag_that_is_a_special_token_hides_nothing_either(make: Make) -> None:
    chat = make(CHATML)
    chat.tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    ids = tuple(chat.tokenizer.encode("It is Kampala.[/THINK]<|im_end|>", add_special_tokens=False))
    sampled = Rollout("q0", 0, ids, "It is Kampala.", "stop", 0)
    assert chat.noted(sampled, chat.prompt_ids(QUESTION)).blocks == ()
    opens = replace(chat, tokenizer=make(CHATML.replace("assistant\n{% endif", "assistant\n[THINK]{% endif")).tokenizer)
    opens.tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    assert len(opens.noted(sampled, opens.prompt_ids(QUESTION)).blocks) == 1


def test_claims_of_a_pair_before_the_tag_are_learned(make: Make) -> None:
    text = "It is Kampala.\n</think>\n\nLima is big."
    pair = to_pair(preference(text), make(CHATML), "x")
    assert pair.chosen.rollout.blocks == () and len(pair.chosen.annotation.sentences) == 1
    (sentence,) = pair.chosen.annotation.sentences
    assert pair.chosen.rollout.text[sentence.start : sentence.end] == text
    drafted = to_pair(preference(text), make(R1), "x")  # whose template cuts what is before the tag
    assert drafted.chosen.rollout.text == "Lima is big."


@pytest.mark.parametrize(
    ("model", "template", "blocks"), [("none", None, 0), ("bundled", None, 0), ("bundled", R1, 1), ("empty", R1, 0)]
)
def test_annotate_asks_the_policys_template_where_there_is_one(
    folder: Path, bundled_model: Path, model: str, template: str | None, blocks: int
) -> None:
    (folder / "empty").mkdir()
    write(folder / "rollouts.jsonl", [Rollout("q0", 0, (), f"{DRAFT}Kigali.", "stop", 0)])
    path = bundled_model if model == "bundled" else folder / model
    more = ["--model.model_name_or_path", str(path)]
    if template is not None:
        (folder / "chat.jinja").write_text(template)
        more += ["--model.chat_template", str(folder / "chat.jinja")]
    job = prepare(folder, *more)
    with job.labels:
        [asked] = job.todo()
    assert len(asked.rollouts[0].blocks) == blocks
