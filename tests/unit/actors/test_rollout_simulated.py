"""The stand-ins of the simulation take what the real actors take, and its messages are the real ones."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from actors.rollout import RolloutEngine
from actors.training import TrainingRank
from benchmarks import messages, simulated


def methods(kind: type) -> dict[str, list[str]]:
    """Public methods: parameters but the object's own, an engine's index, and what Ray adds to a class of actors."""
    found = {name: inspect.signature(value) for name, value in inspect.getmembers(kind, inspect.isfunction)}
    parameters = {name: [*signature.parameters][1:] for name, signature in found.items() if not name.startswith("_")}
    others = ("index", "_ray_trace_ctx")
    return {name: [each for each in given if each not in others] for name, given in parameters.items()}


@pytest.mark.parametrize(
    ("stand_in", "real", "extra"),
    [
        (simulated.SimulatedEngines, RolloutEngine, {"on", "slot_seconds"}),
        (simulated.SimulatedRank, TrainingRank, set()),
    ],
)
def test_stand_ins_take_what_the_real_ones_take(stand_in: type, real: type, extra: set[str]) -> None:
    fake, truth = methods(stand_in), methods(real)
    assert fake.keys() - truth.keys() == extra
    for name in fake.keys() & truth.keys():
        assert fake[name] == truth[name], name


@pytest.fixture(scope="module")
def phrases(bundled_model: Any) -> simulated.Phrases:
    from transformers import AutoTokenizer

    return simulated.Phrases.of(AutoTokenizer.from_pretrained(bundled_model))


@pytest.mark.parametrize("rounds", [1, 3])
def test_answers_spell_their_text_and_every_sentence_has_a_label(
    phrases: simulated.Phrases, bundled_model: Any, rounds: int
) -> None:
    from transformers import AutoTokenizer

    phrases = replace(phrases, rounds=rounds)
    tokenizer, questions = AutoTokenizer.from_pretrained(bundled_model), simulated.questions(12, "train")
    items = [(each, answer) for each in questions for answer in phrases.answers(each.id, 7, 3, 2)]
    for (_, answer), labels in zip(items, simulated.SimulatedAnnotator(phrases).annotate(items), strict=True):
        assert tokenizer.decode(answer.token_ids[:-1]) == answer.text and answer.token_ids[-1] == phrases.eos
        assert len(labels.sentences) == 5 * rounds and answer.policy_version == 3
        assert all(answer.text[each.start : each.end].endswith(".") for each in labels.sentences)


def test_bytes_of_a_message_hold_its_arrays(phrases: simulated.Phrases) -> None:
    assert messages.pickled(np.zeros(1000, np.float32)) == pytest.approx(4000, abs=300)
    short, long = (messages.sizes(phrases, [1] * 64, answers=4, tokens=tokens) for tokens in (60, 600))
    more = long["tokens of an answer"] - short["tokens of an answer"]
    # Two answers of fp32 log-probs; a prompt's bytes don't depend on what is answered.
    assert long["from it: log-probs"] - short["from it: log-probs"] == pytest.approx(8 * more, rel=0.05)
    assert long["to an engine: prompt"] == pytest.approx(short["to an engine: prompt"], abs=1)
