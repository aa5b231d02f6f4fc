"""Names of models on the Hub, told from paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskdpo_ray.config import hub_name
from maskdpo_ray.config.hub_name import HubName

COMMIT = "0123456789" * 4
SNAPSHOT = f"/home/me/.cache/huggingface/hub/models--Qwen--Qwen3-0.6B/snapshots/{COMMIT}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", HubName("org/name")),
        ("Qwen/Qwen3-0.6B@refs/pr/4", HubName("Qwen/Qwen3-0.6B", "refs/pr/4")),
        (f"org/name@{COMMIT}", HubName("org/name", COMMIT)),
        ("https://huggingface.co/org/name", HubName("org/name")),
        ("hf://here/name", HubName("here/name")),
        ("here/name", None),  # `here` is a folder
        ("here", None),
        ("models/name", None),  # a page of the Hub, which no user is named after
        ("./org/name", None),
        ("/org/name", None),
        ("org/name/more", None),
        ("org/name@", None),
        ("name", None),
        ("org/two words", None),
        ("org/..", None),
    ],
)
def test_a_name_is_told_from_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: HubName | None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert hub_name.parsed(text) == expected


def test_a_folder_of_the_cache_has_a_name_that_leads_to_it_anywhere() -> None:
    given = {"model": SNAPSHOT, "options": {"models": [SNAPSHOT, f"{SNAPSHOT}/"], "other": ("/models/x", 1.5, None)}}
    name = f"Qwen/Qwen3-0.6B@{COMMIT}"
    assert hub_name.portable(given) == {
        "model": name,
        "options": {"models": [name, name], "other": ["/models/x", 1.5, None]},
    }
    assert hub_name.parsed(name) == hub_name.of_folder(SNAPSHOT)
    assert HubName("org/name", COMMIT).is_fixed
    assert not HubName("org/name", "main").is_fixed
    assert not HubName("org/name").is_fixed


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ("org/name@a", "org/name@b", True),
        ("org/name@a", "org/name@a", False),
        ("org/name@a", "org/other@b", False),  # weights decide, as for two folders
        ("org/name@a", "models/name", False),
        (None, "org/name@a", False),
    ],
)
def test_two_commits_of_one_model_are_two_models(before: object, now: object, expected: bool) -> None:
    assert hub_name.is_other_commit(before, now) is expected
