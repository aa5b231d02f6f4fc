"""Names of models on the Hugging Face Hub, and the folders of the Hub's cache that hold them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_NAME = re.compile(rf"(hf://|https://huggingface\.co/)?({_PART}/{_PART})(?:@([\w][\w./-]*))?")
_PAGES = ("datasets", "models", "spaces")
"""Pages of the Hub, which no user can be named after."""
_COMMIT = re.compile("[0-9a-f]{40}")
_SNAPSHOT = re.compile(r"(?:.*/)?models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})/?")
"""Folder of a commit in the cache (huggingface_hub's guide, "Understand caching")."""


@dataclass(frozen=True)
class HubName:
    """`org/name`, with a branch, a tag or a commit."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"

    @property
    def is_fixed(self) -> bool:
        """Whether the revision is a commit, whose files never change."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None


def is_repository(text: str) -> bool:
    """Whether the text is `org/name`, as the Hub accepts it for a new repository."""
    found = _NAME.fullmatch(text)
    is_plain = found is not None and found[2] == text and found[2].partition("/")[0] not in _PAGES
    return is_plain and len(text) <= 96 and "--" not in text and ".." not in text and not text.endswith(".git")


def parsed(text: str) -> HubName | None:
    """The name of a model on the Hub that an option gives; None for a path.

    A folder that exists is a path, and so is a name whose first part is a folder here; with `hf://` (or the address of
    the Hub's page) in front neither is looked for.
    """
    found = _NAME.fullmatch(text)
    if found is None or found[2].partition("/")[0] in _PAGES:
        return None
    if not found[1] and (os.path.isdir(text) or os.path.isdir(text.partition("/")[0])):
        return None
    return HubName(found[2], found[3])


def of_folder(folder: str) -> HubName | None:
    """The model and commit that a folder of the Hub's cache holds; None for other folders."""
    found = _SNAPSHOT.fullmatch(folder)
    return HubName(f"{found[1]}/{found[2]}", found[3]) if found else None


def portable(value: Any) -> Any:
    """A config's value with `org/name@commit` in place of folders of the Hub's cache, which lie elsewhere elsewhere."""
    if isinstance(value, str):
        return str(of_folder(value) or value)
    if isinstance(value, Mapping):
        return {name: portable(each) for name, each in value.items()}
    return [portable(each) for each in value] if isinstance(value, (list, tuple)) else value


def is_other_commit(before: Any, now: Any) -> bool:
    """Whether two values of an option are different commits of one model on the Hub."""
    if not isinstance(before, str) or not isinstance(now, str):
        return False
    one, other = _NAME.fullmatch(before), _NAME.fullmatch(now)
    return bool(one and other and one[2] == other[2] and one[3] and other[3] and one[3] != other[3])
