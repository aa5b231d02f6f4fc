"""The view of a run: what it says in every state, and that no text of the run's steers the terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from maskdpo_ray.report.progress import Progress, SeenPair, StageProgress
from maskdpo_ray.report.view import CURVES, span, sparkline, view

STAGE = StageProgress("collect", 1, 100.0, 200, 50, "questions", 2.0, 640.4, 75.0)
PROGRESS = Progress(
    name="facts",
    folder="runs/facts",
    state="running",
    since=1000.0,
    sign_of_life=4590.0,
    now=4600.0,
    process="process 7 on node",
    num_starts=1,
    num_trained=1,
    iterations=3,
    last_finished="choose 1",
    stages=[STAGE],
    curves={},
    idle={},
    restarts={},
    num_failed=0,
    last_failure=None,
    error=None,
    pairs=[],
    verdict=[],
)


def shown(encoding: str = "utf-8", width: int = 120, color: bool = False, **changes: Any) -> str:
    text = io.StringIO()
    console = Console(file=text, width=width, highlight=False, force_terminal=color or None)
    console.print(view(replace(PROGRESS, **changes), encoding))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def test_a_running_stage() -> None:
    assert shown() == (
        "facts  running, started 60 min ago (process 7 on node), wrote 10 s ago\n"
        "runs/facts, trained 1 of 3 iterations, last finished: choose 1\n\n"
        "collect, iteration 1  ████▁▁▁▁▁▁▁▁▁▁▁▁  50 of 200 questions, 2.0/s, 640 tokens/s, 75 s left"
    )


def test_stages_that_nobody_counts_and_slow_ones() -> None:
    start = StageProgress("start", 0, 0.0, None, None, "", None, None, None)
    reference = StageProgress("reference", 0, 0.0, 94, None, "examples", None, None, None)
    train = StageProgress("train", 0, 0.0, 60, 30, "steps", 0.05, None, 600.0)
    lines = shown(stages=[start, reference, train]).splitlines()[-3:]
    assert [line.split() for line in lines[:2]] == [
        "start, iteration 0".split(),
        "reference, iteration 0 94 examples".split(),
    ]
    done = replace(train, done=60, seconds_left=0.0)  # its policy is being published
    assert shown(stages=[done]).endswith("60 of 60 steps, 3.0/min")
    assert lines[2].endswith("████████▁▁▁▁▁▁▁▁  30 of 60 steps, 3.0/min, 10 min left")


def test_in_80_columns_only_figures_wrap() -> None:
    stage = replace(STAGE, name="evaluate-transfer-greedy", total=125_000, done=62_500)
    lines = shown(width=80, stages=[stage]).splitlines()[-3:]
    assert lines[0].startswith("evaluate-transfer-greedy, policy 1  ████████▁▁▁▁▁▁▁▁  62500 of")
    assert " ".join(" ".join(lines).split()).endswith("62500 of 125000 questions, 2.0/s, 640 tokens/s, 75 s left")
    assert all(len(line) <= 80 for line in lines)


def test_the_states() -> None:
    assert "started 60 min ago (process 7 on node), wrote 10 s ago; whether it still runs can't" in shown(
        state="unseen"
    )
    stopped = shown(state="stopped")
    assert "STOPPED without finishing, wrote 10 s ago" in stopped and "50 of 200 questions" in stopped
    assert "left" not in stopped and "tokens/s" not in stopped
    failed = shown(state="failed", error="ClusterError: no room")
    assert "FAILED 60 min ago" in failed and "\nClusterError: no room\n" in failed
    finished = shown(state="finished", verdict=["Answers became more factual.", "Ship policy 2."], stages=[])
    assert "facts  finished 60 min ago" in finished and "\nAnswers became more factual.\nShip policy 2." in finished


def test_curves_in_their_order() -> None:
    curves = {"train/loss": [(0, 0.7), (1, 0.35)], "eval/heldout/score": [(0, 0.5), (1, 0.75)], "other": [(0, 1.0)]}
    lines = shown(stages=[], curves=curves).splitlines()[3:]
    assert [line.split() for line in lines] == [
        ["held-out", "score", "▁█", "0.500", "->", "0.750"],
        ["loss", "█▁", "0.700", "->", "0.350"],
    ]


def test_troubles_idle_shares_and_pairs() -> None:
    pairs = [SeenPair("q1", "Rwanda", "Kigali.", 1.0, "Lagos.", 0.0), SeenPair("q2", "Peru", "Lima.", None, "", None)]
    text = shown(
        restarts={"rollout": 2},
        num_failed=3,
        last_failure="question 'x': died",
        notes=["metrics.jsonl: 1 lines"],
        idle={"rollout": 0.305, "training": 0.71},
        pairs=pairs,
    )
    assert text.endswith(
        "actors that died or hung and were replaced: rollout 2\n"
        "training questions that were set aside: 3\n"
        "last failure: question 'x': died\n"
        "metrics.jsonl: 1 lines\n\n"
        "idle in the last iteration: rollout 30%, training 71%\n\n"
        "last pairs\n"
        "Rwanda\n  + 1.00 Kigali.\n  - 0.00 Lagos.\n"
        "Peru\n  +  Lima."
    )


@pytest.mark.parametrize("hostile", ["\x1b[2J\x1b]0;x\x07", "a\nb\rc", "\u202eevil\u2066", "[bold red]x[/]", "\x9b31m"])
def test_no_text_steers_the_terminal(hostile: str) -> None:
    pair = SeenPair(hostile, hostile, hostile, 1.0, hostile, 0.0)
    changes = {"name": hostile, "folder": hostile, "process": hostile, "last_finished": hostile, "pairs": [pair]}
    changes |= {"error": hostile, "last_failure": hostile, "notes": [hostile], "verdict": [hostile]}
    stage = replace(STAGE, name=hostile)
    for state in ("running", "failed"):
        text = shown(state=state, idle={hostile: 0.5}, restarts={hostile: 1}, stages=[stage], **changes)
        plain = shown()
        assert set(text) - set(plain) <= set(map(chr, range(32, 127))) | set("…"), ascii(text)
        assert text.count("[bold red]x[/]") >= 5 or "bold" not in hostile


def test_a_pair_takes_one_line_a_side_whatever_its_length() -> None:
    text = shown(width=80, pairs=[SeenPair("q", "t", "x" * 2000, 1.0, "y" * 2000, 0.0)])
    chosen, rejected = text.splitlines()[-2:]
    assert chosen == f"  + 1.00 {'x' * 70}…" and rejected == f"  - 0.00 {'y' * 70}…"


def test_a_terminal_without_block_characters() -> None:
    text = shown("ascii", curves={name: [(0, 0.0), (1, 1.0), (2, 0.5)] for name in CURVES})
    assert text.isascii() and "_#=" in text or "_#+" in text


def test_colours_are_for_terminals_only() -> None:
    assert "\x1b[" in shown(color=True) and "\x1b" not in shown()


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], ""), ([3.0], "▅"), ([1.0, 1.0], "▅▅"), ([0, 7], "▁█"), (list(range(8)), "▁▂▃▄▅▆▇█"), ([5, -2, 5], "█▁█")],
)
def test_sparkline(values: list[float], expected: str) -> None:
    assert sparkline(values) == expected


def test_a_long_sparkline_is_that_of_means_of_neighbours() -> None:
    values = [float(number // 100) for number in range(800)]
    assert sparkline(values, width=8) == "▁▂▃▄▅▆▇█" and len(sparkline(values)) == 32


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-5, "0 s"), (42.4, "42 s"), (99.9, "100 s"), (300, "5 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")],
)
def test_span(seconds: float, expected: str) -> None:
    assert span(seconds) == expected
