"""Finding of an analysis: a table with a sentence or two, the record behind it, perhaps a picture.

All analyses leave the same files, by which `docs/results.md` is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from maskdpo_ray.errors import printable
from maskdpo_ray.records import Record, encode_line
from maskdpo_ray.report.plots import Plot
from maskdpo_ray.report.tables import markdown_rows
from maskdpo_ray.store import files


@dataclass(frozen=True)
class Finding:
    """One analysis, ready to be shown."""

    name: str
    """Name of the analysis, and of its files."""
    title: str
    sentences: Sequence[str]
    """How to read it, and what it shows; a paragraph each, above the table."""
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    record: Record
    plot: Plot | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    """Further files: name -> contents."""

    def markdown(self) -> str:
        """Title, sentences and table."""
        lines = [f"## {self.title}", ""]
        for sentence in self.sentences:
            lines += [sentence, ""]
        lines += markdown_rows(self.headings, self.rows)
        return "\n".join(map(printable, lines)) + "\n"

    def write(self, folder: Path) -> list[Path]:
        """Write NAME.md, NAME.json, the picture as NAME.svg and NAME.png, and further files; returns their paths.

        Raises DataError for a place within a run's folder, RunFolderError when they can't be written.
        """
        contents = {f"{self.name}.md": self.markdown().encode(), f"{self.name}.json": encode_line(self.record)}
        if self.plot is not None:
            contents |= {f"{self.name}.svg": self.plot.svg_file(), f"{self.name}.png": self.plot.png()}
        contents |= {name: text.encode() for name, text in self.texts.items()}
        files.refuse_in_run_folder(folder / f"{self.name}.md")
        for name, data in contents.items():
            files.write_whole(folder / name, data)
        return [folder / name for name in contents]
