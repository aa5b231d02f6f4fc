"""Runs side by side: rows, means, and whether runs of one seed learned from the same pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.report import comparison

METRICS = ("score", "correct_facts", "incorrect_facts", "sentences", "nothing_checkable", "cut_off")


def versions(before: float, after: float) -> list[dict[str, Any]]:
    first, last = ({"metrics": {name: {"mean": value} for name in METRICS}} for value in (before, after))
    return [first, {**last, "gain": {"score": {"gain": after - before, "low": 0.0, "high": 0.25}}}]


def make(folder: Path, mask: str, seed: int, after: float, pairs: str = "a\nb\n", transfer: bool = False) -> str:
    (folder / "iter_000").mkdir(parents=True)
    (folder / "iter_000" / "pairs.jsonl").write_text(pairs)
    config = {"mask": {"policy": mask, "eos": "drop"}, "run": {"seed": seed}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    evaluations = {"heldout": versions(0.5, after)} | ({"transfer": versions(0.25, 0.375)} if transfer else {})
    (folder / "summary.json").write_text(json.dumps({"evaluations": evaluations}))
    return str(folder)


def test_rows_means_and_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comparison.main(
        [
            make(tmp_path / "v2", "vanilla", 2, 0.5, pairs="a\nc\n"),
            make(tmp_path / "m2", "mask_dpo", 2, 0.75),
            make(tmp_path / "m1", "mask_dpo", 1, 0.625, transfer=True),
            make(tmp_path / "v1", "vanilla", 1, 0.5, pairs="b\na\n"),
        ]
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    assert len({len(row) for row in rows[:8]}) == 1
    assert [row[:4] for row in rows[2:8]] == [
        ["mask_dpo, EOS drop", "1", "+0.125 [+0.000, +0.250]", "0.500 → 0.625"],
        ["mask_dpo, EOS drop", "2", "+0.250 [+0.000, +0.250]", "0.500 → 0.750"],
        ["vanilla, EOS drop", "1", "+0.000 [+0.000, +0.250]", "0.500 → 0.500"],
        ["vanilla, EOS drop", "2", "+0.000 [+0.000, +0.250]", "0.500 → 0.500"],
        ["**mask_dpo, EOS drop**", "mean of 2", "+0.188", "0.500 → 0.688"],
        ["**vanilla, EOS drop**", "mean of 2", "+0.000", "0.500 → 0.500"],
    ]
    assert [rows[2][-1], rows[3][-1]] == ["0.250 → 0.375", "-"]
    assert rows[6][-1] == "-"  # a mean of the runs that have it would be of others than the other means
    assert rows[2][-2] == "50.0% → 62.5%"
    assert rows[9:] == [
        ["seed 1: first-iteration pairs are the same in every run"],  # in another order
        ["seed 2: first-iteration pairs DIFFER between runs"],
    ]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["nowhere"]])
def test_what_is_no_finished_run(arguments: list[str]) -> None:
    with pytest.raises(RunFolderError):
        comparison.main(arguments)


@pytest.mark.parametrize(("name", "text"), [("summary.json", "{"), ("summary.json", "[]"), ("config.yaml", "run: {}")])
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, name: str, text: str) -> None:
    folder = Path(make(tmp_path / "run", "vanilla", 1, 0.5))
    (folder / name).write_text(text)
    with pytest.raises(RunFolderError, match="run: expected the summary and config of a finished run, got") as caught:
        comparison.main([str(folder)])
    assert "\n" not in str(caught.value)
