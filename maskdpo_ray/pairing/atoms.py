"""Atomic statements of labelled answers, and the questions that detect whether the policy knows them (APEFT, 5.1).

A statement is a sentence of an answer that stands alone: it names its topic and holds one fact. The policy is asked
several times whether it is true. What it gets right now and then is potentially known, and gives preference pairs.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from maskdpo_ray.records import CONTRADICTORY, NO_FACT, NO_HALLUCINATION, UNPARSED, Annotation, Question, Rollout

KNOWN = "known"
POTENTIALLY_KNOWN = "potentially_known"
UNKNOWN = "unknown"
"""Results of `knowledge`, beside `unparsed`."""

_LONGEST = 200
"""Characters of a statement."""
_IS_TRUE = {NO_HALLUCINATION: True, CONTRADICTORY: False}
_MARKUP = re.compile(r"^\s*(?:[-*•#>]+\s+|\(?\d{1,3}[.)]\s+)+|[*_`#]+")
"""Marks of a list at the beginning, and of emphasis anywhere."""
_PRONOUN = re.compile(
    r"(?:it|its|they|their|he|his|she|her|we|our|i|my|you|your|this|that|these|those|there|here|which|who|whose|some|"
    r"both|such|another)\b|[它他她其该此这那]",
    re.IGNORECASE,
)
_MORE = re.compile(
    r"[,;:()/?!\n，；：、（）？！]|以及|[和与]"
    r"|\b(?:and|or|but|while|whereas|although|though|which|who|whose|where)\b"
)
"""Marks and words that join a second fact or clause, or ask."""
_ENDS = {"en": ".", "zh": "。"}


@dataclass(frozen=True, slots=True)
class Statement:
    """One fact in words, right or wrong, that is understood without the answer that it is from."""

    question_id: str
    """Question that the answer is to."""
    topic: str
    text: str
    is_true: bool
    language: str = "en"


def statements(question: Question, answers: Iterable[tuple[Rollout, Annotation]]) -> list[Statement]:
    """The statements of labelled answers to one question, each text once, in the order of the answers.

    A text that is labelled both right and wrong is left out.
    """
    found: dict[str, Statement] = {}
    disputed = set()
    for rollout, annotation in answers:
        for sentence in annotation.sentences:
            is_true = _IS_TRUE.get(sentence.label)
            text = None if is_true is None else _alone(rollout.text[sentence.start : sentence.end], question)
            if is_true is None or text is None:
                continue
            first = found.setdefault(text, Statement(question.id, question.topic, text, is_true, question.language))
            if first.is_true != is_true:
                disputed.add(text)
    return [statement for text, statement in found.items() if text not in disputed]


def _alone(sentence: str, question: Question) -> str | None:
    """The sentence as a statement; None when it needs its context, doesn't name the topic or holds several facts."""
    text = " ".join(_MARKUP.sub("", sentence).split()).rstrip(".。 ")
    topic = question.topic.removeprefix("The ").removeprefix("the ")
    named = re.compile(rf"(?<!\w){re.escape(topic)}(?!\w)" if topic.isascii() else re.escape(topic), re.IGNORECASE)
    rest, count = named.subn("", text)
    if not count or not re.search(r"\w", rest) or len(text) > _LONGEST:
        return None
    # The topic's own name may hold an "and": Bosnia and Herzegovina.
    if _PRONOUN.match(text) or _MORE.search(rest):
        return None
    return text + _ENDS[question.language]


_PROMPTS = {
    "en": "Is the following statement true or false? Reply with one word, True or False.\n\n{statement}",
    "zh": "下面的陈述是正确还是错误？只回答“正确”或“错误”。\n\n{statement}",
}
"""Knowledge detection: "decide whether the provided atomic fact is true or false" (5.1; the paper prints no prompt)."""
_REPLIES = {"en": {True: "True", False: "False"}, "zh": {True: "正确", False: "错误"}}
_SHOTS = {
    "en": (("The capital of Vietnam is Hanoi.", True), ("The capital of Portugal is Madrid.", False)),
    "zh": (("越南的首都是河内。", True), ("葡萄牙的首都是马德里。", False)),
}


def detection_question(statement: Statement, few_shot: bool = False) -> Question:
    """The question whether a statement is true; its answer is "True" or "False", in the statement's language.

    `few_shot`: a true and a false statement are answered before it. A small model otherwise gives every statement the
    same reply.
    """
    language = statement.language
    shots = _SHOTS[language] if few_shot else ()
    messages = []
    for text, is_true in shots:
        messages += [_asked(text, language), {"role": "assistant", "content": _REPLIES[language][is_true]}]
    digest = hashlib.sha256(statement.text.encode()).hexdigest()[:12]
    return Question(
        id=f"{statement.question_id}/{digest}",
        topic=statement.topic,
        prompt=(*messages, _asked(statement.text, language)),
        answer=_REPLIES[language][statement.is_true],
        language=language,
    )


