"""Things that a tracker can show beside figures, each independent of the tracker."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows of texts and numbers. Texts steer no terminal; a tracker that renders markup has to escape them."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]


@dataclass(frozen=True)
class Histogram:
    """Values whose distribution is shown, finite and at least one."""

    values: Sequence[float]


@dataclass(frozen=True)
class Html:
    """A whole page, escaped, that loads nothing."""

    text: str


@dataclass(frozen=True)
class Image:
    """A picture."""

    png: bytes
    caption: str

    def pixels(self) -> Any:
        """[height, width, 3] uint8 array."""
        import numpy as np
        from PIL import Image as pillow

        with pillow.open(io.BytesIO(self.png)) as opened:
            return np.asarray(opened.convert("RGB"))


Media = Table | Histogram | Html | Image
Build = Callable[[], Mapping[str, Media]]
"""Makes media by name, "media/heldout/answers", from files; called in a tracker's thread."""


def as_markdown(text: str) -> str:
    """Markdown, in one line, that shows the text: what Markdown or HTML would read as markup are entities."""
    return re.sub(r"[^\w\s,.;:?'()/%\"-]|_", lambda found: f"&#{ord(found[0])};", " ".join(text.split()))
