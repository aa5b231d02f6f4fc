"""Data sets of the Hugging Face Hub, streamed by the library `datasets`: `hf://datasets/org/name[@revision][:config][/split]`.

The form of the address is that of huggingface_hub's file system, with config and split behind the name. HF_TOKEN opens
private ones, HF_HUB_OFFLINE takes what `datasets` has in its cache. Code of a data set is never run: `datasets` has
not done so since version 4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from maskdpo_ray.data.tables import plain
from maskdpo_ray.errors import DataError, one_line

# One slash or two: a Path has one.
_NAME = re.compile(r"hf:/{1,2}datasets/([\w.-]+/[\w.-]+)(?:@([^:/\s]+))?(?::([^/\s]+))?(?:/([^/\s]+))?/?")
_START = re.compile(r"hf:/{1,2}datasets/")
_FORM = "hf://datasets/org/name[@revision][:config][/split]"


@dataclass(frozen=True)
class HubData:
    """A split of a data set."""

    repo: str
    revision: str | None
    config: str | None
    split: str

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        config = "" if self.config is None else f":{self.config}"
        return f"hf://datasets/{self.repo}{revision}{config}/{self.split}"


def parsed(text: str) -> HubData | None:
    """The data set that a source names, by default its split `train`; None for a path.

    Raises DataError for a name that only begins like one.
    """
    if not _START.match(text):
        return None
    found = _NAME.fullmatch(text)
    if found is None:
        raise DataError(f"{text}: expected {_FORM}")
    return HubData(found[1], found[2], found[3], found[4] or "train")


def rows(name: HubData) -> Iterator[tuple[str, dict[str, Any]]]:
    """("name:row", row), counted from 1; a null counts as a missing field. One batch at a time is in memory.

    Raises DataError, one line, also where the Hub can't be reached.
    """
    try:
        import datasets
    except ModuleNotFoundError:
        raise DataError(f"{name}: expected the library datasets, which reads it; pip install datasets") from None
    number = 0
    try:
        found = datasets.load_dataset(
            name.repo,
            name.config,
            split=name.split,
            revision=name.revision,
            streaming=not datasets.config.HF_HUB_OFFLINE,
        )
        for row in found:
            number += 1
            yield f"{name}:{number}", {key: value for key, cell in row.items() if (value := plain(cell)) is not None}
    except Exception as error:  # of datasets, pyarrow, fsspec and httpx: network, names, damaged files
        offline = " (HF_HUB_OFFLINE is set)" if datasets.config.HF_HUB_OFFLINE else ""
        raise DataError(
            f"{name}: expected a data set of the Hub, as {_FORM}, got{offline} {type(error).__name__}: "
            f"{one_line(error)}; where there is no network, give its files: hf download --repo-type dataset {name.repo}"
        ) from None
