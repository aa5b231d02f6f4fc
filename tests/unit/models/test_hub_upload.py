"""Uploads to the Hub: whole, and refused before a run where they would fail after it; a stand-in on loopback."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import Hub, Repository, look_at, serving

from maskdpo_ray.config.schema import HubConfig
from maskdpo_ray.errors import ConfigError, ModelError
from maskdpo_ray.models import hub_upload

SECRET = "hf_NobodyMaySeeThis"
COMMAND = ["python", "-m", "maskdpo_ray.run", "--run.name", "a night"]
PRIVATE = HubConfig("org/tiny")
WEIGHTS = random.Random(1).randbytes(5000)
CARD = b"---\nlicense: mit\n---\n\n# A policy\n"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, with a token that may write to org."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with serving() as found:
        found.tokens[SECRET] = "org"
        look_at(found.url, monkeypatch)
        yield found


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A policy's folder, by the link that a run keeps."""
    folder = tmp_path / "iter_000" / "policy"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "README.md").write_bytes(CARD)
    (tmp_path / "policy").symlink_to("iter_000/policy")
    return tmp_path / "policy"


def files_of(hub: Hub) -> dict[str, bytes]:
    repository = hub.repositories["org/tiny"]
    return repository.commits[repository.branches["main"]]


def test_the_bytes_arrive_in_one_commit_of_a_private_repository(
    hub: Hub, policy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub_upload.check(PRIVATE)
    hub_upload.push(PRIVATE, policy, COMMAND)
    assert files_of(hub) == {"README.md": CARD, "model.safetensors": WEIGHTS}
    assert hub.stored == {hashlib.sha256(WEIGHTS).hexdigest(): WEIGHTS}  # as Git LFS
    assert hub.repositories["org/tiny"].is_private
    commit = hub.repositories["org/tiny"].branches["main"]
    said = capfd.readouterr()
    assert said.out == f"uploaded {policy} to {hub.url}/org/tiny/commit/{commit}\n"
    assert SECRET not in said.out + said.err
    hub.asked.clear()
    hub_upload.push(PRIVATE, policy, COMMAND)  # again: nothing is sent
    assert hub.repositories["org/tiny"].branches["main"] == commit
    assert not [each for each in hub.asked if each.startswith("PUT") or "/commit/" in each]


def test_large_files_go_by_xet_where_it_is_installed(
    hub: Hub, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hf_xet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    hub.cas = tmp_path / "cas"
    hub.cas.mkdir()
    hub_upload.check(PRIVATE)
    hub_upload.push(PRIVATE, policy, COMMAND)
    oid = hashlib.sha256(WEIGHTS).hexdigest()
    assert files_of(hub) == {"README.md": CARD, "model.safetensors": f"sha256:{oid}".encode()}
    assert hub.stored == {}
    sent = [file.read_bytes() for file in hub.cas.rglob("*") if file.is_file()]
    assert any(WEIGHTS in each for each in sent)


def test_a_public_repository_has_to_be_asked_for(hub: Hub, policy: Path) -> None:
    public = HubConfig("org/tiny", private=False)
    hub_upload.check(public)
    assert not hub.repositories["org/tiny"].is_private
    with pytest.raises(ConfigError, match=r"^hub.private: expected false, as org/tiny is public, got True$"):
        hub_upload.check(PRIVATE)


def test_weights_of_an_earlier_upload_go(hub: Hub, policy: Path) -> None:
    hub.repositories["org/tiny"] = Repository(is_private=True)
    shards = {f"model-0000{n}-of-00002.safetensors": b"old" for n in (1, 2)}
    others = {"LICENSE": b"mine", "onnx/model.safetensors": b"another"}
    hub.repositories["org/tiny"].commit({**shards, "model.safetensors.index.json": b"{}", **others}, "main")
    hub_upload.push(PRIVATE, policy, COMMAND)
    assert files_of(hub) == {"README.md": CARD, "model.safetensors": WEIGHTS, **others}


def test_a_dry_run_makes_no_repository(hub: Hub) -> None:
    hub_upload.check(PRIVATE, dry_run=True)
    assert not hub.repositories
    hub.tokens.clear()
    with pytest.raises(ConfigError, match="token is not valid"):
        hub_upload.check(PRIVATE, dry_run=True)


def test_nothing_is_asked_without_an_upload(hub: Hub, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub_upload.check(HubConfig())
    hub_upload.push(HubConfig(), policy, COMMAND)
    assert capsys.readouterr().out == ""
    hub_upload.push(PRIVATE, None, COMMAND)
    assert capsys.readouterr().out == (
        "hub.push: the policy before training is kept: nothing is uploaded to org/tiny\n"
    )
    assert not hub.asked


@pytest.mark.parametrize(
    ("repo", "token", "expected"),
    [
        ("org/tiny", "hf_wrong", "the token is not valid (HF_TOKEN goes before hf auth login) (status 401)"),
        ("other/tiny", SECRET, "the token may not write to other (status 403)"),
    ],
)
def test_a_token_that_may_not_is_refused_at_the_start(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, repo: str, token: str, expected: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ConfigError) as refused:
        hub_upload.check(HubConfig(repo))
    assert str(refused.value) == f"hub.push: expected to write to {repo!r} at the end, got {expected}"


def test_a_repository_that_may_only_be_read_is_refused_at_the_start(hub: Hub) -> None:
    hub.repositories["other/tiny"] = Repository(is_private=True)
    hub.repositories["other/tiny"].commit({}, "main")
    with pytest.raises(ConfigError, match="the token may not write to other"):
        hub_upload.check(HubConfig("other/tiny"))


def test_no_token_and_no_network_are_refused_at_the_start(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="got HF_HUB_OFFLINE, which keeps from the network$"):
        hub_upload.check(PRIVATE)
    look_at("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(ConfigError, match="got http://127.0.0.1:9 can't be reached: .*refused"):
        hub_upload.check(PRIVATE)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="got no token; set HF_TOKEN or run hf auth login$"):
        hub_upload.check(PRIVATE)


@pytest.mark.parametrize("fails_at", ["validate-yaml", "preupload", "lfs/", "verify", "commit"])
def test_an_upload_that_fails_names_the_command_that_repeats_it(
    hub: Hub, policy: Path, monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    """And loses nothing: the repository and the folder are what they were."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between huggingface_hub's tries
    hub_upload.check(PRIVATE)
    hub.fails_at = fails_at
    with pytest.raises(ModelError) as refused:
        hub_upload.push(PRIVATE, policy, COMMAND)
    said = str(refused.value)
    assert said.startswith(f"hub.push: expected to upload {policy} to 'org/tiny', got ")
    assert "500" in said or "out of order" in said
    assert said.endswith(f"{policy} is whole; upload it with: python -m maskdpo_ray.run --run.name 'a night'")
    assert SECRET not in said
    assert len(said.splitlines()) == 1
    assert files_of(hub) == {}
    hub.fails_at = ""
    hub_upload.push(PRIVATE, policy, COMMAND)
    assert files_of(hub) == {"README.md": CARD, "model.safetensors": WEIGHTS}


def test_a_network_that_is_gone_at_the_end_is_named(hub: Hub, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_upload.check(PRIVATE)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    look_at("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(ModelError, match="got http://127.0.0.1:9 can't be reached: .*; .* is whole; upload it with: "):
        hub_upload.push(PRIVATE, policy, COMMAND)


def test_a_card_that_the_hub_refuses_is_named(hub: Hub, policy: Path) -> None:
    hub_upload.check(PRIVATE)
    (policy / "README.md").write_text("no metadata")
    with pytest.raises(ModelError, match=r"Invalid metadata in README.md. - no metadata"):
        hub_upload.push(PRIVATE, policy, COMMAND)
