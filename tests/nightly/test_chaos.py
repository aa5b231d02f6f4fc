"""`scripts/chaos.py`, the short version: two faults, each of another kind."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_run
from driver import REPOSITORY, Driver

pytestmark = pytest.mark.timeout(2400)


_KTO_AFTER_SFT = {
    **tiny_run.OPTIONS,
    "run.iterations": 2,
    "sft.iterations": 1,
    "objective.name": "kto",
    "pairs.strategy": "all_pairs",
    "data.num_dev_topics": 2,
    "run.keep": "best",
}


@pytest.mark.parametrize("options", [tiny_run.OPTIONS, _KTO_AFTER_SFT], ids=["mask_dpo", "kto_after_sft"])
def test_two_faults(tmp_path: Path, options: dict[str, Any]) -> None:
    """The driver and a training rank are killed, and the runs end as the undisturbed one did."""
    config = tiny_run.write_config(tmp_path, options)
    command = (sys.executable, str(REPOSITORY / "scripts/chaos.py"))
    call = ["--first", "4", "--faults", "2", "--folder", str(tmp_path / "chaos"), "--config", str(config)]
    with Driver(call, tmp_path / "chaos.log", command) as chaos:
        code = chaos.wait(2000)
        assert code == 0 and chaos.output.endswith("2 of 2 survived\n"), chaos.output
    outcomes = [json.loads(line) for line in (tmp_path / "chaos/faults.jsonl").read_text().splitlines()]
    assert [outcome["fault"] for outcome in outcomes] == ["driver", "training rank"]
    assert not any(outcome["problems"] for outcome in outcomes)
