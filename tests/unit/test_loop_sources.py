"""Sources of training answers beside the policy's own: atomic questions, documents, files, another model."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import pytest
from fake_run import DROPPED, ITERATIONS, ORDINARY, committed, log_name, metrics_of, pairs_of, results, run
from fakes import EOS, CharChat, Events, FakeEngines, Stopped, write_policy
from msgspec import structs

from maskdpo_ray.config.schema import AtomsConfig, Config, PairsConfig, RolloutConfig
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.pairing import atoms
from maskdpo_ray.records import (
    CHOSEN,
    CONTRADICTORY,
    NO_HALLUCINATION,
    REJECTED,
    Annotation,
    Question,
    Rollout,
    Sentence,
)
from maskdpo_ray.stages.given_sources import GivenSources
from maskdpo_ray.stages.protocols import ActorGroups, OtherModel
from maskdpo_ray.store.question_log import log_path, read_questions

pytestmark = pytest.mark.usefixtures("no_fsync")

ATOMS = {"atoms": AtomsConfig(n_samples_per_prompt=4)}
plain_answers = fakes.answers


def rollout_of(name: str, sample: int, text: str, version: int = 0) -> Rollout:
    return Rollout(name, sample, (*map(ord, text), EOS), text, "stop", version)


def is_right(text: str) -> bool:
    return "good" in text


def statement_answers(name: str, version: int, seed: object, count: int) -> tuple[Rollout, ...]:
    """General answers that state facts about their topic; replies to atomic questions that are true now and then."""
    rng = random.Random(f"{seed}/{version}/{name}")
    if str(seed).endswith("/atoms"):
        share = rng.choice((0.0, 0.5, 1.0))
        texts = ["True." if place < count * share else "False." for place in range(count)]
        return tuple(rollout_of(name, sample, text, version) for sample, text in enumerate(texts))
    if name in DROPPED:
        return plain_answers(name, version, seed, count)

    def text(sample: int) -> str:
        share = (1.0, 0.0)[sample] if sample < 2 else 0.5
        facts = [("good" if rng.random() < share else "bad") for _ in range(3)]
        return " ".join(f"topic of {name} is {word} {rng.randrange(99)}." for word in facts)

    return tuple(rollout_of(name, sample, text(sample), version) for sample in range(count))


def statement_label(rollout: Rollout) -> Annotation:
    sentences, start = [], 0
    for sentence in rollout.text.replace(". ", ".\n").split("\n"):
        end = start + len(sentence)
        label = NO_HALLUCINATION if is_right(sentence) or sentence == fakes.RIGHT else CONTRADICTORY
        sentences.append(Sentence(start, end, label))
        start = end + 1
    return Annotation(rollout.question_id, rollout.sample, tuple(sentences))


@pytest.fixture
def stating(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that hold statements."""
    monkeypatch.setattr(fakes, "answers", statement_answers)
    monkeypatch.setattr(fakes, "label", statement_label)


def summary_of(path: Path, iteration: int) -> dict[str, Any]:
    return json.loads((path / f"run/iter_{iteration:03d}/pairs-summary.json").read_text())


def asked_statements(path: Path, iteration: int) -> dict[str, bool]:
    """Atomic question -> whether its statement is true, from the pairs' answers in the general log."""
    found = {}
    for pair in pairs_of(path, iteration):
        for side in (CHOSEN, REJECTED):
            for text in pair[side]["rollout"]["text"].replace(". ", ".\n").split("\n"):
                made = atoms.Statement(pair["question_id"], pair["topic"], text, is_right(text))
                found[atoms.detection_question(made).id] = is_right(text)
    return found


