"""docs/paper.md against configs/paper.yaml and the defaults: the differences from the paper and the agreements."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from maskdpo_ray.config.cli import read, resolved
from maskdpo_ray.config.schema import Config, ModelConfig

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/paper.md").read_text(encoding="utf-8")


def options(config: Config) -> dict[str, object]:
    """Option -> value, a mapping of names being one."""
    return {f"{section}.{name}": value for section, own in resolved(config).items() for name, value in own.items()}


PAPER = options(read(ROOT / "configs/paper.yaml"))
DEFAULT = options(Config(model=ModelConfig("m")))
ROWS = re.findall(r"^\| `([\w.]+)` \| `(.*?)` \| `(.*?)` \| ", PAGE, re.MULTILINE)
SAME = re.findall(
    r"`([a-z]+\.[\w.]+):\s([\w.-]+)`", PAGE.partition("The same on both sides")[2].partition("**Greedy")[0]
)


def plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def read_as(name: str, text: str) -> object:
    return float(text) if isinstance(DEFAULT[name], float) else yaml.safe_load(text)


@pytest.mark.parametrize(("name", "paper", "ours"), ROWS, ids=[row[0] for row in ROWS])
def test_what_differs(name: str, paper: str, ours: str) -> None:
    assert paper != ours
    assert (plain(PAPER[name]), plain(DEFAULT[name])) == (read_as(name, paper), read_as(name, ours))


@pytest.mark.parametrize(("name", "value"), SAME, ids=[name for name, _ in SAME])
def test_what_does_not(name: str, value: str) -> None:
    assert PAPER[name] == DEFAULT[name] == read_as(name, value)


def test_the_page_lists_all_that_the_paper_says() -> None:
    """Options of method and evaluation only; the others set where a run happens and how large it is."""
    listed = {name for name, *_ in ROWS} | {name for name, _ in SAME}
    sections = ("pairs.", "mask.", "adam.", "eval.t", "eval.n", "rollout.t")
    differing = {name for name in DEFAULT if name.startswith(sections) and PAPER[name] != DEFAULT[name]}
    assert len(ROWS) == 7 and len(SAME) == 13 and differing <= listed
