"""Labelled sets: answers that people (or a judge that is trusted) labelled, for measuring an annotator against.

Four layouts, told apart by their fields: RAGTruth's (Niu et al. 2024, https://aclanthology.org/2024.acl-long.585),
PsiloQA's (Rykov et al. 2025, arXiv 2510.04849), ANAH's (Ji et al. 2024, https://aclanthology.org/2024.acl-long.442) and
our own, that of the file of `annotate`, whose labels a person has corrected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskdpo_ray.annotation import sentences
from maskdpo_ray.data.dropped import Dropped, Reason
from maskdpo_ray.data.jsonl import objects
from maskdpo_ray.errors import DataError, RecordError, shown
from maskdpo_ray.records import (
    CONTRADICTORY,
    LABELS,
    LANGUAGES,
    NO_FACT,
    NO_HALLUCINATION,
    UNPARSED,
    UNVERIFIABLE,
    Question,
    Rollout,
)

CORRECT_SIDE, INCORRECT_SIDE = "correct", "hallucinated"
WORST = (CONTRADICTORY, UNVERIFIABLE, UNPARSED, NO_HALLUCINATION, NO_FACT)
"""Labels from the worst: a sentence has the worst of its parts."""
Span = tuple[int, int, str]
"""(start, end, label), offsets in the answer."""
Fields = Mapping[str, Any]
_FOUR = {label: label for label in LABELS if label != UNPARSED}
_THREE = {**_FOUR, NO_FACT: CORRECT_SIDE, NO_HALLUCINATION: CORRECT_SIDE}
_TWO = {**_THREE, CONTRADICTORY: INCORRECT_SIDE, UNVERIFIABLE: INCORRECT_SIDE}


@dataclass(frozen=True)
class Layout:
    """A layout of a labelled set."""

    name: str
    fields: tuple[str, ...]
    """Fields that tell it."""
    classes: Mapping[str, str]
    """Label of ours -> the class of the set that it belongs to: sets tell fewer apart."""


RAGTRUTH = Layout("ragtruth", ("source_id", "response", "labels"), _THREE)
PSILOQA = Layout("psiloqa", ("wiki_passage", "llm_answer", "labels"), _TWO)
ANAH = Layout("anah", ("documents", "selected_questions"), _FOUR)
OWN = Layout("own", ("text", "sentences"), _FOUR)
LAYOUTS = (RAGTRUTH, PSILOQA, ANAH, OWN)
_KINDS = {
    "evident conflict": CONTRADICTORY,
    "subtle conflict": CONTRADICTORY,
    "evident baseless info": UNVERIFIABLE,
    "subtle baseless info": UNVERIFIABLE,
}
"""RAGTruth's kinds of hallucination."""
_ANAH_ANSWERS = {"GPT3.5_answers_D": "human_GPT3.5_answers_D_ann", "InternLM_answers": "human_InternLM_answers_ann"}
"""ANAH's columns of answers -> those of their annotations, a list of texts for each answer, one for each sentence."""
_ANAH_TYPES = (
    (re.compile(r"<\s*(?:No ?Facts?|无事实)\s*>", re.IGNORECASE), NO_FACT),
    (re.compile(r"<(?:Hallucination|幻觉)>\s*(?:Unverifiable|无法验证)", re.IGNORECASE), UNVERIFIABLE),
    (re.compile(r"<(?:Hallucination|幻觉)>\s*(?:Contradictory|矛盾)", re.IGNORECASE), CONTRADICTORY),
    (re.compile(r"<(?:Hallucination|幻觉)>\s*(?:None|无)", re.IGNORECASE), NO_HALLUCINATION),
)
"""Type that an annotation of ANAH's states, as its eval/anah_v1/utils.py reads it."""
_CHINESE = re.compile("[\u3400-\u9fff]")


@dataclass(frozen=True)
class Labelled:
    """An answer with its sentences' labels, set by hand."""

    question: Question
    answer: Rollout
    sentences: tuple[Span, ...]


Reader = Callable[[Fields, str], Iterator[Labelled | RecordError]]
"""The answers of a row, and the errors of those that can't be used."""


@dataclass(frozen=True)
class LabelledSet:
    """A set, whole or a part of it."""

    layout: Layout
    answers: list[Labelled]


