"""The `anah` annotator's conversations with a judge in process: what is asked, when it ends, what is asked once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from maskdpo_ray.annotation.llm import turns
from maskdpo_ray.annotation.llm.anah import AnahAnnotator
from maskdpo_ray.annotation.llm.interviews import Once
from maskdpo_ray.annotation.llm.judge import Conversation, Reply
from maskdpo_ray.annotation.protocol import build
from maskdpo_ray.errors import AnnotatorError, ConfigError, DataError
from maskdpo_ray.records import CONTRADICTORY, NO_FACT, UNPARSED, UNVERIFIABLE, Question, Rollout, Sentence

REPLIES = {
    "Opinion.": ["No claim"],
    "Missing.": ["Has a claim", "No passage"],
    "False.": ["Has a claim", "It {says} otherwise.", "Contradictory"],
    "Odd.": ["Pardon?"],
}
DOCUMENT = "A {document} with {braces}."
QUESTION = Question("q", "t", ({"role": "user", "content": "What?"},), DOCUMENT)


class InProcess:
    """Replies by `REPLIES` with log-probability -0.5 and notes its calls."""

    def __init__(self) -> None:
        self.waves: list[tuple[int, list[Conversation]]] = []

    def start(self) -> None: ...

    def ask(self, conversations: Sequence[Conversation], max_tokens: int) -> list[Reply]:
        self.waves.append((max_tokens, [list(conversation) for conversation in conversations]))
        return [self.reply(conversation) for conversation in conversations]

    def reply(self, conversation: Conversation) -> Reply:
        sentence = next(each for each in REPLIES if each in conversation[0]["content"])
        return Reply(REPLIES[sentence][len(conversation) // 2], -0.5)

    def close(self) -> None: ...


def annotator(**options: Any) -> tuple[AnahAnnotator, InProcess]:
    """A started one and its judge."""
    built: Any = build("anah", {"judge": f"python:{__name__}:InProcess", **options})
    built.start()
    return built, built.judge


def answer(text: str, sample: int = 0) -> Rollout:
    return Rollout("q", sample, (), text, "stop", 0)


def test_three_waves_that_get_smaller() -> None:
    asked, judge = annotator()
    texts = ["Opinion. False.", "Missing. False.", "", "Odd."]
    found = asked.annotate([(QUESTION, answer(text, sample)) for sample, text in enumerate(texts)])
    assert [(each.question_id, each.sample) for each in found] == [("q", 0), ("q", 1), ("q", 2), ("q", 3)]
    chance = pytest.approx(0.6065, abs=1e-4)
    assert found[0].sentences == (
        Sentence(0, 8, NO_FACT, chance, None),
        Sentence(9, 15, CONTRADICTORY, chance, "It {says} otherwise."),
    )
    assert found[1].sentences[0] == Sentence(0, 8, UNVERIFIABLE, chance, None)
    assert found[2].sentences == ()
    assert found[3].sentences == (Sentence(0, 4, UNPARSED, None, "fact: 'Pardon?'"),)
    assert [(limit, len(conversations)) for limit, conversations in judge.waves] == [(32, 4), (512, 2), (32, 1)]
    assert asked.counts == {"sentences": 5, "judged": 4, "unparsed": 1, "calls": 7}


def test_one_conversation_grows_and_braces_of_the_texts_stay() -> None:
    asked, judge = annotator()
    asked.annotate([(QUESTION, answer("False."))])
    (first,), (second,), (third,) = (conversations for _, conversations in judge.waves)
    assert [message["role"] for message in third] == ["user", "assistant"] * 2 + ["user"]
    assert third[:3] == second and second[:1] == first
    assert all(text in first[0]["content"] for text in (DOCUMENT, "What?", "False."))
    assert [third[1]["content"], third[3]["content"]] == REPLIES["False."][:2]


def test_sentences_of_one_question_share_the_document_as_prefix() -> None:
    asked, judge = annotator()
    asked.annotate([(QUESTION, answer("False. Opinion."))])
    one, other = (conversation[0]["content"] for conversation in judge.waves[0][1])
    assert one.index(DOCUMENT) == other.index(DOCUMENT) < one.index("False.")
    assert one[: one.index("False.")] == other[: other.index("Opinion.")]


def test_templates_of_ones_own(tmp_path: Path) -> None:
    raw = {
        "en": {
            "fact": {"prompt": "{sentence} <{question}>", "replies": {"has_fact": ["<A>"], "no_fact": ["<B>", "C c"]}},
            "reference": {"prompt": "{document}|{sentence}", "replies": {"no_reference": ["<None>"]}},
            "verdict": {
                "prompt": "{reference}, {'json': {sentence}}",
                "replies": {"no_hallucination": ["Y"], "contradictory": ["N"], "unverifiable": ["U"]},
            },
        }
    }
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(raw))
    fact, reference, verdict = turns.read(file, turns.ANAH)["en"].values()
    fields = {"document": "D", "question": "Q", "sentence": "{question}", "reference": "R"}
    prompts = [turn.prompt(fields) for turn in (fact, reference, verdict)]
    assert prompts == ["{question} <Q>", "D|{question}", "R, {'json': {question}}"]
    assert [fact.meaning(text) for text in ("a", "B.", "c C", "AB", "")] == [
        "has_fact",
        "no_fact",
        "no_fact",
        None,
        None,
    ]
    assert [reference.meaning(text) for text in ("none", "None of it", " .")] == ["no_reference", "passages", None]
    assert verdict.meaning("ｕ") == "unverifiable"  # full width
    asked, _ = annotator(templates=str(file))
    file.unlink()  # what travels to other nodes is what it held
    asked.check(QUESTION)
    chinese = Question("q2", "t", QUESTION.prompt, DOCUMENT, language="zh")
    with pytest.raises(DataError, match="^question 'q2': language: expected one of the templates' en; got 'zh'$"):
        asked.check(chinese)


def default() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((turns.TEMPLATES / "anah.yaml").read_text(encoding="utf-8"))
    return loaded


def edit(**turn: Any) -> Callable[[dict[str, Any]], None]:
    """Changes to English turns: edit(fact={"prompt": ...})."""
    return lambda raw: [raw["en"][name].update(values) for name, values in turn.items()] and None


BAD_TEMPLATES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda raw: raw.clear(), ": expected a mapping of en, zh; got {}"),
    (lambda raw: raw.update(fr={}), ": expected only en, zh; got 'fr'"),
    (lambda raw: raw["en"].pop("verdict"), ": en: expected fact, reference, verdict; verdict is missing"),
    (lambda raw: raw["en"].update(four={}), ": en: expected only fact, reference, verdict; got 'four'"),
    (lambda raw: raw["en"]["fact"].pop("replies"), ": en.fact: expected prompt, replies; replies is missing"),
    (edit(fact={"prompt": " "}), ": en.fact.prompt: expected text, got ' '"),
    (edit(fact={"prompt": "{document}"}), ": en.fact.prompt: expected {sentence} in it"),
    (edit(fact={"prompt": "{sentence}"}), ": en: expected {document} in the prompt of fact or reference"),
    (
        edit(fact={"prompt": "{reference}"}),
        ": en.fact.prompt: expected only the fields {document}, {question}, {sentence}, {context}; got {reference}",
    ),
    (edit(reference={"prompt": "{sentense}"}), ": en.reference.prompt: expected only the fields {document}, "),
    *(
        (
            edit(verdict={"prompt": f"Judge. {slip}"}),
            f": en.verdict.prompt: expected only the fields {fields}; got {slip}",
        )
        for fields in ("{document}, {question}, {sentence}, {context}, {reference}",)
        for slip in (
            *("{question1}", "{}", "{ sentence }", "{Sentence}"),
            *("{0}", "{sentence.upper}", "{document:10}", "{document!r}", "{document[0]}", "{document:>10}"),
        )
    ),
    (edit(fact={"replies": []}), ": en.fact.replies: expected a mapping of has_fact, no_fact; got []"),
    (
        edit(fact={"replies": {"has_fact": ["Yes"], "no_fact": [False]}}),
        ": en.fact.replies.no_fact: expected a list of texts, got [False]",
    ),
    (
        edit(fact={"replies": {"has_fact": ["Yes"], "no_fact": ["yes."]}}),
        ": en.fact.replies.no_fact: expected a reply of its own, got 'yes.', which means has_fact",
    ),
    (edit(reference={"replies": {"no_reference": "None"}}), ": en.reference.replies.no_reference: expected a list of "),
    (edit(reference={"replies": {"no_reference": ["<>"]}}), ": en.reference.replies.no_reference: expected a list of "),
]


def test_other_braces_are_text(tmp_path: Path) -> None:
    raw, file = default(), tmp_path / "t.yaml"
    given = '{"a": 1} {a: 1} {yes, no} {"a": {"b": []}}'
    edit(fact={"prompt": given + " {sentence} {document}"})(raw)
    file.write_text(yaml.safe_dump(raw))
    asked, judge = annotator(templates=str(file))
    asked.annotate([(QUESTION, answer("False."))])
    assert judge.waves[0][1][0][0]["content"] == f"{given} False. {DOCUMENT}"


@pytest.mark.parametrize(("change", "expected"), BAD_TEMPLATES)
def test_bad_templates_are_one_line(change: Callable[[Any], object], expected: str, tmp_path: Path) -> None:
    raw, file = default(), tmp_path / "t.yaml"
    change(raw)
    file.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError) as caught:
        annotator(templates=str(file))
    assert str(caught.value).startswith(f"{file}{expected}")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, ": expected a YAML file of templates, got: No such"),
        (b"a:\n  [", ":2: expected YAML, got: expected the node content, but found '<stream end>'"),
        (b"a:\n\tx", ":2: expected YAML, got: found character '\\t' that cannot start any token"),
        (b"en: 1\nzh: 2\nen: 3", ":3: expected YAML, got: en twice"),
        (b"\xff", ": expected YAML, got: 'utf-8' codec can't decode byte 0xff"),
        (b"\0", ": expected YAML, got: unacceptable character #x0000"),
        (b"[" * 5000, ": expected YAML, got: maximum recursion depth exceeded"),
    ],
)
def test_template_files_that_cannot_be_read(content: bytes | None, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        annotator(templates=str(file))
    assert str(caught.value).startswith(f"{file}{expected}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"judge": 3}, "judge: expected a name, got 3"),
        ({"judge_options": []}, "judge_options: expected a mapping, got []"),
        ({"templates": 3}, "templates: expected a file, got 3"),
        ({"templates": ""}, "templates: expected a file, got ''"),
        ({"max_reply_tokens": 0}, "max_reply_tokens: expected a whole number above 0, got 0"),
        ({"max_reference_tokens": 1.5}, "max_reference_tokens: expected a whole number above 0, got 1.5"),
        ({"max_document_chars": True}, "max_document_chars: expected a whole number above 0, got True"),
        ({"max_concurrency": "2"}, "max_concurrency: expected a whole number above 0, got '2'"),
    ],
)
def test_bad_options_are_one_line(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        annotator(**options)
    assert str(caught.value) == f"annotation.options.{expected}"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (None, "document: expected reference text for the anah annotator, got None"),
        (" \n", "document: expected reference text for the anah annotator, got ' \\n'"),
        ("12345", "document: expected at most 4 characters (annotation.options.max_document_chars), got 5"),
    ],
)
def test_documents_are_checked_before_a_run(document: str | None, expected: str) -> None:
    asked, _ = annotator(max_document_chars=4)
    with pytest.raises(DataError) as caught:
        asked.check(Question("q", "t", QUESTION.prompt, document))
    assert str(caught.value) == f"question 'q': {expected}"


def test_the_same_question_sentence_and_document_are_asked_once() -> None:
    asked, judge = annotator()
    for question in (QUESTION, Question("same", "t2", QUESTION.prompt, DOCUMENT)):
        asked.annotate([(question, answer("False. False."))])
    assert len(judge.waves) == 3
    changed = (
        Question("q", "t", ({"role": "user", "content": "Why?"},), DOCUMENT),
        Question("q", "t", QUESTION.prompt, "Another document."),
    )
    asked.annotate([(question, answer("False.")) for question in changed])
    assert [len(conversations) for _, conversations in judge.waves] == [1, 1, 1, 2, 2, 2]


def test_threads_that_want_the_same_work_share_it() -> None:
    begun, go_on = threading.Event(), threading.Event()
    worked: list[list[str]] = []

    def work(items: Sequence[str]) -> list[str]:
        worked.append(list(items))
        if "a" in items:
            begun.set()
            assert go_on.wait(10)
        return [item.upper() for item in items]

    once = Once(work)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(once.get, {1: "a", 2: "b"})
        assert begun.wait(10)
        second = pool.submit(once.get, {2: "b", 3: "c"})
        assert once.get({3: "c"}) == {3: "C"}  # nobody waits for what is not theirs
        go_on.set()
        assert (first.result(), second.result()) == ({1: "A", 2: "B"}, {2: "B", 3: "C"})
    assert worked == [["a", "b"], ["c"]]


def test_work_that_failed_is_done_again() -> None:
    results: list[Any] = [AnnotatorError("no"), ["A"]]

    def work(items: Sequence[str]) -> list[str]:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return list(result)

    once = Once(work)
    with pytest.raises(AnnotatorError, match="^no$"):
        once.get({1: "a"})
    assert once.get({1: "a"}) == {1: "A"}
