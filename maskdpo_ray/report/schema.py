"""The records of summary.json, by which it is built, and its JSON Schema: docs/summary.schema.json.

python -m maskdpo_ray.report.schema docs    # writes that file anew, and the tables of docs/summary.md
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from maskdpo_ray.config.file import meanings
from maskdpo_ray.evaluation.choice import Candidate, Choice
from maskdpo_ray.evaluation.intervals import Change, Statistic
from maskdpo_ray.evaluation.metrics import KindOfFact
from maskdpo_ray.records import PairsSummary, Record

VERSION: Final = "1.1"
"""A new field raises the number behind the dot; a field that goes, or means something else, the one before it."""
Number = int | float


class Greedy(Record):
    """Figures of greedy answers, one to each question."""

    metrics: dict[str, Statistic]
    """Metric -> statistic, as of sampled answers."""
    gain: dict[str, Change] | None
    """Metric -> change from the first policy; null for the first."""


class Judged(Record):
    """Figures of the same answers by the second evaluator, the perplexity model, or both."""

    evaluator: str | None
    """Name of the evaluator (`eval.evaluator`); null without one."""
    perplexity_model: str | None
    """Model that read the answers (`eval.perplexity_model`); null without one."""
    metrics: dict[str, Statistic]
    """Metric -> statistic."""
    gain: dict[str, Change] | None
    """Metric -> change from the first policy; null for the first."""
    unparsed_example: str | None
    """A fact whose verdict could not be read, and what was said, if there is one."""


class PolicyFigures(Record):
    """Figures of one policy on one set of questions, by the annotator."""

    name: str
    """Name of the policy in the tables: `before`, `after 1`, ..."""
    version: int
    """Version of the policy: 0 is the one before training."""
    topics: int
    """Number of topics that count."""
    questions: int
    """Number of questions that count."""
    replications: int
    """Number of answers to each question."""
    metrics: dict[str, Statistic]
    """Metric -> statistic."""
    kinds: dict[str, KindOfFact]
    """Kind of fact ("capital"), or "other" -> facts of that kind."""
    topic_scores: dict[str, float | None]
    """Topic -> mean score over its answers; null where none could be scored."""
    best_of: dict[str, float | None]
    """N -> mean over questions of the expected best score of N answers; null where no question has N scores."""
    unparsed_example: str | None
    """A sentence whose label could not be read, and why, if there is one."""
    left_out: dict[str, str]
    """Topics with a failed question, which count nowhere -> the error."""
    gain: dict[str, Change] | None
    """Metric -> change from the first policy, over the topics that both have; null for the first."""
    greedy: Greedy | UnsetType = UNSET
    """Figures of greedy answers beside the sampled ones (`eval.greedy`); absent without."""
    judged: Judged | UnsetType = UNSET
    """Figures by the second evaluator and the perplexity model; absent without both."""


class Kept(Choice, kw_only=True, frozen=True):
    """The policy that the run keeps, its figures on held-out topics, and how it was chosen."""

    name: str
    """Name of the policy in the tables."""
    policy: str
    """Link to its folder."""
    score: float | None
    """Mean score on held-out topics; null where nothing could be scored."""
    recall: float | None
    """Recall on held-out topics; null where questions don't say what they ask for."""
    correct_facts: float | None
    """Correct facts per answer on held-out topics."""
    gain: Change | None
    """Change of the score from policy 0; null where that is kept."""


class IterationPairs(PairsSummary, kw_only=True):
    """Questions and pairs of one iteration."""

    iteration: int
    """Number of the iteration, from 0."""


class StageUse(Record):
    """Time and tokens of one stage."""

    step: int
    """The iteration; of an evaluation, the version of the policy."""
    stage: str
    """Name of the stage, as in metrics.jsonl: `rollout`, `train`, `evaluate-heldout`, ..."""
    seconds: float | UnsetType = UNSET
    """Seconds that it took, over all attempts; absent where none were measured."""
    tokens: float | UnsetType = UNSET
    """Tokens that it sampled or, in training, that had weight; absent where none were counted."""


class DroppedRecords(Record):
    """Unusable records of a file."""

    records: int
    """Records that were read."""
    drops: dict[str, int]
    """Reason -> records that were dropped."""
    examples: dict[str, str]
    """Reason -> the error of the first of them."""


