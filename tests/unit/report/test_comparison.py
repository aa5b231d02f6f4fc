"""Runs side by side: rows, means, and whether runs of one seed learned from the same pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fakes
import pytest
import yaml
from test_run_folder import unit

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.records import encode_record
from maskdpo_ray.report import comparison

METRICS = ("score", "recall", "correct_facts", "incorrect_facts", "sentences", "nothing_checkable", "cut_off")


def versions(before: float, after: float) -> list[dict[str, Any]]:
    none = {"sd": None, "low": None, "high": None, "per_replication": []}
    first, last = ({"metrics": {name: {"mean": value} | none for name in METRICS}} for value in (before, after))
    gain = {"before": before, "after": after, "gain": after - before, "low": 0.0, "high": 0.25}
    return [first, {**last, "gain": {"score": gain}}]


def make(folder: Path, mask: str, seed: int, after: float, pairs: str = "ab", transfer: bool = False) -> str:
    (folder / "iter_000").mkdir(parents=True)
    questions = [fakes.committed(name, *unit(name)) for name in pairs]
    (folder / "iter_000" / "questions.jsonl").write_bytes(b"".join(map(encode_record, questions)))
    config = {"mask": {"policy": mask, "eos": "drop"}, "run": {"seed": seed}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    evaluations = {"heldout": versions(0.5, after)} | ({"transfer": versions(0.25, 0.375)} if transfer else {})
    (folder / "summary.json").write_text(json.dumps({"kept": {"version": 1}, "evaluations": evaluations}))
    return str(folder)


def test_rows_means_and_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comparison.main(
        [
            make(tmp_path / "v2", "vanilla", 2, 0.5, pairs="ac"),
            make(tmp_path / "m2", "mask_dpo", 2, 0.75),
            make(tmp_path / "m1", "mask_dpo", 1, 0.625, transfer=True),
            make(tmp_path / "v1", "vanilla", 1, 0.5, pairs="ba"),
        ]
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    assert len({len(row) for row in rows[:8]}) == 1
    assert [row[:4] for row in rows[2:8]] == [
        ["mask.policy mask_dpo", "1", "+0.125 [+0.000, +0.250]", "0.500 → 0.625"],
        ["mask.policy mask_dpo", "2", "+0.250 [+0.000, +0.250]", "0.500 → 0.750"],
        ["mask.policy vanilla", "1", "+0.000 [+0.000, +0.250]", "0.500 → 0.500"],
        ["mask.policy vanilla", "2", "+0.000 [+0.000, +0.250]", "0.500 → 0.500"],
        ["**mask.policy mask_dpo**", "mean of 2", "+0.188", "0.500 → 0.688"],
        ["**mask.policy vanilla**", "mean of 2", "+0.000", "0.500 → 0.500"],
    ]
    assert [rows[2][-1], rows[3][-1]] == ["0.250 → 0.375", "-"]
    assert rows[6][-1] == "-"  # a mean of the runs that have it would be of others than the other means
    assert rows[2][-2] == "50.0% → 62.5%"
    assert rows[9:] == [
        ["seed 1: first-iteration pairs are the same in every run"],  # in another order
        ["seed 2: first-iteration pairs DIFFER between runs"],
    ]


def test_only_runs_that_differ_in_their_seed_are_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make(tmp_path / name, "vanilla", seed, 0.75) for name, seed in (("a", 1), ("b", 2), ("c", 1))]
    config = Path(runs[2]) / "config.yaml"
    given = {"objective": {"name": "kto"}, "adam": {"lr": 1e-4}, "cluster": {"threads": 7}}
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | given))
    comparison.main(runs)
    rows = [[cell.strip() for cell in line.strip("|").split("|")][:2] for line in capsys.readouterr().out.splitlines()]
    ours, other = "adam.lr 5e-06, objective.name dpo", "adam.lr 0.0001, objective.name kto"
    assert sorted(rows[2:7]) == sorted(
        [[ours, "1"], [ours, "2"], [other, "1"], [f"**{ours}**", "mean of 2"], [f"**{other}**", "mean of 1"]]
    )
    comparison.main(runs[:2])
    assert "| **all alike** | mean of 2 |" in capsys.readouterr().out


def edit(folder: str, path: str, value: Any) -> None:
    """Put `value` at the dotted `path` of the summary; `...` takes away what is there."""
    file = Path(folder) / "summary.json"
    summary = place = json.loads(file.read_text())
    *names, last = path.split(".")
    for name in names:
        place = place[int(name) if isinstance(place, list) else name]
    place.pop(last) if value is ... else place.update({last: value})
    file.write_text(json.dumps(summary))


def test_what_is_not_defined_is_a_dash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores of a policy none of whose answers could be scored."""
    runs = [make(tmp_path / name, "vanilla", seed, 0.75) for seed, name in enumerate("ab")]
    edit(runs[0], "evaluations.heldout.0.metrics.score.mean", None)
    for name in ("gain", "low", "high"):
        edit(runs[0], f"evaluations.heldout.1.gain.score.{name}", None)
    comparison.main(runs)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    assert [row[2:4] for row in rows[2:5]] == [
        ["- [-, -]", "- → 0.750"],
        ["+0.250 [+0.000, +0.250]", "0.500 → 0.750"],
        ["-", "- → 0.750"],
    ]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["nowhere"], ["nowhere", "--x"], ["x" * 5000], [""]])
