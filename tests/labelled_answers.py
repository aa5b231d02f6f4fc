"""Answers to one question with given labels, scored, for the tests of scores, strategies and filters."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st
from msgspec import structs

from maskdpo_ray.config.schema import PairsConfig
from maskdpo_ray.pairing.scoring import precision, scored
from maskdpo_ray.pairing.selection import Selection, select
from maskdpo_ray.records import (
    LABELS,
    Annotation,
    DropReason,
    PreferencePair,
    Question,
    Rollout,
    ScoredAnswer,
    Sentence,
)

QUESTION = Question("rwanda/five", "Rwanda", ({"role": "user", "content": "Give five facts about Rwanda."},))


def annotation(*labels: str, sample: int = 0) -> Annotation:
    """Labels of an answer, one character each."""
    return Annotation(QUESTION.id, sample, tuple(Sentence(i, i + 1, label) for i, label in enumerate(labels)))


def answer(
    sample: int,
    *labels: str,
    text: str | None = None,
    finish: str = "stop",
    version: int = 0,
    score: Callable[[Annotation], float | None] = precision,
) -> ScoredAnswer:
    """An answer with a text of its own, unless one is given."""
    rollout = Rollout(QUESTION.id, sample, (5, 2), text or f"Answer {sample}.", finish, version)
    return scored(rollout, annotation(*labels, sample=sample), score)


def labels_of(item: ScoredAnswer) -> list[str]:
    """Labels in order."""
    return [sentence.label for sentence in item.annotation.sentences]


def with_kinds(item: ScoredAnswer, *kinds: str | None) -> ScoredAnswer:
    """The answer with a kind of fact for each span."""
    spans = zip(item.annotation.sentences, kinds, strict=True)
    sentences = tuple(structs.replace(span, kind=kind) for span, kind in spans)
    return structs.replace(item, annotation=structs.replace(item.annotation, sentences=sentences))


def selected(items: list[ScoredAnswer], seed: int = 1, **rules: object) -> Selection:
    """Selection that the section `pairs` with these fields makes of the answers."""
    return select(QUESTION, [7, 8], items, PairsConfig(**rules), seed)


def samples(selection: Selection) -> list[tuple[int | None, int | None]]:
    """Samples of the chosen and the rejected answer of each pair."""
    return [
        tuple(None if side is None else side.rollout.sample for side in (pair.chosen, pair.rejected))
        for pair in selection.pairs
    ]


def only(selection: Selection) -> PreferencePair | DropReason:
    """The one pair, or the one reason."""
    (found,) = (*selection.pairs, *selection.drops)
    return found


answers = st.lists(
    st.tuples(
        st.lists(st.sampled_from(LABELS), max_size=4),
        st.sampled_from(["stop", "stop", "stop", "length"]),
        st.integers(0, 4),
    ),
    max_size=8,
).map(
    lambda rows: [
        answer(i, *labels, finish=finish, text=f"Text {text}.") for i, (labels, finish, text) in enumerate(rows)
    ]
)
