"""Write ANAH-v2's prompts as templates of the annotator `anah`, from a checkout of github.com/open-compass/ANAH.

python -m maskdpo_ray.anah_templates ANAH -o anah_v2.yaml

Its prompts are f-strings in Python functions; they are parsed, not run. Every character is kept, as the released model
was trained with it.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from maskdpo_ray.annotation.llm import turns
from maskdpo_ray.config import cli
from maskdpo_ray.config.cli import Parser
from maskdpo_ray.errors import DataError, shown
from maskdpo_ray.records import CONTRADICTORY, NO_FACT, NO_HALLUCINATION, UNVERIFIABLE
from maskdpo_ray.store import files

RESUMES = False
"""It writes one small file."""
_FILES = ("eval/anah_v2/anahv2_prompt.py", "example/anahv2_prompt.py", "prompt_v2.py")
_LANGUAGES = {"en": "en_user_prompt", "zh": "cn_user_prompt"}
"""Language -> the variable that holds its prompt."""


class Published(NamedTuple):
    """A function of the checkout that makes the prompt of a turn."""

    function: str
    fields: dict[str, str]
    """Argument -> the field of our template."""
    replies: dict[str, dict[str, str]]
    """Language -> meaning -> the tag that its prompt asks for."""


_TURNS = {
    turns.FACT: Published(
        "fact_check_prompt",
        {"question": "question", "annotation": "sentence"},
        {
            "en": {turns.HAS_FACT: "<Facts Present>", NO_FACT: "<No Facts>"},
            "zh": {turns.HAS_FACT: "<有事实>", NO_FACT: "<无事实>"},
        },
    ),
    turns.REFERENCE: Published(
        "reference_check_prompt",
        {"question": "question", "annotation": "sentence", "reference": "document"},
        {"en": {turns.NO_REFERENCE: "<No Reference Information>"}, "zh": {turns.NO_REFERENCE: "<无参考信息>"}},
    ),
    turns.VERDICT: Published(
        "hallucination_check_prompt",
        {"question": "question", "annotation": "sentence", "reference": "reference"},
        {
            "en": {
                NO_HALLUCINATION: "<No Hallucination>",
                CONTRADICTORY: "<Contradictory>",
                UNVERIFIABLE: "<Unverifiable>",
            },
            "zh": {NO_HALLUCINATION: "<无幻觉>", CONTRADICTORY: "<矛盾>", UNVERIFIABLE: "<无法验证>"},
        },
    ),
}


def main(argv: list[str]) -> None:
    """Write the file. Raises UserError."""
    parser = Parser("anah_templates", __doc__, "CHECKOUT -o FILE")
    parser.add_argument("checkout", metavar="CHECKOUT", help="folder of a clone of github.com/open-compass/ANAH")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="YAML file to write")
    parser.add_argument("--force", action="store_true", help="replace FILE")
    own = parser.parse_args(argv)
    target = Path(own.output)
    if target.suffix not in (".yaml", ".yml"):
        raise DataError(f"{target}: expected a file to write that ends in .yaml")
    if target.exists() and not own.force:
        raise DataError(f"{target}: expected no such file yet, got one; --force replaces it")
    source, templates = read(Path(own.checkout))
    turns.parse(templates, source, turns.ANAH)  # as the annotator will
    head = f"# Prompts of ANAH-v2, from {source} of github.com/open-compass/ANAH (Apache-2.0).\n"
    files.write_whole(target, (head + yaml.safe_dump(templates, allow_unicode=True, sort_keys=False)).encode())
    print(f"{target}: the prompts of {source}, for annotation.options.templates of the annotator anah")


def read(checkout: Path) -> tuple[str, dict[str, Any]]:
    """(file within the checkout, language -> turn -> prompt and replies). Raises DataError naming what is missing."""
    name = next((each for each in _FILES if (checkout / each).is_file()), None)
    if name is None:
        raise DataError(f"{os.fspath(checkout)}: expected a clone of github.com/open-compass/ANAH with {_FILES[0]}")
    file = checkout / name
    try:
        module = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{file}: expected Python, got: {error}") from None
    functions = {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}
    found: dict[str, Any] = {language: {} for language in _LANGUAGES}
    for turn, published in _TURNS.items():
        if published.function not in functions:
            raise DataError(f"{file}: expected a function {published.function}")
        texts = dict(_assigned(functions[published.function]))
        for language, variable in _LANGUAGES.items():
            where = f"{file}: {published.function}: {variable}"
            if variable not in texts:
                raise DataError(f"{where}: expected a text assigned to it")
            prompt = "".join(_pieces(texts[variable], published.fields, where))
            replies = published.replies[language]
            for tag in replies.values():
                if tag not in prompt:
                    raise DataError(f"{where}: expected the tag {tag} in it")
            found[language][turn] = {"prompt": prompt, "replies": {key: [tag] for key, tag in replies.items()}}
    return name, found


def _assigned(function: ast.FunctionDef) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value


def _pieces(text: ast.expr, fields: dict[str, str], where: str) -> Iterator[str]:
    """The parts of a text or f-string as a template. Raises DataError for what is neither text nor a known argument."""
    for part in text.values if isinstance(text, ast.JoinedStr) else [text]:
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value
            continue
        name = part.value.id if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name) else None
        if name not in fields:
            raise DataError(f"{where}: expected texts and {', '.join(fields)}; got {shown(ast.unparse(part))}")
        yield f"{{{fields[name]}}}"


if __name__ == "__main__":
    cli.start(main, resumes=RESUMES)
