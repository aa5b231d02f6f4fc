"""The GPU check's pure parts: sections that fail alone, the figures' arithmetic, the tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_check, measures

OPTIONS = {"prompt_tokens": 512, "answer_tokens": 512, "batch_size": 16, "epochs": 3}


def trained(seconds: float, **more: Any) -> dict[str, Any]:
    own = {"step_seconds": [30.0, seconds, seconds / 2], "flops": 3e12, "peak_bytes": 8 * measures.GIB}
    return {**own, **more}


def ranked(seconds: float, **more: Any) -> dict[str, Any]:
    parts = ("reference", "return", "publication")
    sizes = {f"{name}_bytes": size * measures.GIB for name, size in (("planned", 7), ("working", 6), ("resting", 1))}
    return trained(seconds, agrees=True, **{f"{part}_seconds": 3.0 for part in parts}, **sizes, **more)


def found(**sections: dict[str, Any]) -> dict[str, Any]:
    own = {name.replace("_", " "): section for name, section in sections.items()}
    return {"card": "a card", "machine": {"versions": {"torch": "2"}}, "options": OPTIONS, "sections": own}


def test_speed_counts_a_third_of_the_reference_pass_and_all_tokens_of_pairs() -> None:
    tokens, operations = gpu_check.speed(ranked(4.0), OPTIONS)
    assert tokens == 2 * 1024 * 16 / 5 and operations == 3e12 / 5


def test_a_table_sets_ours_beside_trl_of_the_same_shape_and_lists_what_failed() -> None:
    text = gpu_check.shown(
        found(
            rate_1b={"operations_per_second": 6e11},
            rank_1b=ranked(4.0),
            trl_1b=trained(10.0),
            rank_3b_lora=ranked(1.0),
            trl_3b={"failed": "OutOfMemoryError: all of it"},
        )
    )
    rows = [row for row in text.splitlines() if "b ours" in row or "b TRL" in row]
    ours, trl, lora = ([cell.strip() for cell in row.split("|")[1:-1]] for row in rows)
    assert ours == ["1b ours", "6,554", "2.00", "1.00", "8.00", "7.00", "1.00 of 6.00", "3.0", "3.0"]
    assert trl == ["1b TRL", "3,277", "1.00", "0.50", "8.00", "-", "-", "-", "-"]
    assert lora[:4] == ["3b ours lora", "16,384", "-", "-"]
    assert text.endswith("trl 3b: FAILED: OutOfMemoryError: all of it")


def test_a_disagreement_and_a_failure_are_not_good() -> None:
    compared = {"tree beside rows": {"logps": 0.01, "largest": 0.1, "gradient": 0.2}}
    agreeing = {"attention": "flex_attention", "compared": compared, "agrees": True}
    good = found(agreement_1b=agreeing, rank_1b=ranked(1.0))
    assert gpu_check.is_good(good) and "by flex_attention: agrees" in gpu_check.shown(good)
    bad = found(agreement_1b={**agreeing, "agrees": False})
    assert not gpu_check.is_good(bad) and "DOES NOT AGREE" in gpu_check.shown(bad)
    assert not gpu_check.is_good(found(rank_1b={"failed": "no memory"}))
    assert not gpu_check.is_good(found(rank_1b={**ranked(1.0), "agrees": False}))


def test_a_section_that_fails_or_takes_too_long_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, section = tmp_path / "script.py", gpu_check.Section("rank", "1b", "lora")
    monkeypatch.setattr(gpu_check, "__file__", str(script))
    script.write_text("import sys\nprint('begins')\nsys.exit('torch.OutOfMemoryError: all of it')")
    failed = gpu_check.take(section, [], 30, tmp_path)
    assert failed["failed"] == "torch.OutOfMemoryError: all of it" and failed["log"] == ["begins", failed["failed"]]
    script.write_text("import time\ntime.sleep(60)")
    assert gpu_check.take(section, [], 0.5, tmp_path) == {"failed": "stopped after its 0.5 s"}
    script.write_text("import json, sys\njson.dump({'words': sys.argv[1:5]}, open(sys.argv[-1], 'w'))")
    given = gpu_check.take(section, ["--device", "cpu"], 30, tmp_path)
    assert given["words"] == ["--device", "cpu", "--only", "rank 1b lora"] and given["section_seconds"] >= 0


def test_sections_share_the_time_that_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A section that is done early leaves its time to the others, and figures are on the disk after each."""
    now, taken, figures = [0.0], [], tmp_path / "figures.json"

    def take(section: gpu_check.Section, words: Any, seconds: float, work: Path) -> dict[str, Any]:
        taken.append(seconds)
        if len(taken) > 1:
            assert len(json.loads(figures.read_text())["sections"]) == len(taken) - 1
        now[0] += 0 if len(taken) == 1 else seconds
        return {"failed": "tried out"}

    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(gpu_check, "take", take)
    words = f"--device cpu --minutes 10 --work {tmp_path} --json {figures}"
    assert gpu_check.main(words.split()) == 1
    assert now[0] == pytest.approx(600) and len(taken) == len(gpu_check.sections("cpu"))
    assert sum(taken[1:]) == pytest.approx(600) and taken[1] == pytest.approx(
        600 / sum(each.weight for each in gpu_check.sections("cpu")[1:])
    )


def test_a_gpu_has_a_section_for_each_question() -> None:
    names = [section.name for section in gpu_check.sections("cuda")]
    assert len(names) == len(set(names)) and {name.split()[0] for name in names} == set(gpu_check.KINDS)
    assert {"rank 1b", "rank 3b", "trl 1b", "trl 3b", "rank 3b lora", "rank 3b checkpointed"} <= set(names)


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, benchmarks.gpu_check; print(sorted({'torch', 'ray', 'vllm', 'deepspeed'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
