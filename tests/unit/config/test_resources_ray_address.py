"""Addresses of Ray: which are accepted, and the errors about the others before anything starts."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from maskdpo_ray import run
from maskdpo_ray.config import resources
from maskdpo_ray.config.schema import ClusterConfig
from maskdpo_ray.errors import ClusterError

FORMS = "auto, local or host:port"


@pytest.mark.parametrize(
    ("address", "variable", "expected"),
    [
        (None, None, None),
        (None, "", None),
        (None, "local", None),
        ("local", "head:6379", None),
        (None, "head:6379", "head:6379"),
        ("auto", "head:6379", "head:6379"),
        ("auto", None, "auto"),
        ("other:1", "head:6379", "other:1"),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"),
        (None, "[::1]:6379", "[::1]:6379"),
    ],
)
def test_taken(
    monkeypatch: pytest.MonkeyPatch, address: str | None, variable: str | None, expected: str | None
) -> None:
    """The precedence of `ray.init`: the variable replaces none and `auto`."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert resources.ray_address(ClusterConfig(address=address)) == expected


REFUSED = {
    "http://127.0.0.1:8265": ", which is the dashboard's",
    "https://head": ", which is the dashboard's",
    "ray://head:10001": ", which is Ray Client's",
    "redis://head:6379": "",
    "head": "",
    " ": "",
    "head:6379 ": "",
    " head:6379": "",
    "head:": "",
    ":6379": "",
    "head:port": "",
    "head:0": "",
    "head:65536": "",
    "head:6379/path": "",
    "::1:6379": "",
    "AUTO": "",
}


@pytest.mark.parametrize("address", REFUSED)
@pytest.mark.parametrize("name", ["RAY_ADDRESS", "cluster.address"])
def test_refused(monkeypatch: pytest.MonkeyPatch, name: str, address: str) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = ClusterConfig(address=address)
    if name == "RAY_ADDRESS":
        monkeypatch.setenv(name, address)
        config = ClusterConfig()
    with pytest.raises(ClusterError) as refused:
        resources.ray_address(config)
    assert str(refused.value).startswith(f"{name}: expected {FORMS}")
    assert f"got {address!r}{REFUSED[address]}" in str(refused.value)


def test_an_empty_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty string in YAML is an error, unlike an empty variable: someone wrote it."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ClusterError, match="^cluster.address: expected auto, .*, got ''$"):
        resources.ray_address(ClusterConfig(address=""))


def test_the_dry_run_refuses_the_variable(good_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(ClusterError, match=f"^RAY_ADDRESS: expected {FORMS} .*dashboard"):
        run.main(["--config", "config.yaml", "--dry_run"])


def test_nobody_at_the_variables_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ClusterError, match="^RAY_ADDRESS: no Ray cluster at '127.0.0.1:1': .*refused"):
        resources.check_ray_address(ClusterConfig())


def test_somebody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        resources.check_ray_address(ClusterConfig(address=f"127.0.0.1:{server.getsockname()[1]}"))
