"""Media of each kind, with text that would be markup somewhere, and trackers that keep what they get."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from PIL import Image as pillow

from maskdpo_ray.store.trackers.media import Histogram, Html, Image, Media, Table

PAGE = "<!doctype html><html><body>\u2713 &lt;script&gt;</body></html>"
TABLE = Table(["question", "before", "before: score"], [["q1", "\u2713 Right.\n\u2717 <script> | *x* _y", 0.5]])
_png = io.BytesIO()
pillow.fromarray(np.array([[[255, 0, 0], [0, 255, 0]]], dtype=np.uint8)).save(_png, "png")
MEDIA = {
    "media/answers": Html(PAGE),
    "media/table": TABLE,
    "media/scores": Histogram([0.0, 0.5, 0.5, 1.0]),
    "media/curve": Image(_png.getvalue(), "score: from 0 to 1"),
}


class Figures:
    """A tracker of figures alone."""

    def __init__(self, tracked: Any) -> None:
        pass

    def check(self) -> None:
        pass

    def start(self) -> None:
        pass

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        pass

    def close(self, failed: bool) -> None:
        pass


class Shows(Figures):
    """A tracker that shows media."""

    all: ClassVar[list[Shows]] = []
    """Those that were started; tests begin with a list of their own."""

    def __init__(self, tracked: Any) -> None:
        self.shown: list[tuple[Mapping[str, Media], int]] = []

    def start(self) -> None:
        self.all.append(self)

    def log_media(self, media: Mapping[str, Media], step: int) -> None:
        self.shown.append((media, step))


class Again(Shows):
    """Another one."""
