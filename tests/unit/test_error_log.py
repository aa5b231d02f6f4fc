"""error.log tells of the last attempt, and of no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskdpo_ray import error_log


def test_it_is_of_the_last_attempt(tmp_path: Path) -> None:
    file = tmp_path / "error.log"
    for message in ("first", "second"):
        with pytest.raises(ValueError, match=message), error_log.kept(tmp_path):
            raise ValueError(message)
        assert file.read_text().endswith(f"ValueError: {message}\n")
    assert "first" not in file.read_text()
    with error_log.kept(tmp_path):
        pass
    with error_log.kept(tmp_path):
        pass
    assert not file.exists()


def test_a_stop_is_no_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), error_log.kept(tmp_path):
        raise KeyboardInterrupt
    assert not (tmp_path / "error.log").exists()
