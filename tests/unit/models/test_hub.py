"""Models of the Hub: downloaded once, by commit, from a stand-in on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import Hub, Repository, look_at, reachable

from maskdpo_ray.config import hub_name
from maskdpo_ray.config.hub_name import HubName
from maskdpo_ray.errors import ModelError
from maskdpo_ray.models import hub as hub_models

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "chat_template.jinja": b"{{ messages }}",
    "pytorch_model.bin": b"a pickle",
    "consolidated.safetensors": b"the weights again",
    "onnx/model.json": b"{}",
    "modeling_own.py": b"raise SystemExit",
    "README.md": b"# A model",
}
NEEDED = {"config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja", "README.md"}
FIELD = "model.model_name_or_path"
SECRET = "hf_NobodyMaySeeThis"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, with the model org/tiny."""
    with reachable(tmp_path / "cache", monkeypatch) as found:
        found.repositories["org/tiny"] = Repository()
        found.repositories["org/tiny"].commit(FILES, "main", "v1")
        yield found


def test_only_the_needed_files_come_once(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(hub_models.folder(HubName("org/tiny"), FIELD))
    commit = hub.repositories["org/tiny"].branches["main"]
    assert {file.name for file in folder.iterdir()} == set(hub.downloaded) == NEEDED
    assert hub_name.of_folder(str(folder)) == HubName("org/tiny", commit)
    assert capsys.readouterr().err == f"download org/tiny@{commit} from {hub.url}\n"
    hub.asked.clear()
    assert hub_models.folder(HubName("org/tiny"), FIELD) == str(folder)
    assert hub.downloaded == []
    hub.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub_models.folder(HubName("org/tiny"), FIELD) == str(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert hub_models.folder(HubName("org/tiny", commit), FIELD) == str(folder)
    assert hub.asked == []  # neither asks for anything: a commit never changes
    assert capsys.readouterr().err == ""


def test_a_models_own_code_comes_where_it_may_be_run_and_weights_where_they_are_needed(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(hub_models.folder(HubName("org/tiny"), FIELD, with_weights=False, with_code=True))
    assert {file.name for file in folder.iterdir()} == NEEDED - {"model.safetensors"} | {"modeling_own.py"}
    assert hub_models.folder(HubName("org/tiny"), FIELD) == str(folder)
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert capsys.readouterr().err.count("download org/tiny@") == 2


def test_a_download_cut_short_is_no_model(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_models.folder(HubName("org/tiny"), FIELD, with_weights=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="no whole copy is in the cache .HF_HUB_OFFLINE is set.*hf download org/tiny"):
        hub_models.folder(HubName("org/tiny"), FIELD)


def test_a_moved_branch_is_another_folder(hub: Hub) -> None:
    before = hub_models.folder(HubName("org/tiny"), FIELD)
    hub.repositories["org/tiny"].commit(FILES | {"model.safetensors": b"new"}, "main")
    now = hub_models.folder(HubName("org/tiny"), FIELD)
    assert (Path(now) / "model.safetensors").read_bytes() == b"new"
    assert hub_models.folder(HubName("org/tiny", "v1"), FIELD) == before != now


def test_a_hub_out_of_reach_leaves_the_cache(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hub_models.folder(HubName("org/tiny"), FIELD)
    capsys.readouterr()
    hub.status = 503
    assert hub_models.folder(HubName("org/tiny"), FIELD) == folder
    commit = hub.repositories["org/tiny"].branches["main"]
    said = f"note: {hub.url} replies with status 503; taken from the cache: org/tiny@{commit}\n"
    assert capsys.readouterr().err == said
    look_at("http://127.0.0.1:9", monkeypatch)
    assert hub_models.folder(HubName("org/tiny"), FIELD) == folder
    assert "note: http://127.0.0.1:9 can't be reached: " in capsys.readouterr().err


def test_a_private_model_opens_by_token_which_nobody_sees(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.repositories["org/tiny"].token = SECRET
    with pytest.raises(ModelError, match="no such model, or a private one .set HF_TOKEN"):
        hub_models.folder(HubName("org/tiny"), FIELD)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    folder = Path(hub_models.folder(HubName("org/tiny"), FIELD))
    assert (folder / "config.json").is_file()
    hub.repositories["org/tiny"].is_gated = True
    with pytest.raises(ModelError, match="access is gated: accept its terms on the Hub's page of org/tiny") as refused:
        hub_models.folder(HubName("org/tiny"), FIELD)
    assert SECRET not in "".join(capfd.readouterr()) + str(refused.value)


@pytest.mark.parametrize(
    ("name", "status", "expected"),
    [
        (HubName("org/none"), 200, "there is no such folder, and the Hub has no such model, or a private one"),
        (HubName("org/tiny", "v9"), 200, "the Hub's org/tiny has no branch, tag or commit 'v9'"),
        (HubName("org/tiny"), 429, "the Hub replied with status 429"),
        (
            HubName("org/tiny", "v1"),
            500,
            "replies with status 500); where there is a network, download it beforehand: "
            "hf download org/tiny --revision v1",
        ),
    ],
)
def test_what_is_no_model(hub: Hub, name: HubName, status: int, expected: str) -> None:
    hub.status = status
    with pytest.raises(ModelError) as refused:
        hub_models.folder(name, FIELD)
    assert str(refused.value).startswith(
        f"{FIELD}: expected the folder of a model, or a model of the Hub, got '{name}'"
    )
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


def test_another_nodes_cache_is_downloaded_here(hub: Hub, tmp_path: Path) -> None:
    folder = hub_models.folder(HubName("org/tiny"), FIELD)
    assert hub_models.here(folder) == folder
    there = folder.replace(str(tmp_path), "/no/such/home")
    assert hub_models.here(there) == folder
    assert hub_models.here("/no/such/model") == "/no/such/model"
