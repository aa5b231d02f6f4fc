"""`anah_templates`: prompts out of a checkout of ANAH's layout, character for character."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maskdpo_ray import anah_templates
from maskdpo_ray.annotation.llm import turns
from maskdpo_ray.errors import UserError
from maskdpo_ray.records import CONTRADICTORY, NO_FACT, NO_HALLUCINATION, UNVERIFIABLE

PROMPTS = '''
def fact_check_prompt(question, annotation, language):
    cn_user_prompt = f"""
    问题 {question} 回答 {annotation} \\n输出“<无事实>”或“<有事实>”。
    """

    en_user_prompt = f"""
    Question: \x20
    {question}
    {{"json": 1}} {annotation}: “<No Facts>” or “<Facts Present>”.
    """
    return cn_user_prompt if language == "zh" else en_user_prompt


def reference_check_prompt(question, reference, annotation, language):
    cn_user_prompt = f"{question}{annotation}{reference}<SEP><无参考信息>"
    en_user_prompt = f"""{question}\\t{annotation}
    {reference} <SEP> <No Reference Information>."""
    return cn_user_prompt if language == "zh" else en_user_prompt


def hallucination_check_prompt(question, reference, annotation, language):
    cn_user_prompt = f"{question}{annotation}{reference} <无幻觉><矛盾><无法验证>"
    en_user_prompt = f"{question} {annotation} {reference}: <No Hallucination>, <Contradictory>, <Unverifiable>"
    return cn_user_prompt if language == "zh" else en_user_prompt
'''
"""The functions and variables of ANAH's eval/anah_v2/anahv2_prompt.py, with words of our own."""


def checkout(folder: Path, text: str = PROMPTS, name: str = "eval/anah_v2/anahv2_prompt.py") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True)
    file.write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["eval/anah_v2/anahv2_prompt.py", "example/anahv2_prompt.py"])
def test_prompts_are_what_the_functions_return(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "anah_v2.yaml"
    anah_templates.main([str(checkout(tmp_path / "ANAH", name=name)), "-o", str(target)])
    assert capsys.readouterr().out.startswith(f"{target}: the prompts of {name}, for annotation.options.templates")
    functions: dict[str, Any] = {}
    exec(PROMPTS, functions)
    fields = {
        "question": "Who {is}?",
        "sentence": "It is.",
        "document": "A text.",
        "reference": "No.",
        "context": "It is.",
    }
    found = turns.read(target, turns.ANAH)
    assert list(found) == ["en", "zh"]
    for language, each in found.items():
        asked, said = fields["question"], fields["sentence"]
        assert each["fact"].prompt(fields) == functions["fact_check_prompt"](asked, said, language)
        made = functions["reference_check_prompt"](asked, fields["document"], said, language)
        assert each["reference"].prompt(fields) == made
        made = functions["hallucination_check_prompt"](asked, fields["reference"], said, language)
        assert each["verdict"].prompt(fields) == made
    english, chinese = found["en"], found["zh"]
    assert [english["fact"].meaning(text) for text in ("<No Facts>", "<Facts Present>")] == [NO_FACT, turns.HAS_FACT]
    assert english["reference"].meaning("<No Reference Information>") == turns.NO_REFERENCE
    said = ("<No Hallucination>", "<Contradictory>", "<Unverifiable>"), ("<无幻觉>", "<矛盾>", "<无法验证>")
    for turn, texts in zip((english, chinese), said, strict=True):
        found_meanings = [turn["verdict"].meaning(text) for text in texts]
        assert found_meanings == [NO_HALLUCINATION, CONTRADICTORY, UNVERIFIABLE]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PROMPTS.replace("def fact_check_prompt", "def facts"), ": expected a function fact_check_prompt"),
        (PROMPTS.replace("<Contradictory>", "<Wrong>"), "prompt: en_user_prompt: expected the tag <Contradictory>"),
        (PROMPTS.replace("cn_user_prompt = f\"{question}{ann", "x = f\"{ann"), "expected a text"),
        (PROMPTS.replace("{question} {annotation} {reference}:", "{question.upper()}"), "expected texts and question"),
        ("def", ": expected Python, got: "),
    ],
)  # fmt: skip
def test_another_layout_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        anah_templates.main([str(checkout(tmp_path / "ANAH", text)), "-o", str(tmp_path / "out.yaml")])
    assert expected in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out.yaml").exists()


def test_no_checkout_and_a_file_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a clone of github.com/open-compass/ANAH with eval/anah_v2/"):
        anah_templates.main([str(tmp_path), "-o", str(tmp_path / "out.yaml")])
    folder, target = str(checkout(tmp_path / "ANAH")), tmp_path / "out.yaml"
    with pytest.raises(UserError, match=r"expected a file to write that ends in \.yaml"):
        anah_templates.main([folder, "-o", str(tmp_path / "out.json")])
    target.write_text("mine")
    with pytest.raises(UserError, match="expected no such file yet, got one; --force replaces it"):
        anah_templates.main([folder, "-o", str(target)])
    anah_templates.main([folder, "-o", str(target), "--force"])
    assert target.read_text() != "mine"
