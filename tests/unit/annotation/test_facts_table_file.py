"""A fact table from the user's JSON: what it labels, and one line for every way to write it wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maskdpo_ray.annotation.protocol import build
from maskdpo_ray.annotation.rules.facts import FactsAnnotator
from maskdpo_ray.data.domains import countries, table_file
from maskdpo_ray.errors import ConfigError, DataError
from maskdpo_ray.records import CONTRADICTORY, NO_HALLUCINATION, UNVERIFIABLE, Question, Rollout, to_json

PLANETS = Path(__file__).parents[3] / "docs" / "planets.json"


def labels(table: Path, text: str) -> list[str]:
    """Labels of the sentences of an answer about Mars."""
    annotator = build("facts", {"tables": {"planets": str(table)}})
    question = Question("q", "Mars", (), facts={"table": "planets", "entity": "Mars"})
    annotator.check(question)
    (annotation,) = annotator.annotate([(question, Rollout("q", 0, (), text, "stop", 0))])
    return [sentence.label for sentence in annotation.sentences]


def test_the_documented_table() -> None:
    true = "Mars has 2 moons. Jupiter is a gas giant. Jupiter is a giant planet. It is next to Earth. Mars is a planet."
    false = "Mars has 3 moons. The Red Planet is a gas giant. Mars is a dwarf planet. It is next to Mercury."
    assert labels(PLANETS, true) == [NO_HALLUCINATION] * 5
    assert labels(PLANETS, false)[:3] == [CONTRADICTORY] * 3
    assert labels(PLANETS, "Jupiter has 3 moons. Mars is a cold desert.") == [UNVERIFIABLE] * 2


def test_a_kind_that_is_not_closed_leaves_other_values_open(tmp_path: Path) -> None:
    raw = json.loads(PLANETS.read_text(encoding="utf-8"))
    raw["kinds"][0]["closed_world"] = False
    file = tmp_path / "open.json"
    file.write_text(json.dumps(raw), encoding="utf-8")
    assert labels(file, "Mars has 2 moons. Mars has 3 moons.") == [NO_HALLUCINATION, UNVERIFIABLE]


def test_a_built_in_table_written_to_json_comes_back(tmp_path: Path) -> None:
    """Every field of a table can be given in JSON."""
    table = countries.table()
    file = tmp_path / "countries.json"
    file.write_text(json.dumps({k: v for k, v in to_json(table).items() if k != "name"}), encoding="utf-8")
    again = table_file.read(str(file), "countries")
    assert again.entities == table.entities and again.other_names == table.other_names
    assert [kind.triggers for kind in again.kinds] == [kind.triggers for kind in table.kinds]
    names = [{value.name for value in kind.lexicon} for kind in again.kinds]
    assert all(ours >= {value.name for value in kind.lexicon} for ours, kind in zip(names, table.kinds, strict=True))


def test_a_byte_order_mark_is_no_part_of_it(tmp_path: Path) -> None:
    file = tmp_path / "marked.json"
    file.write_bytes(b"\xef\xbb\xbf" + PLANETS.read_bytes())
    assert labels(file, "Mars has 2 moons.") == [NO_HALLUCINATION]


def kind(**fields: Any) -> str:
    """The table with fields of its kind replaced."""
    return changed({"kinds": [{"name": "a", "triggers": ["a"], **fields}]})


def entity(**fields: Any) -> str:
    """The table with fields of its entity replaced, and another entity Y."""
    return changed({"entities": [{"name": "X", **fields}, {"name": "Y", "aliases": ["why"]}]})


def changed(change: dict[str, Any]) -> str:
    """A table of one kind and one entity with fields replaced, as JSON."""
    base = {"kinds": [{"name": "a", "triggers": ["a"]}], "entities": [{"name": "X", "facts": {"a": "b"}}]}
    return json.dumps({**base, **change})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "expected a JSON object, got one whose brackets or quotes are not closed"),
        ("{,}", "expected JSON, got: "),
        ("[]", "expected JSON objects, got none"),
        ("{}{}", "expected nothing after the table, got another object"),
        ('{"kinds": [], "kinds": []}', "1: expected JSON, got: field 'kinds' twice"),
        ('{"kinds": [], "generic": ["ro\\ud800cky"]}', "1: expected Unicode text, got a lone '\\ud800'"),
        (kind(triggers=[""]), "kinds[0].triggers[0]: expected text on one line that is not empty, got ''"),
        (kind(triggers=["a", "?!"]), "kind 'a': expected a word in every trigger and cue, got '?!'"),
        (kind(cues=[" "]), "kinds[0].cues[0]: expected text on one line that is not empty, got ' '"),
        (kind(lexicon=[2]), "kind 'a': lexicon: expected text in quotes, like \"79\", got 2"),
        (entity(name="Ma\nrs"), "entities[0].name: expected text on one line that is not empty, got 'Ma\\nrs'"),
        (entity(name=""), "entities[0].name: expected text on one line that is not empty, got ''"),
        (entity(aliases=["\u2028"]), "entities[0].aliases[0]: expected text on one line that is not empty, got "),
        (
            entity(facts={"a": ["b", ""]}),
            "entities[0].facts.a[1].name: expected text on one line that is not empty, got ''",
        ),
        (entity(facts={"a": 2}), "entity 'X': facts.a: expected text in quotes, like \"79\", got 2"),
        (entity(name="y"), "entities: expected names that differ by more than case, got 'y' and 'Y'"),
        (entity(aliases=["y"]), "entity 'X': aliases: expected no other entity's name, got 'Y'"),
        ("{}", "field 'kinds': expected a list, got NoneType None"),
        (changed({"kind": []}), "unknown field 'kind' in the fact table; known: "),
        (changed({"kinds": []}), "kinds: expected at least one, got none"),
        (changed({"kinds": [{"name": "a"}]}), "kind 'a': expected triggers or cues that announce it, got neither"),
        (changed({"kinds": [{"triggers": ["a"]}]}), "field 'kinds[0]': missing field 'name'"),
        (changed({"kinds": ["a"]}), "field 'kinds[0]': expected an object, got str 'a'"),
        (
            changed({"kinds": [{"name": "a", "triggers": ["a"], "shape": "date"}]}),
            "kind 'a': shape: expected one of name, words, number, entity; got 'date'",
        ),
        (changed({"kinds": [{"name": "a", "triggers": "a"}]}), "field 'kinds[0].triggers': expected a list, got str"),
        (
            changed({"entities": [{"name": "X"}, {"name": "X"}]}),
            "entities: expected names that differ by more than case",
        ),
        (changed({"entities": [{"name": "X", "facts": {"c": "b"}}]}), "entity 'X': facts.c: expected one of a"),
        (
            changed({"entities": [{"name": "X", "facts": []}]}),
            "field 'entities[0].facts': expected an object, got list",
        ),
        *(
            (
                changed(
                    {
                        "kinds": [{"name": "a", "triggers": ["a"], "shape": "number"}],
                        "entities": [{"name": "X", "facts": {"a": number}}],
                    }
                ),
                f"entity 'X': facts.a: expected a whole number as text, like '79', got '{number}'",
            )
            for number in ("two", "٢", "-2")
        ),
        (
            changed({"kinds": [{"name": "a", "triggers": ["a"], "shape": "entity"}]}),
            "entity 'X': facts.a: expected an entity of this table, got 'b'",
        ),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "table.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        FactsAnnotator({"mine": str(file)})
    message = str(caught.value)
    assert message.startswith(f"{file}:") and expected in message and "\n" not in message


def test_no_file_and_no_mapping() -> None:
    with pytest.raises(DataError, match="^nowhere.json: expected a JSON file, got: No such file or directory$"):
        FactsAnnotator({"mine": "nowhere.json"})
    with pytest.raises(DataError, match="^annotation.options.tables.mine: expected a JSON file, got 3$"):
        FactsAnnotator({"mine": 3})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=r"^annotation.options.tables: expected {name: file.json}, got 'x.json'$"):
        build("facts", {"tables": "x.json"})
