"""Pairs as the trainer saw them: the shaded text is that of the sentences that the mask keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import fakes
import pytest
from fake_run import config_for
from fakes import EOS, RIGHT, WRONG, CharTokenizer

from maskdpo_ray.config.schema import Config
from maskdpo_ray.records import CommittedQuestion, PreferencePair, Rollout, ScoredAnswer, encode_record
from maskdpo_ray.report.trained_pairs import NUM_BINS, Collected


class Tokenizer(CharTokenizer):
    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(self.id_to_token, ids))


def pair_of(name: str, chosen: str, rejected: str, scores: tuple[float, float]) -> CommittedQuestion:
    rollouts = tuple(
        Rollout(name, sample, (*map(ord, text), EOS), text, "stop", 0) for sample, text in enumerate((chosen, rejected))
    )
    labels = tuple(map(fakes.label, rollouts))
    sides = [ScoredAnswer(*each) for each in zip(rollouts, labels, scores, strict=True)]
    pair = PreferencePair(name, f"topic of {name}", tuple(map(ord, "Of it?")), *sides, 0)
    return CommittedQuestion.of(name, rollouts, labels, [pair])


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return config_for(tmp_path)


def log(folder: Path, questions: Sequence[CommittedQuestion]) -> Path:
    file = folder / "questions.jsonl"
    file.write_bytes(b"".join(map(encode_record, questions)))
    return file


def test_shaded_text_is_that_of_the_sentences_with_weight(tmp_path: Path, config: Config) -> None:
    """Mask-DPO: the right sentences of the chosen answer, the wrong ones of the other."""
    mixed = f"{RIGHT} {WRONG} {RIGHT}"
    file = log(tmp_path, [pair_of("q", mixed, f"{WRONG} {RIGHT}", (2 / 3, 1 / 2))])
    (pair,) = Collected.read(0, file, 8).pairs(config, Tokenizer())
    chosen, rejected = pair.answers
    assert pair.gap == pytest.approx(1 / 6) and pair.prompt == "Of it?" and not pair.note
    for answer, text, kept in ((chosen, mixed, RIGHT), (rejected, f"{WRONG} {RIGHT}", WRONG)):
        assert "".join(token.text for token in answer.tokens) == f"{text}</s>"
        shaded = "".join(token.text for token in answer.tokens if token.weight and token.text != "</s>")
        assert shaded.replace(" ", "") == kept.replace(" ", "") * text.count(kept)
        assert answer.coverage == pytest.approx(sum(token.weight > 0 for token in answer.tokens) / len(answer.tokens))


def test_balance_shows_in_the_weights(tmp_path: Path, config: Config) -> None:
    file = log(tmp_path, [pair_of("q", RIGHT, f"{WRONG} {RIGHT}", (1.0, 0.5))])
    (pair,) = Collected.read(0, file, 8).pairs(config, Tokenizer(), {"claim": 0.25})
    assert [{token.weight for token in answer.tokens} for answer in pair.answers] == [{1.0}, {0.0, 0.25}]


def test_draw_and_gaps(tmp_path: Path, config: Config) -> None:
    questions = [pair_of(f"q{number}", RIGHT, WRONG, (1.0, (2 * number + 1) / 32)) for number in range(16)]
    dropped = [fakes.committed(f"d{number}", (), (), "same_score") for number in range(9)]
    failed = CommittedQuestion("f", drops=("failed",), error="engine 0 died")
    first = Collected.read(3, log(tmp_path, [*questions, *dropped, failed]), 8)
    bins = [NUM_BINS * (31 - 2 * number) // 32 for number in range(16)]
    assert first.num_pairs == 16 and first.gaps == [bins.count(place) for place in range(NUM_BINS)]
    drawn = [pair.topic for pair in first.pairs(config, Tokenizer())]
    assert len(set(drawn)) == 8
    again = Collected.read(3, log(tmp_path, [failed, *dropped[::-1], *questions[::-1]]), 8)
    assert [pair.topic for pair in again.pairs(config, Tokenizer())] == drawn
    reasons = {each.reason: each for each in again.examples()}
    assert reasons.keys() == {"same score", "failed"} and reasons["failed"].error == "engine 0 died"


def test_without_a_tokenizer_the_sentences_are_shown(tmp_path: Path, config: Config) -> None:
    file = log(tmp_path, [pair_of("q", RIGHT, WRONG, (1.0, 0.0))])
    (pair,) = Collected.read(0, file, 8).pairs(config, "no tokenizer is at hand")
    assert pair.note == "no tokenizer is at hand"
    assert [answer.passages[0].label for answer in pair.answers] == ["no_hallucination", "contradictory"]


def test_answer_that_can_not_be_located_is_shown_by_its_sentences(tmp_path: Path, config: Config) -> None:
    class Other(Tokenizer):
        def id_to_token(self, token: int) -> str:
            return "x"

    file = log(tmp_path, [pair_of("q", RIGHT, WRONG, (1.0, 0.0))])
    (pair,) = Collected.read(0, file, 8).pairs(config, Other())
    assert pair.note and pair.answers[0].passages
