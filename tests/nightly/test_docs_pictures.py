"""The pictures of docs/how-it-works.md are what the command makes of the package as it is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_files_are_what_the_command_writes(bundled_model: Path) -> None:
    found = importlib.util.spec_from_file_location("docs_pictures", ROOT / "scripts" / "docs_pictures.py")
    assert found and found.loader
    script = importlib.util.module_from_spec(found)
    found.loader.exec_module(script)
    made = script.pictures()
    assert made.keys() == {file.name for file in (ROOT / "docs/pictures").glob("*.svg")}
    for name, picture in made.items():
        assert (ROOT / "docs/pictures" / name).read_text(encoding="utf-8") == picture, "run scripts/docs_pictures.py"