def load(file: Path, questions: Sequence[Question], dropped: Dropped, split: str | None = None) -> LabelledSet:
    """The answers of a file, or data set of the Hub, in any format of `jsonl.objects`.

    Args:
        questions: those that lines of our own layout name by `question_id`.
        split: only lines whose `split` it is.

    Bad lines go to `dropped`. Raises DataError for a file of none of the layouts.
    """
    layout: Layout | None = None
    reader: Reader | None = None
    found: list[Labelled] = []
    for where, value in objects(file, dropped):
        if reader is None:
            layout = _layout(value, where)
            reader = _reader(layout, file, questions)
        if split is not None and value.get("split") != split:
            continue
        try:
            for number, each in enumerate(reader(value, where)):
                if number:
                    dropped.met()  # a row of ANAH holds several answers
                if isinstance(each, RecordError):
                    dropped.take(each)
                else:
                    found.append(each)
        except RecordError as error:
            dropped.take(error)
    if layout is None or not found:
        part = "" if split is None else f" whose split is {split!r}"
        raise DataError(f"{file}: expected labelled answers{part}, found none")
    return LabelledSet(layout, found)


def _layout(value: Fields, where: str) -> Layout:
    layout = next((each for each in LAYOUTS if set(each.fields) <= value.keys()), None)
    if layout is None:
        known = "; ".join(f"{each.name}'s {', '.join(each.fields)}" for each in LAYOUTS)
        raise DataError(f"{where}: expected the fields of a labelled set ({known}), got {', '.join(value)}")
    return layout


def _reader(layout: Layout, file: Path, questions: Sequence[Question]) -> Reader:
    if layout is RAGTRUTH:
        sources = _sources(file.with_name(f"source_info{file.suffix}"))
        return lambda value, where: _ragtruth(value, where, sources)
    if layout is OWN:
        by_id = {question.id: question for question in questions}
        return lambda value, where: _own(value, where, by_id)
    return _psiloqa if layout is PSILOQA else _anah


def _sources(file: Path) -> dict[str, Fields]:
    return {str(value.get("source_id")): value for _, value in objects(file)}


def _ragtruth(value: Fields, where: str, sources: Mapping[str, Fields]) -> Iterator[Labelled]:
    source = sources.get(str(value["source_id"]))
    if source is None:
        raise _fault(where, "source_id", "one of source_info", value["source_id"], Reason.UNKNOWN_QUESTION)
    given = source.get("source_info")
    document = given if isinstance(given, str) else str(given)
    asked = str(source.get("prompt", "")).partition(document)[0].strip()
    if isinstance(given, dict) and "passages" in given:
        document, asked = str(given["passages"]), str(given.get("question"))
    question = _question(f"ragtruth/{value['source_id']}", asked or "Summarize.", document)
    text, wrong = _text(value, "response", where), []
    for label in _list(value, "labels", where):
        kind = _KINDS.get(str(label.get("label_type") if isinstance(label, dict) else label).lower())
        if kind is None:
            raise _fault(where, "labels", f"one of {', '.join(_KINDS)}", label, Reason.UNKNOWN_LABEL)
        wrong.append((label.get("start"), label.get("end"), kind))
    yield _of_spans(question, text, wrong, where)


def _psiloqa(value: Fields, where: str) -> Iterator[Labelled]:
    language = "zh" if value.get("lang") == "zh" else "en"
    document = _text(value, "wiki_passage", where)
    question = _question(str(value.get("wiki_title") or document), _text(value, "question", where), document, language)
    wrong = []
    for span in _list(value, "labels", where):
        if not isinstance(span, (list, tuple)) or len(span) != 2:
            raise _fault(where, "labels", "lists of start and end", span)
        wrong.append((span[0], span[1], UNVERIFIABLE))
    yield _of_spans(question, _text(value, "llm_answer", where), wrong, where)


def _anah(value: Fields, where: str) -> Iterator[Labelled | RecordError]:
    documents = "\n\n".join(map(str, _list(value, "documents", where)))
    asked = [str(each) for each in _list(value, "selected_questions", where)]
    topic, language = str(value.get("name") or where), value.get("language")
    for answers, labelled in _ANAH_ANSWERS.items():
        if answers not in value or labelled not in value:
            continue
        texts, labels = _list(value, answers, where), _list(value, labelled, where)
        if not len(asked) == len(texts) == len(labels):
            raise _fault(where, labelled, f"as many as questions, {len(asked)}", len(labels))
        for words, text, each in zip(asked, texts, labels, strict=True):
            spoken = language if language in LANGUAGES else "zh" if _CHINESE.search(words) else "en"
            question = _question(topic, words, documents, spoken)
            given = [each] if isinstance(each, str) else list(each)
            try:
                yield _labelled(question, str(text), tuple(_anah_units(question, str(text), given, where, labelled)))
            except RecordError as error:
                yield error


