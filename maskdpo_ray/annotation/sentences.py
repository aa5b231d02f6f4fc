"""Cut an answer into sentences, as character spans of the text itself, in English and Chinese.

Own rules, since other splitters find fewer of the hand-marked sentences (benchmarks/sentences.py).
A wrong cut gives a wrong label: in doubt, do not cut.

- A line is a block, and so is a fenced code block; a table row or a heading is never cut further.
  Lines join only when a long line (50 characters or more) without an end mark is continued: the next
  line starts in lower case, or this one ends in a word such as "the". A list marker alone on its line
  joins the next line.
- A list marker belongs to its item. Inside a line a number is a marker only if it continues a count;
  any other ("the atomic number is 73. Tantalum ...") ends its sentence.
- Nothing is cut inside brackets, quotation marks or code, except in a quotation or bracket that starts
  a sentence and holds whole ones. Emoticons and list markers (":(", "1)") do not count as brackets.
- After . ! ? … a space and then no lower-case letter must follow (in a line all in lower case, any).
  。！？ cut at once, and in Chinese so does ；, as in the ANAH annotators' protocol.
- A full stop between an abbreviation and a number ends nothing, unless the abbreviation is a unit whose
  number stands before it ("500 m. 3 of them"). A word without a vowel is taken for one.
- Closing marks, citations after the end mark, emoji and wordless lines (---) belong to the sentence
  before them, unless each sentence begins with its citation ("[1] It is. [2] It was.").
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from maskdpo_ray.annotation.abbreviations import CONTRACTED, full_stop_ends, starts_sentence
from maskdpo_ray.records import LANGUAGES

_WRAPPED_LINE = 50  # Characters. Shorter lines are lines of a list, not wrapped prose.
_CONTEXT = 200  # Characters looked back at, so that no text takes quadratic time.
_AHEAD = 2000  # Characters in which the second item of a list is looked for.
_CONNECTORS = frozenset(
    "the a an of in on at to and or by for with from as is are was were its their than that".split()
)
_WORD = re.compile(r"[^\W_]")
_LINE = re.compile(r"[^\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")
_FENCE = re.compile(r"\s*```[^`]*$")
_UNCUT = re.compile(r"\s*(?:\||#{1,6}\s)")
_PREFIX = re.compile(
    r"\s*(?:>\s*)*(?:[-*+•–—·◦▪●‣]\s+)?[*_]{0,3}"
    r"(?:(?:Step|Fact|Part|Point|Item|Example|Question|Answer|Section|Chapter)\s+(?=\d))?"
    r"(?:(?:(?P<number>\d{1,3})|[A-Za-z]|[ivx]{1,5}|[IVX]{1,5})\\?[.)](?=\s|$)|\((?:\d{1,3}|[A-Za-z])\)|"
    r"（(?:\d{1,3}|[一二三四五六七八九十]+)）|(?:\d{1,3}|[一二三四五六七八九十]+)、)?"
)
_HAN = "\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_EMOTICON = (
    rf"(?:(?<![^\s{_HAN}.!?…。！？～~])[:;=：]['’]?[-^]?[)）\]](?=[\s{_HAN}.!?]|$)"  # :)
    r"|[:;=：]['’]?[-^]?[(（\[](?=[\s.!?。！？]|$)|(?<!\S)\(-?[:;=](?=\s|$))"  # :( and (:
)
_FACE = re.compile(_EMOTICON)
_FACE_PARTS = frozenset(":;=：'’-^")
_EVENT = re.compile(r"[.!?…。！？｡．；]+|[(（\[【{《“「『\"`]")
_EVENT_OR_FACE = re.compile(rf"{_EVENT.pattern}|{_EMOTICON}")
_BRACKET = re.compile(r"[()（）\[\]【】{}《》“”「」『』\"`]")
_CITING = frozenset("[(（【［〔<¹²³⁰⁴⁵⁶⁷⁸⁹†‡")
_PAIRS = {")": "(", "）": "(", "]": "[", "】": "【", "}": "{", "》": "《", "”": "“", "」": "「", "』": "『"}
_ITEM = re.compile(r"(?:(?P<end>(?:^|[.!?…。！？;；:：,，、])\s*)|\s)(?P<item>\d{1,2}|[a-z])$")  # 1) or b)
_PASSAGE = frozenset('(（[【“「『"')  # May hold whole sentences.
_QUOTES = frozenset('“「『"')
_TAIL = re.compile(r"(?:[)\]}\"'”’»」』）】\u200b-\u200d\u2060\ufeff]|[*_~`]+(?=[\s\[¹²³⁰⁴-⁹]|$))*")
_LINK = r"\[[^\[\]]{1,120}\]\([^()\s]{1,300}\)"
_SUPERSCRIPT = "[¹²³⁰⁴-⁹]"
_CITATION = re.compile(
    rf"{_SUPERSCRIPT}+(?:[,⁻–-]\s?{_SUPERSCRIPT}+)*|[†‡]+|(?<=[.!?])\(\d{{1,3}}\)(?=\s|$)"
    r"|<sup>[^<]{1,60}</sup>"
    r"|(?:\s{0,3}\[{1,2}\^?(?:\d[\d\s,;–-]*|(?i:citation needed|note \d+|ref\.? \d+))"
    r"|(?<![\s\[])\[{1,2}[^\[\]]{1,60})\]{1,2}"  # Not after a space: [a], [who?]
    r"(?:\([^()\s]{1,300}\)|:\s?\d+(?:[–-]\d+)?)?"  # Its address, or its page
    r"|\s{0,3}[【［〔]\d[^】］〕]{0,60}[】］〕]"
    rf"|\s{{0,3}}\({_LINK}(?:[,;]\s?{_LINK})*\)"
    r"|\s{0,3}[(（](?:(?=[^()（）]{0,100}[^\W\d_]|\d+\s?[,，;–-])[^()（）]{1,100}?\d[a-z]?"  # (Smith, 2020), (p. 45)
    r"|(?i:sources?|citation|ref|ibid|via|来源|出处|资料来源)\b[^()（）]{0,100})[)）]"
)
_MARKUP = re.compile(r"[*_~]+")
_NEXT_CITATION = re.compile(rf"(?:[,;–-]\s?)?(?:{_CITATION.pattern})")
_EMOJI = re.compile(
    r"(?:\s*(?:[\u2190-\u21ff\u2300-\u245f\u2500-\u2775\u2794-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff]"
    rf"[\ufe0f\u200d]*|{_EMOTICON}|[:;=]-?[DPp](?=\s|$)))*"
)
_CJK_ENDS = frozenset("。！？｡．；")
_ENDS = frozenset(".!?…。！？｡．；")
_LOWER_CASE_START = re.compile(r"[a-z]{1,3}[A-Z]|[a-z][)）]\s")  # iPhone, mRNA, b)


def split(text: str, language: str = "en") -> list[tuple[int, int]]:
    """The sentences of `text` as (start, end) character offsets, end exclusive, in order.

    Every character that is not white space lies in exactly one span; no span starts or ends with white
    space; every span holds a letter or digit, unless `text` has none at all (then it is one span, or
    none when it is blank). Raises ValueError for a language other than `LANGUAGES`.
    """
    if language not in LANGUAGES:
        raise ValueError(f"sentences: expected a language of {', '.join(LANGUAGES)}, got {language!r}")
    spans: list[tuple[int, int]] = []
    wordless = None  # Start of what comes before the first word.
    for start, end in _pieces(text, language):
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        if start == end:
            continue
        if _WORD.search(text, start, end):
            spans.append((start if wordless is None else wordless, end))
            wordless = None
        elif spans:
            spans[-1] = (spans[-1][0], end)
        elif wordless is None:
            wordless = start
    if wordless is not None:
        spans.append((wordless, len(text.rstrip())))
    return spans


def _pieces(text: str, language: str) -> Iterator[tuple[int, int]]:
    for start, end, cut in _blocks(text):
        if cut:
            yield from _Block(text, start, end, language).sentences()
        else:
            yield start, end


def _blocks(text: str) -> Iterator[tuple[int, int, bool]]:
    """(start, end, may be cut) of each line, or of the lines that belong together."""
    lines = [m.span() for m in _LINE.finditer(text) if not m.group().isspace()]
    i, count = 0, 0
    while i < len(lines):
        start, end = lines[i]
        i += 1
        if _FENCE.match(text, start, end):
            while i < len(lines) and not _FENCE.match(text, *lines[i]):
                i += 1
            end = lines[min(i, len(lines) - 1)][1]
            i += 1
            yield start, end, False
        elif _UNCUT.match(text, start, end):
            yield start, end, False
        else:
            prefix = _PREFIX.match(text, start, end)
            number = int(prefix["number"] or 0)
            alone = number in (1, count + 1) and prefix.end() == start + len(text[start:end].rstrip())
            count = number or count
            while i < len(lines) and _plain(text, *lines[i]):
                if not (alone or _continues(text, *lines[i - 1], *lines[i])):
                    break
                end, alone = lines[i][1], False
                i += 1
            yield start, end, True


def _plain(text: str, start: int, end: int) -> bool:
    """Whether a line starts neither a list item, a heading, a table row, a quotation nor code."""
    blank = start + len(text[start:end]) - len(text[start:end].lstrip())
    return not (_FENCE.match(text, start, end) or _UNCUT.match(text, start, end)) and (
        _PREFIX.match(text, start, end).end() == blank
    )


def _continues(text: str, start: int, end: int, next_start: int, next_end: int) -> bool:
    """Whether the next line continues this line's sentence (prose wrapped at a column)."""
    line = text[start:end]
    if text[end:next_start] not in ("\n", "\r\n") or len(line.strip()) < _WRAPPED_LINE:
        return False
    if line.endswith(("  ", "\\")):  # Markdown's hard line break.
        return False
    if line.rstrip().rstrip("\"'”’)*_")[-1:] in (*_ENDS, ";", ":", "："):
        return False
    return text[next_start:next_end].lstrip()[0].islower() or line.split()[-1].lower() in _CONNECTORS


