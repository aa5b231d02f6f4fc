"""The terminal of a command: progress, quiet libraries, one orderly end on a signal, and error.log for what failed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from tqdm import tqdm

from maskdpo_ray.errors import printable

Item = TypeVar("Item")
_SECONDS_BETWEEN_LINES = 15.0  # in a log file, where a bar that redraws itself is noise
_under_way: list[tqdm] = []
SHORT = 2.0
"""Seconds: a `delay` for work that is mostly over at once."""


def note(line: str) -> None:
    """Say something on stderr without breaking a bar that is there."""
    tqdm.write(printable(line), file=sys.stderr)
    sys.stderr.flush()


def track(items: Iterable[Item], description: str, total: int, delay: float = 0.0, done: int = 0) -> Iterator[Item]:
    """Yield `items` and show how many of `total` are done, `done` of them before, and how long the rest takes.

    Nothing is shown in the first `delay` seconds.
    """
    on_terminal = sys.stderr.isatty()
    interval = 0.2 if on_terminal else _SECONDS_BETWEEN_LINES
    # tqdm (of the transformers stack already) keeps rate and remaining time.
    bar = tqdm(
        items,
        desc=printable(description),  # may name a file
        total=total,
        initial=done,
        mininterval=interval,
        maxinterval=interval,
        delay=delay,
        disable=total == 0,
        dynamic_ncols=on_terminal,
        leave=True,
    )
    _under_way.append(bar)
    try:
        yield from bar
    finally:
        bar.close()
        _under_way.remove(bar)


def end_progress() -> None:
    """Leave the lines of all work that is under way, so that what is printed next has a line of its own."""
    for bar in _under_way:
        bar.close()


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, transformers shows no warnings, no progress bar and no table of what did not fit. Also a decorator."""
    from transformers.utils import logging

    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()


SIGNALS = (signal.SIGINT, signal.SIGTERM)
RESUMES = "stopping: what is committed is kept; the same command resumes from there"
_AGAIN_S = 0.1


@contextmanager
def orderly_stop(note: str = RESUMES) -> Iterator[None]:
    """Inside, the first Ctrl-C or SIGTERM prints `note`, unwinds every `with` block, and exits with 128 + its number.

    Later signals are ignored: they would interrupt the cleanup and leave processes behind.
    """
    received: list[int] = []
    on_unraisable = sys.unraisablehook

    def stop(number: int, _: FrameType | None) -> NoReturn:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        if not received:
            end_progress()
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


@contextmanager
def error_log(folder: Path) -> Iterator[None]:
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


@dataclass(frozen=True)
class Finding:
    """One thing that was tried."""

    tried: str
    fault: str | None
    """One line, None when all was well."""
    must: bool = True
    """False where a run survives the fault."""
    note: str = ""
    """A remark, when all was well."""
    details: str = ""
    """Lines to show below it."""


def show_findings(findings: Iterable[Finding]) -> None:
    """Print each as it comes; raise SystemExit(1) at the end when what a run needs failed."""
    failed = 0
    for finding in findings:
        verdict = "ok" if finding.fault is None else "FAILED" if finding.must else "note"
        failed += verdict == "FAILED"
        remark = printable(" ".join((finding.fault or finding.note).split()))
        print(f"{verdict:>8}  {finding.tried}" + (f": {remark}" if remark else ""), flush=True)
        if finding.details:
            print(finding.details, flush=True)
    if failed:
        raise SystemExit(1)
