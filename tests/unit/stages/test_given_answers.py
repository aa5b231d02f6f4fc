"""Answers of a file that come with token ids."""

from __future__ import annotations

import json
from pathlib import Path

import fakes
import pytest

from maskdpo_ray.errors import DataError
from maskdpo_ray.stages.given_answers import GivenAnswers


@pytest.mark.parametrize("token", [255, 256, 99999999])
def test_token_ids_are_of_the_vocabulary(tmp_path: Path, token: int) -> None:
    file = tmp_path / "answers.jsonl"
    lines = [{"question_id": "a", "text": "ab", "token_ids": [97, last]} for last in (98, token)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def read() -> GivenAnswers:
        return GivenAnswers.read(file, [fakes.question("a")], fakes.CharChat(), vocab_size=256)

    if token < 256:
        assert read().by_question["a"][1].token_ids == (97, token)
        return
    expected = f"^{file}:2: token_ids: expected ids below the model's vocab_size 256, got {token}$"
    with pytest.raises(DataError, match=expected):
        read()
