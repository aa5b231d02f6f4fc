"""Preference data of others, in and out: the Mask-DPO authors' JSON, TRL's and OpenRLHF's.

Every format is read into a `Preference` (text and, where there are any, labelled sentences) and written from one;
`pairing/pair_files.py` turns it into the `PreferencePair` that is learned from. docs/formats.md shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from maskdpo_ray.data.formats import authors, conversation, trainers
from maskdpo_ray.data.formats.preference import Preference
from maskdpo_ray.data.jsonl import refuse_list

WRITERS: dict[str, Callable[[Preference], dict[str, Any]]] = {
    "anah": authors.to_json,
    "trl": trainers.to_trl,
    "openrlhf": trainers.to_openrlhf,
}
"""Values of `export --to`. Each returns one item as JSON values."""


def preference(item: Mapping[str, Any], where: str) -> Preference:
    """One object of such a file. Raises RecordError, also for a column of context that the prompt would lack."""
    refuse_list(item, where)
    conversation.refuse_unread(item, where)
    labelled_by_authors = "chosen_item" in item or "rejected_item" in item
    return (authors if labelled_by_authors else trainers).read(item, where)
