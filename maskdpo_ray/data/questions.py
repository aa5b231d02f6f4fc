"""Questions: reading, checking, splitting by topic. `models/prompts.py` checks that they fit the policy's context."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maskdpo_ray.data.dropped import Dropped, Reason
from maskdpo_ray.data.formats.conversation import Messages, messages, refuse_unread, with_system
from maskdpo_ray.data.formats.preference import SIDES
from maskdpo_ray.data.jsonl import refuse_list
from maskdpo_ray.data.rows import Columns, rows
from maskdpo_ray.errors import DataError, RecordError, shown
from maskdpo_ray.records import LANGUAGES, Question
from maskdpo_ray.terminal import note

SHORT = "-short"
"""End of the names of built-in questions of one fact (`domains/short.py`)."""
MANY = "-many"
"""End of the names of built-in questions with several a topic (`domains/many.py`)."""
BUILTIN = tuple(f"{domain}{end}" for end in ("", SHORT, MANY) for domain in ("countries", "elements"))
_ORIGINS = {
    "countries": "the CIA World Factbook, in the public domain, with names from the Unicode CLDR",
    "elements": "the table of chemical elements of the package mendeleev (MIT)",
}
FIELDS = ("prompt", "id", "topic", "document", "facts", "answer", "language", "wrong_answers")
_DOCUMENTS = "documents"
"""Name of a column that most likely holds what is `document` here."""
LONGEST_NAME = 200
"""Longest id and topic, characters."""


def load(source: str, dropped: Dropped | None = None, columns: Columns | None = None) -> list[Question]:
    """Questions of `builtin:NAME`, one of `BUILTIN`, or of a file or data set (`jsonl.objects`), in their order.

    A row needs only `prompt`: a string, or chat messages that end with the user's. Without `id` its id is
    `source:line number`, without `topic` its topic is its id. Other fields pass by, unless they look like a misspelled
    one of these. Bad rows go to `dropped`. Raises DataError.

    Args:
        columns: see `rows.Columns`.
    """
    dropped = dropped or Dropped(source)
    if source.startswith("builtin:"):
        name = source.removeprefix("builtin:")
        if name not in BUILTIN:
            known = ", ".join(f"builtin:{domain}" for domain in BUILTIN)
            raise DataError(f"{source}: expected one of {known}, or a file or data set")
        found = list(_builtin(name))
        dropped.records = len(found)
        return found
    places: dict[str, str] = {}

    def question(found: tuple[str, dict[str, Any]]) -> Question:
        where, value = found
        refuse_list(value, where)
        if value.get("document") is None and value.get(_DOCUMENTS) and not places:
            hint = f"data.columns: {{document: {_DOCUMENTS}}}"
            note(f"{source}: the column {_DOCUMENTS} passes by, as an unknown one; {hint} reads it")
        made = question_of(value, where)
        if first := places.get(made.id):
            message = f"{where}: id: expected an id of its own, got {made.id!r} again, first at {first}"
            raise RecordError(message, Reason.DUPLICATE)
        places[made.id] = where
        return made

    return list(dropped.sift(rows(Path(source), dropped, columns, (*FIELDS, "system")), question))


def origin(source: str) -> str | None:
    """Origin and licence of `builtin:NAME`, in words; None for other sources."""
    domain = source.removeprefix("builtin:").removesuffix(SHORT).removesuffix(MANY)
    return _ORIGINS.get(domain) if source.startswith("builtin:") else None


def _builtin(name: str) -> list[Question]:
    domain = name.removesuffix(SHORT)
    if domain != name:
        from maskdpo_ray.data.domains import short

        return short.questions(domain)
    domain = name.removesuffix(MANY)
    if domain != name:
        from maskdpo_ray.data.domains import many

        return many.questions(domain)
    module = importlib.import_module(f"maskdpo_ray.data.domains.{domain}")
    found: list[Question] = module.questions()
    return found


def split_by_topic(
    questions: Sequence[Question],
    num_topics: int,
    seed: int,
    option: str = "data.num_eval_topics",
    source: str = "data.train",
) -> tuple[list[Question], list[Question]]:
    """(training, evaluation): `num_topics` topics, drawn by `seed`, with all their questions.

    A topic's place in the draw depends on its name and the seed alone: neither the order of `questions` nor
    another topic's presence changes it. Both lists come in the order of the draw. Raises DataError, which names
    `option` and `source`, when no topic would be left for training.
    """
    topics = _drawn_topics(questions, seed)
    if len(topics) <= num_topics:
        raise DataError(f"{option}: expected fewer than the {len(topics)} topics of {source}, got {num_topics}")
    ordered = _in_order_of(topics, questions)
    held_out = set(topics[:num_topics])
    train = [question for question in ordered if topic_key(question.topic) not in held_out]
    return train, [question for question in ordered if topic_key(question.topic) in held_out]


def limit_topics(
    questions: Sequence[Question],
    num_topics: int | None,
    seed: int,
    option: str = "data.num_transfer_topics",
    source: str = "data.transfer",
) -> list[Question]:
    """The questions of `num_topics` topics, drawn as by `split_by_topic`; of all topics when None.

    Raises DataError, which names `option` and `source`, when there are fewer.
    """
    topics = _drawn_topics(questions, seed)
    if num_topics is not None and len(topics) < num_topics:
        raise DataError(f"{option}: expected at most the {len(topics)} topics of {source}, got {num_topics}")
    return _in_order_of(topics[:num_topics], questions)


def limit_per_topic(questions: Sequence[Question], most: int, seed: int) -> list[Question]:
    """At most so many questions of each topic, drawn by their ids and `seed`, in their order; fewer are among more."""
    drawn: dict[str, list[tuple[bytes, str]]] = {}
    places = [(_place(seed, question.id), question.id) for question in questions]
    for question, place in zip(questions, places, strict=True):
        drawn.setdefault(topic_key(question.topic), []).append(place)
    kept = {place for of_topic in drawn.values() for place in sorted(of_topic)[:most]}
    return [question for question, place in zip(questions, places, strict=True) if place in kept]


def only_topics(
    questions: Sequence[Question], file: Path, held_out: Iterable[Question], option: str = "data.topics"
) -> list[Question]:
    """The questions about the topics that a file lists, one a line. Raises DataError for what is no topic of theirs.

    Args:
        held_out: questions of the same source that are not learned from.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8"
        raise DataError(f"{option}: expected a file of topics, one a line, got {str(file)!r}: {reason}") from error
    topics = {topic_key(question.topic): question.topic for question in questions}
    kept_back = {topic_key(question.topic) for question in held_out}
    listed = set()
    for number, line in enumerate(lines, start=1):
        key = topic_key(line)
        if key in kept_back:
            raise DataError(f"{file}:{number}: expected a topic to learn from, got {shown(line)}, which is held out")
        if key and key not in topics:
            near = difflib.get_close_matches(key, topics, n=1)
            hint = f"; did you mean {topics[near[0]]}?" if near else ""
            raise DataError(f"{file}:{number}: expected a topic of data.train, got {shown(line)}{hint}")
        listed.add(key)
    found = [question for question in questions if topic_key(question.topic) in listed]
    if not found:
        raise DataError(f"{file}: expected a topic or more, one a line, got none")
    return found


