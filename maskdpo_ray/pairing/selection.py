"""The pairs of a question: which answers a strategy sees, which of its picks are fit, and how many are kept."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from maskdpo_ray.config.schema import PairsConfig
from maskdpo_ray.pairing.scoring import has, kinds, may_be, num_facts, value
from maskdpo_ray.pairing.strategies.protocol import Pick, build
from maskdpo_ray.records import CHOSEN, CORRECT, INCORRECT, REJECTED, DropReason, PreferencePair, Question, ScoredAnswer

SIDES = (CHOSEN, REJECTED)


@dataclass(frozen=True)
class Selection:
    """Pairs of one question."""

    pairs: tuple[PreferencePair, ...]
    """Pairs in order of their samples, the chosen one first."""
    drops: tuple[DropReason, ...]
    """Why it gives none, or why picks were dropped, once for each."""


def select(
    question: Question, prompt_token_ids: Sequence[int], answers: Sequence[ScoredAnswer], rules: PairsConfig, seed: int
) -> Selection:
    """The pairs that the section `pairs` makes of a question's answers; their order does not matter.

    Raises ValueError when an answer belongs to another question or the answers come from several policies, ConfigError
    for a strategy that can't be found.
    """
    for answer in answers:
        if answer.rollout.question_id != question.id:
            raise ValueError(f"answer to {answer.rollout.question_id!r}, expected {question.id!r}")
    versions = {answer.rollout.policy_version for answer in answers}
    if len(versions) > 1:
        raise ValueError(f"answers to {question.id!r}: expected one policy version, got {sorted(versions)}")

    strategy = build(rules)
    candidates, lacking = _candidates(answers, rules, 2 if strategy.unit == "pair" else 1)
    if lacking is not None:
        return Selection((), (lacking,))
    picks = strategy(candidates, rules)
    if isinstance(picks, DropReason):
        return Selection((), (picks,))
    fit, drops = list[Pick](), list[DropReason]()
    for pick in picks:
        if not all(answer is None or may_be(answer, role) for answer, role in zip(pick, SIDES, strict=True)):
            continue
        reason = unfit(*pick, rules)
        if reason is None:
            fit.append(pick)
        else:
            drops.append(reason)
    if not (fit or drops):
        drops.append(DropReason.NOTHING_PICKED)
    version, prompt = candidates[0].rollout.policy_version, tuple(prompt_token_ids)
    pairs = (
        PreferencePair(question.id, question.topic, prompt, chosen, rejected, version)
        for chosen, rejected in kept(fit, rules, f"{seed}/{question.id}")
    )
    return Selection(tuple(pairs), tuple(sorted(drops)))


def _candidates(
    answers: Sequence[ScoredAnswer], rules: PairsConfig, fewest: int
) -> tuple[list[ScoredAnswer], DropReason | None]:
    """The answers that may be in a pair, in order of their sample, and which step left fewer than `fewest`."""
    if len(answers) < fewest:
        return [], DropReason.TOO_FEW_ANSWERS
    complete = [answer for answer in answers if rules.cut_off == "keep" or answer.rollout.finish_reason != "length"]
    if len(complete) < fewest:
        return [], DropReason.TRUNCATED
    known = [answer for answer in complete if answer.score is not None]
    if len(known) < fewest:
        return [], DropReason.UNPARSED
    return sorted(known, key=lambda answer: answer.rollout.sample), None


def unfit(chosen: ScoredAnswer | None, rejected: ScoredAnswer | None, rules: PairsConfig) -> DropReason | None:
    """Why a pick is no pair to learn from, whichever strategy picked it; None when it is one.

    `pairs.require_labels` and `pairs.min_facts` are Mask-DPO's filters (section 2.2), the bounds of the difference of
    scores q are APEFT's levels of quality (section 6.2): `pairs.min_gap` < q <= `pairs.max_gap`.
    """
    if chosen is not None and rejected is not None:
        if chosen.rollout.text == rejected.rollout.text:
            return DropReason.IDENTICAL_TEXT
        if chosen.score == rejected.score:
            return DropReason.SAME_SCORE
    if chosen is not None:
        if rules.require_labels and not has(chosen, CORRECT):
            return DropReason.CHOSEN_WITHOUT_CORRECT
        if num_facts(chosen) < rules.min_facts:
            return DropReason.TOO_FEW_FACTS
    if rejected is not None and rules.require_labels and not has(rejected, INCORRECT):
        return DropReason.REJECTED_WITHOUT_INCORRECT
    if chosen is not None and rejected is not None:
        if rules.require_kinds and not kinds(rejected) <= kinds(chosen):
            return DropReason.LEAVES_OUT_KIND
        # 0.8 - 0.7 is a little more than 0.1, and belongs to the level that ends there.
        gap = round(value(chosen) - value(rejected), 9)
        if not rules.min_gap < gap <= (math.inf if rules.max_gap is None else rules.max_gap):
            return DropReason.GAP
    return None


def kept(picks: Sequence[Pick], rules: PairsConfig, key: str) -> list[Pick]:
    """At most `pairs.max_pairs` of the picks, in order of their samples.

    Those are kept whose hash of key and samples is lowest: a uniform draw, the same whatever the order of the picks.
    With `pairs.keep` widest the gap between the scores comes first.
    """

    def samples(pick: Pick) -> tuple[int, int]:
        chosen, rejected = (-1 if answer is None else answer.rollout.sample for answer in pick)
        return chosen, rejected

    def lot(pick: Pick) -> bytes:
        return hashlib.sha256(f"{key}/{samples(pick)}".encode()).digest()

    def rank(pick: Pick) -> tuple[float, bytes]:
        chosen, rejected = pick
        gap = 0.0
        if rules.keep == "widest" and chosen is not None and rejected is not None:
            gap = round(value(chosen) - value(rejected), 9)
        return -gap, lot(pick)

    return sorted(sorted(picks, key=rank)[: rules.max_pairs], key=samples)