def test_what_is_no_finished_run(arguments: list[str]) -> None:
    with pytest.raises(RunFolderError):
        comparison.main(arguments)


def test_figures_are_those_of_the_kept_policy(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", "vanilla", 1, 0.75)
    file = tmp_path / "run" / "summary.json"
    summary = json.loads(file.read_text())
    summary["evaluations"]["heldout"].append(versions(0.5, 0.25)[1])  # a third policy, which fell back
    file.write_text(json.dumps(summary))
    for version, gain in ((1, 0.25), (2, -0.25), (0, 0.0)):
        edit(folder, "kept.version", version)
        found = comparison.FinishedRun.read(Path(folder))
        assert (found.metrics["score"], found.gain.gain) == ((0.5, 0.5 + gain), gain)


GAIN, SCORE = "evaluations.heldout.1.gain.score", "evaluations.heldout.0.metrics.score"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("summary.json", "{", "expected JSON, got: "),
        ("summary.json", "[" * 100_000, "expected JSON, got: "),
        ("summary.json", "[]", "top level: expected an entry kept, got []"),
        ("config.yaml", "run: {}", "run.seed: expected int, got None"),
        ("config.yaml", "{mask: {policy: a, eos: b}, run: {seed: [1]}}", "run.seed: expected int, got [1]"),
        ("config.yaml", "{mask: {policy: a, eos: b}, run: {seed: one}}", "run.seed: expected int, got 'one'"),
    ],
)
def test_damaged_files_are_refused_by_field(tmp_path: Path, name: str, text: str, message: str) -> None:
    folder = make(tmp_path / "run", "vanilla", 1, 0.5)
    (tmp_path / "run" / name).write_text(text)
    refused(folder, f"{folder}/{name}: {message}")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("evaluations.heldout.1.gain.score.low", ..., f"{GAIN}: missing field 'low' in the change"),
        ("evaluations.heldout.1.gain.score.low", "x", f"{GAIN}: field 'low': expected float or null, got str 'x'"),
        (
            "evaluations.heldout.1.gain.score",
            [1],
            f"{GAIN}: expected an object with the fields of the change, got list",
        ),
        ("evaluations.heldout.1.gain", None, "evaluations.heldout.1.gain: expected an entry score, got None"),
        ("kept", None, "kept: expected an entry version, got None"),
        ("kept.version", "1", "kept.version: expected int, got str '1'"),
        ("kept.version", 2, "evaluations.heldout: expected an entry 2, got ["),
        (f"{SCORE}.mean", "x", f"{SCORE}: field 'mean': expected float or null, got str 'x'"),
        ("evaluations.heldout", [], "evaluations.heldout: expected an entry 0, got []"),
        ("evaluations.heldout", ..., "evaluations: expected an entry heldout, got {}"),
        ("evaluations.transfer", None, "evaluations.transfer: expected an entry 0, got None"),
    ],
)
def test_damaged_summaries_are_refused_by_field(tmp_path: Path, path: str, value: Any, message: str) -> None:
    folder = make(tmp_path / "run", "vanilla", 1, 0.5)
    edit(folder, path, value)
    refused(folder, f"{folder}/summary.json: {message}")


def refused(folder: str, message: str) -> None:
    with pytest.raises(RunFolderError) as caught:
        comparison.main([folder])
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
