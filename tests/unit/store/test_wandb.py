"""Weights & Biases: really written in offline mode; the login of an online one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import example_media
import pytest

from maskdpo_ray.config.schema import LoggerConfig
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.store.tracking import Tracker


@pytest.fixture(autouse=True)
def no_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody is logged in; returns the netrc file that isn't there yet."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "home" / ".netrc"
    file.parent.mkdir()
    monkeypatch.setenv("NETRC", str(file))
    return file


def online(folder: Path, **options: Any) -> Tracker:
    return Tracker(folder, LoggerConfig(wandb_mode="online", **options), {})


def test_only_an_online_run_needs_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Tracker(tmp_path, LoggerConfig(), {}).check()
    Tracker(tmp_path, LoggerConfig(wandb_mode="offline"), {}).check()
    for logger in (LoggerConfig(wandb_mode="online"), LoggerConfig(trackers=("wandb",))):
        with pytest.raises(ConfigError, match="^logger.wandb_mode: expected a login of `wandb login`, .*WANDB_API_KEY"):
            Tracker(tmp_path, logger, {}).check()
    monkeypatch.setenv("WANDB_MODE", "offline")
    Tracker(tmp_path, LoggerConfig(trackers=("wandb",)), {}).check()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    online(tmp_path).check()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_login_by_wandb_login_is_one(tmp_path: Path, no_login: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb.sdk.lib.wbauth import write_netrc_auth

    write_netrc_auth(host="https://api.wandb.ai", api_key="0" * 40)
    assert "machine api.wandb.ai" in no_login.read_text()
    online(tmp_path).check()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    with pytest.raises(ConfigError, match="expected a login"):
        online(tmp_path).check()
    write_netrc_auth(host="https://wandb.example.org", api_key="0" * 40)
    online(tmp_path).check()


def test_a_netrc_file_that_cannot_be_read_is_one_line(tmp_path: Path, no_login: Path) -> None:
    no_login.write_text("machine\n")
    with pytest.raises(ConfigError, match="^logger.wandb_mode: expected a netrc file at .*, got: "):
        online(tmp_path).check()


def test_offline_writes_into_the_run_folder_and_resumes_as_the_same_run(tmp_path: Path) -> None:
    logger = LoggerConfig(trackers=("wandb",), wandb_mode="offline", wandb_project="facts", wandb_group="seeds")
    for step in (5, 3):  # W&B would drop step 3 after step 5 on its own step axis
        with Tracker(tmp_path, logger, {"train": {"beta": 0.1}}) as tracker:
            tracker.log({"train/loss": 0.5, "train/nothing": math.nan}, step)
            tracker.log({f"eval/heldout/score_{step}": 0.75}, step - 1)
    runs = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    run_id = (tmp_path / "wandb" / "run-id").read_text().strip()
    assert runs and {file.stem for file in runs} == {f"run-{run_id}"}
    written = b"".join(file.read_bytes() for file in runs)
    for text in (b"train/loss", b"eval/heldout/score_5", b"eval/heldout/score_3", b"facts", b"seeds", b"beta"):
        assert text in written
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [5, 4, 3, 2]


def test_offline_writes_tables_pages_histograms_and_pictures(tmp_path: Path) -> None:
    with Tracker(tmp_path, LoggerConfig(wandb_mode="offline"), {}) as tracker:
        tracker.show(lambda: example_media.MEDIA, 3)
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    written = {file.suffix: file for file in (run / "files/media").rglob("*.*")}
    assert written.keys() == {".html", ".json", ".png"}
    assert written[".html"].read_text() == example_media.PAGE
    table = json.loads(written[".json"].read_text())
    assert (table["columns"], table["data"]) == ([*example_media.TABLE.columns], [[*example_media.TABLE.rows[0]]])
    (log,) = run.glob("run-*.wandb")
    assert b"media/scores" in log.read_bytes() and b"histogram" in log.read_bytes()


def test_what_wandb_is_told_online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No service can be reached here: what W&B would get, and that a refusal is one line."""
    import wandb

    told: list[dict[str, Any]] = []

    def refuse(**options: Any) -> None:
        told.append(options)
        raise wandb.errors.CommError("no\nconnection")

    monkeypatch.setattr(wandb, "init", refuse)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    for _ in range(2):
        with pytest.raises(ConfigError, match="^logger.trackers: expected wandb to start, got: no connection$"):
            online(tmp_path, wandb_entity="team").__enter__()
    first, second = told
    assert first["id"] == second["id"] and first["resume"] == "allow" and first["mode"] == "online"
    assert (first["entity"], first["project"], first["name"]) == ("team", "maskdpo_ray", tmp_path.name)
