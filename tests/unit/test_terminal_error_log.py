"""error.log tells of the last attempt, and of no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskdpo_ray import terminal


def test_it_is_of_the_last_attempt(tmp_path: Path) -> None:
    file = tmp_path / "error.log"
    for message in ("first", "second"):
        with pytest.raises(ValueError, match=message), terminal.error_log(tmp_path):
            raise ValueError(message)
        assert file.read_text().endswith(f"ValueError: {message}\n")
    assert "first" not in file.read_text()
    with terminal.error_log(tmp_path):
        pass
    with terminal.error_log(tmp_path):
        pass
    assert not file.exists()


def test_a_stop_is_no_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), terminal.error_log(tmp_path):
        raise KeyboardInterrupt
    assert not (tmp_path / "error.log").exists()
