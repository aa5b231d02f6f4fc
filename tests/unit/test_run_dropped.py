"""Bad records among good ones: every reader and command drops and counts them by reason, and refuses too many."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_input import ANNOTATIONS, AUTHORS, CONTEXT, QUESTIONS, ROLLOUTS, TEXTS, TRL, lines, words

from maskdpo_ray import annotate, evaluate, export, pairs, run, train
from maskdpo_ray.config.schema import DataConfig
from maskdpo_ray.data import questions
from maskdpo_ray.data.dropped import Dropped, Reason
from maskdpo_ray.data.jsonl import objects
from maskdpo_ray.errors import ConfigError, DataError, RecordError
from maskdpo_ray.records import encode_line
from maskdpo_ray.stages import preflight

PLAIN = "theirs.jsonl --config config.yaml --mask.policy vanilla --dry_run"


SAID = {"role": "assistant"}


def numbered(number: int) -> dict[str, Any]:
    """A good pair."""
    return {**TRL, "prompt": f"What is {number}?"}


def prepared(folder: Path, command: str = PLAIN) -> train.Job:
    return train.prepare(words(command, folder))


def test_a_share_is_of_all_records_wherever_the_bad_ones_stand() -> None:
    def read(bad: set[int], total: int, highest: float) -> Dropped:
        dropped = Dropped("file", highest)
        for i in range(total):
            dropped.met()
            if i in bad:
                dropped.take(RecordError(f"file:{i}: no", Reason.TOO_LONG if i % 2 else Reason.DUPLICATE))
        dropped.check()
        return dropped

    for bad in (set(range(50)), set(range(950, 1000)), set(range(0, 1000, 20))):
        assert read(bad, 1000, 0.05).counts.total() == 50
        with pytest.raises(
            DataError, match=r"^file: expected at most 0.05 of the records dropped \(data.max_dropped; "
        ):
            read({*bad, 951 if 951 not in bad else 7}, 1000, 0.05)
    assert read({0}, 2, 0.05).examples == {"duplicate": "file:0: no"}
    with pytest.raises(DataError, match="got 2 of 19: 1 duplicate, 1 too_long; such as file:2: no$"):
        read({2, 3}, 19, 0.05)
    with pytest.raises(DataError, match="got 2 of 19: 2 duplicate; such as file:2: no$"):
        read({2, 4}, 19, 0.05)
    assert read({2, 3}, 19, 0.1).records == 19
    with pytest.raises(RecordError, match="^file:3: no$"):  # immediately, with its own error
        read({3, 4}, 1000, 0)
    with pytest.raises(DataError, match="^file: expected records that can be used, got none in 3: 2 duplicate, "):
        read({0, 1, 2}, 3, 1.0)
    with pytest.raises(DataError, match="got none in 100: "):  # the rest is not read
        read(set(range(100)), 10**9, 1.0)
    with pytest.raises(ConfigError, match=r"^data.max_dropped: expected 0 to 1, got 1.5$"):
        DataConfig(max_dropped=1.5)


def test_the_docs_have_every_reason_in_one_place() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/formats.md").read_text(encoding="utf-8")
    table = page.partition("## What is dropped")[2].partition("\n## ")[0]
    assert [reason for reason in Reason if f"\n| `{reason}`" not in table and f", `{reason}`" not in table] == []


BAD_LINES: dict[str, bytes] = {
    "no object": b"7",
    "words": b"oops, an interrupted write",
    "quote": b'{"a: 1}',
    "bracket": b'{"a": [1}',
    "brace": b'{"a": {"b": 1}',
    "cut off": b'{"a": "b',
    "brace closed twice": b'{"a": 1}}',
    "no UTF-8": b'{"a": "\xe9"}',
    "surrogate": b'{"a": "\\ud800"}',
    "NaN": b'{"a": NaN}',
    "twice": b'{"a": 1, "a": 2}',
    "backslash": b'{"a": "\\',
    "deep": b'{"a": ' + b"[" * 3000 + b"]" * 3000 + b"}",
}


@pytest.mark.parametrize("place", [0, 1, 40])
@pytest.mark.parametrize("name", BAD_LINES)
def test_a_malformed_line_costs_itself(tmp_path: Path, name: str, place: int) -> None:
    good = [json.dumps({"n": n, "text": 'a {"b": [\\'}).encode() for n in range(40)]
    all_lines = [*good[:place], BAD_LINES[name], *good[place:]]
    file = tmp_path / "f.jsonl"
    file.write_bytes(b"\n".join(all_lines) + b"\n")
    dropped = Dropped(file, 0.05)
    found = list(objects(file, dropped))
    expected = 41 if name == "brace closed twice" else 40  # what stands before its last brace is an object
    assert [item.get("n") for _, item in found if "n" in item] == list(range(40)) and len(found) == expected
    assert dropped.counts == {Reason.MALFORMED: 1}
    assert dropped.examples[Reason.MALFORMED].startswith(f"{file}:{place + 1}: expected ")
    assert [where for where, item in found if item.get("n") == 39] == [f"{file}:{41 if place < 40 else 40}"]


def test_a_bad_object_over_many_lines_costs_itself(tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    good = [json.dumps({"n": n, "of": [{"a": n}]}, indent=2) for n in range(4)]
    file.write_text("\n".join([*good[:2], good[2].replace(",", ""), good[3]]))
    dropped = Dropped(file, 1.0)
    assert [item["n"] for _, item in objects(file, dropped)] == [0, 1, 3] and dropped.records == 4
    file.write_text(json.dumps([{"n": 0}, {"n": 1}]).replace('"n": 1', '"n" 1'))
    dropped = Dropped(file, 1.0)
    assert [item["n"] for _, item in objects(file, dropped)] == [0] and dropped.records == 2


BAD_PAIRS: dict[str, tuple[Any, str]] = {
    "not JSON": ("{'prompt': 1}", "malformed"),
    "no prompt": ({**TRL, "prompt": None}, "empty_prompt"),
    "empty prompt": ({**TRL, "prompt": " "}, "empty_prompt"),
    "no chosen": ({"prompt": "a", "rejected": "b"}, "empty_answer"),
    "empty rejected": ({**TRL, "rejected": ""}, "empty_answer"),
    "too long": ({**TRL, "chosen": "word " * CONTEXT}, "too_long"),
    "a number": ({**TRL, "chosen": 7}, "invalid_messages"),
    "role": ({**TRL, "prompt": [{"role": "boss", "content": "a"}]}, "invalid_messages"),
    "user last": ({**TRL, "chosen": [{"role": "user", "content": "a"}]}, "invalid_messages"),
    "other prompt": (
        {**TRL, "chosen": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "a"}]},
        "invalid_messages",
    ),
    "image": (
        {**TRL, "prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "not_text",
    ),
    "a call as answer": (
        {**TRL, "chosen": [{"role": "assistant", "content": "a", "tool_calls": [{"type": "function"}]}]},
        "not_text",
    ),
    "begins as a conversation": ({**TRL, "chosen": '[{"role": "assistant", "content": "a"'}, "json_text"),
    "label": ({**TRL, "chosen_sentences": [{"start": 0, "end": 4, "label": "true"}]}, "unknown_label"),
    "no labels": ({**TRL, "chosen_sentences": 7}, "invalid_field"),
    "span": ({**TRL, "chosen_sentences": [{"start": 0, "end": 99, "label": "no_fact"}]}, "invalid_sentences"),
    "name": ({**TRL, "question_id": 7}, "invalid_field"),
    "authors' type": ({**AUTHORS, "chosen_item": {"sents": ["Yes."], "type": ["good"]}}, "unknown_label"),
    "authors' sentence": ({**AUTHORS, "chosen_item": {"sents": ["May."], "type": ["ok"]}}, "invalid_sentences"),
    "authors' fields": ({**AUTHORS, "rejected_item": None}, "invalid_field"),
    "half of ours": ({"prompt_token_ids": [5]}, "invalid_field"),
    "duplicate": (numbered(3), "duplicate"),
}


def test_a_bad_pair_of_each_kind_leaves_a_thousand(good_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = good_folder / "theirs.jsonl"
    bad = [item if isinstance(item, str) else json.dumps(item) for item, _ in BAD_PAIRS.values()]
    good = [json.dumps(numbered(number)) for number in range(1000)]
    all_lines = good[:500]
    for number, line in enumerate(bad):
        all_lines += [line, good[500 + number]]
    file.write_text("\n".join([*all_lines, *good[500 + len(bad) :]]) + "\n")
    job = prepared(good_folder)
    reasons = [reason for _, reason in BAD_PAIRS.values()]
    assert len(job.examples) == 1000 and job.read.drops == {reason: reasons.count(reason) for reason in reasons}
    assert (job.read.questions, job.read.pairs) == (1000 + len(bad), 1000)
    assert all(f"{file.name}:" in example for example in job.read.examples.values())
    said = job.describe()
    assert f"train on 1000 of {1000 + len(bad)} pairs of theirs.jsonl (dropped: " in said
    assert f"\n  empty_answer: theirs.jsonl:{501 + 2 * 3}: chosen: expected an answer as text" in said
    with pytest.raises(DataError, match=r"^theirs.jsonl: expected at most 0.01 of the records .* of 1022: .*; such "):
        prepared(good_folder, f"{PLAIN} --data.max_dropped 0.01")


CASES: dict[str, tuple[list[dict[str, Any]], int, str]] = {
    "an empty system message": (
        [{**TRL, "prompt": [{"role": "system", "content": ""}, {"role": "user", "content": "What is a?"}]}],
        1,
        "",
    ),
    "nulls": (
        [{**TRL, "chosen": [{"role": "assistant", "content": TEXTS[0], "name": None, "tool_calls": None}]}],
        1,
        "",
    ),
    "the JSON text of a conversation": (
        [{**TRL, "chosen": json.dumps([{"role": "user", "content": TRL["prompt"]}, {**SAID, "content": TEXTS[0]}])}],
        1,
        "",
    ),
    "a special token's text": ([TRL, {**numbered(1), "chosen": "It ends in </s>, mostly."}], 2, ""),
    "nothing but space": ([TRL, {**TRL, "chosen": " \n"}], 1, "(dropped: 1 empty_answer)"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_people_have_is_learned(good_folder: Path, name: str) -> None:
    items, kept, said = CASES[name]
    (good_folder / "theirs.jsonl").write_text(lines(*items))
    job = prepared(good_folder)
    assert f"train on {kept} of {len(items)} pairs of theirs.jsonl {said}" in job.describe()
    plain = "".join(chr(token + 28) for token in job.examples[0].responses[0].token_ids[:-1])
    # The template has no generation prompt: the answer begins with what it writes before one.
    assert plain == f"[assistant] {TEXTS[0]}" and job.examples[0].responses[0].token_ids[-1] == 2


def test_a_tool_call_that_the_template_leaves_out_is_named(good_folder: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "f"}}]}
    turns = [{"role": "user", "content": "a"}, call, {"role": "tool", "name": "f", "content": "19 C"}]
    (good_folder / "theirs.jsonl").write_text(lines({**TRL, "prompt": turns}))
    with pytest.raises(DataError, match=r"^theirs.jsonl:1: prompt\[1\].tool_calls: expected what the model's chat "):
        prepared(good_folder)
    template = good_folder / "model" / "chat_template.jinja"
    template.write_text(template.read_text().replace("{{ m.content }}", "{{ m.content }}{{ m.tool_calls }}"))
    assert len(prepared(good_folder).examples) == 1


def test_one_of_two_pairs_is_tolerated(good_folder: Path) -> None:
    for item in ({**TRL, "rejected": ""}, {**TRL, "chosen": "word " * CONTEXT}):
        (good_folder / "theirs.jsonl").write_text(lines(numbered(0), item))
        assert "train on 1 of 2 pairs of theirs.jsonl (dropped: 1 " in prepared(good_folder).describe()


def test_what_a_whole_file_has_wrong_is_told_at_once(good_folder: Path) -> None:
    file = good_folder / "theirs.jsonl"
    file.write_text("".join(lines({"prompt": f"{n}", "chosen": "a"}) for n in range(5)))
    with pytest.raises(DataError, match="^theirs.jsonl: expected records .*, got none in 5: 5 empty_answer; "):
        prepared(good_folder)
    file.write_text("".join(lines({"prompt": f"{n}", "chosen": "a"}) for n in range(10**5)))
    with pytest.raises(DataError, match="none in 100: 100 empty_answer; such as theirs.jsonl:1: rejected: expected"):
        prepared(good_folder)
    file.write_bytes("".join(lines(TRL)).encode("utf-16"))
    with pytest.raises(DataError, match="^theirs.jsonl: expected UTF-8, got UTF-16$"):
        prepared(good_folder)


def test_a_duplicate_is_one_whatever_its_format(good_folder: Path) -> None:
    named = {**numbered(2), "question_id": "x"}
    (good_folder / "theirs.jsonl").write_text(lines(*(numbered(n) for n in range(40)), numbered(1), named))
    job = prepared(good_folder)
    assert job.read.drops == {"duplicate": 1} and len(job.examples) == 41
    assert job.read.examples == {
        "duplicate": "theirs.jsonl:41: expected each pair once, got that of theirs.jsonl:2 again"
    }


def test_questions_are_dropped_by_the_record_alone(good_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asked = [{"id": f"q{n}", "topic": f"t{n % 7}", "prompt": f"What is {n}?"} for n in range(100)]
    bad = [{"id": "x"}, {"id": "y", "prompt": "long " * CONTEXT}, {"id": "q3", "prompt": "again"}, {"prompt": 7}]
    (good_folder / "questions.jsonl").write_text(lines(*asked[:50], *bad, *asked[50:]) + "{no\n")
    run.main(words("--config config.yaml --dry_run", good_folder))
    said = capfd.readouterr().out
    for line in (
        "  dropped 1 empty_prompt: questions.jsonl:51: prompt: expected a string or chat messages (in another column: ",
        "  dropped 1 too_long: question 'y': expected a prompt of at most 240 tokens",
        "  dropped 1 duplicate: questions.jsonl:53: id: expected an id of its own, got 'q3' again, first at questions",
        "  dropped 1 invalid_messages: questions.jsonl:54: prompt: expected chat messages, got 7",
        "  dropped 1 malformed: questions.jsonl:105: expected a JSON object, got one whose brackets",
    ):
        assert line in said
    from maskdpo_ray.config import cli

    config = cli.read(Path("config.yaml"))
    found = preflight.check(config)
    again = preflight.check(config)
    assert (found.train, found.evaluation) == (again.train, again.evaluation)
    assert sum(map(len, (found.train, found.evaluation["heldout"]))) == 100
    assert found.dropped_json()["dropped"]["questions.jsonl"]["records"] == 105
    (good_folder / "questions.jsonl").write_text(lines(*asked))
    assert preflight.check(config).train == found.train


def test_a_question_that_nobody_can_judge(good_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    facts = {"table": "countries", "entity": "Rwanda"}
    asked = [{"id": f"q{n}", "prompt": f"What is {n}?", "facts": facts} for n in range(10)]
    (good_folder / "questions.jsonl").write_text(lines(*asked, *QUESTIONS[:1]))
    run.main(words("--config config.yaml --annotation.annotator facts --data.num_eval_topics 4 --dry_run", good_folder))
    assert "  dropped 1 not_judgeable: question 'a': " in capfd.readouterr().out


def many(items: list[dict[str, Any]], times: int = 10) -> list[dict[str, Any]]:
    return [{**item, "question_id": f"{item['question_id']}{n}"} for n in range(times) for item in items]


@pytest.fixture
def answered(labelled_folder: Path) -> Path:
    """Sixty answers to thirty questions, with their labels."""
    asked = [{"id": f"{name}{n}", "topic": name, "prompt": f"What is {name}{n}?"} for name in "abc" for n in range(10)]
    (labelled_folder / "questions.jsonl").write_text(lines(*asked))
    (labelled_folder / "rollouts.jsonl").write_text(lines(*many(ROLLOUTS)))
    (labelled_folder / "annotations.jsonl").write_text(lines(*many(ANNOTATIONS)))
    return labelled_folder


def bad_line(number: int, change: Callable[[str], str], *names: str) -> None:
    for name in names:
        found = Path(name).read_text().splitlines(keepends=True)
        found[number] = change(found[number])
        Path(name).write_text("".join(found))


def test_annotate_drops_and_counts(answered: Path) -> None:
    bad_line(2, lambda line: line.replace('"text": ', '"text": 7, "x": '), "rollouts.jsonl")
    bad_line(5, lambda line: line[:-9] + "\n", "rollouts.jsonl")
    job = annotate.prepare(words("rollouts.jsonl -o out.jsonl --config config.yaml --dry_run", answered))
    assert (job.num_answers, job.dropped[-1].counts) == (58, {"invalid_field": 1, "malformed": 1})
    assert "\n  dropped 1 malformed: rollouts.jsonl:6: expected " in job.describe()


def test_pairs_drops_a_line_of_either_file_with_its_fellow(answered: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bad_line(0, lambda line: "{oops}\n", "rollouts.jsonl")
    bad_line(9, lambda line: line.replace('"no_hallucination"', '"true"'), "annotations.jsonl")
    pairs.main(words("rollouts.jsonl annotations.jsonl -o p.jsonl --config config.yaml", answered))
    said = capfd.readouterr().out
    assert said.startswith("28 pairs -> p.jsonl; dropped: 2 too_few_answers\n")
    assert "\n  dropped 1 malformed: rollouts.jsonl:1: expected JSON" in said
    assert "\n  dropped 1 invalid_sentences: annotations.jsonl:10: annotator: question " in said
    pairs.main(words("rollouts.jsonl annotations.jsonl -o q.jsonl --config config.yaml --dry_run", answered))
    assert capfd.readouterr().out == said.replace("-> p.jsonl", "would go to q.jsonl")


def test_pairs_takes_the_answers_that_annotate_takes(answered: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No token ids, samples or finish reasons: the same pairs but for what can't be known."""
    command = "-o p.jsonl --config config.yaml --force"
    pairs.main(words(f"rollouts.jsonl annotations.jsonl {command}", answered))
    expected = Path("p.jsonl").read_text()
    labels = [{**a, "text": r["text"]} for r, a in zip(many(ROLLOUTS), many(ANNOTATIONS), strict=True)]
    Path("annotations.jsonl").write_text(lines(*labels))
    bare = [{name: item[name] for name in ("question_id", "text")} for item in many(ROLLOUTS)]
    Path("rollouts.jsonl").write_text(lines(*bare))
    pairs.main(words(f"rollouts.jsonl annotations.jsonl {command}", answered))
    assert Path("p.jsonl").read_text() == expected and expected.count("\n") == 30


