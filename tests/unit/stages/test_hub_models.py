"""Options that name models on the Hub: of every section and judge, kept by commit in the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import bad_input
import pytest
import yaml
from fake_hub import Hub, Repository, files_of, reachable

from maskdpo_ray import annotate, run
from maskdpo_ray.config import cli, hub_name
from maskdpo_ray.config.schema import MODEL, ModelName
from maskdpo_ray.errors import RunFolderError, UserError
from maskdpo_ray.models.hub import folder as downloaded
from maskdpo_ray.records import Policy
from maskdpo_ray.stages import hub_models
from maskdpo_ray.store.run_folder import RunFolder


class Judge:
    """A judge with a model of its own."""

    def __init__(self, model: ModelName, trust_remote_code: bool = False) -> None: ...


class Annotator:
    """An annotator with three models; the judge's endpoint knows a fourth by its name."""

    def __init__(
        self,
        model: Annotated[str | None, MODEL] = None,
        judge: str | None = None,
        judge_options: dict[str, str] | None = None,
        served: str = "",
    ) -> None: ...

    def check(self, question: object) -> None: ...


OPTIONS = """\
rollout: {model: org/tiny}
eval: {perplexity_model: org/tiny@v1}
annotation:
  annotator: python:test_hub_models:Annotator
  options:
    model: org/tiny
    served: org/tiny
    judge: python:test_hub_models:Judge
    judge_options: {model: hf://org/tiny}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("model")
    bad_input.small_model(folder)
    return files_of(folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: dict[str, bytes]) -> Iterator[Hub]:
    """A Hub with the model org/tiny, and this folder with a config that names it."""
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(bad_input.CONFIG)
    config["model"]["model_name_or_path"] = "org/tiny"
    Path("config.yaml").write_text(yaml.safe_dump(config))
    Path("questions.jsonl").write_text(bad_input.lines(*bad_input.QUESTIONS))
    with reachable(tmp_path / "cache", monkeypatch) as found:
        found.repositories["org/tiny"] = Repository()
        found.repositories["org/tiny"].commit(model, "main", "v1")
        yield found


def begin(commit: str) -> None:
    """A run that began with this commit."""
    command = hub_models.local(cli.parse(["--config", "config.yaml"]))
    path = Path(command.config.model.model_name_or_path)
    assert hub_name.of_folder(str(path)) == hub_name.HubName("org/tiny", commit)
    with RunFolder.open("runs/r", cli.resolved(command.config), {}) as folder:
        folder.begin(Policy(0, str(path), "c" * 64), {"train": []})


def test_every_option_that_names_a_model_becomes_its_folder(hub: Hub) -> None:
    config = yaml.safe_load(Path("config.yaml").read_text()) | yaml.safe_load(OPTIONS)
    config["rollout"]["max_new_tokens"] = 16
    Path("config.yaml").write_text(yaml.safe_dump(config))
    command = cli.parse(["--config", "config.yaml"])
    made = hub_models.local(command).config
    commit = hub.repositories["org/tiny"].branches["main"]
    folder = downloaded(hub_name.HubName("org/tiny", commit), "model")
    assert made.model.model_name_or_path == made.rollout.model == made.eval.perplexity_model == folder
    judge = {"judge": "python:test_hub_models:Judge", "judge_options": {"model": folder}}
    assert made.annotation.options == {"model": folder, "served": "org/tiny", **judge}
    stored = cli.resolved(made)
    assert stored["model"]["model_name_or_path"] == stored["rollout"]["model"] == f"org/tiny@{commit}"
    assert stored["annotation"]["options"]["judge_options"] == {"model": f"org/tiny@{commit}"}
    only = hub_models.local(command, sections=["annotation"]).config
    assert only == replace(command.config, annotation=made.annotation)


def test_the_model_of_a_judge_that_is_an_annotators_default(hub: Hub) -> None:
    options = "{judge_options: {model: org/tiny}}"
    argv = ["--config", "config.yaml", "--annotation.annotator", "anah", "--annotation.options", options]
    made = hub_models.local(cli.parse(argv)).config
    assert made.annotation.options == {"judge_options": {"model": made.model.model_name_or_path}}


def test_options_of_a_judge_alone(hub: Hub) -> None:
    """Options as `build_questions` has them, which keeps the commit beside the replies."""
    found = hub_models.judge_options("python:test_hub_models:Judge", {"model": "org/tiny@v1", "other": 1}, "build")
    commit = hub.repositories["org/tiny"].branches["v1"]
    assert found == {"model": downloaded(hub_name.HubName("org/tiny", commit), "model"), "other": 1}
    assert hub_name.portable(found) == {"model": f"org/tiny@{commit}", "other": 1}


def test_a_folder_that_is_named_like_a_model_of_the_hub(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    Path("org/tiny").mkdir(parents=True)
    command = cli.parse(["--config", "config.yaml"])
    assert hub_models.local(command) == command and hub.asked == []
    said = "model.model_name_or_path: the folder org/tiny here is taken; hf://org/tiny is the Hub's model of this name"
    assert said in capsys.readouterr().err


def test_folders_and_other_configs_stay_as_they_are_and_ask_nobody(hub: Hub) -> None:
    Path("model").mkdir()
    command = cli.parse(["--config", "config.yaml", "--model.model_name_or_path", "model"])
    assert hub_models.local(command, resumes=True) == command
    assert hub.asked == []


def test_a_dry_run_from_the_hub(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    run.main(["--config", "config.yaml", "--dry_run"])
    assert "run r in runs/r" in capsys.readouterr().out
    hub.asked.clear()
    annotations = ["answers.jsonl", "-o", "labels.jsonl", "--config", "config.yaml", "--dry_run"]
    Path("answers.jsonl").write_text(bad_input.lines(*bad_input.ROLLOUTS))
    annotate.main(annotations)
    assert hub.asked == []  # rules label without the policy


def test_a_run_resumes_with_the_commit_that_it_began_with(hub: Hub, model: dict[str, bytes]) -> None:
    repository = hub.repositories["org/tiny"]
    first = repository.branches["main"]
    begin(first)
    stored = yaml.safe_load(Path("runs/r/config.yaml").read_text())
    assert stored["model"]["model_name_or_path"] == f"org/tiny@{first}"
    repository.commit(model | {"README.md": b"new"}, "main")
    again = hub_models.local(cli.parse(["--config", "config.yaml"]), resumes=True).config
    assert str(hub_name.of_folder(again.model.model_name_or_path)) == f"org/tiny@{first}"
    RunFolder.check("runs/r", cli.resolved(again))
    apart = hub_models.local(cli.parse(["--config", "config.yaml"])).config  # what has no run takes the newest
    assert str(hub_name.of_folder(apart.model.model_name_or_path)) == f"org/tiny@{repository.branches['main']}"


def test_a_branch_that_moved_is_another_model(hub: Hub, model: dict[str, bytes]) -> None:
    repository = hub.repositories["org/tiny"]
    first = repository.branches["main"]
    begin(first)
    second = repository.commit(model | {"README.md": b"new"}, "main")
    named = cli.parse(["--config", "config.yaml", "--model.model_name_or_path", "org/tiny@main"])
    config = hub_models.local(named, resumes=True).config
    expected = f"model.model_name_or_path: expected 'org/tiny@{first}', as the run in .* got 'org/tiny@{second}'"
    with pytest.raises(RunFolderError, match=expected):
        RunFolder.check("runs/r", cli.resolved(config))


def test_an_error_names_the_line(hub: Hub) -> None:
    Path("config.yaml").write_text(Path("config.yaml").read_text().replace("org/tiny", "org/none"))
    with pytest.raises(UserError, match=r"^config.yaml:\d: model.model_name_or_path: .* the Hub has no such model"):
        hub_models.local(cli.parse(["--config", "config.yaml"]))
