"""Tags: the fixed texts that a judge may reply with, and how a reply is read that holds one.

A tag counts where the reply states it: in a clause with nothing beside it but words that say what is judged ("the
sentence is", "verdict:"). All else in the reply must be a reason for it. Whatever is in neither of these closed forms,
be it a doubt, a condition, a question, a part or a denial, makes the reply unreadable: a sentence without a label costs
less than one with a wrong label.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from maskdpo_ray.records import CONTRADICTORY, NO_FACT, NO_HALLUCINATION, SUPPORTED, UNSUPPORTED, UNVERIFIABLE

_WIDE = "\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Chinese characters, each of which is a word."""
_IS_WIDE = re.compile(f"[{_WIDE}]")
_ENDS = re.compile(r"[^\S\n]*(?:\Z|\n|[^\w\s])")
_BREAK = re.compile(r"[.,:!?;]\s|[。、\n]")
"""Punctuation that no tag goes across: "No. Facts present" holds no "No facts"."""
_TAG = "\ufffc"
"""The character that stands for a tag while the clauses are read."""
_CLOSED = re.compile(rf"({_TAG}[\s*_`\"']*)[>\]】]")
"""A tag in brackets, which end its clause: "[Incorrect] it denies this"."""
_HTML = re.compile(
    r"</?(?:b|i|u|em|strong|p|br|div|span|code|answer|verdict|label|result)\s*/?>"
    r"|<\|[^|<>]{1,20}\|>|\\(?:boxed|text)\b"
)
_MARKUP = re.compile(r"(?<!\w)['’]|['’](?!\w)|[*_`\"“”‘<>\[\]{}【】「」『』《》#|~\\]")
_LIST_MARK = re.compile(r"^\s*(?:[-+•]\s|\(?\d{1,2}[.):]\s)", re.MULTILINE)
_SENTENCE = re.compile(r"[^.!?;。\n]*(?:\.(?!\s|\Z)[^.!?;。\n]*)*(?P<end>[.!?;。\n]+|\Z)")
_CLAUSE = re.compile(r"[,:()、—–]|\s-+\s")
_SOURCES = r"passages?|documents?|references?|texts?|article|sources?|evidence|context|information|material"
_BEHIND = re.compile(
    rf"(?:(?:with|to|from|by|in|based on|according to)\s+(?:(?:all|of|the|these|those|this|given|provided|above)\s+)*"
    rf"(?:{_SOURCES})(?:\s+(?:{_SOURCES}|provided|given|above|alone))*)?\s*\Z"
)
"""Words after a tag in its clause that don't limit it: "with the passages"."""
_HARMLESS = frozenset(
    "a an the this that these it its sentence statement claim assertion reply response output result answer verdict "
    "label type tag category class classification conclusion judgement judgment decision evaluation assessment final "
    "overall my our i judge conclude label classify find is are was as to be has contains there here and so "
    "therefore thus hence then step json fully entirely completely clearly directly plainly definitely indeed also "
    "very says yes ok okay sure following".split()
)
_HARMLESS_BEHIND = frozenset(
    "here present then therefore is the my final verdict answer label reason explanation".split()
)
_HARMLESS_CHINESE = re.compile(
    r"这一?句话?|该句话?|本句|句子|陈述|说法|内容|这一?|该|此|它|[与和同跟]|(?:参考)?(?:段落|资料|文档|原文|文本|信息)|中?的|"
    r"是|属于|应?判?[断定]?为|判[断定]|最终|结论|答案|回答|回复|结果|类型|类别|标签|因此|所以|故|应该?|完全|非常|明显|显然|直接|"
    r"第[一二三四\d]步|我|认为|段落?里"
)
_HARMLESS_CHINESE_BEHIND = re.compile("[的了]|理由|原因")
_WORD = re.compile(rf"[{_WIDE}]+|[^\W{_WIDE}]+(?:['’][^\W{_WIDE}]+)*")
_STEP = re.compile(r"\bstep\s+\d\b|\b(?:the|this) part(?: of the sentence)?\b")
_SO = re.compile(r"\s*(?:and\s+|i\s+)?(?:so|therefore|thus|hence|because of this)\b|\s*(?:因此|所以|故)")
_CONCLUDES = re.compile(
    r"\b(?:so|therefore|thus|hence|final|overall|verdict|answer|conclusion|label|classification|judge?ment|decision)\b"
    r"|因此|所以|故|结论|答案|最终|判断|判定"
)
_SOURCE = re.compile(rf"\b(?:{_SOURCES})\b|段落|资料|文档|原文|文本|文中|参考")
_CAUSE = re.compile(r"\s*(?:because|since|given that|due to|as(?=\s+(?:the|it|they)\b|\W*\Z))\b|\s*(?:因为|由于|因)")
_SUBJECT = re.compile(r"\s*(?:the|it|its|he|she|they|a|an|both|all)\s+\w|\s*(?:这|该|此|它|句)")
_DOUBTS = re.compile(
    r"\b(?:if|unless|whether|or|would|could|might|may|should|except\w*|apart|aside|maybe|perhaps|possib\w+|probab\w+|"
    r"likely|unlikely|seem\w*|appear\w*|doubt\w*|question\w*|suspect\w*|unsure|uncertain|unclear|guess\w*|think|believe|"
    r"part|partly|partial\w*|most|mostly|almost|nearly|half|somewhat|largely|roughly|hardly|barely|rather|instead|wait|"
    r"actually|really|correction|sorry|joke|joking|kidding|lie|ignor\w+|assum\w+|suppos\w+)\b"
    r"|如果|若|除|也许|或|可能|似乎|好像|大概|部分|基本|大致|大体|几乎|勉强|难|吗|怀疑|应当|其实|等等"
)
_TURNS = re.compile(
    r"\b(?:but|however|though|although|yet|still|while|whereas|nevertheless|nonetheless|despite|only)\b"
    r"|但|不过|然而|可是|虽|尽管|却"
)
_NEGATES = re.compile(
    r"\b(?:not?|non|nor|neither|never|none|nothing|nowhere|cannot|without|lacks?|fail\w*|far|anything)\b|n['’]t\b"
    r"|[不没無无未否非]|缺"
)
_NO = re.compile(r"\W*(?:no|not|false|wrong|否|不|不是)\W*")
_AGAINST = re.compile(
    r"\b(?:wrong\w*|false\w*|incorrect\w*|inaccura\w+|inconsisten\w+|untrue|unsupported|unverif\w+|mistak\w+|errors?|"
    r"erroneous\w*|otherwise|opposite|contrary|differ\w*|contradict\w*|conflict\w*|disagree\w*|disput\w+|refut\w+|den\w+|"
    r"hallucinat\w+|invent\w+|fabricat\w+|mismatch\w*|off|missing|exclud\w+)\b|错|误|相反|矛盾|虚|假|冲突|不同|不符"
)
_FOR = re.compile(
    r"\b(?:right|true|correct\w*|accura\w+|consisten\w+|support\w*|confirm\w*|agree\w*|match\w*|verif\w+|valid)\b"
    r"|正确|真|对的|属实|一致|相符|支持|证实"
)
_SAYS = re.compile(
    r"\b(?:says?|said|states?|gives?|mentions?|reports?|lists?|describes?|names?|contains?|shows?|notes?|records?|reads?|"
    r"tells?|includes?|stated|given|mentioned|found)\b|说|写|提到|有|记载|指出|列"
)
_AFFIRMING = frozenset((NO_HALLUCINATION, SUPPORTED))
"""Meanings whose only reason is that the sources say the same."""
_DENYING = frozenset((CONTRADICTORY, UNVERIFIABLE, NO_FACT, UNSUPPORTED))
"""Meanings that a negation of what the sources say is a reason for."""


