"""Asks a judge about sentences, all first turns together, then the second ones, then the third."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import NamedTuple

from maskdpo_ray.annotators.judge import Judge, Reply
from maskdpo_ray.annotators.once import Once
from maskdpo_ray.annotators.turns import HAS_FACT, MEANINGS, NO_REFERENCE, PASSAGES, REFERENCE, Turn
from maskdpo_ray.errors import shown
from maskdpo_ray.records import UNPARSED, UNVERIFIABLE, Question


@dataclass(frozen=True)
class Limits:
    """See the options of `AnahAnnotator`."""

    max_reply_tokens: int
    max_reference_tokens: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence and all that its label depends on."""

    language: str
    question: str
    document: str
    sentence: str

    @classmethod
    def of(cls, question: Question, sentence: str) -> Claim:
        """Of a conversation the last message counts as the question: those before it may be examples."""
        return cls(question.language, question.prompt[-1]["content"], question.document or "", sentence)

    def digest(self) -> bytes:
        """Stands for the claim where documents are too large to keep."""
        return hashlib.sha256(json.dumps(astuple(self)).encode()).digest()


class Verdict(NamedTuple):
    """As in `records.Sentence`."""

    label: str
    confidence: float | None
    evidence: str | None


@dataclass
class _Interview:
    """One claim's conversation."""

    claim: Claim
    messages: list[dict[str, str]] = field(default_factory=list)
    passages: str | None = None
    verdict: Verdict | None = None

    def ask(self, turn: Turn) -> None:
        claim = self.claim
        fields = {"document": claim.document, "question": claim.question, "sentence": claim.sentence}
        self._say("user", turn.prompt({**fields, REFERENCE: self.passages or ""}))

    def take(self, turn: Turn, reply: Reply) -> None:
        self._say("assistant", reply.text)
        meaning = None if reply.fault else turn.meaning(reply.text)
        if meaning is None:
            fault = f" ({reply.fault})" if reply.fault else ""
            self.verdict = Verdict(UNPARSED, None, f"{turn.name}: {shown(reply.text)}{fault}")
        elif meaning == PASSAGES:
            self.passages = reply.text
        elif meaning != HAS_FACT:
            label = UNVERIFIABLE if meaning == NO_REFERENCE else meaning
            confidence = None if reply.logprob is None else min(1.0, math.exp(reply.logprob))
            self.verdict = Verdict(label, confidence, self.passages)

    def _say(self, role: str, text: str) -> None:
        self.messages.append({"role": role, "content": text})


class Interviews:
    """All interviews of an actor; each claim has one, whichever thread asks for it first."""

    def __init__(self, judge: Judge, turns: Mapping[str, Sequence[Turn]], limits: Limits) -> None:
        """`turns` holds the three turns of each language."""
        self._judge = judge
        self._turns = turns
        self._limits = limits
        self._once = Once(self._judged)
        self._counting = threading.Lock()
        self.counts: Counter[str] = Counter()
        """See `AnahAnnotator.counts`."""

    def verdicts(self, claims: Sequence[Claim]) -> dict[Claim, Verdict]:
        """The verdict on each. Raises AnnotatorError when the judge fails."""
        self._count(sentences=len(claims))
        digests = {claim: claim.digest() for claim in claims}
        found = self._once.get({digest: claim for claim, digest in digests.items()})
        return {claim: found[digest] for claim, digest in digests.items()}

    def _judged(self, claims: Sequence[Claim]) -> list[Verdict]:
        interviews = [_Interview(claim) for claim in claims]
        for number in range(len(MEANINGS)):
            self._wave(number, [interview for interview in interviews if interview.verdict is None])
        verdicts = [interview.verdict for interview in interviews if interview.verdict is not None]
        self._count(judged=len(verdicts), unparsed=sum(verdict.label == UNPARSED for verdict in verdicts))
        return verdicts

    def _wave(self, number: int, interviews: Sequence[_Interview]) -> None:
        """Turn `number` of all these interviews at once."""
        if not interviews:
            return
        turns = [self._turns[interview.claim.language][number] for interview in interviews]
        for interview, turn in zip(interviews, turns, strict=True):
            interview.ask(turn)
        is_short = turns[0].name != REFERENCE
        limit = self._limits.max_reply_tokens if is_short else self._limits.max_reference_tokens
        self._count(calls=len(interviews))
        replies = self._judge.ask([interview.messages for interview in interviews], limit)
        for interview, turn, reply in zip(interviews, turns, replies, strict=True):
            interview.take(turn, reply)

    def _count(self, **more: int) -> None:
        with self._counting:
            self.counts.update(more)
