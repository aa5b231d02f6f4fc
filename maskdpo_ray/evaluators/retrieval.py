"""Passages of a reference text by BM25 (Robertson and Zaragoza 2009), with the library bm25s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maskdpo_ray.evaluators.words import words


class Passages:
    """Passages that can be searched."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Index `texts`, one passage each."""
        import bm25s

        self.texts = tuple(texts)
        keys = [[word.key for word in words(text)] for text in texts]
        self._index: Any = None
        if any(keys):
            self._index = bm25s.BM25()
            self._index.index(keys, show_progress=False)

    def find(self, query: str, count: int) -> list[str]:
        """At most `count` passages that share a word with `query`, the best first, ties in the order of the text."""
        keys = [word.key for word in words(query)]
        if self._index is None or not keys:
            return []
        scores = self._index.get_scores(keys)
        ranked = sorted((i for i in range(len(self.texts)) if scores[i] > 0), key=lambda i: (-scores[i], i))
        return [self.texts[i] for i in ranked[:count]]