def plain(text: str) -> str:
    """Letters and digits only, with width and case folded: "<No Facts>." -> "nofacts"."""
    return "".join(character for character in _folded(text) if character.isalnum())


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


@dataclass(frozen=True, slots=True)
class Held:
    """An occurrence of a tag in a reply, folded."""

    meaning: str
    start: int
    end: int
    is_alone: bool
    """Whether punctuation or line ends separate it from the words around it."""
    num_words: int


class Tags:
    """Texts with one meaning each, found in a reply regardless of case, width, spaces and punctuation."""

    def __init__(self, meanings: Mapping[str, str]) -> None:
        """`meanings`: text -> its meaning; several texts may have the same one."""
        self._meanings = {plain(text): meaning for text, meaning in meanings.items()}
        self._longest_first = sorted(self._meanings, key=len, reverse=True)
        self._broken = {plain(text) for text in meanings if _BREAK.search(_folded(text).strip())}
        """Tags with punctuation of their own inside: "No, it is not"."""

    def __contains__(self, text: str) -> bool:
        """Whether `text` is a tag and nothing else."""
        return plain(text) in self._meanings

    def exact(self, text: str) -> str | None:
        """Meaning of the tag that `text` is, and nothing else; None if it is none."""
        return self._meanings.get(plain(text))

    def meaning(self, reply: str) -> str | None:
        """Meaning of `reply`; None unless it states tags of exactly one meaning and nothing that isn't a reason for it.

        ANAH-v2's evaluation searches the whole reply for its tags; of two it takes the first in a fixed order.
        """
        text, held = self._masked(reply)
        if len({tag.meaning for tag in held}) != 1:
            return None
        meaning = held[0].meaning
        sentences = _sentences(text)
        last = max(i for i, (sentence, _) in enumerate(sentences) if _TAG in sentence)
        concluded = any(_TAG in clause and _CONCLUDES.search(clause) for clause in _labelled(sentences, last))
        is_stated = False
        for i, (sentence, is_question) in enumerate(sentences):
            if _TAG in sentence:
                is_stated = True
                if is_question or not _states(sentence, meaning):
                    return None
            elif not (_is_harmless(sentence, is_stated) or (concluded and i < last) or _is_reason(sentence, meaning)):
                return None
        return meaning

    def mentions(self, reply: str) -> bool:
        """Whether `reply` asserts its tags amid any text: only harmless words lead to them, and nothing doubts them."""
        text, _ = self._masked(reply)
        for sentence, is_question in _sentences(text):
            if _DOUBTS.search(sentence) or _TURNS.search(sentence) or (is_question and _TAG in sentence):
                return False
            before, *behind = sentence.split(_TAG)
            if behind and not (_is_harmless(before) and all(_is_undenied(words) for words in behind)):
                return False
        return True

    def held(self, reply: str) -> Iterator[Held]:
        """The tags in `reply`, whole words only; of overlapping ones the first, of two with the same start the longer.

        So "no fact" contains no "fact", and "incorrect" no "correct".
        """
        text = _folded(reply)
        places = [place for place, character in enumerate(text) if character.isalnum()]
        letters = "".join(text[place] for place in places)
        first = 0
        while first < len(letters):
            tag = next((t for t in self._longest_first if self._stands(t, letters, first, text, places)), None)
            if tag is None:
                first += 1
                continue
            start, end = places[first], places[first + len(tag) - 1] + 1
            line = text[text.rfind("\n", 0, start) + 1 : start].rstrip()
            yield Held(
                self._meanings[tag],
                start,
                end,
                not line[-1:].isalnum() and bool(_ENDS.match(text, end)),
                sum(_is_edge(text, place) for place in places[first : first + len(tag)]),
            )
            first += len(tag)

    def _masked(self, reply: str) -> tuple[str, list[Held]]:
        """The folded reply without markup and with `_TAG` for each tag, and the tags."""
        text, held, pieces, free_from = _folded(reply), list(self.held(reply)), [], 0
        for tag in held:
            pieces += [text[free_from : tag.start].replace(_TAG, " "), _TAG]
            free_from = tag.end
        text = _spaced("".join([*pieces, text[free_from:].replace(_TAG, " ")]))
        text = _spaced(_MARKUP.sub(" ", _CLOSED.sub(r"\1,", _HTML.sub(" ", text))))
        return _STEP.sub("it", _LIST_MARK.sub("", text)), held

    def _stands(self, tag: str, letters: str, first: int, text: str, places: list[int]) -> bool:
        if not letters.startswith(tag, first) or not _is_edge(text, places[first]):
            return False
        behind = first + len(tag)
        if tag not in self._broken and _BREAK.search(text, places[first], places[behind - 1]):
            return False
        return behind == len(letters) or _is_edge(text, places[behind]) or places[behind] != places[behind - 1] + 1


