"""Ctrl-C and SIGTERM: one orderly end, with the exit code that a shell expects."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from maskdpo_ray.report import progress

SIGNALS = (signal.SIGINT, signal.SIGTERM)


GOES_ON = "stopping: what is committed is kept; the same command resumes from there"


_AGAIN_S = 0.1


@contextmanager
def orderly(note: str = GOES_ON) -> Iterator[None]:
    """Inside, the first signal says `note`, unwinds every `with` block, and the process exits with 128 + its number.

    Later signals are ignored: they would break the clearing up off, and leave processes behind.
    """
    received: list[int] = []
    on_unraisable = sys.unraisablehook

    def stop(number: int, _: FrameType | None) -> NoReturn:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        if not received:
            progress.end()
            print(note, file=sys.stderr, flush=True)
        received.append(number)
        # Not SystemExit: Ray, when it is waiting, would let that through with another exit code.
        raise KeyboardInterrupt

    def listen() -> None:
        for each in SIGNALS:
            signal.signal(each, stop)

    def swallowed(unraisable: Any) -> None:
        """Python drops what is raised in a finalizer, or beside a fork: try again when that is over."""
        if received and isinstance(unraisable.exc_value, KeyboardInterrupt):
            listen()
            threading.Timer(_AGAIN_S, os.kill, (os.getpid(), received[0])).start()
        else:
            on_unraisable(unraisable)

    listen()
    sys.unraisablehook = swallowed
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(128 + received[0] if received else 130) from None
    finally:
        sys.unraisablehook = on_unraisable