def _han(character: str) -> bool:
    return "\u2e80" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or character >= "\U00020000"


class _Block:
    """One block of text while it is cut, from left to right."""

    def __init__(self, text: str, start: int, end: int, language: str) -> None:
        self.text, self.start, self.end, self.language = text, start, end, language
        prefix = _PREFIX.match(text, start, end)
        self.body = prefix.end()
        """Begin of the current sentence's words (from `start`), after its list marker."""
        self.count = int(prefix["number"] or 0)
        """The list number last seen; inside a line, only the next one is a list marker."""
        self.next_item = ""
        """The marker after "1)" or "a)" in a list inside a line: "2" or "b"."""
        self.lower_case = text[start:end].islower()
        self.event = _EVENT
        self.close_of = self._matches()
        self.next_word = start
        self.opening_of = {close: opening for opening, close in self.close_of.items()}

    def _matches(self) -> dict[int, int]:
        """Opening position -> closing position of each bracket, quotation and code span that closes."""
        text, matches = self.text, {}
        open_at: dict[str, list[int]] = {}
        position = self.start
        while found := _BRACKET.search(text, position, self.end):
            at, mark = found.start(), found.group()
            position = at + 1
            if not _FACE_PARTS.isdisjoint(text[max(at - 1, self.start) : at + 2]) and (face := self._face(at)):
                self.event, position = _EVENT_OR_FACE, face
            elif mark == "`":
                close = text.find("`", position, self.end)
                if close >= 0:
                    matches[at], position = close, close + 1
            elif mark == '"':
                before = text[at - 1] if at > self.start else " "
                if open_at.get(mark) and not before.isspace():
                    matches[open_at[mark].pop()] = at
                elif not before.isdigit():  # 5'10" is no quotation.
                    open_at[mark] = [at]
            elif mark not in _PAIRS:
                open_at.setdefault("(" if mark == "（" else mark, []).append(at)
            elif mark in ")）" and not text[at - 2 : at].isalpha() and self._is_item(at):
                continue
            elif open_at.get(_PAIRS[mark]):
                matches[open_at[_PAIRS[mark]].pop()] = at
        return matches

    def _face(self, at: int) -> int | None:
        """End of the emoticon that the bracket at `at` belongs to, if any."""
        found = _FACE.search(self.text, max(self.start, at - 3), min(self.end, at + 5))
        return found.end() if found and found.start() <= at < found.end() else None

    def _is_item(self, close: int) -> bool:
        """Whether a closing bracket ends a list marker: the next in a count, or a first one that has a second."""
        found = _ITEM.search(self.text[max(self.start, close - 6) : close])
        if found is None or (found["item"] != self.next_item and (found["end"] is None or found["item"] not in "1a")):
            return False
        item = found["item"]
        after = str(int(item) + 1) if item.isdecimal() else chr(ord(item) + 1)
        ahead = self.text[close : min(self.end, close + _AHEAD)]
        if item != self.next_item and f"{after})" not in ahead and f"{after}）" not in ahead:
            return False
        self.next_item = after
        return True

    def sentences(self) -> Iterator[tuple[int, int]]:
        position = self.body
        while event := self.event.search(self.text, position, self.end):
            first, position = event.span()
            if self.text[first] not in _ENDS and position > first + 1:
                is_cut, position = self._emoticon(first, position)
                if is_cut:
                    yield self.start, position
                    self.start = self.body = position
                continue
            if self.text[first] not in _ENDS:
                close = self.close_of.get(first)
                if close is None or self._is_passage(first, close):
                    continue
                position = close + 1
                if self.text[first] not in _QUOTES or self.text[close - 1] not in _ENDS:
                    continue
                first, last = close - 1, close  # The end mark inside the quotation may end the sentence.
            else:
                last = position
            cut = self._cut(first, last)
            if cut is not None:
                yield self.start, cut
                self.start = self.body = position = cut
        yield self.start, self.end

    def _emoticon(self, first: int, last: int) -> tuple[bool, int]:
        """Whether the emoticon at [first, last) ends the sentence as an end mark does, and the end of all of them."""
        text = self.text
        after = _EMOJI.match(text, last, self.end).end()
        following = self._next_word(after)
        if following == self.end or not text[max(self.body, first - _CONTEXT) : first].strip():
            return False, after
        begins = text[following].isupper() or _han(text[following])
        return begins and (text[after].isspace() or _han(text[after])), after

    def _is_passage(self, opening: int, close: int) -> bool:
        """Whether a quotation or bracket starts a sentence and ends in an end mark."""
        return (
            self.text[opening] in _PASSAGE
            and self.text[close - 1] in _ENDS
            and (self.text[opening] != "[" or self.text[close + 1 : close + 2] != "(")  # A link's text.
            and not _WORD.search(self.text, self.body, opening)
        )

    def _cut(self, first: int, last: int) -> int | None:
        """End of the sentence with end marks at [first, last), None if it continues."""
        text, end = self.text, self.end
        tail = _TAIL.match(text, last, end).end()
        if tail > last:
            tail = next((k for k in range(last, tail) if text[k] in '"`' and k in self.close_of), tail)
        marks = text[first:last]
        cited = self._citations(tail)
        uncited, tail = cited == tail, cited
        cjk = not _CJK_ENDS.isdisjoint(marks) and not (self.language != "zh" and set(marks) == {"；"})
        if cjk and (markup := _MARKUP.match(text, tail, end)):
            tail = markup.end() if text.count(markup.group(), self.start, first) % 2 else tail
        after = _EMOJI.match(text, tail, end).end()
        following = self._next_word(after)
        if following == end:
            return None
        if cjk:
            decimal = marks == "．" and text[first - 1 : first].isdigit() and text[last].isdigit()
            return None if decimal or (uncited and self._speech_goes_on(last, tail)) else after
        if after == tail and not text[tail].isspace():  # 是北京!对
            before = text[max(self.start, first - _CONTEXT) : first]
            if uncited:
                between_han = bool(before) and _han(before[-1]) and _han(text[tail])
                ends = between_han and (marks == "." or marks[-1] in "!?") and "://" not in before
            else:
                ends = text[tail].isupper() or _han(text[tail])
            return tail if ends else None
        word = self._word(first)
        if text[following].islower() and not _LOWER_CASE_START.match(text, following):
            short = marks == "." and (len(word) < 4 or CONTRACTED.fullmatch(word)) and not word.isdigit()
            if short or not self.lower_case:
                return None
        if marks == ".":
            if word.isdecimal() and len(word) <= 3:
                return None if self._is_marker(int(word), first - len(word)) else after
            return after if full_stop_ends(text, (self.start, first, end), word, following) else None
        if marks[0] in ".…" and text[first - 1 : first].isspace():  # 1, 2, ... N
            return after if starts_sentence(text, following, end) else None
        return after if marks != "；" else None

    def _citations(self, at: int) -> int:
        """End of the citations after the end mark and closing marks that end at `at`; `at` if there are none."""
        if _CITING.isdisjoint(self.text[at : at + 4]) or _CITATION.match(self.text, self.body, self.end):
            return at
        end = at
        while found := (_CITATION if end == at else _NEXT_CITATION).match(self.text, end, self.end):
            inside = found.end() - len(found.group().lstrip("(（ \u00a0"))
            if self.text[inside - 1] in "(（" and starts_sentence(self.text, inside, self.end):
                break  # (In 2020 ... of 2021)
            if found.group()[0].isspace() and self.text[found.end() : found.end() + 2].strip()[:1].islower():
                break  # (Apollo 11) landed
            end = found.end()
        return _TAIL.match(self.text, end, self.end).end() if end > at else at

    def _speech_goes_on(self, last: int, tail: int) -> bool:
        """Whether a quotation that ends at an end mark is only a part of the Chinese sentence around it."""
        opening = next((self.opening_of[k] for k in range(last, tail) if k in self.opening_of), None)
        if opening is None or self.text[opening] not in _QUOTES or self.text[tail].isspace():
            return False
        return self.text[opening - 1 : opening] not in ("：", ":", "，", ",") and self.text[tail] not in _QUOTES

    def _next_word(self, at: int) -> int:
        """Position of the first letter or digit from `at` on (`at` never goes back), else the block's end."""
        if self.next_word <= at:
            found = _WORD.search(self.text, at, self.end)
            self.next_word = found.start() if found else self.end
        return self.next_word

    def _word(self, end: int) -> str:
        start = end
        while start > self.body and (self.text[start - 1].isalnum() or self.text[start - 1] in ".-'’"):
            if _han(self.text[start - 1]):
                break
            start -= 1
        return self.text[start:end].lstrip(".-'’")

    def _is_marker(self, number: int, at: int) -> bool:
        """Whether a number before a full stop, inside a line, numbers an item; counts it if so."""
        if number != self.count + 1:
            return False
        if _WORD.search(self.text, self.body, at):  # Not at the start of a sentence: "Facts: 1. ... 2. ..."
            lead_in = self.text[self.body : at].rstrip().endswith((":", "："))
            if number != 1 or not lead_in or " 2. " not in self.text[at : self.end]:
                return False
        self.count = number
        return True
