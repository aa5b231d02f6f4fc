"""Origin of a model, as far as the card in its folder says: its name on the Hub, licence and languages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from maskdpo_ray.config import hub_name

CARD = "README.md"
_SLUG = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
"""Licence or language as the Hub spells them."""
_LONGEST = 1 << 20
"""Characters of a card that are read."""


@dataclass(frozen=True)
class Origin:
    """Origin of a model; None for what its card doesn't say."""

    repo: str | None = None
    """`org/name` on the Hub: of the model itself, or of the one that a model of a local folder was made from."""
    license: str | None = None
    """Licence by the Hub's name, or `other`."""
    license_name: str | None = None
    """Name of a licence that is `other`."""
    license_link: str | None = None
    languages: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: str) -> Origin:
        """Origin of a model by its folder, or by its name and commit on the Hub (then as the cache has its card)."""
        name = hub_name.of_folder(model) or hub_name.parsed(model)
        if name is None:
            said = _metadata(Path(model) / CARD)
        else:
            from huggingface_hub import try_to_load_from_cache

            found = try_to_load_from_cache(name.repo, CARD, revision=name.revision)
            said = _metadata(Path(found)) if isinstance(found, str) else {}
        bases, languages = _texts(said.get("base_model")), _texts(said.get("language"))
        made_from = bases[0] if len(bases) == 1 and hub_name.is_repository(bases[0]) else None
        licence = said.get("license")
        given = {key: value for key in ("license_name", "license_link") if isinstance(value := said.get(key), str)}
        if isinstance(licence, str) and licence and not _SLUG.fullmatch(licence):
            licence, given = "other", {"license_name": licence[:60]}
        return cls(
            repo=made_from if name is None else name.repo,
            license=licence if isinstance(licence, str) and licence else None,
            **given,
            languages=tuple(each for each in languages if _SLUG.fullmatch(each)),
        )

    def write(self, folder: Path, title: str) -> None:
        """Write the card of a model that was made from this one. Raises OSError."""
        from huggingface_hub import ModelCardData

        data = ModelCardData(
            base_model=self.repo,
            license=self.license,
            license_name=self.license_name,
            license_link=self.license_link,
            language=list(self.languages) or None,
        )
        (folder / CARD).write_text(f"---\n{data.to_yaml()}\n---\n\n# {title}\n", encoding="utf-8")


def _metadata(card: Path) -> dict[str, Any]:
    """The metadata in front of a card's text; nothing of one that isn't there, or that the Hub would refuse."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    try:
        with card.open(encoding="utf-8") as file:
            found = REGEX_YAML_BLOCK.search(file.read(_LONGEST))
        said = yaml.safe_load(found.group(2)) if found else {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return said if isinstance(said, dict) else {}


def _texts(value: Any) -> list[str]:
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]
