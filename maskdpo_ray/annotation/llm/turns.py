"""Turns of a judge's interview, read from YAML: prompts and the replies that count. ANAH-v2's three, one that cuts a
sentence, and a verdict by itself, as most trained judges give it."""

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
ALONE = (VERDICT,)
"""The turns of each annotator's file, in order. `SPLIT` is a conversation of its own."""
HAS_FACT, NO_REFERENCE, PASSAGES = "has_fact", "no_reference", "passages"
_MEANINGS = {
    SPLIT: (),
    FACT: (HAS_FACT, NO_FACT),
    REFERENCE: (NO_REFERENCE,),
    VERDICT: (NO_HALLUCINATION, CONTRADICTORY, UNVERIFIABLE),
}
"""Turn -> what its fixed replies can mean. Any other reply to `REFERENCE` is its passages, to `SPLIT` the parts."""
_WORST = (CONTRADICTORY, UNVERIFIABLE, NO_HALLUCINATION, NO_FACT)
"""Meanings of a verdict by itself, from the worst; a judge of support alone has one of the first two."""
_SEVERAL = ("agree", "worst")
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
    system: str | None = None
    """Message before the prompt."""
    pattern: str | None = None
    """Regular expression whose first group is a reply wherever it matches; None: the whole reply is read by `Tags`."""
    several: str = "agree"
    """`agree`: all matches must mean the same; `worst`: the worst one counts."""

    def prompt(self, fields: dict[str, str]) -> str:
        """The user's message. Braces in the fields' own texts stay as they are."""
        return _PLACEHOLDER.sub(lambda match: fields[match.group(1)], self.template)

    def meaning(self, reply: str, document: str = "") -> str | None:
        """One of `_MEANINGS`, `PASSAGES` for other words in `REFERENCE`, None for an unreadable reply.

        `document`: the text that the passages are copied from.
        """
        if self.pattern is not None:
            return self._of_matches(reply, self.pattern)
        return self._of_passages(reply, document) if self.name == REFERENCE else self._tags.meaning(reply)

    def is_bare(self, reply: str) -> bool:
        """Whether `reply` is one of the fixed replies and nothing else."""
        return self._tags.exact(reply) is not None

    def _of_matches(self, reply: str, pattern: str) -> str | None:
        found = [self._tags.exact(match.group(1) or "") for match in re.finditer(pattern, reply)]
        meanings = {meaning for meaning in found if meaning is not None}
        if None in found or not meanings or (len(meanings) > 1 and self.several == "agree"):
            return None
        return min(meanings, key=_WORST.index) if len(meanings) > 1 else meanings.pop()

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


def find(templates: str) -> Path:
    """The file of templates of that name: one of our own, named without folder and suffix, or any file."""
    own = TEMPLATES / f"{templates}.yaml"
    return own if templates.isidentifier() and own.is_file() else Path(templates)


def read(file: Path, names: tuple[str, ...]) -> dict[str, dict[str, Turn]]:
    """Language -> its turns by name, in the order of `names`: `ANAH`, `CLAIMS` or `ALONE`.

    Raises ConfigError, one line with the file and the field.
    """
    try:
        raw = yaml.load(file.read_text(encoding="utf-8-sig"), _Loader)
    except OSError as error:
        own = ", ".join(sorted(each.stem for each in TEMPLATES.glob("*.yaml")))
        raise ConfigError(
            f"{file}: expected a YAML file of templates, got: {error.strerror}; ours are named {own}"
        ) from None
    except yaml.MarkedYAMLError as error:
        line, reason = yaml_nodes.yaml_fault(error)
        raise ConfigError(f"{file}{line}: expected YAML, got: {one_line(reason)}") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: expected YAML, got: {one_line(error)}") from None
    return parse(raw, str(file), names)


def parse(raw: Any, where: str, names: tuple[str, ...]) -> dict[str, dict[str, Turn]]:
    """`read` of what a file holds; `where` is its name in errors."""
    languages = _mapping(raw, where, (), LANGUAGES)
    return {language: _turns(value, f"{where}: {language}", names) for language, value in languages.items()}


def _turns(raw: Any, where: str, names: tuple[str, ...]) -> dict[str, Turn]:
    given = _mapping(raw, where, names)
    turns = {name: _turn(name, given[name], f"{where}.{name}", names) for name in names}
    used = {name: _PLACEHOLDER.findall(turn.template) for name, turn in turns.items()}
    for name in names:
        if name in (SPLIT, FACT, names[0]) and "sentence" not in used[name]:
            raise ConfigError(f"{where}.{name}.prompt: expected {{sentence}} in it")
    readers = names if names == ALONE else (FACT, REFERENCE)
    if not any("document" in used[name] for name in readers):
        raise ConfigError(f"{where}: expected {{document}} in the prompt of {' or '.join(readers)}")
    return turns


def _turn(name: str, raw: Any, where: str, names: tuple[str, ...]) -> Turn:
    is_alone = names == ALONE
    needed = ("prompt", "replies") if _MEANINGS[name] else ("prompt",)
    given = _mapping(raw, where, needed, ("system", "pattern", "several") if is_alone else ())
    template, fields = given["prompt"], (*_FIELDS, *([REFERENCE] if name == VERDICT and not is_alone else []))
    for field, text in (("prompt", template), ("system", given.get("system", "."))):
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"{where}.{field}: expected text, got {shown(text)}")
    for field in _PLACEHOLDER.findall(template):
        if field not in fields:
            known = ", ".join(f"{{{known}}}" for known in fields)
            raise ConfigError(f"{where}.prompt: expected only the fields {known}; got {{{field}}}")
    replies: dict[str, str] = {}
    folded: dict[str, str] = {}
    for meaning, texts in _texts_of(given.get("replies"), f"{where}.replies", name, is_alone).items():
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
    pattern, several = given.get("pattern"), given.get("several", _SEVERAL[0])
    if pattern is not None and not _has_group(pattern):
        raise ConfigError(f"{where}.pattern: expected a regular expression with a group, got {shown(pattern)}")
    if several not in _SEVERAL or ("several" in given and pattern is None):
        expected = f"expected one of {', '.join(_SEVERAL)}, with a pattern"
        raise ConfigError(f"{where}.several: {expected}; got {shown(several)}")
    return Turn(name, template, replies, given.get("system"), pattern, several)


def _texts_of(raw: Any, where: str, name: str, is_alone: bool) -> dict[str, Any]:
    """Meaning -> texts. A verdict by itself needs support and one of its opposites, and may mean `no_fact` too."""
    if not is_alone:
        return _mapping(raw, where, _MEANINGS[name]) if _MEANINGS[name] else {}
    found = _mapping(raw, where, (NO_HALLUCINATION,), _WORST)
    if not {CONTRADICTORY, UNVERIFIABLE} & set(found):
        raise ConfigError(f"{where}: expected {CONTRADICTORY} or {UNVERIFIABLE}; both are missing")
    return found


def _has_group(pattern: Any) -> bool:
    try:
        return isinstance(pattern, str) and re.compile(pattern).groups > 0
    except re.error:
        return False


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
