"""The schema of summary.json: every summary satisfies it, and a field that joins without it is noticed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fake_run import run
from test_summary import CORRECTED, FULL, SHORT, make

from maskdpo_ray.records import PairsSummary, encode_line
from maskdpo_ray.report import schema, summary
from maskdpo_ray.report.schema import TrainingSummary

DOCS = Path(__file__).parents[3] / "docs"
HASHES = {
    "1.0": "4ce1bd370554a3b37cbe512634ca4b1ad7750991a812a85f9af4dad532d55adf",
    "1.1": "242fafbaf779f6bb20782f13310290139be1158530a36502be79940b5984cf57",
}
"""Version -> SHA-256 of its schema without descriptions. A version's hash never changes: a change takes a new line, and
another `schema.VERSION`."""


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    own = schema.json_schema()
    jsonschema.Draft202012Validator.check_schema(own)
    return jsonschema.Draft202012Validator(own)


def without_words(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_words(each) for name, each in value.items() if name not in ("description", "title")}
    return [without_words(each) for each in value] if isinstance(value, list) else value


def test_a_version_never_changes() -> None:
    text = json.dumps(without_words(schema.json_schema()), sort_keys=True)
    found = {schema.VERSION: hashlib.sha256(text.encode()).hexdigest()}
    assert HASHES | found == HASHES, "fields have changed: raise schema.VERSION, and add its hash here"


def test_the_documentation_is_that_of_the_records() -> None:
    again = "write it anew: python -m maskdpo_ray.report.schema docs"
    assert json.loads((DOCS / "summary.schema.json").read_text(encoding="utf-8")) == schema.json_schema(), again
    assert (DOCS / "summary.md").read_text(encoding="utf-8").endswith(f"\n## Fields\n\n{schema.tables()}"), again


def test_every_field_is_described_and_none_may_join() -> None:
    for name, own in schema.json_schema()["$defs"].items():
        assert own["additionalProperties"] is False, name
        assert all(field["description"] for field in own["properties"].values()), name


def test_summaries_of_runs_and_evaluations_satisfy_it(
    tmp_path: Path, validator: jsonschema.Draft202012Validator
) -> None:
    """Summaries of a real loop over fakes with a choice, and of one whose policies nobody chose among."""
    run(tmp_path, iterations=1)
    of_run = summary.build(tmp_path / "run")
    other = tmp_path / "other"
    other.mkdir()
    of_evaluation = summary.build(make(other, FULL, SHORT, CORRECTED, transfer=(FULL, SHORT, CORRECTED)))
    dropped = {"q.jsonl": {"records": 9, "drops": {"too_long": 1}, "examples": {"too_long": "q.jsonl:3: ..."}}}
    for found in (of_run, of_evaluation, {**of_evaluation, "dropped": dropped, "subjects": {"this": "models/own"}}):
        assert found["schema_version"] == schema.VERSION
        validator.validate(json.loads(encode_line(found)))
    assert of_run["kept"] and of_run["stages"] and of_run["idle"] and of_evaluation["kept"] is None


def test_summaries_of_training_satisfy_it(validator: jsonschema.Draft202012Validator) -> None:
    pairs = PairsSummary(4, 3, {"too_long": 1}, {"chosen_with_incorrect": 0.5})
    step = {"step": 0, "loss": 0.69, "accuracy": None}
    found = TrainingSummary(
        schema.VERSION, "offline", "pairs.jsonl", pairs, 2, 31.0, step, step, "runs/offline/iter_000/policy"
    )
    validator.validate(json.loads(encode_line(found)))


@pytest.mark.parametrize("place", [[], ["kept"], ["evaluations", "heldout", 0], ["pairs", 0], ["stages", 0]])
def test_an_unknown_field_is_refused(
    tmp_path: Path, validator: jsonschema.Draft202012Validator, place: list[Any]
) -> None:
    run(tmp_path, iterations=1, names=("a", "b"))
    found = summary.build(tmp_path / "run")
    at = found
    for step in place:
        at = at[step]
    at["newer"] = 1
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(found)
