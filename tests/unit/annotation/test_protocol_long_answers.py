"""Long answers of one thing over and over: what reads them takes time by their length, not by its square or worse."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from maskdpo_ray import records
from maskdpo_ray.annotation import protocol as annotators
from maskdpo_ray.annotation import sentences
from maskdpo_ray.annotation.llm import claims
from maskdpo_ray.data.formats import alignment
from maskdpo_ray.evaluation.evaluators import protocol as evaluators
from maskdpo_ray.records import Question, Rollout

LENGTH = 4000
SECONDS = 10.0
"""About twenty times what it takes; with the square of the length it would be minutes."""
PIECES = (
    "A. ",
    "1.",
    "a.b",
    "X, ",
    "(a) ",
    "(",
    '"',
    "`",
    "*",
    "国。",
    "the ",
    "capital of Rwanda is ",
    "\n- ",
    "est ",
)
ASKED = Question(
    "q",
    "Rwanda",
    ({"role": "user", "content": "?"},),
    "Rwanda is a country. Its capital is Kigali.",
    {"table": "countries", "entity": "Rwanda"},
)


def reader(build: Callable[[str], Any], name: str, method: str) -> Callable[[str], object]:
    built = build(name)
    built.start()
    return lambda text: getattr(built, method)([(ASKED, Rollout("q", 0, (), text, "stop", 0))])


@pytest.mark.parametrize("who", ["facts", "claims", "factscore", "split", "parts", "alignment"])
def test_time_is_bounded(who: str) -> None:
    read: Callable[[str], object] = {
        "facts": lambda: reader(annotators.build, "facts", "annotate"),
        "claims": lambda: reader(annotators.build, "claims", "annotate"),
        "factscore": lambda: reader(evaluators.build, "factscore", "judge"),
        "split": lambda: lambda text: [sentences.split(text, language) for language in records.LANGUAGES],
        "parts": lambda: lambda text: claims.locate(text, "\n".join(text.split())),
        "alignment": lambda: lambda text: alignment.locate(text, [text[i : i + 40] for i in range(0, LENGTH, 40)], "x"),
    }[who]()
    for piece in PIECES:
        start = time.process_time()  # other tests may run beside it
        read((piece * LENGTH)[:LENGTH])
        assert time.process_time() - start < SECONDS, piece
