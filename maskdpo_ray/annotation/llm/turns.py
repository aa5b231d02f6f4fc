"""Turns of a judge's interview, read from YAML: prompts and the replies that count. ANAH-v2's three, and one that cuts
a sentence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from maskdpo_ray.annotation.llm.tags import Tags, plain
from maskdpo_ray.config import file as yaml_nodes
from maskdpo_ray.errors import ConfigError, one_line, shown
from maskdpo_ray.records import CONTRADICTORY, LANGUAGES, NO_FACT, NO_HALLUCINATION, UNVERIFIABLE

SPLIT, FACT, REFERENCE, VERDICT = "split", "fact", "reference", "verdict"
ANAH = (FACT, REFERENCE, VERDICT)
CLAIMS = (SPLIT, *ANAH)
"""The turns of each annotator's file, in order. `SPLIT` is a conversation of its own."""
HAS_FACT, NO_REFERENCE, PASSAGES = "has_fact", "no_reference", "passages"
_MEANINGS = {
    SPLIT: (),
    FACT: (HAS_FACT, NO_FACT),
    REFERENCE: (NO_REFERENCE,),
    VERDICT: (NO_HALLUCINATION, CONTRADICTORY, UNVERIFIABLE),
}
"""Turn -> what its fixed replies can mean. Any other reply to `REFERENCE` is its passages, to `SPLIT` the parts."""
TEMPLATES = Path(__file__).parent / "templates"
_FIELDS = ("document", "question", "sentence", "context")
_PLACEHOLDER = re.compile(r"""\{(\s*(?:\w+(?:[.:!\[][^\s{}"',]*)?)?\s*)\}""")
"""Slips such as {Sentence}, { sentence }, {}, {0} and {document:10} too, so that they are refused and not sent.

Braces around anything else, JSON for one, are text.
"""
_PASSAGE_ENDS = re.compile(r"\n|<SEP>", re.IGNORECASE)
_LIST_MARK = re.compile(r"\A\W*\d{1,3}[.):]\s")


@dataclass(frozen=True)
class Turn:
    """One of them, in one language."""

    name: str
    template: str
    replies: dict[str, str]
    """Reply -> its meaning; no two differ in case, spaces or punctuation alone."""

    def prompt(self, fields: dict[str, str]) -> str:
        """The user's message. Braces in the fields' own texts stay as they are."""
        return _PLACEHOLDER.sub(lambda match: fields[match.group(1)], self.template)

    def meaning(self, reply: str, document: str = "") -> str | None:
        """One of `_MEANINGS`, `PASSAGES` for other words in `REFERENCE`, None for an unreadable reply.

        `document`: the text that the passages are copied from.
        """
        return self._of_passages(reply, document) if self.name == REFERENCE else self._tags.meaning(reply)

    def _of_passages(self, reply: str, document: str) -> str | None:
        """`NO_REFERENCE` if a tag occurs in the judge's own words, not in a quoted passage."""
        source, lines = plain(document), [line for line in _PASSAGE_ENDS.split(reply) if plain(line)]
        own = [line for line in lines if line in self._tags or plain(_LIST_MARK.sub("", line)) not in source]
        # A single word, such as "None", is common in sentences: punctuation must separate it.
        held = [tag for line in own for tag in self._tags.held(line) if tag.is_alone or tag.num_words > 1]
        if not held:
            return PASSAGES if lines else None
        is_clear = len(own) == len(lines) and self._tags.mentions(reply)
        return held[0].meaning if is_clear else None

    @cached_property
    def _tags(self) -> Tags:
        return Tags(self.replies)


class _Loader(yaml_nodes.Loader):
    """Refuses a key that is given twice, of which YAML's own takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(problem=f"{key.value} twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read(file: Path, names: tuple[str, ...]) -> dict[str, dict[str, Turn]]:
    """Language -> its turns by name, in the order of `names`: `ANAH` or `CLAIMS`.

    Raises ConfigError, one line with the file and the field.
    """
    try:
        raw = yaml.load(file.read_text(encoding="utf-8-sig"), _Loader)
    except OSError as error:
        raise ConfigError(f"{file}: expected a YAML file of templates, got: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line, reason = yaml_nodes.yaml_fault(error)
        raise ConfigError(f"{file}{line}: expected YAML, got: {one_line(reason)}") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: expected YAML, got: {one_line(error)}") from None
    languages = _mapping(raw, str(file), (), LANGUAGES)
    return {language: _turns(value, f"{file}: {language}", names) for language, value in languages.items()}


def _turns(raw: Any, where: str, names: tuple[str, ...]) -> dict[str, Turn]:
    given = _mapping(raw, where, names)
    turns = {name: _turn(name, given[name], f"{where}.{name}") for name in names}
    used = {name: _PLACEHOLDER.findall(turn.template) for name, turn in turns.items()}
    for name in names:
        if name in (SPLIT, FACT) and "sentence" not in used[name]:
            raise ConfigError(f"{where}.{name}.prompt: expected {{sentence}} in it")
    if "document" not in used[FACT] + used[REFERENCE]:
        raise ConfigError(f"{where}: expected {{document}} in the prompt of fact or reference")
    return turns


def _turn(name: str, raw: Any, where: str) -> Turn:
    given = _mapping(raw, where, ("prompt", "replies") if _MEANINGS[name] else ("prompt",))
    template, fields = given["prompt"], (*_FIELDS, *([REFERENCE] if name == VERDICT else []))
    if not isinstance(template, str) or not template.strip():
        raise ConfigError(f"{where}.prompt: expected text, got {shown(template)}")
    for field in _PLACEHOLDER.findall(template):
        if field not in fields:
            known = ", ".join(f"{{{known}}}" for known in fields)
            raise ConfigError(f"{where}.prompt: expected only the fields {known}; got {{{field}}}")
    replies: dict[str, str] = {}
    folded: dict[str, str] = {}
    texts_of = _mapping(given["replies"], f"{where}.replies", _MEANINGS[name]) if "replies" in given else {}
    for meaning, texts in texts_of.items():
        here = f"{where}.replies.{meaning}"
        # YAML reads a bare No as false.
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and plain(t) for t in texts):
            raise ConfigError(f"{here}: expected a list of texts, got {shown(texts)}")
        for text in texts:
            if folded.setdefault(plain(text), meaning) != meaning:
                raise ConfigError(
                    f"{here}: expected a reply of its own, got {text!r}, which means {folded[plain(text)]}"
                )
            replies[text] = meaning
    return Turn(name, template, replies)


def _mapping(raw: Any, where: str, needed: tuple[str, ...], allowed: tuple[str, ...] = ()) -> dict[str, Any]:
    """`raw` if it is a mapping with all the keys `needed` and else only those `allowed`, at least one in all."""
    known = (*needed, *allowed)
    if not isinstance(raw, dict) or not raw:
        raise ConfigError(f"{where}: expected a mapping of {', '.join(known)}; got {shown(raw)}")
    for key in raw:
        if key not in known:
            raise ConfigError(f"{where}: expected only {', '.join(known)}; got {key!r}")
    for key in needed:
        if key not in raw:
            raise ConfigError(f"{where}: expected {', '.join(needed)}; {key} is missing")
    return raw