def _is_edge(text: str, place: int) -> bool:
    """Whether a word begins at `place`."""
    if place == 0 or not text[place - 1].isalnum():
        return True
    return bool(_IS_WIDE.match(text[place]) or _IS_WIDE.match(text[place - 1]))


def _spaced(text: str) -> str:
    """`text` without blank lines and runs of spaces, on which the patterns would take quadratic time."""
    return "\n".join(filter(None, (" ".join(line.split()) for line in text.split("\n"))))


def _sentences(text: str) -> list[tuple[str, bool]]:
    """(words, is a question) of each sentence or line that has any."""
    found = ((match.group(), "?" in match["end"]) for match in _SENTENCE.finditer(text))
    return [(words.rstrip(".!?;。\n"), asks) for words, asks in found if _TAG in words or _WORD.search(words)]


def _labelled(sentences: list[tuple[str, bool]], last: int) -> list[str]:
    """The statement in sentence `last` with the label on the line before it, if any."""
    label = sentences[last - 1][0] if last and _is_harmless(sentences[last - 1][0]) else ""
    return [f"{label} {sentences[last][0]}"]


def _states(sentence: str, meaning: str) -> bool:
    """Whether `sentence` states its tags, with nothing before them but a label or what they follow from."""
    clauses = _CLAUSE.split(sentence)
    first = next(i for i, clause in enumerate(clauses) if _TAG in clause)
    before = " , ".join(clauses[:first])
    if not _is_harmless(before) and (_DOUBTS.search(before) or not _SO.match(clauses[first])):
        return False
    last = max(i for i, clause in enumerate(clauses) if _TAG in clause)
    for clause in clauses[first : last + 1]:
        *leading, behind = clause.split(_TAG)
        cause = _CAUSE.search(behind)
        if cause and clause is clauses[last]:  # Contradictory because ...
            clauses[last], behind = behind[cause.start() :], behind[: cause.start()]
            last -= 1
        if not all(map(_is_harmless, leading)) or not (_is_harmless(behind, True) or _BEHIND.match(behind.strip())):
            return False
    reason = " , ".join(clauses[last + 1 :])
    return _is_harmless(reason, True) or _is_reason(reason, meaning)


