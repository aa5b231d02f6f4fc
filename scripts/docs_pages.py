"""Pages and links that the site has beside docs/*.md: the hooks of mkdocs.yml.

Pages in docs/ are read on GitHub as well, so no text is there twice and no generated copy is committed. When the site
is built, these are added:

- quickstart.md and own-data.md, sections of the README; contributing.md and changelog.md, files of the root
- reference/options.md, the config's options, from config/schema.py
- reference/commands.md, what --help says of each command
- reference/python.md, the public API and the records, for mkdocstrings
- files/..., every file of the repository that a page links to: a listing

A link that leaves docs/ leads to the listing of its file. A heading or file that isn't there ends the build.
"""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import re
import sys
import typing
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # mkdocs runs hooks without it

from maskdpo_ray import __all__ as PUBLIC  # noqa: E402
from maskdpo_ray.__main__ import COMMANDS, module_of  # noqa: E402
from maskdpo_ray.config.cli import shown_default  # noqa: E402
from maskdpo_ray.config.file import expected_words, options, sections  # noqa: E402
from maskdpo_ray.config.schema import Rule, affects  # noqa: E402

OF_ROOT = {
    "README.md": "index.md",
    "README.md#install": "quickstart.md#install",
    "README.md#quickstart": "quickstart.md#quickstart",
    "README.md#your-model-your-questions": "own-data.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""File of the repository's root, or a section of one -> the page that stands for it."""
LINK = re.compile(r"(?<!\\)(\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^()\s]+)\)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".jsonl": "json", ".sh": "bash"}
RECORDS = (
    "Question Rollout Annotation Sentence ScoredAnswer PreferencePair Response TrainingExample Judgement JudgedFact"
).split()
"""Classes of maskdpo_ray.records that a class or function of a user's own gets or returns."""
ERRORS = "UserError ConfigError DataError ModelError AnnotatorError EvaluatorError MaskError".split()
"""Classes of maskdpo_ray.errors that a class or function of a user's own raises or catches."""
_TITLES: dict[str, str] = {}
"""Page -> its first heading, as of this build."""


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, and a listing of each file that a page links to."""
    pages = {
        "quickstart.md": sections_of("README.md", "Install and run it", "Install", "Quickstart"),
        "own-data.md": sections_of("README.md", "Your model, your questions", "Your model, your questions"),
        "contributing.md": page_of("CONTRIBUTING.md"),
        "changelog.md": page_of("CHANGELOG.md"),
        "reference/options.md": options_page(),
        "reference/commands.md": commands_page(),
        "reference/python.md": python_page(),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    texts = {file.src_uri: file.content_string for file in files.documentation_pages()}
    _TITLES.update((name, title) for name, text in texts.items() if (title := title_of(text)))
    for path in sorted({path for name, text in texts.items() for path in outside(name, text)}):
        listed = File.generated(config, listing(path), content=listing_page(path), inclusion=InclusionLevel.NOT_IN_NAV)
        files.append(listed)
        for inner in outside(listed.src_uri, listed.content_string) - {path}:
            if files.get_file_from_path(listing(inner)) is None:
                text = listing_page(inner)
                files.append(File.generated(config, listing(inner), content=text, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """A page's text with links for the site, and with docs/pictures as part of it, so that they follow the palette."""
    uri = page.file.src_uri
    if uri == "index.md":
        page.meta["hide"] = ["navigation"]
    text = outside_of_fences(markdown, lambda part: LINK.sub(lambda link: for_site(uri, link), part))
    return re.sub(
        r"^!\[([^]]*)\]\((pictures/[\w/.-]+\.svg)\)$", lambda found: inlined(uri, found), text, flags=re.MULTILINE
    )


def on_page_content(html: str, **_: Any) -> str:
    """Wide tables scroll on their own, with the keyboard too."""
    return html.replace("<table>", '<div class="scrolls" tabindex="0" role="group" aria-label="table"><table>').replace(
        "</table>", "</table></div>"
    )


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Name the search for screen readers, which the theme leaves out; refuse a page that would fetch something."""
    search = 'data-md-component="search" role="dialog"'
    output = output.replace(search, f'{search} aria-label="Search"')
    fetched = re.findall(r"<(?:script|img|iframe|source)[^>]+src=[\"']?((?:https?:)?//[^\"' >]+)", output)
    fetched += re.findall(
        r"<link[^>]+rel=[\"']?(?:stylesheet|preconnect|preload)[^>]+href=[\"']?((?:https?:)?//[^\"' >]+)", output
    )
    if fetched:
        raise PluginError(f"{page.file.src_uri}: expected no request to anywhere, got {fetched[0]}")
    return output


def outside_of_fences(text: str, change: Callable[[str], str]) -> str:
    """The text with `change` applied to all that is no code block."""
    parts = re.split(r"(^ *```.*?^ *```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if number % 2 else change(part) for number, part in enumerate(parts))


def links(text: str) -> Iterator[str]:
    """Targets of the links of a page, code blocks aside."""
    found: list[str] = []
    outside_of_fences(text, lambda part: (found.extend(link[2] for link in LINK.finditer(part)), part)[1])
    yield from found


def target(uri: str, link: str) -> str | None:
    """Path below the root of the file that a link of the page `uri` means; None: another page, or an address."""
    path = link.partition("#")[0]
    if not path or re.match(r"[a-z]+:", path):
        return None
    whole = posixpath.normpath(posixpath.join("docs", posixpath.dirname(uri), path))
    is_page = whole.startswith("docs/") and posixpath.splitext(whole)[1] in (".md", ".svg", ".png")
    return None if is_page else whole


def outside(uri: str, text: str) -> set[str]:
    """Files and folders of the repository, no pages, that a page links to."""
    return {path for link in links(text) if (path := target(uri, link)) and path not in OF_ROOT}


def for_site(uri: str, link: re.Match[str]) -> str:
    """A link of a page, to a listing where it leaves the pages; a page's title in place of its file's name."""
    text, address = link[1], link[2]
    path = target(uri, address)
    if path is not None:
        fragment = "".join(address.partition("#")[1:])
        page = OF_ROOT.get(path + fragment) or OF_ROOT.get(path, listing(path)) + fragment
        address = os.path.relpath(page, posixpath.dirname(uri) or ".")
    if re.fullmatch(r"\[(docs/)?[\w-]+\.md\]", text):
        found = _TITLES.get(posixpath.normpath(posixpath.join(posixpath.dirname(uri), address.partition("#")[0])))
        text = f"[{found}]" if found else text
    return f"{text}({address})"


def title_of(text: str) -> str | None:
    """First heading of a page."""
    found = re.search(r"^# (.+)$", text, flags=re.MULTILINE)
    return found[1] if found else None


def listing(path: str) -> str:
    """The page that shows a file of the repository."""
    return f"files/{path}.md"


def listing_page(path: str) -> str:
    """A file as a code block, or the names in a folder. Raises PluginError where there is neither."""
    file = ROOT / path
    if file.is_dir():
        names = sorted(each.name for each in file.iterdir() if each.is_file())
        up = "../" * listing(path).count("/")
        rows = "\n".join(f"- [{name}]({up}../{path}/{name})" for name in names)
        return f"# {path}/\n\n{rows}\n"
    if not file.is_file():
        raise PluginError(f"expected a file or folder of the repository, got a link to {path}")
    text = file.read_text(encoding="utf-8")
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"# {path}\n\n{fence}{LANGUAGES.get(file.suffix, 'text')}\n{text.rstrip()}\n{fence}\n"


def page_of(name: str) -> str:
    """A Markdown file of the root as a page of docs/."""
    return moved((ROOT / name).read_text(encoding="utf-8"))


def sections_of(name: str, title: str, *headings: str) -> str:
    """Sections of a Markdown file of the root under a title. Raises PluginError when one isn't there."""
    text = (ROOT / name).read_text(encoding="utf-8")
    found = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL))
    if absent := [heading for heading in headings if heading not in found]:
        raise PluginError(f"{name}: expected the heading {absent[0]}, got {', '.join(found)}")
    parts = (("" if heading == title else f"## {heading}\n") + found[heading] for heading in headings)
    return moved(f"# {title}\n\n{''.join(parts)}")


