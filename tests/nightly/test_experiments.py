"""Every experiment of configs/experiments would start: all arms pass the checks of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskdpo_ray import experiment as command

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs/experiments").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_dry_run(
    file: Path, bundled_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written."""
    for name in ("configs", "docs", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    command.main([str(file.relative_to(ROOT)), "--dry_run"])
    said = capsys.readouterr().out
    assert said.startswith(f"experiment {file.stem} in experiments/{file.stem}\n") and " 0 finished" in said
    assert not Path("experiments").exists()
