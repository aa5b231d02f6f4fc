"""Trackers by name: what a config asks for, and one line for what it can't have."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskdpo_ray.config import cli
from maskdpo_ray.config.schema import LoggerConfig
from maskdpo_ray.errors import ConfigError
from maskdpo_ray.store.trackers import protocol
from maskdpo_ray.store.trackers.protocol import KNOWN, Tracked, build


def named(logger: LoggerConfig) -> list[str]:
    return list(build(Tracked(Path("runs/r"), logger, {})))


@pytest.mark.parametrize(
    ("trackers", "mode", "expected"),
    [
        ((), None, []),
        ((), "disabled", []),
        ((), "offline", ["wandb"]),  # the option that there was before trackers
        (("tensorboard",), "online", ["tensorboard", "wandb"]),
        (("wandb", "tensorboard"), None, ["wandb", "tensorboard"]),
        (("wandb", "tensorboard"), "offline", ["wandb", "tensorboard"]),
        (("wandb", "tensorboard"), "disabled", ["tensorboard"]),
        (tuple(KNOWN), None, list(KNOWN)),
    ],
)
def test_what_a_config_asks_for(trackers: tuple[str, ...], mode: str | None, expected: list[str]) -> None:
    assert named(LoggerConfig(trackers=trackers, wandb_mode=mode)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", "got 'tensorbord'; did you mean tensorboard?"),
        ("comet", "expected one of mlflow, tensorboard, trackio, wandb, python:package.module:Class; got 'comet'"),
        ("python:json:JSONDecoder", "expected a class with the methods check, start, log, close, got"),
    ],
)
def test_another_name_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match="^logger.trackers: ") as refused:
        named(LoggerConfig(trackers=(name,)))
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", KNOWN)
def test_a_missing_package_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    (backend,) = build(Tracked(tmp_path, LoggerConfig(trackers=(name,)), {})).values()
    with pytest.raises(ConfigError, match=f"^logger.trackers: expected the package {name} .*; pip install {name}$"):
        backend.check()
    assert not list(tmp_path.iterdir())


def test_the_list_is_written_as_in_yaml(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: {model_name_or_path: m}\nlogger: {trackers: [wandb, mlflow]}\n")
    given = ["--config", str(tmp_path / "c.yaml")]
    assert cli.parse(given).config.logger.trackers == ("wandb", "mlflow")
    assert cli.parse([*given, "--logger.trackers", "[trackio]"]).config.logger.trackers == ("trackio",)
    assert cli.parse([*given, "--logger.trackers", "[]"]).config.logger.trackers == ()
    with pytest.raises(ConfigError, match=r"^--logger.trackers: expected a list of names: \[one, two\], got 'wandb'"):
        cli.parse([*given, "--logger.trackers", "wandb"])


def test_an_id_stays_when_a_run_is_resumed(tmp_path: Path) -> None:
    tracked = Tracked(tmp_path, LoggerConfig(), {})
    first = tracked.kept_id("wandb")
    assert len(first) == 12 and tracked.kept_id("wandb") == first != tracked.kept_id("trackio")


def test_the_feed_is_a_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracker that hangs must not hold the process."""

    class Idle:
        def start(self) -> None:
            pass

        def close(self, failed: bool) -> None:
            pass

    feed = protocol.Feed("idle", Idle())  # type: ignore[arg-type]
    assert feed._thread.daemon
    feed.close(failed=False)
