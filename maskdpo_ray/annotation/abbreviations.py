"""Rules for whether a full stop after a word ends a sentence: abbreviations, units, initials, element symbols."""

from __future__ import annotations

import re

_LONGEST = 6  # Letters of an abbreviation.
_CONTEXT = 200  # Characters looked back at, so that no text takes quadratic time.
# Never end a sentence.
_TITLES = frozenset(
    "mr mrs ms dr prof gen rev hon sen rep gov capt lt col sgt maj cmdr adm pres messrs mme mlle vs v "
    "mt e.g i.e eg ie cf approx ca c viz incl excl esp resp".split()
)
# Do not end a sentence before a number (nor do words without a vowel), nor before another of these.
_COUNTED = frozenset(
    "no nos vol vols p pp fig figs ch chap chaps sec secs art arts eq eqs eqn eqns op est pop b d r fl jan feb "
    "mar apr jun jul aug sep sept oct nov dec ver vers tab tabs para paras par pars app appx suppl supp ser "
    "sect ex exs def defs prop cor lem rem obs alg ref refs reg regs ed eds fol col cols ext tel mob "
    "max min avg av apt ste hwy pkwy rte re lat lon alt elev temp pt pts ord ann sched amend dia diam".split()
)
CONTRACTED = re.compile(r"[A-Z]?[bcdfghjklmnpqrstvwxz]{1,4}")  # Rs, Tk, Nr, tbsp
_NUMERAL = re.compile(r"\d|[IVXLCDM]{2,}\b|[A-Z]{1,2}\d|[B-HJ-Z]\b(?!\.)")  # 3, IV, S1, B
_VERSE = re.compile(r"\d{1,3}:\d")  # Gen. 1:1
# End a sentence only before a word that often starts one.
_EITHER = frozenset("st ft inc ltd co corp jr sr bros etc al ave blvd rd dept univ assn intl llc plc".split())
_STARTERS = frozenset(
    "It Its The This That These Those He She They His Her Their We You Our My I In On At As For From By "
    "With But And Or If When While However Although Though There Here What Who Where Which How Why Some "
    "Many Most Both Each After Before Since During Because One Two Another Also So Then Thus To Not Is "
    "Are Was Were Other Others All Today Now Yes Additionally Therefore Moreover Furthermore Overall "
    "Finally A An".split()
)
# Element symbols that are abbreviations elsewhere, and words that say that a symbol or letter is meant.
_SYMBOLS = frozenset("Co No Mt Sr Al Ca Cf Fl".split())
_SYMBOL_CONTEXT = re.compile(
    r"symbol|letter|vitamin|hepatitis|grade|option|answer|formula|denoted|class|type|group|block|符号|字母",
    re.IGNORECASE,
)
_OPTION = re.compile(
    r"\b(?:answer|option|choice)(?: is)?\s*[:：][\s*_]*\Z", re.IGNORECASE
)  # Before "A." in "Answer: A. Paris".
_ACRONYM = re.compile(r"[A-Za-z]{1,2}(?:\.-?[A-Za-z]{1,2})+")  # U.S, Ph.D, a.m, J.-P
_NEXT_WORD = re.compile(r"\w+\.?")
_UNIT = re.compile(r"[\d°]\s?$")
_UNITS = frozenset("m g h l s t u min sec".split())
_COMPOUND = frozenset("/·⋅")  # m/s, N·m


def starts_sentence(text: str, at: int, end: int) -> bool:
    """Whether a word that often starts a sentence is at `at` (not an initial, as in "A. Smith")."""
    found = _NEXT_WORD.match(text, at, end)
    word = found.group() if found else ""
    if len(word) == 2:
        word = word.lower() if word.endswith(".") else word
    return word.rstrip(".").capitalize() in _STARTERS and word != "a."


def full_stop_ends(text: str, span: tuple[int, int, int], word: str, following: int) -> bool:
    """Whether a full stop ends a sentence.

    Args:
        text: the whole text.
        span: (start of the sentence, the full stop, end of the block).
        word: the word before the full stop.
        following: position of the next letter or digit.
    """
    if len(word) > _LONGEST and "." not in word and "-" not in word:
        return True
    begin, at, end = span
    start, key = at - len(word), word.lower().rpartition("-")[2]
    letter = len(word) == 1 and word.isalpha()
    counted = key in _COUNTED or CONTRACTED.fullmatch(word) is not None
    behind_number = (letter or counted) and _UNIT.search(text, max(begin, start - 2), start) is not None
    if start > begin and text[start - 1] in _COMPOUND:
        return True
    if letter and _OPTION.search(text, max(begin, start - _CONTEXT), start):
        return False
    if letter and word.isupper() or word in _SYMBOLS:
        if behind_number:
            return True  # 3,017 °C. / 5 V.
        if _SYMBOL_CONTEXT.search(text, max(begin, at - _CONTEXT), at):
            return True
    if letter and word.isupper():
        return text[following].isdigit() or starts_sentence(text, following, end)
    if key in _TITLES:
        return False
    if behind_number and word.islower() and (word in _UNITS or key not in _COUNTED):
        return not letter or word in _UNITS or starts_sentence(text, following, end)
    if counted and _counts(text, following, end, key):
        return False
    if word.istitle() and text[following].isdigit() and _VERSE.match(text, following, end):
        return False
    if letter or key in _EITHER or _ACRONYM.fullmatch(word):
        return starts_sentence(text, following, end)
    return True


def _counts(text: str, at: int, end: int, key: str) -> bool:
    """Whether the operand of a counting abbreviation is at `at`: a number or another abbreviation ("Suppl. Fig. 4")."""
    if numeral := _NUMERAL.match(text, at, end):
        return key != "no" or len(numeral.group()) > 1 or numeral.group().isdigit()
    word = _NEXT_WORD.match(text, at, end).group()
    return key in _COUNTED and word.endswith(".") and word[:-1].lower() in _COUNTED
