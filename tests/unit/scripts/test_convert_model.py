"""scripts/convert_model.py: the bundled model as an ordinary folder, with the tokenizer it was trained with."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

REPOSITORY = Path(__file__).resolve().parents[3]
SCRIPT = REPOSITORY / "scripts" / "convert_model.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("convert_model", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tokenizer(bundled_model: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bundled_model)


def test_every_file_names_the_same_end_of_answer(bundled_model: Path, tokenizer) -> None:
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 2
    for name in ("config.json", "generation_config.json"):
        stored = json.loads((bundled_model / name).read_text(encoding="utf-8"))
        assert (stored["eos_token_id"], stored["pad_token_id"]) == (2, 2), name


def test_chat_template_ends_a_turn_with_eos_and_opens_the_answer(tokenizer) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids.count(tokenizer.eos_token_id) == 4


def test_each_digit_is_a_token(tokenizer) -> None:
    ids = tokenizer("in 2024, 12.5 km", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode([token]) for token in ids] == [
        "in",
        " ",
        "2",
        "0",
        "2",
        "4",
        ",",
        " ",
        "1",
        "2",
        ".",
        "5",
        " km",
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
# Characters of the first two planes: the vocabulary lacks the bytes that only control characters and rarer
# planes need.
@given(text=st.text(st.characters(min_codepoint=32, max_codepoint=0x1FFFF, exclude_categories=("C",)), max_size=40))
@example(text=" Zürich's 東京\n\tis 12.5  km² away 🙂. ")
def test_tokenizer_gives_back_its_text(tokenizer, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_weights_are_bfloat16_and_all_there(bundled_model: Path) -> None:
    from safetensors import safe_open

    with safe_open(bundled_model / "model.safetensors", framework="pt") as weights:
        names = list(weights.keys())
        assert {weights.get_slice(name).get_dtype() for name in names} == {"BF16"}
        # 30 layers of 9 matrices and norms, the embedding, which is the LM head too, and the last norm.
        assert len(names) == 30 * 9 + 2
        assert weights.get_slice("model.embed_tokens.weight").get_shape() == [49152, 576]


def test_finished_folder_is_left_alone(script: ModuleType, bundled_model: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in bundled_model.iterdir()}
    assert script.convert(bundled_model) is False
    assert {path.name: path.stat().st_mtime_ns for path in bundled_model.iterdir()} == before


def test_foreign_folder_is_never_replaced(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(script.ConversionError, match="was not made by this script"):
        script.convert(tmp_path, force=True)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_failed_conversion_leaves_nothing(script: ModuleType, tmp_path: Path, monkeypatch) -> None:
    def broken(gguf: Path, folder: Path, record: dict) -> None:
        (folder / "config.json").write_text("{}")
        raise script.ConversionError("cut off")

    monkeypatch.setattr(script, "write", broken)
    with pytest.raises(script.ConversionError, match="cut off"):
        script.convert(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_errors_are_one_line(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("")
    done = subprocess.run([sys.executable, str(SCRIPT), "--output", str(target)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and str(target) in done.stderr
