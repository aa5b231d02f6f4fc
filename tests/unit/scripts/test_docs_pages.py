"""Pages of the site beside docs/*.md: generated pages are whole, links lead where they say, and nothing is fetched."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from maskdpo_ray import __all__ as PUBLIC
from maskdpo_ray.__main__ import COMMANDS
from maskdpo_ray.config.file import options

pytest.importorskip("mkdocs")
from mkdocs.exceptions import PluginError  # noqa: E402

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    """The script as a module."""
    found = importlib.util.spec_from_file_location("docs_pages", ROOT / "scripts" / "docs_pages.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def linked(pages: ModuleType, uri: str, text: str) -> str:
    page = SimpleNamespace(file=SimpleNamespace(src_uri=uri), meta={})
    return pages.on_page_markdown(text, page, None, None)


def test_every_option_has_a_row_with_default_rules_and_stages(pages: ModuleType) -> None:
    rows = [line for line in pages.options_page().splitlines() if line.startswith('| <span id="')]
    assert [re.findall(r"`([\w.]+)`", row)[0] for row in rows] == list(options())
    row = next(row for row in rows if "`rollout.n_samples_per_prompt`" in row)
    assert "| `32` | collect, evaluate |" in row and "at least 2 (a pair needs two answers); at most 16384" in row
    assert "| must be given | collect, train, evaluate |" in next(row for row in rows if "model_name_or_path" in row)
    assert "| `50` | — |" in next(row for row in rows if "`train.save_steps`" in row)  # may change in a run
    assert all(row.count(" | ") == 3 for row in rows)  # no meaning ends a column


def test_every_command_and_public_name_has_a_section(pages: ModuleType) -> None:
    assert re.findall("^## (.+)$", pages.commands_page(), flags=re.MULTILINE) == list(COMMANDS)
    assert "--section.field VALUE" in pages.commands_page() and "--train.beta" not in pages.commands_page()
    assert set(re.findall(r"^::: maskdpo_ray\.(\w+)$", pages.python_page(), flags=re.MULTILINE)) >= set(PUBLIC)


def test_links_that_leave_the_pages_lead_to_listings(pages: ModuleType) -> None:
    assert linked(pages, "a.md", "[x](../configs/paper.yaml)") == "[x](files/configs/paper.yaml.md)"
    assert linked(pages, "b/a.md", "[x](../../configs/paper.yaml)") == "[x](../files/configs/paper.yaml.md)"
    assert linked(pages, "a.md", "[x](numbers.yaml)") == "[x](files/docs/numbers.yaml.md)"
    assert linked(pages, "a.md", "[x](../CONTRIBUTING.md#set-up)") == "[x](contributing.md#set-up)"
    assert linked(pages, "a.md", "[x](../README.md#your-model-your-questions)") == "[x](own-data.md)"
    untouched = "[x](b.md#c) [y](#d) [z](https://e.org/../f.py) [w](pictures/a.png)"
    assert linked(pages, "a.md", untouched) == untouched
    fenced = "```md\n[x](../configs/paper.yaml)\n```"
    assert linked(pages, "a.md", fenced) == fenced


def test_a_listing_shows_a_file_or_the_names_in_a_folder(pages: ModuleType) -> None:
    text = pages.listing_page("configs/smoke.yaml")
    assert text.startswith("# configs/smoke.yaml\n\n```yaml\n")
    assert (ROOT / "configs/smoke.yaml").read_text(encoding="utf-8").rstrip() in text
    assert "- [dpo.yaml](../../../configs/recipes/dpo.yaml)" in pages.listing_page("configs/recipes")
    with pytest.raises(PluginError, match="got a link to configs/none.yaml"):
        pages.listing_page("configs/none.yaml")


def test_a_file_with_fences_stays_in_its_fence(pages: ModuleType) -> None:
    text = pages.listing_page("docs/formats.md")
    assert text.count("````") == 2


def test_sections_of_the_readme_become_pages(pages: ModuleType) -> None:
    page = pages.sections_of("README.md", "Install and run it", "Install", "Quickstart")
    assert page.startswith("# Install and run it\n") and "\n## Install\n" in page and "\n## Quickstart\n" in page
    assert "](docs/" not in page and "](run-folder.md)" in page
    with pytest.raises(PluginError, match="README.md: expected the heading Nothing"):
        pages.sections_of("README.md", "Nothing", "Nothing")


def test_a_file_name_as_a_links_text_becomes_the_pages_title(
    pages: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pages._TITLES, "sizing.md", "Does it fit?")
    assert linked(pages, "a.md", "[sizing.md](sizing.md#examples)") == "[Does it fit?](sizing.md#examples)"
    assert linked(pages, "a.md", "[docs/sizing.md](sizing.md)") == "[Does it fit?](sizing.md)"
    assert linked(pages, "a.md", "[sizes](sizing.md)") == "[sizes](sizing.md)"


@pytest.mark.parametrize(
    "fetched",
    [
        '<script src="https://unpkg.com/x"></script>',
        "<script src=//cdn.net/x.js></script>",
        '<link href="x.css"><link rel="stylesheet" href="https://fonts.net/css">',
        '<img alt="" src="http://a.org/b.png">',
    ],
)
def test_a_page_that_fetches_something_ends_the_build(pages: ModuleType, fetched: str) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
    with pytest.raises(PluginError, match="a.md: expected no request to anywhere, got "):
        pages.on_post_page(f"<html>{fetched}</html>", page, None)
    own = '<a href="https://arxiv.org">x</a><script src="assets/x.js"></script><link rel="stylesheet" href="x.css">'
    assert pages.on_post_page(own, page, None) == own


def test_no_web_font_is_asked_for_and_unlisted_pages_fail() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").replace("!!python/object/apply:pymdownx.slugs.slugify", "")
    config = yaml.safe_load(text)
    assert config["theme"]["font"] is False
    assert config["validation"]["nav"]["omitted_files"] == "warn"
    listed = {page for group in config["nav"] for page in _leaves(group)}
    assert {file.name for file in (ROOT / "docs").glob("*.md")} <= listed


def _leaves(entry: object) -> list[str]:
    if isinstance(entry, dict):
        return [leaf for value in entry.values() for leaf in _leaves(value)]
    return [leaf for value in entry for leaf in _leaves(value)] if isinstance(entry, list) else [str(entry)]
