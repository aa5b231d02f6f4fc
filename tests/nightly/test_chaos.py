"""`scripts/chaos.py`, the short version: two faults, each of another kind."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from driver import REPOSITORY, Driver

pytestmark = pytest.mark.timeout(2400)


def test_two_faults(tmp_path: Path) -> None:
    """The driver and a training rank are killed, and the runs end as the undisturbed one did."""
    command = (sys.executable, str(REPOSITORY / "scripts/chaos.py"))
    call = ["--first", "4", "--faults", "2", "--folder", str(tmp_path / "chaos")]
    with Driver(call, tmp_path / "chaos.log", command) as chaos:
        code = chaos.wait(2000)
        assert code == 0 and chaos.output.endswith("2 of 2 survived\n"), chaos.output
    outcomes = [json.loads(line) for line in (tmp_path / "chaos/faults.jsonl").read_text().splitlines()]
    assert [outcome["fault"] for outcome in outcomes] == ["driver", "training rank"]
    assert not any(outcome["problems"] for outcome in outcomes)
