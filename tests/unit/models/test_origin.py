"""Origin of a model: what the card in its folder says, whoever wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_hub import Repository, reachable

from maskdpo_ray.config.hub_name import HubName
from maskdpo_ray.models import hub
from maskdpo_ray.models.origin import Origin


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (
            "license: apache-2.0\nlanguage: en\nbase_model: org/tiny",
            Origin("org/tiny", "apache-2.0", languages=("en",)),
        ),
        ("license: mit\nlanguage: [en, fr, 3, '<b>']", Origin(license="mit", languages=("en", "fr"))),
        (
            "license: other\nlicense_name: own\nlicense_link: LICENSE",
            Origin(license="other", license_name="own", license_link="LICENSE"),
        ),
        ("license: My Own [Licence]", Origin(license="other", license_name="My Own [Licence]")),
        ("base_model: [org/one, org/two]", Origin()),
        ("base_model: ../../etc", Origin()),
        ("license: [mit]", Origin()),
        ("license: ''", Origin()),
        ("- a list", Origin()),
        ("{", Origin()),
        ("a: " + "[" * 400, Origin()),
    ],
)
def test_the_card_of_a_folder_says_it(tmp_path: Path, metadata: str, expected: Origin) -> None:
    (tmp_path / "README.md").write_text(f"---\n{metadata}\n---\n\n# A model\n")
    assert Origin.of(str(tmp_path)) == expected


@pytest.mark.parametrize("content", [None, b"", b"# no metadata", b"\xff\xfe\x00", b"---\nlicense: mit\n"])
def test_a_folder_without_a_card_says_nothing(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "README.md").write_bytes(content)
    assert Origin.of(str(tmp_path)) == Origin()


def test_the_card_of_a_model_of_the_hub_is_that_of_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with reachable(tmp_path / "cache", monkeypatch) as found:
        found.repositories["org/tiny"] = Repository()
        card = b"---\nlicense: mit\nbase_model: org/large\n---\n"
        files = {"config.json": b"{}", "model.safetensors": b"weights", "README.md": card}
        commit = found.repositories["org/tiny"].commit(files, "main")
        folder = hub.folder(HubName("org/tiny"), "model.model_name_or_path")
        assert Origin.of(folder) == Origin.of(f"org/tiny@{commit}") == Origin("org/tiny", "mit")
        assert Origin.of("org/unknown@main") == Origin("org/unknown")
