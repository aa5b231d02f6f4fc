"""Interviews of a judge about sentences: all first turns together, then the second ones, then the third."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, astuple, dataclass, field
from typing import Generic, NamedTuple, TypeVar

from maskdpo_ray.annotation.llm.judge import Judge, Reply, ask
from maskdpo_ray.annotation.llm.turns import ANAH, HAS_FACT, NO_REFERENCE, PASSAGES, REFERENCE, VERDICT, Turn
from maskdpo_ray.records import UNPARSED, UNVERIFIABLE, Question

Item = TypeVar("Item")
Result = TypeVar("Result")


class Once(Generic[Item, Result]):
    """Results by key, worked out once and kept for good; whoever asks for a key first works it out, the others wait."""

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Result]]) -> None:
        """`work` gives one result for each item, in order. It may be called from several threads at once."""
        self._work = work
        self._lock = threading.Lock()
        self._futures: dict[Hashable, Future[Result]] = {}

    def get(self, items: Mapping[Hashable, Item]) -> dict[Hashable, Result]:
        """The result for each key. Raises what `work` raised, here or in the thread that was first."""
        with self._lock:
            mine = {key: Future[Result]() for key in items if key not in self._futures}
            self._futures.update(mine)
            futures = {key: self._futures[key] for key in items}
        # Own work comes before waiting: two threads that wait for each other's keys both finish.
        if mine:
            try:
                results = self._work([items[key] for key in mine])
            except BaseException as error:
                with self._lock:
                    for key in mine:
                        del self._futures[key]
                for future in mine.values():
                    future.set_exception(error)
                raise
            for future, result in zip(mine.values(), results, strict=True):
                future.set_result(result)
        return {key: future.result() for key, future in futures.items()}


@dataclass(frozen=True)
class Limits:
    """See the options of `AnahAnnotator`."""

    max_reply_tokens: int
    max_reference_tokens: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence, or a part of one, and all that its label depends on."""

    language: str
    question: str
    document: str
    sentence: str
    context: str
    """The whole sentence that it is, or is a part of."""

    @classmethod
    def of(cls, question: Question, sentence: str) -> Claim:
        """Claim about a question; the last message of a conversation counts, as those before it may be examples."""
        return cls(question.language, question.prompt[-1]["content"], question.document or "", sentence, sentence)

    def digest(self) -> bytes:
        """Stands for the claim where documents are too large to keep."""
        return hashlib.sha256(json.dumps(astuple(self)).encode()).digest()


def get_each(once: Once[Claim, Result], claims: Sequence[Claim]) -> dict[Claim, Result]:
    """Result of `once` for each claim, by the claim itself."""
    digests = {claim: claim.digest() for claim in claims}
    found = once.get({digest: claim for claim, digest in digests.items()})
    return {claim: found[digest] for claim, digest in digests.items()}


class Verdict(NamedTuple):
    """Label of a claim, with confidence and evidence as `records.Sentence` has them."""

    label: str
    confidence: float | None
    evidence: str | None

    @classmethod
    def unparsed(cls, turn: Turn, reply: Reply) -> Verdict:
        """Verdict of a reply to `turn` that can't be read."""
        return cls(UNPARSED, None, f"{turn.name}: {reply.quoted()}")


@dataclass
class _Interview:
    """One claim's conversation."""

    claim: Claim
    messages: list[dict[str, str]] = field(default_factory=list)
    passages: str | None = None
    verdict: Verdict | None = None

    def ask(self, turn: Turn) -> None:
        if turn.system is not None:
            self._say("system", turn.system)
        self._say("user", turn.prompt({**asdict(self.claim), REFERENCE: self.passages or ""}))

    def take(self, turn: Turn, reply: Reply) -> None:
        self._say("assistant", reply.text)
        meaning = None if reply.fault else turn.meaning(reply.text, self.claim.document)
        if meaning is None:
            self.verdict = Verdict.unparsed(turn, reply)
        elif meaning == PASSAGES:
            self.passages = reply.text.strip()
        elif meaning != HAS_FACT:
            label = UNVERIFIABLE if meaning == NO_REFERENCE else meaning
            is_known = reply.logprob is not None and (turn.pattern is None or turn.is_bare(reply.text))
            confidence = min(1.0, math.exp(reply.logprob or 0.0)) if is_known else None
            # A verdict by itself has no passages: where it has reasons, they are the evidence.
            reasons = " ".join(reply.text.split()) if turn.name == VERDICT and not turn.is_bare(reply.text) else None
            self.verdict = Verdict(label, confidence, reasons if self.passages is None else self.passages)

    def _say(self, role: str, text: str) -> None:
        self.messages.append({"role": role, "content": text})


class Interviews:
    """All interviews of an actor; each claim has one, whichever thread asks for it first."""

    def __init__(self, judge: Judge, turns: Mapping[str, Mapping[str, Turn]], limits: Limits) -> None:
        """`turns`: as `turns.read` gives them."""
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
        return get_each(self._once, claims)

    def _judged(self, claims: Sequence[Claim]) -> list[Verdict]:
        interviews = [_Interview(claim) for claim in claims]
        for name in (name for name in ANAH if name in next(iter(self._turns.values()))):
            self._wave(name, [interview for interview in interviews if interview.verdict is None])
        verdicts = [interview.verdict for interview in interviews if interview.verdict is not None]
        self._count(judged=len(verdicts), unparsed=sum(verdict.label == UNPARSED for verdict in verdicts))
        return verdicts

    def _wave(self, name: str, interviews: Sequence[_Interview]) -> None:
        """The turn `name` of all these interviews at once."""
        if not interviews:
            return
        turns = [self._turns[interview.claim.language][name] for interview in interviews]
        for interview, turn in zip(interviews, turns, strict=True):
            interview.ask(turn)
        limit = self._limits.max_reference_tokens if name == REFERENCE else self._limits.max_reply_tokens
        self._count(calls=len(interviews))
        replies = ask(self._judge, [interview.messages for interview in interviews], limit)
        for interview, turn, reply in zip(interviews, turns, replies, strict=True):
            interview.take(turn, reply)

    def _count(self, **more: int) -> None:
        with self._counting:
            self.counts.update(more)
