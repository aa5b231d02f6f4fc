"""Passages of a reference document, for readers that can't take in all of it at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from maskdpo_ray.annotation import sentences


def cut(document: str, language: str, fits: Callable[[str], bool]) -> list[tuple[int, int]]:
    """The passages of `document` as (start, end) character offsets, in order.

    A passage is as many whole sentences as `fits` takes. It repeats the last sentence of the passage before, if that
    fits together with the next one. A sentence that does not fit alone is cut at white space (anywhere, if it has
    none). Every sentence lies in a passage, and a document that fits is one passage. A character is taken to fit.
    """
    pieces = [
        piece for start, end in sentences.split(document, language) for piece in _pieces(document, start, end, fits)
    ]

    def together(first: int, last: int) -> bool:
        return fits(document[pieces[first][0] : pieces[last][1]])

    passages, taken = [], 0
    while taken < len(pieces):
        first = taken - 1 if taken and together(taken - 1, taken) else taken
        taken += 1
        while taken < len(pieces) and together(first, taken):
            taken += 1
        passages.append((pieces[first][0], pieces[taken - 1][1]))
    return passages


def _pieces(text: str, start: int, end: int, fits: Callable[[str], bool]) -> Iterator[tuple[int, int]]:
    """`text[start:end]` in pieces that fit, halved as often as it takes."""
    if end - start <= 1 or fits(text[start:end]):
        yield start, end
        return
    middle = (start + end) // 2
    spaces = [at for at in range(start + 1, end - 1) if text[at].isspace()]
    middle = min(spaces, key=lambda at: abs(at - middle), default=middle)
    yield from _pieces(text, start, middle, fits)
    yield from _pieces(text, middle + text[middle].isspace(), end, fits)