def moved(text: str) -> str:
    """Text of a file of the root with links as from a page of docs/."""

    def change(link: re.Match[str]) -> str:
        path = link[2]
        if path.startswith("#") or re.match(r"[a-z]+:", path):
            return link[0]
        return f"{link[1]}({os.path.relpath(path, 'docs')})"

    return outside_of_fences(text, lambda part: LINK.sub(change, part))


def inlined(uri: str, picture: re.Match[str]) -> str:
    """An SVG file of docs/ as part of the page, with the alternative text as its name."""
    svg = (ROOT / "docs" / posixpath.dirname(uri) / picture[2]).read_text(encoding="utf-8")
    svg = re.sub(r"<svg ", f'<svg role="img" aria-label="{picture[1]}" ', svg, count=1)
    body = "".join(line.strip() for line in svg.splitlines())
    return f'<div class="picture" tabindex="0" role="group" aria-label="picture">{body}</div>'


def cell(text: str) -> str:
    """Text for a cell of a table: nothing in it is read as HTML or as a column's end."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;").replace("*", "\\*")


def options_page() -> str:
    """Every option of the config: default, type, meaning, and the stages whose results it decides."""
    parts = [
        "# Every option",
        "What `python -m maskdpo_ray.run --help` lists: YAML `section: {option: value}`, or `--section.option value` "
        "on the command line of each command that takes a config. **Stages** are those of an iteration whose results "
        "an option decides: in a run that has finished them it can't change. Options without one say where a run "
        "happens, how much memory it takes or when it stops: they may change when it resumes "
        "([run folder](../run-folder.md)).",
    ]
    every = options()
    for section, kind in sections().items():
        doc = (kind.__doc__ or "").strip()
        lines = [f"## {section}", "" if doc.startswith(kind.__name__) else cell(doc), ""]
        lines += ["| option | default | stages | |", "|---|---|---|---|"]
        for name, option in every.items():
            if name.split(".")[0] != section:
                continue
            meaning = re.sub(r"docs/([\w-]+)\.md", r"[\1](../\1.md)", cell(option.meaning))
            meaning += f"<br>*{cell('; '.join([expected_words(option.hint), *rules_of(name)]))}*"
            anchor = f'<span id="{name.replace(".", "-")}"></span>'
            default = f"`{shown_default(option.default)}`" if option.default != "" else "must be given"
            lines.append(f"| {anchor}`{name}` | {default} | {', '.join(affects(name)) or '—'} | {meaning} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def rules_of(option: str) -> list[str]:
    """Conditions on the value of an option, in words."""
    section, name = option.split(".")
    hint = typing.get_type_hints(sections()[section], include_extras=True)[name]
    return [rule.expected for rule in getattr(hint, "__metadata__", ()) if isinstance(rule, Rule)]


def commands_page() -> str:
    """Each command's --help, without the options of the config."""
    parts = [
        "# Every command's --help",
        "Each is `python -m maskdpo_ray.COMMAND` or `maskdpo COMMAND`; what they are for: [commands](../commands.md). "
        "`run` also lists the [options of the config](options.md).",
    ]
    for name in COMMANDS:
        text = help_of(name).split("\nrun:\n")[0].rstrip()
        parts.append(f"## {name}\n\n```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def help_of(command: str) -> str:
    """The text that a command prints with --help, 88 columns wide."""
    said = io.StringIO()
    before, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "88"
    argv, sys.argv = sys.argv, [f"python -m maskdpo_ray.{command}"]
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            import_module(module_of(command)).main(["--help"])
    finally:
        sys.argv = argv
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before
    return said.getvalue()


def python_page() -> str:
    """Docstrings of the public API, and of the records that a class of a user's own gets and returns."""
    parts = [
        "# Python reference",
        "From the docstrings. Examples of each public name: [Python API](../api.md).",
        "## Public names",
        *(f"::: maskdpo_ray.{name}" for name in PUBLIC),
        "## For an objective of your own",
        *(f"::: maskdpo_ray.training.objectives.protocol.{name}" for name in ("objective", "Batch", "Responses")),
        "## Records",
        "What annotators, evaluators and strategies get and return.",
        *(f"::: maskdpo_ray.records.{name}" for name in RECORDS if name not in PUBLIC),
        "## Errors",
        *(f"::: maskdpo_ray.errors.{name}" for name in ERRORS),
    ]
    return "\n\n".join(parts) + "\n"
