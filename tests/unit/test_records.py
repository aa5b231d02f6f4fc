"""Records survive JSON unchanged, and JSON of another schema is refused by field."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskdpo_ray.records import (
    CORRECT,
    INCORRECT,
    LABELS,
    UNPARSED,
    Annotation,
    PreferencePair,
    Question,
    Rollout,
    ScoredAnswer,
    Sentence,
    encode_line,
    encode_record,
    from_json,
    to_json,
)

text = st.text(max_size=20)
unit = st.floats(0, 1)
count = st.integers(0, 2**40)
json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
message = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": text})
questions = st.builds(
    Question,
    id=text,
    topic=text,
    prompt=st.lists(message, min_size=1, max_size=3).map(tuple),
    document=st.none() | text,
    facts=st.none() | st.dictionaries(text, json_value, max_size=3),
    answer=st.none() | text,
    language=st.sampled_from(["en", "zh"]),
)
token_ids = st.lists(count, max_size=5).map(tuple)
rollouts = st.builds(Rollout, text, count, token_ids, text, st.sampled_from(["stop", "length"]), count)
sentences = st.builds(
    Sentence, count, count, st.sampled_from(LABELS), st.none() | unit, st.none() | text, st.none() | text
)
annotations = st.builds(Annotation, text, count, st.lists(sentences, max_size=3).map(tuple))
scored = st.builds(ScoredAnswer, rollouts, annotations, st.none() | unit)
pairs = st.builds(PreferencePair, text, text, token_ids, scored, scored, count)


@given(st.one_of(questions, rollouts, sentences, annotations, scored, pairs))
def test_round_trip_through_a_line_of_json(record):
    for ensure_ascii in (True, False):
        line = json.dumps(to_json(record), ensure_ascii=ensure_ascii)
        assert "\n" not in line
        read = from_json(type(record), json.loads(line))
        assert read == record
        assert repr(read) == repr(record)  # tells 1 from 1.0 and a tuple from a list


@given(st.one_of(rollouts, annotations, pairs))
def test_round_trip_through_the_files_of_a_run(record):
    line = encode_record(record)
    assert line.endswith(b"\n") and b"\n" not in line[:-1]
    assert repr(from_json(type(record), json.loads(line))) == repr(record)
    assert list(json.loads(line)) == list(to_json(record))  # and in the same order


def test_strings_and_numbers_of_numpy_are_written_as_what_they_are():
    sentence = Sentence(0, 3, np.str_("no_fact"), np.float64(0.5), np.str_("é"))
    assert encode_record(sentence) == encode_line(Sentence(0, 3, "no_fact", 0.5, "é"))


@pytest.mark.parametrize("write", [encode_line, encode_record])
def test_what_json_has_not_is_not_written(write):
    with pytest.raises(TypeError, match="int64"):
        write(Rollout("q", np.int64(0), (), "", "stop", 0))
    with pytest.raises(UnicodeEncodeError):
        write(Rollout("\ud800", 0, (), "", "stop", 0))


def test_every_label_is_right_wrong_or_unparsed():
    assert CORRECT.isdisjoint(INCORRECT)
    assert CORRECT | INCORRECT | {UNPARSED} == set(LABELS) and UNPARSED not in CORRECT | INCORRECT


def test_records_cannot_be_changed():
    with pytest.raises(AttributeError):
        Sentence(0, 1, "no_fact").label = "unparsed"


def test_whole_numbers_are_read_as_floats_where_a_float_is_meant():
    read = from_json(Sentence, {"start": 0, "end": 1, "label": "no_fact", "confidence": 1})
    assert read.confidence == 1.0 and type(read.confidence) is float


ROLLOUT = to_json(Rollout("q", 0, (1, 2), "a", "stop", 0))
REFUSED = {
    "not an object": (Rollout, [1], "expected an object with the fields of the rollout, got list [1]"),
    "unknown": (Rollout, {**ROLLOUT, "extra": 1}, "unknown field 'extra' in the rollout; known: question_id, "),
    "missing": (Rollout, {k: v for k, v in ROLLOUT.items() if k != "text"}, "missing field 'text' in the rollout"),
    "two words": (ScoredAnswer, {}, "missing field 'rollout' in the scored answer"),
    "type": (Rollout, {**ROLLOUT, "sample": "0"}, "field 'sample': expected int, got str '0'"),
    "bool for int": (Rollout, {**ROLLOUT, "sample": True}, "field 'sample': expected int, got bool True"),
    "float for int": (Rollout, {**ROLLOUT, "sample": 0.0}, "field 'sample': expected int, got float 0.0"),
    "null": (Rollout, {**ROLLOUT, "text": None}, "field 'text': expected str, got NoneType None"),
    "in a list": (Rollout, {**ROLLOUT, "token_ids": [1, "2"]}, "field 'token_ids[1]': expected int, got str '2'"),
    "text for list": (Rollout, {**ROLLOUT, "token_ids": "12"}, "field 'token_ids': expected a list, got str '12'"),
    "bool for float": (
        Sentence,
        {"start": 0, "end": 1, "label": "no_fact", "confidence": True},
        "field 'confidence': expected float or null, got bool True",
    ),
    "list for object": (
        Question,
        {"id": "a", "topic": "t", "prompt": [], "facts": []},
        "field 'facts': expected an object or null, got list []",
    ),
    "in a message": (
        Question,
        {"id": "a", "topic": "t", "prompt": ["What is a?"]},
        "field 'prompt[0]': expected an object, got str 'What is a?'",
    ),
    "nested": (
        Annotation,
        {"question_id": "a", "sample": 0, "sentences": [{"start": 0, "end": 1}]},
        "field 'sentences[0]': missing field 'label'",
    ),
    "long values are cut": (Rollout, {**ROLLOUT, "sample": "x" * 500}, "'" + "x" * 56 + "..."),
}


@pytest.mark.parametrize("kind, value, message", REFUSED.values(), ids=REFUSED.keys())
def test_other_schemas_are_refused(kind, value, message):
    with pytest.raises(ValueError) as caught:
        from_json(kind, value)
    assert message in str(caught.value) and len(str(caught.value)) < 200
