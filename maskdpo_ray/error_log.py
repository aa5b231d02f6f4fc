"""error.log: the traceback of a run's last attempt, when it failed."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maskdpo_ray.errors import printable
from maskdpo_ray.report.progress import note


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Inside, an exception leaves its traceback in `folder`; without one, that of an earlier attempt goes."""
    file = folder / "error.log"
    try:
        yield
    except Exception:
        if not file.is_dir():  # a user's own; the error itself matters more
            # Looked at in a terminal; printable, so that no model output steers it.
            lines = map(printable, traceback.format_exc().split("\n"))
            try:
                file.write_text("\n".join(lines), encoding="utf-8")
            except OSError as error:  # a full disk may be what ended the run
                note(f"{file}: can't be written: {error.strerror}")
        raise
    if file.is_file():
        file.unlink()
