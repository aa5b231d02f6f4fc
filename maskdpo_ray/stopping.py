"""Ctrl-C and SIGTERM: one orderly end, with the exit code that a shell expects."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def orderly() -> Iterator[None]:
    """Inside, the first signal unwinds every `with` block, and the process exits with 128 + its number.

    Later signals are ignored: they would break the clearing up off, and leave processes behind.
    """
    received: list[int] = []

    def stop(number: int, _: FrameType | None) -> NoReturn:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        received.append(number)
        note = "stopping: what is committed is kept; the same command goes on from there"
        print(note, file=sys.stderr, flush=True)
        # Not SystemExit: Ray, when it is waiting, would let that through with another exit code.
        raise KeyboardInterrupt

    for each in SIGNALS:
        signal.signal(each, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(128 + received[0] if received else 130) from None
