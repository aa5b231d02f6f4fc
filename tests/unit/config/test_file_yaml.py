"""YAML that stands for more than it holds, and tags that lie: one line, at once, from each of its three readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from maskdpo_ray.annotation.llm import turns
from maskdpo_ray.config import cli
from maskdpo_ray.config import file as yaml_nodes
from maskdpo_ray.config.file import from_text
from maskdpo_ray.errors import ConfigError, UserError
from maskdpo_ray.store import fingerprint

READERS: tuple[Callable[[Path], object], ...] = (
    cli.read,
    fingerprint.read_config,
    lambda path: turns.read(path, turns.ANAH),
)
NAMES = "abcdefghi"
BOMBS = {"lists": ("[1, 1, 1, 1, 1, 1, 1, 1]", "[{}]"), "mappings": ("{k: 1, l: 1}", "{{{}}}")}


def bomb(kind: str) -> str:
    """8^9 values in as many lines as `NAMES` has letters."""
    first, block = BOMBS[kind]
    lines = [f"a: &a {first}"]
    for before, name in zip(NAMES, NAMES[1:], strict=False):
        items = [f"*{before}"] * 8 if kind == "lists" else [f"k{i}: *{before}" for i in range(8)]
        lines.append(f"{name}: &{name} {block.format(', '.join(items))}")
    return "\n".join(lines)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", BOMBS)
def test_what_aliases_stand_for_has_an_end(tmp_path: Path, kind: str, read: Callable[[Path], object]) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(bomb(kind))
    with pytest.raises(UserError, match=r"x.yaml:1: .*: more than 100000 values, once aliases are written out$"):
        read(file)


def test_so_it_is_with_an_option() -> None:
    text = "{" + bomb("lists").replace("\n", ", ") + "}"
    with pytest.raises(ConfigError, match="^--annotation.options: expected a mapping {name: value} or none, got "):
        from_text(text, "annotation.options")


def test_aliases_as_people_write_them(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("run: {name: &name x}\nlogger: {wandb_group: *name}\n")
    assert fingerprint.read_config(file) == {"run": {"name": "x"}, "logger": {"wandb_group": "x"}}


@pytest.mark.parametrize("read", READERS[1:])
@pytest.mark.parametrize(
    "value", ["!!int ''", "!!int x", "!!float ''", "!!bool x", "!!timestamp x", "2026-02-31", "!!binary 'é'", "!own x"]
)
def test_a_tag_that_lies(tmp_path: Path, value: str, read: Callable[[Path], object]) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(f"a: 1\nb: {value}\n", encoding="utf-8")
    with pytest.raises(UserError, match="x.yaml:2: ") as caught:
        read(file)
    assert "\n" not in str(caught.value)


def test_most_is_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_nodes, "MOST_NODES", 10)
    file = tmp_path / "x.yaml"
    file.write_text("{a: [1, 2, 3, 4, 5, 6, 7]}")
    assert fingerprint.read_config(file) == {"a": [1, 2, 3, 4, 5, 6, 7]}
    file.write_text("{a: [1, 2, 3, 4, 5, 6, 7, 8]}")
    with pytest.raises(UserError, match="more than 10 values"):
        fingerprint.read_config(file)
