"""A judge on an engine of its own, with known replies: labels, limits, its cache, and what a kill leaves of it."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import dataclass
from typing import Any

import judging
import pytest
import scripted_model
from driver import Driver

from maskdpo_ray.annotation.llm import turns
from maskdpo_ray.records import CONTRADICTORY, NO_HALLUCINATION

pytestmark = pytest.mark.timeout(900)
CONTEXT = 1024
START_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Judged:
    """Output of the process, how many processes it was then, and who was left of them when it was killed."""

    found: dict[str, Any]
    num_processes: int
    num_left: int


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    folder = tmp_path_factory.mktemp("judge")
    model = scripted_model.write(folder / "model", CONTEXT)
    with Driver([judging.__file__, str(model), str(CONTEXT)], folder / "log", (sys.executable,)) as driver:
        lines: list[str] = []

        def has_spoken() -> bool:
            lines[:] = [line for line in driver.output.splitlines(keepends=True) if line.startswith('{"sentences"')]
            return bool(lines) and lines[0].endswith("\n")

        driver.wait_for(has_spoken, START_TIMEOUT_S)
        num_processes = len(driver.left())
        driver.process.kill()
        driver.process.wait()
        end = time.monotonic() + 30
        while driver.left() and time.monotonic() < end:
            time.sleep(0.2)
        return Judged(json.loads(lines[0]), num_processes, len(driver.left()))


def test_labels_are_the_judges(judged: Judged) -> None:
    fact = turns.read(turns.TEMPLATES / "anah.yaml", turns.ANAH)["en"][turns.FACT]
    labels = {"Consistent": NO_HALLUCINATION, "Contradictory": CONTRADICTORY}
    question, seen = judging.QUESTION, set()
    for text, label, evidence, confidence in judged.found["sentences"]:
        asked = fact.prompt({"document": question.document or "", "question": "What of Kenya?", "sentence": text})
        assert label == labels[scripted_model.verdict(asked)], text
        assert evidence == scripted_model.PASSAGE
        assert confidence == pytest.approx(scripted_model.PROBABILITY**2, rel=1e-3)  # word and end
        seen.add(label)
    assert len(judged.found["sentences"]) == 5 and seen == set(labels.values())


def test_calls_from_threads_are_answered_as_those_of_one_batch(judged: Judged) -> None:
    each, again = judged.found["each"], judged.found["again"]
    assert [text for text, _ in each] == [text for text, _ in again]
    assert {text.strip() for text, _ in each} == {"Has a claim"}
    for _, logprob in [*each, *again]:
        assert logprob == pytest.approx(4 * math.log(scripted_model.PROBABILITY), rel=1e-3)  # three words and the end


def test_prefixes_are_cached(judged: Judged) -> None:
    before, after = judged.found["cached"]
    assert after > before


def test_what_does_not_fit(judged: Judged) -> None:
    assert f"are over the judge's {CONTEXT}" in judged.found["refused"]
    assert judged.found["cut"] == "cut off at 2 tokens"


def test_a_killed_process_leaves_no_engine(judged: Judged) -> None:
    assert judged.num_processes > 1
    assert judged.num_left == 0