@pytest.mark.usefixtures("stating")
def test_atomic_questions(tmp_path: Path) -> None:
    """Every statement of the pairs is asked once, after the general questions; counts and pairs follow the replies."""
    events = run(tmp_path, sections=ATOMS)
    for iteration in range(ITERATIONS):
        expected = asked_statements(tmp_path, iteration)
        asked = [event[3] for event in events.of("answer") if event[1:3] == ("atoms", iteration)]
        assert sorted(asked) == sorted(expected) and len(asked) > 10
        kinds: Counter[str] = Counter({"unparsed": 0})
        for name, truth in expected.items():
            said = {reply.text == "True." for reply in statement_answers(name, iteration, "1/atoms", 4)}
            kinds["potentially_known" if len(said) == 2 else "known" if said == {truth} else "unknown"] += 1
        assert summary_of(tmp_path, iteration)["atoms"] == kinds and all(
            kinds[kind] for kind in kinds if kind != "unparsed"
        )
        of_sources = summary_of(tmp_path, iteration)["sources"]
        assert of_sources == {"questions": len(ORDINARY), "atoms": kinds["potentially_known"]}
        trained = {name for event in events.of("step") if event[1] == iteration for name in event[2]}
        of_atoms = {name.removeprefix("atoms:") for name in trained if name.startswith("atoms:")}
        assert len(of_atoms) == kinds["potentially_known"] and len(trained) == sum(of_sources.values())
        for question in read_questions(tmp_path / "run" / log_path(iteration, source="atoms")):
            assert len(question.pairs) == (f"{question.question_id}#0" in of_atoms)
            for pair in question.preference_pairs():
                chosen, rejected = (side.rollout.text for side in (pair.chosen, pair.rejected))
                truth = expected[question.question_id]
                assert (chosen, rejected) == (("True.", "False.") if truth else ("False.", "True."))
    logged = [line["pairs/atoms/known"] for line in metrics_of(tmp_path) if "pairs/atoms/known" in line]
    assert logged == [summary_of(tmp_path, i)["atoms"]["known"] for i in range(ITERATIONS)]


