"""Questions: files in, what is refused, the split by topic, and the rendered prompt."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from maskdpo_ray.data.questions import (
    BUILTIN,
    check_disjoint,
    limit_per_topic,
    limit_topics,
    load,
    only_topics,
    split_by_topic,
)
from maskdpo_ray.errors import DataError, ModelError
from maskdpo_ray.models.chat import Chat
from maskdpo_ray.models.prompts import Prompts
from maskdpo_ray.records import Question


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(*lines: str | bytes) -> str:
    data = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    Path("q.jsonl").write_bytes(data)
    return "q.jsonl"


def ask(name: str, topic: str, content: str | None = None) -> Question:
    return Question(name, topic, ({"role": "user", "content": content or f"Tell me about {name}."},))


@pytest.mark.parametrize("domain", BUILTIN)
def test_builtin_questions_are_unique_and_can_be_split(domain):
    questions = load(f"builtin:{domain}")
    assert len({question.id for question in questions}) == len(questions)
    train, held_out = split_by_topic(questions, 40, seed=1)
    check_disjoint(train, held_out)
    assert len({question.topic for question in held_out}) == 40
    assert len(train) + len(held_out) == len(questions)


def test_a_line_needs_only_a_prompt(folder):
    chinese = '{"prompt": "与谢野晶子是谁？", "language": "zh"}'
    assert load(write('{"prompt": "Who was Ada Lovelace?"}', "", chinese, "")) == [
        ask("q.jsonl:1", "q.jsonl:1", "Who was Ada Lovelace?"),
        structs.replace(ask("q.jsonl:3", "q.jsonl:3", "与谢野晶子是谁？"), language="zh"),
    ]


def test_every_field_of_a_question_is_read(folder):
    question = Question(
        id="a",
        topic="t",
        document="d",
        facts={"capital": ["Kigali"]},
        answer="Kigali",
        language="zh",
        wrong_answers=("Kampala", "Nairobi"),
        prompt=(
            {"role": "system", "content": "s"},
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "v"},
        ),
    )
    assert load(write(json.dumps(structs.asdict(question)))) == [question]


def test_byte_order_mark_windows_line_ends_and_line_separators_in_text(folder):
    source = write(b"\xef\xbb\xbf" + b'{"prompt": "a"}\r', '{"prompt": "b\u2028c"}\r')
    assert [question.prompt[0]["content"] for question in load(source)] == ["a", "b\u2028c"]


USER = '{"role": "user", "content": "u"}'
BAD_LINES = {
    "not UTF-8": (b'{"prompt": "\xff"}', "expected UTF-8, got byte 0xff"),
    "not JSON": (
        "{prompt: 1}",
        "expected JSON, got: Expecting property name enclosed in double quotes at column 2 of the object",
    ),
    "cut off": ('{"prompt": "a"', "expected a JSON object, got one whose brackets or quotes are not closed"),
    "field twice": ('{"prompt": "a", "prompt": "b"}', "expected JSON, got: field 'prompt' twice"),
    "NaN": ('{"prompt": "a", "facts": {"n": NaN}}', "expected JSON, got: NaN, which JSON does not have"),
    "list": ('["a"]', "expected a JSON object, got '['"),
    "no prompt": (
        '{"topic": "a"}',
        "prompt: expected a string or chat messages (in another column: data.columns), got nothing",
    ),
    "a preference": (
        '{"chosen": "\\n\\nHuman: a\\n\\nAssistant: b", "rejected": "\\n\\nHuman: a\\n\\nAssistant: c"}',
        "prompt: expected a string or chat messages (in another column: data.columns), got a preference with the "
        "prompt in its answers alone: a file of pairs is for train, or pairs.file",
    ),
    "surrogate in id": (r'{"prompt": "a", "id": "\ud800"}', r"expected Unicode text, got a lone '\ud800'"),
    "surrogate in topic": (r'{"prompt": "a", "topic": "\udfff"}', r"expected Unicode text, got a lone '\udfff'"),
    "surrogate in prompt": (r'{"prompt": "\ud800"}', r"expected Unicode text, got a lone '\ud800'"),
    "surrogate in facts": (
        r'{"prompt": "a", "facts": {"a": ["\ud800"]}}',
        r"expected Unicode text, got a lone '\ud800'",
    ),
    "misspelled field": (
        '{"prompt": "a", "documnet": "b"}',
        "documnet: expected one of the fields prompt, id, topic, document, facts, answer, language, wrong_answers, or "
        "one unlike them; did you mean document?",
    ),
    "context that nobody reads": (
        '{"prompt": "a", "images": ["b.png"]}',
        "images: expected a record of text alone, got content that is not text beside it",
    ),
    "blank prompt": ('{"prompt": " "}', "prompt[0].content: expected text that is not empty, got ' '"),
    "no messages": ('{"prompt": []}', "prompt: expected chat messages, got []"),
    "number": ('{"prompt": 3}', "prompt: expected chat messages, got 3"),
    "blank topic": ('{"prompt": "a", "topic": ""}', "topic: expected text that is not empty, got ''"),
    "number id": ('{"prompt": "a", "id": 0.5}', "id: expected text that is not empty, got 0.5"),
    "long id": (f'{{"prompt": "a", "id": "{"i" * 201}"}}', "id: expected at most 200 characters, got 201"),
    "NUL in id": (r'{"prompt": "a", "id": "a\u0000"}', r"id: expected no control characters or line ends, got 'a\x00'"),
    "line separator in topic": (
        '{"prompt": "a", "topic": "a\u2028"}',
        r"topic: expected no control characters or line ends, got 'a\u2028'",
    ),
    "facts list": ('{"prompt": "a", "facts": []}', "facts: expected an object, got []"),
    "language": ('{"prompt": "a", "language": "fr"}', "language: expected one of en, zh, got 'fr'"),
    "wrong answers": (
        '{"prompt": "a", "wrong_answers": ["b", ""]}',
        "wrong_answers: expected a list of texts that are not empty, got ['b', '']",
    ),
    "message text": ('{"prompt": ["hi"]}', "prompt[0]: expected an object with role and content, got 'hi'"),
    "message field": (
        '{"prompt": [{"content": "a", "name": "b"}]}',
        "prompt[0]: expected an object with role and content, got {'content': 'a', 'name': 'b'}",
    ),
    "role": (
        '{"prompt": [{"role": "human", "content": "a"}]}',
        "prompt[0].role: expected one of system, developer, user, assistant, tool, got 'human'",
    ),
    "role type": (
        '{"prompt": [{"role": [], "content": "a"}]}',
        "prompt[0].role: expected one of system, developer, user, assistant, tool, got []",
    ),
    "late system": (
        f'{{"prompt": [{USER}, {{"role": "system", "content": "s"}}, {USER}]}}',
        "prompt[1].role: expected the system message first, got it as message 2",
    ),
    "empty content": (
        '{"prompt": [{"role": "user", "content": ""}]}',
        "prompt[0].content: expected text that is not empty, got ''",
    ),
    "null content": (
        '{"prompt": [{"role": "user", "content": null}]}',
        "prompt[0].content: expected text that is not empty, got None",
    ),
    "answered": (
        f'{{"prompt": [{USER}, {{"role": "assistant", "content": "a"}}]}}',
        "prompt[1].role: expected the user's message last, got 'assistant'",
    ),
}


@pytest.mark.parametrize("line, message", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_bad_line_is_named_with_file_line_and_field(folder, line, message):
    with pytest.raises(DataError) as caught:
        load(write('{"prompt": "fine"}', line))
    assert str(caught.value) == f"q.jsonl:2: {message}"


def test_a_column_of_documents_is_not_read_in_silence(folder, capsys):
    file = folder / "q.jsonl"
    file.write_text('{"prompt": "a", "documents": ["A."]}\n{"prompt": "b", "documents": ["B."]}\n')
    assert [each.document for each in load(str(file))] == [None, None]
    said = "the column documents passes by, as an unknown one; data.columns: {document: documents} reads it"
    assert capsys.readouterr().err == f"{file}: {said}\n"
    columns = {"document": "documents"}
    assert [each.document for each in load(str(file), columns=columns)] == ["A.", "B."]
    assert capsys.readouterr().err == ""


def test_a_pair_of_surrogates_is_a_character(folder):
    (question,) = load(write(r'{"prompt": "\ud83d\ude00"}'))
    assert question.prompt[0]["content"] == "😀"


def test_duplicated_ids_are_refused(folder):
    source = write('{"prompt": "a", "id": "x"}', '{"prompt": "b"}', '{"prompt": "c", "id": "x"}')
    with pytest.raises(DataError, match=r"^q.jsonl:3: id: expected .*, got 'x' again, first at q.jsonl:1$"):
        load(source)


def test_sources_that_are_no_file_of_questions(folder):
    cases = {
        write("", " "): "q.jsonl: expected JSON objects, got none",
        "missing.jsonl": "missing.jsonl: expected a JSON file, got: No such file or directory",
        ".": ".: expected JSON objects, got none",  # in the one file of the folder
        "builtin:rivers": "builtin:rivers: expected one of builtin:countries, builtin:elements, builtin:co",
    }
    for source, message in cases.items():
        with pytest.raises(DataError) as caught:
            load(source)
        assert str(caught.value).startswith(message)


topics = st.lists(st.sampled_from([f"topic {i}" for i in range(12)]), min_size=2, max_size=40)


@given(topics, st.integers(0, 2**31 - 1), st.randoms(use_true_random=False), st.data())
def test_split_is_by_topic_and_ignores_the_order_of_the_file(names, seed, shuffler, data):
    questions = [ask(f"q{i}", topic) for i, topic in enumerate(names)]
    if len(set(names)) < 2:
        return
    num_eval = data.draw(st.integers(1, len(set(names)) - 1))
    train, held_out = split_by_topic(questions, num_eval, seed)
    check_disjoint(train, held_out)
    assert len({question.topic for question in held_out}) == num_eval
    assert sorted(q.id for q in train + held_out) == sorted(q.id for q in questions)
    shuffled = list(questions)
    shuffler.shuffle(shuffled)
    assert split_by_topic(shuffled, num_eval, seed) == (train, held_out)


def test_split_depends_on_the_seed_and_is_no_function_of_the_name():
    questions = [ask(f"q{i}", f"topic {i:02}") for i in range(40)]
    drawn = {tuple(sorted(q.topic for q in split_by_topic(questions, 10, seed)[1])) for seed in range(20)}
    assert len(drawn) == 20
    # Each topic is held out about a quarter of the times: binomial(400, 1/4), six standard deviations wide.
    for topic in ("topic 00", "topic 39"):
        hits = sum(topic in {q.topic for q in split_by_topic(questions, 10, seed)[1]} for seed in range(400))
        assert abs(hits - 100) < 6 * (400 * 0.25 * 0.75) ** 0.5


def test_spellings_of_one_topic_stay_together():
    questions = [ask("a", "Rwanda"), ask("b", " rwanda"), ask("c", "ＲＷＡＮＤＡ"), ask("d", "Peru")]
    for seed in range(10):
        sides = split_by_topic(questions, 1, seed)
        assert {frozenset(q.id for q in side) for side in sides} == {frozenset("abc"), frozenset("d")}
    with pytest.raises(DataError, match="topic 'Rwanda' stands in both training .* and evaluation"):
        check_disjoint(questions[:1], questions[1:2])


def test_too_few_topics():
    questions = [ask("a", "A"), ask("b", "B"), ask("c", "B")]
    with pytest.raises(DataError, match=r"^data.num_eval_topics: expected fewer than the 2 .*, got 2$"):
        split_by_topic(questions, 2, seed=1)
    with pytest.raises(DataError, match=r"^data.num_transfer_topics: expected at most the 2 .*, got 3$"):
        limit_topics(questions, 3, seed=1)


def test_limit_topics_keeps_whole_topics_and_draws_the_same_first_ones():
    questions = [ask(f"q{i}", f"topic {i % 10}") for i in range(30)]
    three = limit_topics(questions, 3, seed=5)
    assert len(three) == 9 and len({question.topic for question in three}) == 3
    assert limit_topics(questions, 4, seed=5)[:9] == three
    assert limit_topics(random.Random(0).sample(questions, 30), 3, seed=5) == three
    assert len(limit_topics(questions, None, seed=5)) == 30


def test_questions_per_topic_are_drawn_and_fewer_are_among_more():
    questions = [ask(f"q{i}", f"topic {i % 10}") for i in range(30)]
    one, two = (limit_per_topic(questions, most, seed=5) for most in (1, 2))
    assert [len(one), len(two)] == [10, 20] and limit_per_topic(questions, 3, seed=5) == questions
    assert {question.topic for question in one} == {question.topic for question in questions}
    assert [question for question in two if question in one] == one
    shuffled = random.Random(0).sample(questions, 30)
    assert sorted(each.id for each in limit_per_topic(shuffled, 1, seed=5)) == sorted(each.id for each in one)
    # The first of a topic isn't always the one: 30 topics would all draw it once in 3^30.
    assert len({int(question.id[1:]) // 10 for question in one}) > 1
    assert limit_per_topic(questions, 1, seed=6) != one


def test_topics_of_a_file(tmp_path: Path):
    questions = [ask(f"q{i}", f"Topic {i % 3}") for i in range(6)]
    file = tmp_path / "topics.txt"
    file.write_text("\ufeff topic  2\n\nTopic 0\nTopic 0\n", encoding="utf-8")
    assert [each.id for each in only_topics(questions, file, [])] == ["q0", "q2", "q3", "q5"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Topic 0\nTopc 1\n", "topics.txt:2: expected a topic of data.train, got 'Topc 1'; did you mean Topic 1?"),
        ("Topic 0\nheld\n", "topics.txt:2: expected a topic to learn from, got 'held', which is held out"),
        ("\n\n", "topics.txt: expected a topic or more, one a line, got none"),
        (None, "data.topics: expected a file of topics, one a line, got '"),
    ],
)
def test_a_fault_of_a_file_of_topics_is_one_line(tmp_path: Path, text: str | None, error: str):
    file = tmp_path / "topics.txt"
    if text is not None:
        file.write_text(text)
    with pytest.raises(DataError) as raised:
        only_topics([ask("q0", "Topic 0"), ask("q1", "Topic 1")], file, [ask("q2", "Held")])
    assert error in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("side", ["development", "evaluation", "transfer"])
def test_overlap_with_training_is_refused(side):
    train = [ask("a", "Rwanda"), ask("b", "Peru", "Name  a river.")]
    for other, field in [
        (ask("c", "Rwanda"), "topic 'Rwanda'"),
        (ask("a", "Chile"), "id 'a'"),
        (ask("d", "Chile", "name a river."), "prompt"),
    ]:
        sets = {"evaluation": [], "transfer": [], "development": [], side: [ask("e", "Laos"), other]}
        with pytest.raises(DataError, match=f"^{field} stands in both training .* and {side} "):
            check_disjoint(train, **sets)
    check_disjoint(train, [ask("e", "Laos")], [ask("f", "Iron")])


class LetterTokenizer:
    """One token a character; a chat template that refuses system messages."""

    name_or_path = "letters"
    chat_template: str | None = (
        "{% for m in messages %}"
        "{% if m.role == 'system' %}{{ raise_exception('no system\n role') }}{% endif %}"
        "<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )

    eos_token_id = 0

    def apply_chat_template(self, messages, add_generation_prompt, tokenize, **given):
        from transformers.utils.chat_template_utils import render_jinja_template

        assert not tokenize
        (text,), _ = render_jinja_template(
            [messages], chat_template=self.chat_template, add_generation_prompt=add_generation_prompt, **given
        )
        return text

    def encode(self, text, add_special_tokens, verbose):
        return [ord(letter) for letter in text]

    def decode(self, ids, skip_special_tokens):
        return "".join(map(chr, ids))


def test_render_is_the_chat_template_with_its_generation_prompt():
    question = Question(
        "a",
        "t",
        ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "é"}),
    )
    ids = Chat(LetterTokenizer()).prompt_ids(question)
    assert "".join(map(chr, ids)) == "<user>hi<assistant>yes<user>é<assistant>"


def test_render_refuses_what_the_template_refuses():
    question = Question("a", "t", ({"role": "system", "content": "s"}, {"role": "user", "content": "u"}))
    with pytest.raises(DataError, match=r"^question 'a': expected messages .*, got TemplateError: no system role$"):
        Chat(LetterTokenizer()).prompt_ids(question)


def test_model_without_chat_template():
    tokenizer = LetterTokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="^letters: expected a chat template, got none"):
        Chat(tokenizer).prompt_ids(ask("a", "t"))


def check_prompts(tokenizer, questions, max_len, max_new_tokens, vocab_size):
    """Length of the longest prompt."""
    prompts = Prompts(Chat(tokenizer), max_len, max_new_tokens, vocab_size)
    assert [prompts.check(question) for question in questions] == questions
    return prompts.longest


def test_prompts_that_leave_no_room_are_named():
    questions = [ask("short", "t", "u"), ask("long", "t", "u" * 30)]  # 18 and 47 tokens
    assert check_prompts(LetterTokenizer(), questions, 57, 10, vocab_size=128) == 47
    with pytest.raises(DataError, match="^question 'long': expected a prompt of at most 46 .*, got 47$"):
        check_prompts(LetterTokenizer(), questions, 56, 10, vocab_size=128)


def test_prompts_with_tokens_that_the_model_lacks():
    letters = LetterTokenizer()
    assert check_prompts(letters, [ask("a", "t", "é")], 99, 10, vocab_size=ord("é") + 1) == 18
    with pytest.raises(DataError, match="^question 'a': expected token ids below .* vocab_size 233, got 233$"):
        check_prompts(letters, [ask("a", "t", "é")], 99, 10, vocab_size=ord("é"))


def test_render_with_the_bundled_models_tokenizer(bundled_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundled_model)
    ids = Chat(tokenizer).prompt_ids(ask("a", "t", "Hello"))
    assert all(type(token) is int for token in ids)
    text = tokenizer.decode(ids)
    assert text.startswith("<|im_start|>system\n")
    assert text.endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_that_drops_the_question_is_refused():
    class Deaf(LetterTokenizer):
        def apply_chat_template(self, *_, **__):
            return "hello"

    same = [ask("a", "t", "Who?"), ask("b", "t", "Who?")]
    assert check_prompts(Deaf(), same, 99, 10, vocab_size=128) == 5
    with pytest.raises(DataError, match="^question 'c': expected a prompt of its own .*, got that of 'a' too$"):
        check_prompts(Deaf(), [*same, ask("c", "t", "When?")], 99, 10, vocab_size=128)
