"""Pairs as the trainer saw them: each token with its weight, and an example of each reason to drop one."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from maskdpo_ray.config.schema import Config
from maskdpo_ray.errors import MaskError, UserError, one_line
from maskdpo_ray.models.token_spans import token_spans
from maskdpo_ray.pairing.examples import example_of
from maskdpo_ray.records import PreferencePair, ScoredAnswer
from maskdpo_ray.report.changes import parser_of, read_at
from maskdpo_ray.report.passages import Passage, passages, visible
from maskdpo_ray.store.files import read_lines

MOST_TOKENS = 500
"""Tokens of an answer that are shown."""
NUM_BINS = 20


class _Scores(msgspec.Struct):
    chosen_score: float | None
    rejected_score: float | None


class _Line(msgspec.Struct):
    """A line of a question log as far as the draw needs it."""

    question_id: str
    pairs: list[_Scores] = []
    drops: list[str] = []
    error: str | None = None


@dataclass(frozen=True)
class Token:
    """Neighbouring tokens of one weight are told apart by their edges."""

    text: str
    weight: float


@dataclass(frozen=True)
class TrainedAnswer:
    """An answer of a pair, or one of its sentences where the mask's unit is the sentence."""

    role: str
    score: float | None
    passages: list[Passage]
    """Empty where the tokens are known."""
    tokens: list[Token]
    left_out: int
    """Tokens after `MOST_TOKENS`."""
    coverage: float | None
    """Share of the tokens that have weight."""


@dataclass(frozen=True)
class TrainedPair:
    """A pair with its weighted tokens."""

    topic: str
    prompt: str
    gap: float | None
    """Score of the chosen answer minus that of the rejected one."""
    answers: list[TrainedAnswer]
    note: str = ""
    """Why its tokens can't be shown."""


@dataclass(frozen=True)
class Dropped:
    """A question that gave no pair, or lost one."""

    reason: str
    question_id: str
    error: str
    answers: list[list[Passage]]
    """Two of its answers."""


@dataclass(frozen=True)
class Collected:
    """Contents of one iteration's log."""

    iteration: int
    log: Path
    gaps: list[int]
    """Pairs by their score gap, in `NUM_BINS` bins from 0 to 1."""
    num_pairs: int
    places: list[int]
    """Bytes at which the lines of the drawn pairs begin."""
    dropped: dict[str, int]
    """Reason -> byte at which the line of its example begins."""

    @classmethod
    def read(cls, iteration: int, log: Path, most: int) -> Collected:
        """Read a log once. Of its questions with pairs, `most` are drawn by a hash of their names, and of each drop
        reason one. Raises RunFolderError for a damaged line.
        """
        gaps, num_pairs, at = [0] * NUM_BINS, 0, 0
        kept: list[tuple[int, int]] = []  # a heap of (-draw, place): its first is the one to give way
        dropped: dict[str, tuple[int, int]] = {}
        for line, data in read_lines(log, parser_of(_Line)):
            draw = int.from_bytes(hashlib.sha256(line.question_id.encode("utf-8", "surrogatepass")).digest()[:8], "big")
            for pair in line.pairs:
                num_pairs += 1
                if pair.chosen_score is not None and pair.rejected_score is not None:
                    gap = min(max(pair.chosen_score - pair.rejected_score, 0.0), 1.0)
                    gaps[min(int(gap * NUM_BINS), NUM_BINS - 1)] += 1
            if line.pairs:
                (heapq.heappush if len(kept) < most else heapq.heappushpop)(kept, (-draw, at))
            for reason in line.drops:
                dropped[reason] = min(dropped.get(reason, (draw, at)), (draw, at))
            at += len(data)
        places = [place for _, place in sorted(kept, reverse=True)]
        return cls(iteration, log, gaps, num_pairs, places, {name: place for name, (_, place) in dropped.items()})

    def pairs(
        self, config: Config, tokenizer: Any | str, balance: Mapping[str, float] | None = None
    ) -> Iterator[TrainedPair]:
        """The drawn pairs, the first of each question.

        Args:
            config: as this iteration saw it.
            tokenizer: the policy's, or why there is none.
            balance: `PairsSummary.balance` of the iteration.
        """
        with self.log.open("rb") as file:
            for place in self.places:
                yield _trained(read_at(file, place).preference_pairs()[0], config, tokenizer, balance)

    def examples(self) -> Iterator[Dropped]:
        """An example of each drop reason."""
        with self.log.open("rb") as file:
            for reason, place in sorted(self.dropped.items()):
                question = read_at(file, place)
                both = list(zip(question.rollouts, question.annotations, strict=True))[:2]
                error = visible(question.error or "", 400)
                shown = [passages(rollout, annotation) for rollout, annotation in both]
                yield Dropped(reason.replace("_", " "), visible(question.question_id, 200), error, shown)


def _trained(
    pair: PreferencePair, config: Config, tokenizer: Any | str, balance: Mapping[str, float] | None
) -> TrainedPair:
    scores = [answer.score for answer in pair.sides().values() if answer.score is not None]
    gap = scores[0] - scores[1] if len(scores) == 2 else None
    topic = visible(pair.topic, 100)
    plain = [_plain(role, answer) for role, answer in pair.sides().items()]
    if isinstance(tokenizer, str):
        return TrainedPair(topic, "", gap, plain, tokenizer)
    prompt = visible(tokenizer.decode(pair.prompt_token_ids)[-1000:])
    try:
        answers = list(_weighted(pair, config, tokenizer, balance))
    except (MaskError, UserError) as error:  # an objective or a mask of a config that is not at hand here
        return TrainedPair(topic, prompt, gap, plain, one_line(error))
    return TrainedPair(topic, prompt, gap, answers)


def _plain(role: str, answer: ScoredAnswer) -> TrainedAnswer:
    return TrainedAnswer(role, answer.score, passages(answer.rollout, answer.annotation), [], 0, None)


def _weighted(
    pair: PreferencePair, config: Config, tokenizer: Any, balance: Mapping[str, float] | None
) -> Iterator[TrainedAnswer]:
    by_ids: Mapping[tuple[int, ...], ScoredAnswer] = {each.rollout.token_ids: each for each in pair.sides().values()}
    for response in example_of(pair, 0, config, tokenizer, balance).responses:
        answer = by_ids[response.token_ids]
        rollout = answer.rollout
        spans = token_spans(tokenizer, rollout.token_ids, rollout.text, stopped=rollout.finish_reason == "stop")
        tokens = list(_tokens(rollout.text, spans, response.weights, tokenizer, rollout.token_ids))
        coverage = sum(weight > 0 for weight in response.weights) / max(len(response.weights), 1)
        shown = tokens[:MOST_TOKENS]
        yield TrainedAnswer(response.role, answer.score, [], shown, len(tokens) - len(shown), coverage)


def _tokens(
    text: str, spans: list[tuple[int, int]], weights: tuple[float, ...], tokenizer: Any, token_ids: tuple[int, ...]
) -> Iterator[Token]:
    """Each token's characters; several that share a character are shown as one, with the smallest of their weights."""
    parts = list(zip(spans, weights, token_ids, strict=True))
    for (start, end), group in groupby(parts, key=lambda part: part[0]):
        members = list(group)
        if start == end:  # it spells nothing: an end of turn, say
            for _, weight, token_id in members:
                yield Token(visible(tokenizer.decode([token_id])), weight)
        else:
            yield Token(visible(text[start:end]), min(weight for _, weight, _ in members))