@pytest.mark.usefixtures("stating")
@pytest.mark.parametrize("ahead", [0, 1])
def test_a_run_stopped_among_atoms_ends_as_one_that_nothing_stopped(tmp_path: Path, ahead: int) -> None:
    whole = tmp_path / "whole"
    events = run(whole, sections=ATOMS, ahead=ahead)
    of_atoms = [at for at, event in enumerate(events) if event[:2] == ("answer", "atoms")]
    for number, stop_at in enumerate([of_atoms[0], of_atoms[len(of_atoms) // 3], of_atoms[-1], of_atoms[-1] + 1]):
        path = tmp_path / str(number)
        with pytest.raises(Stopped):
            run(path, Events(stop_at), shuffle=number, sections=ATOMS, ahead=ahead)
        kept = committed(path)
        resumed = run(path, shuffle=number + 7, sections=ATOMS, ahead=ahead)
        assert not {(log_name(purpose, version), name) for _, purpose, version, name in resumed.of("answer")} & kept
        assert results(path) == results(whole)


@pytest.mark.usefixtures("stating")
def test_shares_of_sources(tmp_path: Path) -> None:
    """Equal shares: as many pairs of each source as the smaller one has; the general ones are drawn by the seed."""
    shares = {"pairs": PairsConfig(shares={"questions": 1, "atoms": 0.4}), **ATOMS}
    events = run(tmp_path, sections=shares)
    for iteration in range(ITERATIONS):
        summary = summary_of(tmp_path, iteration)
        trained = {name for event in events.of("step") if event[1] == iteration for name in event[2]}
        kinds = Counter("atoms" if name.startswith("atoms:") else "questions" for name in trained)
        assert summary["sources"] == kinds == {"questions": 5, "atoms": 2} and summary["pairs"] == 7


def documented(name: str) -> Question:
    return structs.replace(plain_question(name), document=f"All about {name}.")


plain_question = fakes.question


def test_the_document_stands_in_the_prompt_of_chosen_answers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes, "question", documented)
    events = run(tmp_path, sections={"rollout": RolloutConfig(n_samples_per_prompt=4, chosen_answers="document")})
    asked = [event[3] for event in events.of("answer") if event[1:3] == ("train", 0)]
    assert sorted(asked) == sorted(n + end for n in ORDINARY + DROPPED for end in ("", " (with its document)"))
    pairs = pairs_of(tmp_path, 0)
    assert {pair["question_id"] for pair in pairs} >= set(ORDINARY)
    for pair in pairs:
        name = pair["question_id"]
        assert list(pair["prompt_token_ids"]) == fakes.render(plain_question(name))
        plain, informed = (plain_answers(each, 0, "1/train", 4) for each in (name, f"{name} (with its document)"))
        chosen, rejected = (pair[side]["rollout"] for side in (CHOSEN, REJECTED))
        assert (chosen["role"], rejected["role"]) == (CHOSEN, REJECTED)
        assert (
            chosen["text"] == informed[chosen["sample"] - 4].text and rejected["text"] == plain[rejected["sample"]].text
        )


def given_answers(*shares: bool) -> dict[str, tuple[Rollout, ...]]:
    """For each ordinary question answers that are right or wrong."""
    texts = [f"{fakes.RIGHT if right else fakes.WRONG}" for right in shares]
    return {name: tuple(rollout_of(name, i, text) for i, text in enumerate(texts)) for name in ORDINARY}


@pytest.mark.parametrize("source", ["dataset", "answers.jsonl"])
def test_given_chosen_answers(tmp_path: Path, source: str) -> None:
    rollout = RolloutConfig(n_samples_per_prompt=4, chosen_answers=source)
    given = GivenSources(chosen=given_answers(True))
    run(tmp_path, names=ORDINARY, sections={"rollout": rollout}, given=given)
    for iteration in range(ITERATIONS):
        pairs = pairs_of(tmp_path, iteration)
        assert sorted(pair["question_id"] for pair in pairs) == list(ORDINARY)
        for pair in pairs:
            assert (pair[CHOSEN]["rollout"]["sample"], pair[CHOSEN]["rollout"]["text"]) == (4, fakes.RIGHT)
            assert pair[CHOSEN]["rollout"]["policy_version"] == pair["policy_version"] == iteration
            assert pair[REJECTED]["rollout"]["role"] == REJECTED


@pytest.mark.parametrize("source", ["dataset", "answers.jsonl"])
def test_given_answers_are_not_sampled(tmp_path: Path, source: str) -> None:
    rollout = RolloutConfig(n_samples_per_prompt=4, answers=source)
    given = GivenSources(answers=given_answers(False, True, False))
    events = run(tmp_path, names=ORDINARY, sections={"rollout": rollout}, given=given)
    assert {event[1] for event in events.of("answer")} == {"evaluate-heldout", "evaluate-transfer"}
    for pair in pairs_of(tmp_path, 1):
        assert (pair[CHOSEN]["rollout"]["sample"], pair[REJECTED]["rollout"]["sample"]) == (1, 0)
    changed = GivenSources(answers=given_answers(True, True, False))
    with pytest.raises(RunFolderError, match="answers: expected those that the run in"):
        run(tmp_path, names=ORDINARY, sections={"rollout": rollout}, given=changed)


def test_pairs_of_a_file_are_trained_on_in_each_iteration(tmp_path: Path) -> None:
    first = tmp_path / "first"
    run(first, iterations=1)
    pairs = [pair for question in read_questions(first / "run" / log_path(0)) for pair in question.preference_pairs()]
    events = run(tmp_path / "second", names=("a", "b"), given=GivenSources(pairs=pairs))
    for iteration in range(ITERATIONS):
        trained = {name for event in events.of("step") if event[1] == iteration for name in event[2]}
        of_file = {f"file:{pair.question_id}#{number}" for number, pair in enumerate(pairs)}
        assert trained == {"a#0", "b#0"} | of_file
        assert summary_of(tmp_path / "second", iteration)["sources"] == {"questions": 2, "file": 5}


def test_another_model_answers_training_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are spelled anew for the policy; other ones in each iteration; the policy answers evaluations."""
    monkeypatch.setattr(CharChat, "answer_ids", lambda _, text, ended: [*map(ord, text), *[EOS] * ended])
    others: list[Events] = []

    def groups_of(config: Config, events: Events, shuffle: int | None) -> ActorGroups:
        others.append(Events())
        other = FakeEngines(99, others[-1], shuffle)
        policy = write_policy(tmp_path / "other", 0, b"other")
        other.load(policy)
        return replace(fakes.groups(config, events, shuffle), other=OtherModel(other, policy))

    events = run(tmp_path, names=ORDINARY, groups_of=groups_of)
    assert {event[1] for event in events.of("answer")} == {"evaluate-heldout", "evaluate-transfer"}
    purposes = {event[1] for event in others[0].of("answer")}
    assert len(purposes) == ITERATIONS and {event[2] for event in others[0].of("answer")} == {0}
    for iteration in range(ITERATIONS):
        for pair in pairs_of(tmp_path, iteration):
            answered = plain_answers(pair["question_id"], 0, f"99/train-{iteration}", 4)
            chosen = pair[CHOSEN]["rollout"]
            assert chosen["text"] == answered[chosen["sample"]].text
            assert list(chosen["token_ids"]) == [*map(ord, chosen["text"]), EOS]
