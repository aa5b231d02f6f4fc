"""Reading metrics.jsonl."""

from pathlib import Path

import pytest

from maskdpo_ray.errors import RunFolderError
from maskdpo_ray.store import metrics_log

LINE = '{"time": 1.5, "step": 0, "train/loss": null, "timing/x_s": 2}\n'


@pytest.mark.parametrize("torn", ["", '{"time": 2.0, "st', '{"time": 2.0, "step": 1}'])
def test_whole_lines_are_read_and_a_torn_one_at_the_end_is_left_out(tmp_path: Path, torn: str) -> None:
    file = tmp_path / "metrics.jsonl"
    assert list(metrics_log.read(file)) == []
    file.write_text(LINE + torn)
    assert list(metrics_log.read(file)) == [{"time": 1.5, "step": 0, "train/loss": None, "timing/x_s": 2}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("garbage", "line 2: expected JSON, got b'garbage'"),
        ("[" * 100_000, "line 2: expected JSON"),
        ("[]", "line 2: expected an object with time and step, got b'[]'"),
        ('{"time": 1, "timing/x_s": 1}', "line 2: expected an object with time and step"),
        ('{"step": 1, "timing/x_s": 1}', "line 2: expected an object with time and step"),
        ('{"time": 1, "step": 0, "timing/x_s": "1"}', "line 2: timing/x_s: expected a number, got '1'"),
        ('{"time": 1, "step": 0, "timing/x_s": NaN}', "line 2: timing/x_s: expected a number, got nan"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(LINE + line + "\n")
    with pytest.raises(RunFolderError) as caught:
        list(metrics_log.read(file))
    assert str(caught.value).startswith(f"{file}, {message}")
