"""The pictures of docs/how-it-works.md can be read in both palettes, and hold nothing from elsewhere.

tests/nightly/test_docs_pictures.py makes them anew.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module."""
    found = importlib.util.spec_from_file_location("docs_pictures", ROOT / "scripts" / "docs_pictures.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_site_has_a_colour_for_each_name(script: ModuleType) -> None:
    """Light and dark give the same names as the site's stylesheet, with the same values."""
    css = (ROOT / "docs/site/style.css").read_text(encoding="utf-8")
    for scheme, own in (("default", script.LIGHT), ("slate", script.DARK)):
        block = re.search(rf'"{scheme}"\] \.picture svg {{(.*?)}}', css, flags=re.DOTALL)
        assert block and dict(re.findall(r"--([\w-]+): ?(#\w+)", block[1])) == dict(
            re.findall(r"--([\w-]+):(#\w+)", own)
        )
    used = set(re.findall(r"var\(--([\w-]+)\)", " ".join(script.STYLE)))
    assert used == set(re.findall(r"--([\w-]+):", script.LIGHT)) == set(re.findall(r"--([\w-]+):", script.DARK))


def test_pictures_read_in_both_palettes(script: ModuleType) -> None:
    """Text on its ground has a contrast of at least 4.5 (WCAG 2.1, 1.4.3)."""
    grounds = "paper none-paper good-paper bad-paper shared-paper".split()
    for palette in (script.LIGHT, script.DARK):
        colour = dict(re.findall(r"--([\w-]+):(#\w+)", palette))
        pairs = [("ink", ground) for ground in grounds] + [("faint", "paper"), ("faint", "none-paper")]
        for text, ground in [*pairs, ("good", "paper"), ("bad", "paper")]:
            assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground, palette)


def contrast(one: str, other: str) -> float:
    """Contrast of two colours as WCAG 2.1 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_pictures_are_whole_svg_without_anything_from_elsewhere() -> None:
    for file in (ROOT / "docs/pictures").glob("*.svg"):
        root = ElementTree.fromstring(file.read_text(encoding="utf-8"))
        width = float(root.attrib["width"])
        boxes = [each for each in root.iter() if each.tag.endswith("rect")]
        assert len(boxes) > 5
        assert all(float(box.get("x", 0)) + float(box.attrib["width"]) <= width for box in boxes)
        assert not any("href" in name for each in root.iter() for name in each.attrib)