def test_evaluate_drops_a_question_that_lost_an_answer(answered: Path) -> None:
    command = "rollouts.jsonl --questions questions.jsonl --config config.yaml"
    bad_line(7, lambda line: line.replace('"stop"', '"foo"'), "rollouts.jsonl")
    job = evaluate.prepare(words(command, answered))
    assert "heldout 29 questions x 2 answers" in job.describe()
    assert job.prepared.dropped_json()["dropped"]["rollouts.jsonl"]["drops"] == {
        "invalid_field": 1,
        "too_few_answers": 1,
    }
    bad_line(7, lambda line: "{oops}\n", "rollouts.jsonl")  # of an unknown question
    assert "heldout 29 questions x 2 answers" in evaluate.prepare(words(command, answered)).describe()
    bad_line(7, lambda line: "", "rollouts.jsonl")
    with pytest.raises(DataError, match="expected 2 answers, as there are to 'a0', got 1$"):
        evaluate.prepare(words(command, answered))


def test_export_drops_and_counts(answered: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pairs.main(words("rollouts.jsonl annotations.jsonl -o p.jsonl --config config.yaml", answered))
    # Which score a file by itself is of is not known, but the chosen answer's is the higher one.
    bad_line(3, lambda line: line.replace('"score":1.0', '"score":-1.0'), "p.jsonl")
    capfd.readouterr()
    command = "p.jsonl --to trl -o out.jsonl --questions questions.jsonl"
    export.main(words(command, answered))
    said = capfd.readouterr().out
    assert said.startswith("29 pairs of p.jsonl -> out.jsonl\n  dropped 1 invalid_pair: p.jsonl:4: chosen: score: ")
    with pytest.raises(DataError, match=r"^p.jsonl:4: chosen: score: "):
        export.main(words(f"{command} --force --max_dropped 0", answered))
    with pytest.raises(ConfigError, match=r"^--max_dropped: expected 0 to 1, got '7'"):
        export.main(words(f"{command} --force --max_dropped 7", answered))


def test_a_file_of_questions_by_itself_is_strict(tmp_path: Path) -> None:
    """A reader without counts hides nothing."""
    file = tmp_path / "q.jsonl"
    file.write_bytes(b"".join(map(encode_line, [{"prompt": "a"}, {"prompt": ""}])))
    with pytest.raises(RecordError, match="q.jsonl:2: prompt"):
        questions.load(str(file))
    assert len(questions.load(str(file), Dropped(file, 0.05))) == 1
