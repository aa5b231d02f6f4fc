"""Affinity of topics and what answers say of them: distances in the policy's embeddings (Mask-DPO appendix C.1).

The paper takes 200 preference pairs, the entities of the chosen and of the rejected response, and the mean distance of
their vectors from the topic's, before and after training. It doesn't say how entities are found. Here they are names:
runs of capitalized words, since answers are free text, whatever annotator labelled them, and most facts of our domains
are names. Values that aren't (numbers, "yellow") are missed, and so is every entity of a script without capitals.

The paper says "word embeddings". A policy's input embeddings hardly move in training, so the last hidden layer, by
which appendix B embeds topics, is measured as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskdpo_ray.data.questions import topic_key
from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.evaluation.analyses.embedder import Embeds
from maskdpo_ray.evaluation.intervals import Change, Draws, Ratios, TopicSums, interval
from maskdpo_ray.records import CHOSEN, REJECTED, PreferencePair, Record

WORDS, LAST_LAYER = "word embeddings", "last hidden layer"
_SIDES = (CHOSEN, REJECTED)
_RATIOS = Ratios(
    tuple(f"{side}_{sum_}" for side in _SIDES for sum_ in ("distance", "pairs")),
    {side: (f"{side}_distance", f"{side}_pairs") for side in _SIDES},
)
_WORD = re.compile(r"[^\W\d_][\w'’-]*")
_NOT_A_NAME = frozenset(
    "a an and another are as at both but by each for from has have he her here his how i if in is it its no not of on "
    "one or our she so some that the their there these they this those to was we were what when where which who with "
    "yes you your".split()
)
"""Words that begin a sentence and no name."""


class SideChange(Record):
    """Changes by one kind of vector."""

    chosen: Change
    """Mean distance of the chosen responses' entities from the topic, before and after."""
    rejected: Change
    apart: float
    """Change of the rejected ones' distance less that of the chosen ones': above 0 in the paper."""
    apart_low: float | None
    """Ends of its 95% interval, paired bootstrap over topics."""
    apart_high: float | None


class Affinity(Record):
    """Changes of the distances between topics and entities."""

    run: str
    after: int
    """Version of the trained policy."""
    pairs: int
    topics: int
    chosen_entities: int
    rejected_entities: int
    bootstrap_samples: int
    changes: dict[str, SideChange]
    """Kind of vector -> changes."""


@dataclass(frozen=True)
class Mentioned:
    """Entities of a pair's responses, each once."""

    topic: str
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]

    def of(self, side: str) -> tuple[str, ...]:
        """Those of `chosen` or `rejected`."""
        return self.chosen if side == CHOSEN else self.rejected


def names(text: str, topic: str) -> tuple[str, ...]:
    """The names in a text, each once, in order, but for the topic's."""
    found = dict.fromkeys(_runs(text))
    return tuple(name for name in found if topic_key(name) != topic_key(topic))


def _runs(text: str) -> Iterator[str]:
    """Runs of capitalized words with a space between them."""
    run: list[re.Match[str]] = []
    for word in _WORD.finditer(text):
        is_name = word[0][0].isupper() and word[0].casefold() not in _NOT_A_NAME
        if run and not (is_name and text[run[-1].end() : word.start()] == " "):
            yield text[run[0].start() : run[-1].end()]
            run = []
        if is_name:
            run.append(word)
    if run:
        yield text[run[0].start() : run[-1].end()]


def draw(pairs: Sequence[PreferencePair], count: int, seed: int) -> list[Mentioned]:
    """Entities of `count` pairs, or of all, drawn by `seed` from those with two responses and an entity.

    Raises RunFolderError when there are none.
    """
    found = []
    for pair in pairs:
        if pair.chosen is not None and pair.rejected is not None:
            chosen, rejected = (names(side.rollout.text, pair.topic) for side in (pair.chosen, pair.rejected))
            if chosen or rejected:
                found.append(Mentioned(pair.topic, chosen, rejected))
    if not found:
        raise RunFolderError(f"expected pairs whose responses hold names (capitalized words), got none of {len(pairs)}")
    order = np.random.default_rng(seed).permutation(len(found))[:count]
    return [found[index] for index in sorted(order)]


def distances(drawn: Sequence[Mentioned], embeds: Embeds) -> dict[str, TopicSums]:
    """Kind of vector -> sums over each topic's pairs of the mean Euclidean distance from its entities."""
    texts = sorted({text for each in drawn for text in (each.topic, *each.chosen, *each.rejected)})
    # As they stand within a sentence: tokenizers of byte-level BPE know a word with the space before it.
    spaced = [f" {text}" for text in texts]
    vectors = {WORDS: embeds.words(spaced), LAST_LAYER: embeds.last_layer(spaced)}
    found = {}
    for kind, rows in vectors.items():
        vector = dict(zip(texts, rows, strict=True))
        found[kind] = _RATIOS.add_up((each.topic, _distances(each, vector)) for each in drawn)
    return found


def _distances(each: Mentioned, vector: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    row: dict[str, float] = {}
    for side in _SIDES:
        if mentioned := each.of(side):
            away = [np.linalg.norm(vector[name] - vector[each.topic]) for name in mentioned]
            row |= {f"{side}_distance": float(np.mean(away)), f"{side}_pairs": 1.0}
    return row


def change(before: TopicSums, after: TopicSums, *, seed: int, bootstrap_samples: int) -> SideChange:
    """Changes between the sums before and after training."""
    options = {"seed": seed, "bootstrap_samples": bootstrap_samples}
    changes = _RATIOS.changes(before, after, **options)
    old, new = (_RATIOS.draws(sums, **options) for sums in (before, after))
    apart = interval(_apart(new) - _apart(old), len(before))
    gains = [changes[side].gain or 0.0 for side in (REJECTED, CHOSEN)]
    return SideChange(changes[CHOSEN], changes[REJECTED], gains[0] - gains[1], *apart)


def _apart(draws: Draws) -> np.ndarray:
    return draws.resampled[REJECTED] - draws.resampled[CHOSEN]


def compare(
    run: str,
    after: int,
    drawn: Sequence[Mentioned],
    found: Mapping[str, Mapping[str, TopicSums]],
    *,
    seed: int,
    bootstrap_samples: int,
) -> Affinity:
    """The analysis of `drawn`; `found` holds `distances` by the policies "before" and "after"."""
    changes = {
        kind: change(found["before"][kind], found["after"][kind], seed=seed, bootstrap_samples=bootstrap_samples)
        for kind in found["before"]
    }
    entities = [sum(len(each.of(side)) for each in drawn) for side in _SIDES]
    topics = len({topic_key(each.topic) for each in drawn})
    return Affinity(run, after, len(drawn), topics, entities[0], entities[1], bootstrap_samples, changes)
