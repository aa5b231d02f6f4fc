"""error.log: the traceback of a run's last attempt, when it failed."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maskdpo_ray.errors import printable


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
            file.write_text("\n".join(lines), encoding="utf-8")
        raise
    if file.is_file():
        file.unlink()