def _asked(statement: str, language: str) -> dict[str, str]:
    return {"role": "user", "content": _PROMPTS[language].format(statement=statement)}


_ADVERBS = (
    r"(?:(?:indeed|also|quite|definitely|certainly|clearly|absolutely|completely|totally|entirely|fully|actually|really|"
    r"simply|obviously|factually|historically) )*"
)
_TRUE = "true|correct|right|accurate"
_FALSE = "false|untrue|incorrect|wrong|inaccurate"
_LEAD = (
    r"(?:(?:the )?(?:statement|claim|fact) that .* is )?"
    r"(?:(?:the|this|that|above|following|given|final|correct(?= answer)|statement|claim|sentence|fact|answer|verdict|"
    r"it|is|was|'s|a|an|i|would|say|believe|think|so|therefore|yes|no|well|sure|okay|ok|and|my|[a-d]|q)\b\W*)*"
)
_VERDICT = re.compile(
    rf"\W*{_LEAD}(?P<not>(?:not |never |n't ){_ADVERBS})?{_ADVERBS}(?P<word>{_TRUE}|{_FALSE})"
    r"(?=\W*\Z| (?:because|since|as|that|according|given|based|for|and|but)\b|"
    r" (?:statement|claim|sentence|fact|answer)\W*\Z)"
)
_VERDICT_ZH = re.compile(
    "(?:这|那|该|此|上述|以上|个|条|句话?|陈述|说法|表述|答案|判断|结论|因此|所以|应该|是|为|的|它)*"
    "(?P<not>不)?(?P<word>正确|属实|真|对|错误|错|假)(?:的|了|因为.*|由于.*)*"
)
_YES_OR_NO = re.compile(r"\W*(?:(?P<yes>yes|是的?)|no|否|不是?)\W*")
_BOTH = re.compile(r"\btrue(?: or |/)false\b|(?:正确|对)(?:还是|或)(?:错误|错)")
_QUOTED = re.compile(r'"(?=[^"]*\w\s+\w)[^"]*"|“[^”]*”|「[^」]*」')
_CLAUSE = re.compile(r"[.,:;!?。，：；！？\n]|\s(?:but|however)\s|\s[-–—]\s")


def verdict(reply: str) -> bool | None:
    """Whether a reply to a detection question says true or false; None when it says neither, or both.

    A clause counts whose only content is the verdict: "False.", "The statement is not true", "No, ..."; one that
    guesses, or that uses the words in another sense ("the true capital"), doesn't.
    """
    text = unicodedata.normalize("NFKC", reply).casefold().replace("’", "'").replace("n't", " n't")
    text = re.sub(r"[*_`#]", "", _BOTH.sub(" ", _QUOTED.sub("q", text)))
    clauses = [" ".join(clause.split()) for clause in _CLAUSE.split(text)]
    said = [found for clause in clauses if (found := _said(clause)) is not None]
    first = next((clause for clause in clauses if clause), "")
    if match := _YES_OR_NO.fullmatch(first):
        said.append(match["yes"] is not None)
    return said[0] if len(set(said)) == 1 else None


def _said(clause: str) -> bool | None:
    if len(clause) > _LONGEST:  # it says more than the verdict
        return None
    match = _VERDICT.match(clause) or _VERDICT_ZH.fullmatch(clause)
    if match is None:
        return None
    is_true = match["word"] in (*_TRUE.split("|"), "正确", "属实", "真", "对")
    return is_true == (match["not"] is None)


def label(question: Question, reply: str) -> str:
    """The label of a reply to a detection question: right, wrong, or `no_fact` when it says neither true nor false.

    Such a reply is the policy's failure, not the annotator's, which `unparsed` would count towards
    `annotation.max_unparsed`.
    """
    says = verdict(reply)
    if says is None:
        return NO_FACT
    return NO_HALLUCINATION if says == (question.answer == _REPLIES[question.language][True]) else CONTRADICTORY


def knowledge(verdicts: Sequence[bool | None], is_true: bool) -> str:
    """How well the policy knows a statement, by the share r of its verdicts that are right (APEFT 5.1).

    r = 1: known; 0 < r < 1: potentially known; r = 0: unknown. Verdicts that could not be read don't count; when there
    are no others, `unparsed`.
    """
    right = {says == is_true for says in verdicts if says is not None}
    if not right:
        return UNPARSED
    return POTENTIALLY_KNOWN if len(right) == 2 else KNOWN if True in right else UNKNOWN