def check_disjoint(
    train: Sequence[Question],
    evaluation: Sequence[Question],
    transfer: Sequence[Question] = (),
    development: Sequence[Question] = (),
) -> None:
    """Refuse a topic, a prompt or an id that stands in two of the sets. Raises DataError."""
    sets = {"training": train, "development": development, "evaluation": evaluation, "transfer": transfer}
    what: dict[str, Callable[[Question], str]] = {
        "topic": lambda question: topic_key(question.topic),
        "id": lambda question: question.id,
        # Catches leaks between questions without a topic, where every question is its own.
        "prompt": lambda question: _normal(json.dumps(question.prompt, ensure_ascii=False)),
    }
    for field, key in what.items():
        owner: dict[str, tuple[str, Question]] = {}
        for name, questions in sets.items():
            for question in questions:
                first_name, first = owner.setdefault(key(question), (name, question))
                if first_name != name:
                    which = f"{getattr(first, field)!r} " if field != "prompt" else ""
                    raise DataError(
                        f"{field} {which}stands in both {first_name} (question {first.id!r}) and "
                        f"{name} (question {question.id!r}): expected no {field} on two sides"
                    )


def topic_key(topic: str) -> str:
    """The form in which topics are compared: "Rwanda" and " rwanda" are one."""
    return _normal(topic)


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _drawn_topics(questions: Iterable[Question], seed: int) -> list[str]:
    """Keys of the topics, in a seeded order that no other topic's presence changes."""
    keys = {topic_key(question.topic) for question in questions}
    return sorted(keys, key=lambda key: (_place(seed, key), key))


def _place(seed: int, name: str) -> bytes:
    """Place of a name in a seeded draw, which no other name changes."""
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()


