"""error.log: the traceback of a run's last attempt, when it failed."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Inside, an exception leaves its traceback in `folder`; without one, that of an earlier attempt goes."""
    file = folder / "error.log"
    try:
        yield
    except Exception:
        if not file.is_dir():  # a user's own; the error itself matters more
            file.write_text(traceback.format_exc(), encoding="utf-8")
        raise
    if file.is_file():
        file.unlink()
