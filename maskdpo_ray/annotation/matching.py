"""Comparison of short answers with standard answers by their words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from maskdpo_ray.annotation.abstention import abstains
from maskdpo_ray.errors import DataError, shown
from maskdpo_ray.records import CONTRADICTORY, NO_FACT, NO_HALLUCINATION, UNPARSED, Question

Words = tuple[str, ...]
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+")  # a Chinese character is one
_ARTICLES = frozenset(("a", "an", "the"))
_DENIALS = frozenset(("not", "never", "t", "不", "非"))
"""Words before an answer that deny it; "isn't" is two words."""
_BETWEEN = frozenset(("in", "是", "为"))
"""Words that may stand between: "not in Africa"."""


def folded(text: str) -> str:
    """Lower case, without accents."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def normal(text: str) -> Words:
    """The words of `text` without case, accents, punctuation and articles; "1,000" is "1000"."""
    plain = re.sub(r"(?<=\d),(?=\d{3}\b)", "", folded(text))
    return tuple(word for word in _WORD.findall(plain) if word not in _ARTICLES)


def places(part: Words, words: Words) -> Iterator[int]:
    """Starts of each occurrence of consecutive words in `words`; none for no words."""
    starts = range(len(words) - len(part) + 1) if part else ()
    return (start for start in starts if words[start : start + len(part)] == part)


def accepted(question: Question) -> tuple[str, ...]:
    """The standard answer and, where the question's `facts` ask for one fact, the further values that stand there.

    {"asks": ["capital"], "capital": ["Kigali", ...]}: as `evaluation.asked` reads them.
    """
    facts = question.facts or {}
    names = facts.get("asks")
    values = facts.get(names[0]) if isinstance(names, list | tuple) and len(names) == 1 else ()
    others = [values] if isinstance(values, str) else values if isinstance(values, list | tuple) else ()
    return tuple(dict.fromkeys(text for text in (question.answer, *others) if isinstance(text, str) and normal(text)))


def refuse_unanswered(question: Question, who: str) -> None:
    """Raise DataError for a question without a standard answer, which `who` needs."""
    if not normal(question.answer or ""):
        got = shown(question.answer)
        raise DataError(f"question {question.id!r}: answer: expected a standard answer for {who}, got {got}")


def compare(question: Question, text: str) -> str:
    """Label of an answer: `no_hallucination` if it holds an accepted one, `contradictory` if it doesn't.

    `no_fact` if it abstains; `unparsed` if it holds one of the question's wrong answers beside an accepted one. Of two
    that overlap the longer counts: "South Sudan" is no "Sudan". Denied ones ("not Kigali") don't count.
    """
    held, taken = normal(text), set[int]()
    right, wrong = {normal(each) for each in accepted(question)}, {normal(each) for each in question.wrong_answers}
    if held not in right and abstains(text):  # "Na" may be sodium
        return NO_FACT
    found = set()
    for sought in sorted(right | wrong, key=lambda words: (-len(words), words)):
        for start in places(sought, held):
            place = range(start, start + len(sought))
            if taken.isdisjoint(place):
                taken.update(place)
                if not _is_denied(held, start):
                    found.add(sought in right)
    if len(found) == 2:
        return UNPARSED
    return NO_HALLUCINATION if found == {True} else CONTRADICTORY


def _is_denied(words: Words, start: int) -> bool:
    before = start - 1
    while before > 0 and words[before] in _BETWEEN:
        before -= 1
    return before >= 0 and words[before] in _DENIALS
