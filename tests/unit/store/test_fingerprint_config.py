"""The config that a run began with: options that came later, files that can't be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskdpo_ray import terminal
from maskdpo_ray.config import cli
from maskdpo_ray.config.file import from_text, read_values
from maskdpo_ray.config.schema import Config, DataConfig, ModelConfig
from maskdpo_ray.errors import ConfigError, RunFolderError
from maskdpo_ray.store import fingerprint


def test_an_option_that_is_newer_than_the_run_counts_as_its_default(tmp_path: Path) -> None:
    now = cli.resolved(Config(model=ModelConfig("m"), data=DataConfig("builtin:countries")))
    before = {section: dict(fields) for section, fields in now.items()}
    for section, field in (("annotation", "options"), ("adam", "betas"), ("eval", "perplexity_model")):
        del before[section][field]
    assert fingerprint.refuse_changes(tmp_path, before, now, has_begun=True) == {}
    now["adam"]["betas"] = [0.8, 0.9]
    with pytest.raises(RunFolderError, match=r"^adam.betas: expected \[0.9, 0.95\], as the run in .* \[0.8, 0.9\];"):
        fingerprint.refuse_changes(tmp_path, before, now, has_begun=True)


def test_what_a_run_out_of_memory_is_told_to_change_may_change(tmp_path: Path) -> None:
    before = cli.resolved(Config(model=ModelConfig("m"), data=DataConfig("builtin:countries")))
    now = {section: dict(fields) for section, fields in before.items()}
    now["train"] |= {"micro_batch_size": 2, "save_steps": 5}
    now["model"]["gradient_checkpointing_enable"] = True
    assert fingerprint.refuse_changes(tmp_path, before, now, has_begun=True) == {
        "model.gradient_checkpointing_enable": [False, True],
        "train.micro_batch_size": [8, 2],
        "train.save_steps": [50, 5],
    }


def test_a_run_of_an_earlier_version_goes_on_with_todays_questions_in_flight(tmp_path: Path) -> None:
    now = cli.resolved(Config(model=ModelConfig("m"), data=DataConfig("builtin:countries")))
    before = {section: dict(fields) for section, fields in now.items()}
    before["rollout"]["max_in_flight"] = 64
    before["annotation"]["max_in_flight"] = before["eval"]["max_in_flight"] = 16
    assert fingerprint.refuse_changes(tmp_path, before, now, has_begun=True) == {
        "rollout.max_in_flight": [64, None],
        "annotation.max_in_flight": [16, None],
        "eval.max_in_flight": [16, None],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\n", "config.yaml:2: can't be read as YAML: expected ',' or ']'"),
        ("- a\n", "config.yaml: expected the config of a run, got list"),
        ("run: &a {b: *a}\n", "config.yaml: expected the config of a run, got endless nesting"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(RunFolderError) as caught:
        fingerprint.read_config(file)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_value_that_holds_itself_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("annotation:\n  options: &a {self: *a}\n")
    expected = r"annotation.options: expected .*, got one that holds itself$"
    with pytest.raises(ConfigError, match=f"c.yaml:2: {expected}"):
        read_values(file)
    with pytest.raises(ConfigError, match=f"--{expected}"):
        from_text("{x: &a {y: *a}}", "annotation.options")


def test_the_error_goes_on_where_its_log_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "error.log").mkdir()
    with pytest.raises(ZeroDivisionError), terminal.error_log(tmp_path):
        1 / 0  # noqa: B018
    with terminal.error_log(tmp_path):
        pass