class Summary(Record):
    """summary.json of a run, or of one evaluation (`maskdpo_ray.evaluate`)."""

    schema_version: Literal["1.1"]
    """Version of this schema."""
    run: str
    """`run.name`."""
    folder: str
    """The run folder, as it was named to the command."""
    kept: Kept | None
    """The policy that the run keeps; null of a single evaluation."""
    evaluations: dict[str, list[PolicyFigures]]
    """Split (`heldout`, `transfer`, `dev`) -> figures of each policy, the first being what the others are compared
    with."""
    pairs: list[IterationPairs]
    """Pairs of each iteration."""
    stages: list[StageUse]
    """Time and tokens of each stage."""
    idle: list[dict[str, Number]]
    """Number of each iteration (`iteration`), and group of actors -> share of the time without work."""
    restarts: dict[str, Number]
    """Group of actors -> actors that died or hung and were replaced."""
    remarks: list[str]
    """Remarks on the figures, in words."""
    policies: list[str]
    """Folders of the trained policies."""
    dropped: dict[str, DroppedRecords] | UnsetType = UNSET
    """File or data set -> its unusable records; absent where there are none."""
    subjects: dict[str, str] | UnsetType = UNSET
    """Name in the tables of a single evaluation -> what was evaluated; absent of a run."""


class TrainingSummary(Record):
    """summary.json of training on given pairs (`maskdpo_ray.train`)."""

    schema_version: Literal["1.1"]
    """Version of this schema."""
    run: str
    """`run.name`."""
    file: str
    """File of the pairs."""
    pairs: PairsSummary
    """Records that were read, and pairs that were learned from."""
    steps: int
    """Number of optimizer steps."""
    tokens: float
    """Tokens with weight, over all steps."""
    first: dict[str, Number | None]
    """Metric -> its value in the first step, null where it is not finite."""
    last: dict[str, Number | None]
    """Metric -> its value in the last step."""
    policy: str
    """Folder of the policy."""


_KINDS = (
    *(Summary, Kept, Candidate, PolicyFigures, Statistic, Change, KindOfFact, Greedy, Judged, IterationPairs, StageUse),
    *(DroppedRecords, TrainingSummary, PairsSummary),
)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of both summaries, with a description of every field."""
    found, definitions = msgspec.json.schema_components((Summary, TrainingSummary), ref_template="#/$defs/{name}")
    for kind in _KINDS:
        own = definitions[kind.__name__]
        said = dict(each for base in kind.__mro__ if issubclass(base, Record) for each in meanings(base).items())
        for name, field in own["properties"].items():
            field.pop("default", None)
            own["properties"][name] = {"description": _as_json(said[name]), **field}
        own["description"] = _as_json(inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].replace("\n", " "))
        own["required"] = [each.name for each in msgspec.structs.fields(kind) if each.default is not UNSET]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "summary.json of maskdpo_ray",
        "description": f"Version {VERSION}: that of a run or an evaluation, or of training on given pairs.",
        "anyOf": list(found),
        "$defs": {kind.__name__: definitions[kind.__name__] for kind in _KINDS},
    }


def _as_json(text: str) -> str:
    """A docstring about JSON values."""
    return re.sub(r"\bNone\b", "null", text)


def tables() -> str:
    """The fields of all records, Markdown."""
    parts = []
    for name, own in json_schema()["$defs"].items():
        rows = [
            f"| `{field}`{'' if field in own['required'] else ', may be absent'} | {about['description']} |"
            for field, about in own["properties"].items()
        ]
        parts.append("\n".join([f"### {name}", "", own["description"], "", "| field | |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def write(folder: Path) -> None:
    """Write the schema into `folder`, and the tables below the last heading of its page."""
    text = json.dumps(json_schema(), indent=2, ensure_ascii=False)
    (folder / "summary.schema.json").write_text(f"{text}\n", encoding="utf-8")
    page = folder / "summary.md"
    above, heading, _ = page.read_text(encoding="utf-8").partition("## Fields\n")
    page.write_text(f"{above}{heading}\n{tables()}", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