def _is_harmless(words: str, behind: bool = False) -> bool:
    """Whether `words` leave a tag that follows them, or that they are `behind`, as it is."""
    chinese = _HARMLESS_CHINESE_BEHIND if behind else _HARMLESS_CHINESE
    harmless = _HARMLESS_BEHIND if behind else _HARMLESS
    return all(not chinese.sub("", w) if _IS_WIDE.match(w) else w in harmless for w in _WORD.findall(words))


def _is_undenied(words: str) -> bool:
    """Whether the words after a tag neither deny it nor answer it with a no; other clauses may hold reasons."""
    clause, *reasons = _CLAUSE.split(words)
    return not (_NEGATES.search(clause) or _NO.fullmatch("".join(reasons)))


def _is_reason(words: str, meaning: str) -> bool:
    """Whether `words` speak for the verdict `meaning`: about its sources or its sentence, without doubt or turn."""
    if _DOUBTS.search(words) or _TURNS.search(words):
        return False
    causes, cites = _CAUSE.match(words.strip(" ,:()")), _SOURCE.search(words)
    if not (causes or cites or _SUBJECT.match(words.strip(" ,:()"))):
        return False
    if meaning in _AFFIRMING and not (cites and (_SAYS.search(words) or _FOR.search(words))):
        return False
    negates, against = _NEGATES.search(words), _AGAINST.search(words)
    if meaning not in _DENYING:
        return not (negates or against)
    return bool(causes or cites) and not against if negates else against is not None or not _FOR.search(words)
