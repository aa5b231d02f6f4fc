"""`claims` with a judge, which cuts each sentence into parts of one fact each and labels each as `anah` does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise

from maskdpo_ray.annotation.llm import turns as turns_file
from maskdpo_ray.annotation.llm.anah import AnahAnnotator, Piece
from maskdpo_ray.annotation.llm.interviews import Claim, Once, Verdict, get_each
from maskdpo_ray.annotation.llm.judge import Judge, ask
from maskdpo_ray.annotation.llm.turns import Turn, plain

_WORD = re.compile(r"[^\W_\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+|[^\W_]")
"""A Chinese character is one."""
_LIST_MARK = re.compile(r"\A\W*(?:\d{1,3}|[A-Za-z]|[一二三四五六七八九十]{1,3})(?:[.):]\s|[．）：、])")
_OPENING = re.compile(r"(?<=\s)\S*\Z")


def locate(sentence: str, reply: str) -> list[tuple[int, int]] | None:
    """(start, end) in characters of `sentence` for each line of `reply`, each after the one before it.

    Only words are compared, without case; a list mark before a line is left out if the sentence lacks it. The spans
    hold the whole sentence but for white space between them: words that no line has go with the line after them, those
    at the end with the last one.

    None when a line is not there, or none holds a word of the sentence.
    """
    words = list(_WORD.finditer(sentence))
    keys = [plain(word.group()) for word in words]
    ends = [0]
    """How many words of the sentence are used up after each line."""
    for line in filter(_WORD.search, reply.splitlines()):
        end = next(_ends(keys, ends[-1], line), None)
        if end is None:
            return None
        ends.append(end)
    if len(ends) == 1 and words:
        return None
    starts = [0, *(_start(sentence, words[end - 1].end(), words[end].start()) for end in ends[1:-1])]
    return [(start, start + len(sentence[start:stop].rstrip())) for start, stop in pairwise([*starts, len(sentence)])]


def _ends(keys: Sequence[str], begin: int, line: str) -> Iterator[int]:
    """Ends of the words of `line` in `keys`, from `begin` on; then those of its words after a list marker."""
    for text in (line, _LIST_MARK.sub("", line)):
        wanted = [plain(word) for word in _WORD.findall(text)]
        for end in range(begin + len(wanted), len(keys) + 1):
            if wanted and keys[end - len(wanted) : end] == wanted:
                yield end


def _start(sentence: str, end: int, word: int) -> int:
    """Start of the part whose first word is at `word`, the word before it ending at `end`.

    Marks between them belong to the word that they touch, to the one before if both: "(its", "Kigali,".
    """
    opening = _OPENING.search(sentence[end:word])
    return end + opening.start() if opening else word


class Parts:
    """Asks a judge for the parts of sentences, of each sentence once, whichever thread asks for it first."""

    def __init__(self, judge: Judge, turns: Mapping[str, Turn], max_tokens: int) -> None:
        """`turns`: language -> the turn `SPLIT`; `max_tokens`: longest reply."""
        self._judge = judge
        self._turns = turns
        self._max_tokens = max_tokens
        self._once = Once(self._asked)

    def of(self, sentences: Sequence[Claim]) -> dict[Claim, list[tuple[int, int]] | Verdict]:
        """The parts of each, as in `locate`, or `unparsed`. Raises AnnotatorError when the judge fails."""
        return get_each(self._once, sentences)

    def _asked(self, sentences: Sequence[Claim]) -> list[list[tuple[int, int]] | Verdict]:
        turns = [self._turns[each.language] for each in sentences]
        # Without their own line breaks, as each line of the reply is a part.
        lines = [" ".join(each.sentence.split()) for each in sentences]
        prompts = [
            turn.prompt(asdict(replace(each, sentence=line, context=line)))
            for turn, each, line in zip(turns, sentences, lines, strict=True)
        ]
        replies = ask(self._judge, [[{"role": "user", "content": prompt}] for prompt in prompts], self._max_tokens)
        return [
            (None if reply.fault else locate(each.sentence, reply.text)) or Verdict.unparsed(turn, reply)
            for turn, each, reply in zip(turns, sentences, replies, strict=True)
        ]


class ClaimsByJudge(AnahAnnotator):
    """AnahAnnotator fact by fact, with the same options.

    Before the three turns there is one about each sentence, asked together for all of a call. A sentence whose parts
    can't be found in it is one `unparsed` span.
    """

    _name = "claims"
    _turn_names = turns_file.CLAIMS
    _parts: Parts | None = None

    def start(self) -> None:
        """Start the judge. Raises UserError, one line, when that fails."""
        super().start()
        split = {language: each[turns_file.SPLIT] for language, each in self._turns.items()}
        self._parts = self._parts or Parts(self.judge, split, self._limits.max_reference_tokens)

    def _pieces(self, answers: Sequence[Sequence[tuple[int, int, Claim]]]) -> Sequence[Sequence[Piece]]:
        """The parts of each answer's sentences. Raises AnnotatorError when the judge fails."""
        assert self._parts is not None
        parts = self._parts.of([sentence for each in answers for _, _, sentence in each])

        def cut(start: int, end: int, sentence: Claim) -> Iterator[Piece]:
            found = parts[sentence]
            if isinstance(found, Verdict):
                yield start, end, found
                return
            for first, last in found:
                yield start + first, start + last, replace(sentence, sentence=sentence.sentence[first:last])

        return [[piece for sentence in each for piece in cut(*sentence)] for each in answers]