def _anah_units(question: Question, text: str, given: Sequence[Any], where: str, field: str) -> Iterator[Span]:
    """Each sentence with the type of its annotation. Annotations don't quote their sentences: there must be as many."""
    spans = sentences.split(text, question.language)
    if len(given) != len(spans):
        expected = f"one for each of {len(spans)} sentences"
        raise _fault(where, field, expected, len(given), Reason.INVALID_SENTENCES)
    for (start, end), annotation in zip(spans, given, strict=True):
        yield start, end, _anah_type(str(annotation), where, field)


def _anah_type(annotation: str, where: str, field: str) -> str:
    label = next((label for pattern, label in _ANAH_TYPES if pattern.search(annotation)), None)
    if label is None:
        raise _fault(where, field, "a hallucination type", annotation, Reason.UNKNOWN_LABEL)
    return label


def _own(value: Fields, where: str, questions: Mapping[str, Question]) -> Iterator[Labelled]:
    name, text = value.get("question_id"), _text(value, "text", where)
    if "prompt" in value:
        document = value.get("document")
        question = _question(str(value.get("topic") or name or where), _text(value, "prompt", where), document)
    elif name in questions:
        question = questions[str(name)]
    else:
        raise _fault(where, "question_id", "a question of data.train, or a prompt", name, Reason.UNKNOWN_QUESTION)
    units: list[Span] = []
    for given in _list(value, "sentences", where):
        fields = given if isinstance(given, dict) else {}
        label = fields.get("label")
        if label not in _FOUR:
            raise _fault(where, "sentences", f"labels {', '.join(_FOUR)}", label, Reason.UNKNOWN_LABEL)
        units.append((*_span(fields.get("start"), fields.get("end"), text, where, "sentences"), label))
    yield _labelled(question, text, tuple(sorted(units)))


def _of_spans(question: Question, text: str, wrong: Sequence[tuple[Any, Any, str]], where: str) -> Labelled:
    """An answer of whose hallucinated spans are known: its sentences, each as bad as the spans in it."""
    spans = [(*_span(start, end, text, where, "labels"), label) for start, end, label in wrong]
    units = tuple((a, b, worst(a, b, spans) or NO_HALLUCINATION) for a, b in sentences.split(text, question.language))
    return _labelled(question, text, units)


def worst(start: int, end: int, spans: Sequence[Span]) -> str | None:
    """The worst label of the spans that share a character with `start` to `end`; None when none does."""
    return min((label for a, b, label in spans if a < end and b > start), key=WORST.index, default=None)


def _labelled(question: Question, text: str, units: tuple[Span, ...]) -> Labelled:
    return Labelled(question, Rollout(question.id, 0, (), text, "stop", 0), units)


def _question(topic: str, asked: str, document: Any, language: str = "en") -> Question:
    """A question of a set; its id is what tells it apart: topic, words and document."""
    topic = " ".join(topic.split())[:200]
    name = json.dumps([topic, asked, document], ensure_ascii=False)
    return Question(name, topic, ({"role": "user", "content": asked},), document, language=language)


def _span(start: Any, end: Any, text: str, where: str, field: str) -> tuple[int, int]:
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        expected = f"a span within the answer's {len(text)} characters"
        raise _fault(where, field, expected, [start, end], Reason.INVALID_SENTENCES)
    return start, end


def _text(value: Fields, name: str, where: str) -> str:
    text = value.get(name)
    if not isinstance(text, str) or not text.strip():
        raise _fault(where, name, "a text that is not empty", text)
    return text


def _list(value: Fields, name: str, where: str) -> list[Any]:
    found = value.get(name)
    if not isinstance(found, (list, tuple)):
        raise _fault(where, name, "a list", found)
    return list(found)


def _fault(where: str, field: str, expected: str, got: Any, reason: Reason = Reason.INVALID_FIELD) -> RecordError:
    return RecordError(f"{where}: {field}: expected {expected}; got {shown(got)}", reason)
