"""Data sets of the Hugging Face Hub, streamed by the library `datasets`: `hf://datasets/org/name[@revision][:config][/split]`.

The form of the address is that of huggingface_hub's file system, with config and split behind the name. HF_TOKEN opens
private ones, HF_HUB_OFFLINE takes what `datasets` has in its cache. Code of a data set is never run: `datasets` has
not done so since version 4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskdpo_ray.data.tables import plain
from maskdpo_ray.errors import DataError, one_line

_START = re.compile(r"(?:hf://|https://huggingface\.co/)datasets/")
_NAME = re.compile(rf"{_START.pattern}([\w.-]+/[\w.-]+)(?:@([^:/\s]+))?(?::([^/\s]+))?(?:/([^/\s]+))?/?")
_MODEL = re.compile(r"(?:hf://|https://huggingface\.co/)(?!datasets/)([\w.-]+/[\w.-]+)/?")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(?=[^/])")
"""Beginning of an address, in a Path with one slash."""
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


def parsed(source: str | Path) -> HubData | None:
    """The data set that a source names by its address or its page's, by default its split `train`; None for a path.

    Raises DataError for another address.
    """
    scheme = _SCHEME.match(str(source))
    if scheme is None:
        return None
    text = f"{scheme[1]}://{str(source)[scheme.end() :]}"
    found = _NAME.fullmatch(text)
    if found is None:
        model = _MODEL.fullmatch(text)
        got = f", got the address of a model; did you mean hf://datasets/{model[1]}?" if model else ""
        raise DataError(f"{text}: expected a file or folder, or a data set of the Hub, {_FORM}{got}")
    return HubData(found[1], found[2], found[3], found[4] or "train")


def hint(path: Path) -> str:
    """End of an error line about a file that is not there, whose name may be meant for a data set of the Hub."""
    is_name = _MODEL.fullmatch(f"hf://{path}") is not None and not path.suffix
    return f"; a data set of the Hub is hf://datasets/{path}" if is_name else ""


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
