"""Hosted annotators and evaluators give their memory back, and is started again by the next call."""

from __future__ import annotations

from typing import Any

import fakes
import pytest

from actors.host import AnnotationActor, EvaluationActor
from maskdpo_ray.annotation.llm.anah import AnahAnnotator
from maskdpo_ray.annotation.llm.judge import Reply
from maskdpo_ray.annotation.protocol import Annotator
from maskdpo_ray.errors import ActorLost, ReplyError
from maskdpo_ray.evaluation.evaluators.factscore import FactScore
from maskdpo_ray.evaluation.evaluators.perplexity import WithPerplexity
from maskdpo_ray.records import Annotation, Judgement

TOLD: list[str] = []


@pytest.fixture(autouse=True)
def told() -> list[str]:
    TOLD.clear()
    return TOLD


class Mine(fakes.Accepting):
    """An annotator with a memory, and no way to rest."""

    def __init__(self) -> None:
        TOLD.append("made")

    def start(self) -> None:
        TOLD.append("start")

    def annotate(self, items: Any) -> list[Annotation]:
        TOLD.append("work")
        return [fakes.label(rollout) for _, rollout in items]

    def close(self) -> None:
        TOLD.append("close")


class Resting(Mine):
    def rest(self) -> None:
        TOLD.append("rest")


class Made:
    """`Stored`, each fetch of which gives a new object."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def fetch(self) -> Any:
        return self._kind()


def annotate(actor: AnnotationActor, stored: Any) -> None:
    asked = fakes.question("q")
    actor.annotate(stored, asked, list(fakes.answers("q", 0, 1, 2)))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Resting, ["made", "start", "work", "rest", "start", "work"]),
        (Mine, ["made", "start", "work", "close", "made", "start", "work"]),
    ],
)
def test_it_is_started_again(kind: type, expected: list[str]) -> None:
    actor, stored = AnnotationActor(), Made(kind)
    actor.rest()  # it has not started
    annotate(actor, stored)
    actor.rest()
    actor.rest()
    annotate(actor, stored)
    assert expected == TOLD


def test_a_start_that_fails_after_a_rest_is_tried_again() -> None:
    class Fails(Resting):
        def start(self) -> None:
            super().start()
            if TOLD.count("start") == 2:
                raise ActorLost("judge m: vLLM did not wake: out of memory")

    actor, stored = AnnotationActor(), fakes.Held(Fails())
    annotate(actor, stored)
    actor.rest()
    with pytest.raises(ActorLost, match="did not wake"):
        annotate(actor, stored)
    annotate(actor, stored)
    assert TOLD[-2:] == ["start", "work"]


def test_an_error_in_rest_is_one_line() -> None:
    class Fails(Mine):
        def rest(self) -> None:
            raise KeyError("no such\nentry")

    actor = AnnotationActor()
    annotate(actor, fakes.Held(Fails()))
    with pytest.raises(ReplyError, match="KeyError") as caught:
        actor.rest()
    assert "\n" not in str(caught.value)


class Judge:
    """A judge on a GPU."""

    num_gpus = 1
    is_up = False

    def start(self) -> None:
        TOLD.append("start")
        self.is_up = True

    def ask(self, conversations: Any, max_tokens: int) -> list[Reply]:
        assert self.is_up
        TOLD.append("asked")
        return [Reply("<No Fact>")] * len(conversations)

    def rest(self) -> None:
        TOLD.append("rest")
        self.is_up = False

    def close(self) -> None: ...


JUDGE = {"judge": f"python:{__name__}:Judge"}


def test_a_judge_rests_and_the_annotator_keeps_its_verdicts() -> None:
    asked = fakes.question("q")
    hosted: Annotator = AnahAnnotator(**JUDGE)  # type: ignore[arg-type]
    actor, stored, rollouts = AnnotationActor(), fakes.Held(hosted), list(fakes.answers("q", 0, 1, 2))
    first = actor.annotate(stored, asked, rollouts)
    number = TOLD.count("asked")
    actor.rest()
    assert TOLD[-1] == "rest"
    assert actor.annotate(stored, asked, rollouts) == first
    assert TOLD[-1] == "start" and TOLD.count("asked") == number > 0


class Perplexity:
    def check(self, asked: Any) -> None: ...

    def start(self) -> None:
        TOLD.append("start model")

    def rest(self) -> None:
        TOLD.append("rest model")

    def measure(self, items: Any) -> list[None]:
        return [None] * len(items)


class Evaluator(fakes.Accepting):
    """One of the user's own, which can't rest."""

    def start(self) -> None:
        TOLD.append("start")

    def judge(self, items: Any) -> list[Judgement]:
        return [Judgement(rollout.question_id, rollout.sample, ()) for _, rollout in items]


@pytest.mark.parametrize(
    ("evaluator", "rests", "again"),
    [
        (None, ["rest model"], ["start model"]),
        (Evaluator(), ["rest model"], ["start model"]),  # which is started once
        (FactScore(**JUDGE), ["rest model", "rest"], ["start", "start model"]),  # type: ignore[arg-type]
    ],
    ids=["alone", "beside one that can't rest", "beside a judge"],
)
def test_a_perplexity_model_rests_with_its_evaluator(evaluator: Any, rests: list[str], again: list[str]) -> None:
    actor, stored = EvaluationActor(), fakes.Held(WithPerplexity(evaluator, Perplexity()))  # type: ignore[arg-type]
    actor.ready(stored)
    at = len(TOLD)
    actor.rest()
    assert TOLD[at:] == rests
    actor.ready(stored)
    assert TOLD[at + len(rests) :] == again