def _in_order_of(topics: Sequence[str], questions: Iterable[Question]) -> list[Question]:
    place = {key: i for i, key in enumerate(topics)}
    chosen = [question for question in questions if topic_key(question.topic) in place]
    return sorted(chosen, key=lambda question: (place[topic_key(question.topic)], question.id))


def question_of(value: Mapping[str, Any], where: str) -> Question:
    """The question of a row. Raises RecordError naming `where` and the field."""
    _refuse_misspelled(value, where)
    refuse_unread(value, where)
    if type(value.get("id")) is int:
        value = {**value, "id": str(value["id"])}
    if value.get("prompt") is None:
        expected = f"{where}: prompt: expected a string or chat messages (in another column: data.columns), got"
        got = "nothing"
        if any(value.get(side) is not None for side in SIDES):
            got = "a preference with the prompt in its answers alone: a file of pairs is for train, or pairs.file"
        raise RecordError(f"{expected} {got}", Reason.EMPTY_PROMPT)
    question_id = _name(value, "id", where) or where
    facts = value.get("facts")
    if facts is not None and not isinstance(facts, dict):
        raise RecordError(f"{where}: facts: expected an object, got {shown(facts)}", Reason.INVALID_FIELD)
    language = _text(value, "language", where) or "en"
    if language not in LANGUAGES:
        message = f"{where}: language: expected one of {', '.join(LANGUAGES)}, got {language!r}"
        raise RecordError(message, Reason.INVALID_FIELD)
    return Question(
        id=question_id,
        topic=_name(value, "topic", where) or question_id,
        prompt=with_system(_prompt(value["prompt"], f"{where}: prompt"), value, where),
        document=_document(value, where),
        facts=facts,
        answer=_text(value, "answer", where),
        language=language,
        wrong_answers=_texts(value, "wrong_answers", where),
    )


def _refuse_misspelled(value: Mapping[str, Any], where: str) -> None:
    """Raise RecordError for a field that is most likely one of ours with a typo; plurals are other data sets' own."""
    for name in value:
        near = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.8) if name not in FIELDS else []
        if near and near[0] not in value and name.casefold() != f"{near[0]}s":
            expected = f"expected one of the fields {', '.join(FIELDS)}, or one unlike them; did you mean {near[0]}?"
            raise RecordError(f"{where}: {name}: {expected}", Reason.INVALID_FIELD)


def _document(value: Mapping[str, Any], where: str) -> str | None:
    """The reference text; of several documents, all of them."""
    if not isinstance(value.get("document"), list):
        return _text(value, "document", where)
    return "\n\n".join(_texts(value, "document", where)) or None


def _texts(value: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    """A field that may be missing or null, of texts that are not empty."""
    texts = value.get(name)
    if texts is not None and not (isinstance(texts, list) and all(isinstance(t, str) and t.strip() for t in texts)):
        message = f"{where}: {name}: expected a list of texts that are not empty, got {shown(texts)}"
        raise RecordError(message, Reason.INVALID_FIELD)
    return tuple(texts or ())


def _text(value: Mapping[str, Any], name: str, where: str) -> str | None:
    """A field that may be missing or null, but not empty."""
    text = value.get(name)
    if text is not None and not (isinstance(text, str) and text.strip()):
        message = f"{where}: {name}: expected text that is not empty, got {shown(text)}"
        raise RecordError(message, Reason.INVALID_FIELD)
    return text


def _name(value: Mapping[str, Any], name: str, where: str) -> str | None:
    """A field like `_text` that ledgers, reports and terminals show on one line."""
    text = _text(value, name, where)
    if text is not None and len(text) > LONGEST_NAME:
        message = f"{where}: {name}: expected at most {LONGEST_NAME} characters, got {len(text)}"
        raise RecordError(message, Reason.INVALID_FIELD)
    if text is not None and any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text):
        message = f"{where}: {name}: expected no control characters or line ends, got {shown(text)}"
        raise RecordError(message, Reason.INVALID_FIELD)
    return text


def _prompt(value: Any, where: str) -> Messages:
    prompt = messages(value, where)
    for i, message in enumerate(prompt):
        if message["role"] == "system" and i > 0:
            expected = f"{where}[{i}].role: expected the system message first, got it as message {i + 1}"
            raise RecordError(expected, Reason.INVALID_MESSAGES)
    if prompt[-1]["role"] not in ("user", "tool"):
        last = f"{where}[{len(prompt) - 1}].role"
        expected = f"{last}: expected the user's message last, got {prompt[-1]['role']!r}"
        raise RecordError(expected, Reason.INVALID_MESSAGES)
    return prompt
